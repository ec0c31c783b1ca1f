"""What is tried on a machine whose systemd started the server: as part of the service, and beside it.

Run as ``systemd_checks.py inside`` (in the service, with all that the unit forbids) or ``outside FILE KEY`` (as root);
what came of it is printed, or written into the file, as JSON.
"""

from __future__ import annotations

import errno
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ANOTHER_MACHINE = ("192.0.2.1", 9)
SERVER = "http://127.0.0.1:8000"
STATE = Path("/var/lib/sam-app")
STUDIES = Path("/srv/studies")
APP = Path(__file__).resolve().parents[2] / "apps" / "sam_app"
WRITABLE = [
    *(Path(place) for place in ("/tmp", "/var/tmp", "/run/sam-app", "/var/cache/sam-app", "/var/log/sam-app")),
    *(APP / name for name in ("bin", "logs", "model/openvino")),
    STATE,
]


def outcome(attempt: Callable[[], object]) -> str:
    """``done``, or the name of the error."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)
    return "done"


def _write(path: Path) -> None:
    path.write_text("#!/bin/sh\n")
    path.unlink()


def _run_from(folder: Path) -> None:
    program = folder / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    try:
        subprocess.run([str(program)], check=True)
    finally:
        program.unlink()


def _map_what_it_wrote() -> None:
    """Make memory that was written executable, as a compiler at run time does."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
    if libc.mmap(None, 4096, 7, 0x22, 2**64 - 1, 0) == 2**64 - 1:
        raise OSError(ctypes.get_errno(), "mmap")


def connect(address: tuple[str, int]) -> None:
    """Open a connection and close it."""
    socket.create_connection(address, timeout=5).close()


def inside() -> dict[str, object]:
    """What the service can do."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    return {
        "is_root": os.geteuid() == 0,
        "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
        "no_new_privileges": status["NoNewPrivs"],
        "filtered": status["Seccomp"],
        "write_its_own": {str(place): outcome(partial(_write, place / "x")) for place in WRITABLE},
        "write_root": outcome(lambda: _write(Path("/x"))),
        "write_programs": outcome(lambda: _write(Path("/usr/x"))),
        "write_code": outcome(lambda: _write(APP / "x")),
        "write_model": outcome(lambda: _write(APP / "model" / "x")),
        "write_settings": outcome(lambda: _write(Path("/etc/x"))),
        "write_studies": outcome(lambda: _write(STUDIES / "x")),
        "run_what_it_wrote": {str(place): outcome(partial(_run_from, place)) for place in WRITABLE},
        "executable_memory": outcome(_map_what_it_wrote),
        "keys": oct(Path("/run/sam-app/api_keys.json").stat().st_mode & 0o777),
        "read_the_operators_keys": outcome(lambda: Path("/etc/sam-app/api_keys.json").read_text()),
        "reach_this_machine": outcome(lambda: connect(("127.0.0.1", 9))),
        "reach_another": outcome(lambda: connect(ANOTHER_MACHINE)),
        "raw_packets": outcome(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
        "new_namespace": outcome(_unshare),
        "see_others": Path("/proc/1").exists(),
        "devices": sorted(path.name for path in Path("/dev").iterdir()),
    }


def _unshare() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")


def _health() -> dict[str, object]:
    """Wait until the server is ready, or says that it will not be."""
    import requests

    end = time.monotonic() + 300
    while True:
        try:
            health: dict[str, object] = requests.get(f"{SERVER}/health_check/", timeout=5).json()
        except requests.ConnectionError:
            health = {"status": "loading"}
        if health["status"] != "loading" or time.monotonic() > end:
            return health
        time.sleep(0.2)


def _systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)


def outside(key: str) -> dict[str, object]:
    """What a user of the server gets, and how it ends."""
    import requests
    from PIL import Image

    begun = time.monotonic()
    health = _health()
    seconds = time.monotonic() - begun
    if health["status"] != "ok":
        return {"health": health}
    picture = io.BytesIO()
    Image.linear_gradient("L").save(picture, "png")
    prompts = {"sam_input": '{"rectangles": [{"startX": 60, "startY": 60, "width": 100, "height": 100}]}'}
    login = {"Authorization": f"Bearer {key}"}
    url = f"{SERVER}/segment_input_image/"
    refused = requests.post(url, files={"file": picture.getvalue()}, data=prompts, timeout=60)
    answer = requests.post(url, files={"file": picture.getvalue()}, data=prompts, headers=login, timeout=60)
    mask = requests.get(f"{SERVER}/get_segmented_image/{answer.json()['timestamp']}", headers=login, timeout=60)
    results = [str(path) for path in (STATE / "results").iterdir() if path.is_dir()]
    begun = time.monotonic()
    _systemctl("stop", "sam-app.service")
    return {
        "ready_after_s": round(seconds, 1),
        "health": health,
        "without_login": refused.status_code,
        "segmented": answer.status_code,
        "mask": [mask.status_code, mask.headers["content-type"]],
        "results": len(results),
        "audited": Path("/var/log/sam-app/audit.jsonl").read_text().count("\n"),
        "reach_another": outcome(lambda: connect(ANOTHER_MACHINE)),
        "stopped_after_s": round(time.monotonic() - begun, 1),
        "state": _systemctl("show", "--property=Result,ExecMainStatus", "sam-app.service").stdout,
        "started_again": _systemctl("start", "sam-app.service").returncode,
    }


if __name__ == "__main__":
    if sys.argv[1] == "inside":
        print("INSIDE", json.dumps(inside()), flush=True)
    else:
        Path(sys.argv[2]).write_text(json.dumps(outside(sys.argv[3])))
