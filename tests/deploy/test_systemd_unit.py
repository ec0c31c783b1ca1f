"""The systemd unit: how exposed it is, and that the server works under it, started by systemd itself."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib.server.auth.api_keys import make_key
from lib.server.auth.key_file import KeyFile
from support.server_process import REPOSITORY
from support.systemd_checks import WRITABLE
from support.systemd_machine import boot

UNIT = REPOSITORY / "deploy" / "systemd" / "sam-app.service"
MOST_EXPOSED = 1.3


@pytest.fixture
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze (Debian package systemd) is not installed")
    return program


def here() -> str:
    """The unit for this checkout in the place of /opt/sam-app."""
    return UNIT.read_text().replace("/opt/sam-app", str(REPOSITORY))


def exposure(analyze: str, unit: Path) -> float:
    command = [analyze, "security", "--offline=true", "--no-pager", str(unit)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    [score] = re.findall(r"Overall exposure level for .*: ([0-9.]+)", said)
    return float(score)


def test_it_is_as_little_exposed_as_stated(analyze: str, tmp_path: Path) -> None:
    assert exposure(analyze, UNIT) <= MOST_EXPOSED
    assert f"{exposure(analyze, UNIT)}" in (UNIT.parent / "README.md").read_text()
    weaker = tmp_path / UNIT.name
    weaker.write_text(UNIT.read_text().replace("PrivateUsers=yes\n", "").replace("NoNewPrivileges=yes\n", ""))
    assert exposure(analyze, weaker) > MOST_EXPOSED


def test_systemd_finds_nothing_wrong_with_it(analyze: str, tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(here())
    checked = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    unit.write_text(here() + "ProtectSytem=strict\n")
    assert "ProtectSytem" in subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True).stderr


@pytest.mark.server
@pytest.mark.slow
def test_systemd_starts_it_and_it_can_do_what_it_needs_and_no_more(tmp_path: Path) -> None:
    key = _key(tmp_path / "keys.json")
    checks = f"{sys.executable} {REPOSITORY}/tests/support/systemd_checks.py"
    log = boot(
        tmp_path / "machine",
        {
            "/etc/systemd/system/sam-app.service": here(),
            "/etc/systemd/system/sam-app.service.d/test.conf": _drop_in(checks),
            "/etc/systemd/system/test.target": "[Unit]\nRequires=outside.service\n",
            "/etc/systemd/system/outside.service": (
                "[Unit]\nWants=sam-app.service\nAfter=sam-app.service\nSuccessAction=exit\nFailureAction=exit\n"
                "[Service]\nType=oneshot\nStandardOutput=file:/run/out/outside.log\nStandardError=inherit\n"
                f"ExecStart={checks} outside /run/out/outside.json {key}\n"
            ),
            "/etc/sam-app/api_keys.json": (tmp_path / "keys.json").read_text(),
        },
        seconds=240,
    )
    out = tmp_path / "machine" / "out"
    said = log + "".join(path.read_text(errors="replace")[-6000:] for path in sorted(out.glob("*.log")))
    assert (out / "outside.json").exists(), said
    [line] = re.findall(r"^INSIDE (.*)$", (out / "server.log").read_text(), re.MULTILINE)
    inside, outside = json.loads(line), json.loads((out / "outside.json").read_text())
    assert inside == {
        "is_root": False,
        "capabilities": 0,
        "no_new_privileges": "1",
        "filtered": "2",
        "write_its_own": dict.fromkeys(map(str, WRITABLE), "done"),
        "run_what_it_wrote": dict.fromkeys(map(str, WRITABLE), "EACCES"),
        "write_root": "EROFS",
        "write_code": "EROFS",
        "write_model": "EROFS",
        "write_settings": "EROFS",
        "executable_memory": "done",  # what OpenVINO and PyTorch need
        "keys": "0o600",
        "read_the_operators_keys": "EACCES",
        "reach_this_machine": "ECONNREFUSED",
        "reach_another": "TimeoutError",  # what it sends is dropped
        "raw_packets": "EAFNOSUPPORT",
        "new_namespace": "EPERM",
        "see_others": False,
        "devices": inside["devices"],
    }
    assert not {"kmsg", "mem", "console", "vda"} & set(inside["devices"])
    assert outside["health"]["status"] == "ok" and outside["health"]["runtime"].startswith("OpenVINO"), said
    assert (outside["without_login"], outside["segmented"], outside["mask"]) == (401, 200, [200, "image/png"]), said
    assert outside["results"] == 1
    assert outside["audited"] >= 2
    assert outside["reach_another"] == "ECONNREFUSED", "whatever the unit says, nothing is reached on this machine"
    assert outside["stopped_after_s"] < 10
    assert "Result=success" in outside["state"]


def _key(path: Path) -> str:
    key, entry = make_key("anna", ["user"], None)
    KeyFile(path).add(entry)
    return key


def _drop_in(checks: str) -> str:
    """What this checkout and this Python need beside what the unit allows, and what is tried within the service."""
    places = {REPOSITORY, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    hidden = [str(place) for place in places if place.is_relative_to("/tmp") or place.is_relative_to("/root")]
    return "\n".join(
        [
            "[Unit]",
            "FailureAction=exit",
            "[Service]",
            "Restart=no",
            "TimeoutStartSec=180",
            "StandardOutput=append:/run/out/server.log",
            "StandardError=inherit",
            f"ExecPaths={sys.base_prefix}",
            *(["ProtectHome=tmpfs"] if any(place.startswith("/root") for place in hidden) else []),
            *(f"BindReadOnlyPaths={place}" for place in hidden),
            f"ExecStartPost={checks} inside",
        ]
    )
