"""The systemd unit: how exposed it is, and that the server works under it, started by systemd itself."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lib.server.auth.api_keys import make_key
from lib.server.auth.key_file import KeyFile
from support.server_process import REPOSITORY
from support.systemd_checks import ANOTHER_MACHINE, WRITABLE
from support.systemd_machine import boot

UNIT = REPOSITORY / "deploy" / "systemd" / "sam-app.service"
MOST_EXPOSED = 1.3


def in_unit(path: Path | str) -> str:
    """A path as a word in a unit: a space that is not quoted would end it (systemd.syntax(7))."""
    return str(path).replace(" ", '" "')


CHECKS = f"{in_unit(sys.executable)} {in_unit(REPOSITORY)}/tests/support/systemd_checks.py"


@pytest.fixture
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze (Debian package systemd) is not installed")
    return program


def here() -> str:
    """The unit for this checkout in the place of /opt/sam-app."""
    return UNIT.read_text().replace("/opt/sam-app", in_unit(REPOSITORY))


def drop_ins() -> list[str]:
    """Those that the README shows: a site's, and a GPU's."""
    found = re.findall(r"```ini\n(.*?)```", (UNIT.parent / "README.md").read_text(), re.DOTALL)
    assert len(found) == 2
    return found


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


def test_systemd_takes_the_readmes_drop_ins(analyze: str, tmp_path: Path) -> None:
    (tmp_path / UNIT.name).write_text(here())
    folder = tmp_path / f"{UNIT.name}.d"
    folder.mkdir()
    command = [analyze, "verify", str(tmp_path / UNIT.name)]
    for number, drop_in in enumerate(drop_ins()):
        (folder / f"{number}.conf").write_text(drop_in)
    assert subprocess.run(command, capture_output=True, text=True, check=False).stderr == ""
    (folder / "2.conf").write_text("[Service]\nIPAddressAllow=10.20.30.40 # the PACS\n")
    assert "2.conf" in subprocess.run(command, capture_output=True, text=True, check=False).stderr


@pytest.mark.server
@pytest.mark.slow
@pytest.mark.timeout(420)
def test_systemd_starts_it_and_it_can_do_what_it_needs_and_no_more(tmp_path: Path) -> None:
    key = _key(tmp_path / "keys.json")
    command = f"{CHECKS} outside /run/out/outside.json {key}"
    converted = REPOSITORY / "apps" / "sam_app" / "model" / "openvino"
    if converted.exists():  # by another test: then it need not be done again
        private = tmp_path / "machine" / "files" / "var" / "cache" / "private"
        private.mkdir(parents=True)
        private.chmod(0o700)
        shutil.copytree(converted, private / "sam-app" / "openvino")
    inside, said = _boot(tmp_path, here(), "", command)
    assert (tmp_path / "machine" / "out" / "outside.json").exists(), said
    outside = json.loads((tmp_path / "machine" / "out" / "outside.json").read_text())
    assert inside == {
        "is_root": False,
        "capabilities": 0,
        "no_new_privileges": "1",
        "filtered": "2",
        "write_its_own": dict.fromkeys(map(str, WRITABLE), "done"),
        "run_what_it_wrote": dict.fromkeys(map(str, WRITABLE), "EACCES"),
        "write_root": "EROFS",
        "write_programs": "EROFS",
        "write_code": "EROFS",
        "write_model": "EROFS",
        "write_settings": "EROFS",
        "write_studies": "EROFS",
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
    assert outside["started_again"] == 0, said


def test_a_drop_in_opens_what_it_names(tmp_path: Path) -> None:
    """The README's, started by systemd without the server."""
    _key(tmp_path / "keys.json")
    site = drop_ins()[0].replace("10.20.30.40", ANOTHER_MACHINE[0])
    site += "ExecStartPre=+chgrp users /srv/studies\nExecStartPre=+chmod 2770 /srv/studies\n"
    unit = re.sub(r"^ExecStart=.*(?:\n    .*)*$", "ExecStart=sleep 60", here(), flags=re.MULTILINE)
    inside, said = _boot(tmp_path, unit, site, "true")
    assert (inside["write_studies"], inside["reach_another"]) == ("done", "ECONNREFUSED"), said
    assert (inside["write_settings"], inside["is_root"]) == ("EROFS", False)


def _boot(tmp_path: Path, unit: str, site: str, command: str) -> tuple[dict[str, Any], str]:
    """Have systemd start the unit and then run a command beside it.

    Returns:
        What the service could do, and all that was logged.
    """
    beside = (
        "[Unit]\nWants=sam-app.service\nAfter=sam-app.service\nSuccessAction=exit\nFailureAction=exit\n"
        f"[Service]\nType=oneshot\nStandardOutput=file:/run/out/beside.log\nStandardError=inherit\nExecStart={command}\n"
    )
    machine = tmp_path / "machine"
    files = {
        "/etc/systemd/system/sam-app.service": unit,
        "/etc/systemd/system/sam-app.service.d/site.conf": site,
        "/etc/systemd/system/sam-app.service.d/test.conf": _drop_in(),
        "/etc/systemd/system/test.target": "[Unit]\nRequires=beside.service\n",
        "/etc/systemd/system/beside.service": beside,
        "/etc/sam-app/api_keys.json": (tmp_path / "keys.json").read_text(),
        "/srv/studies/image.txt": "",
    }
    log = boot(machine, files, seconds=400)
    said = log + "".join(path.read_text(errors="replace")[-6000:] for path in sorted((machine / "out").glob("*.log")))
    found = re.search(r"^INSIDE (.*)$", (machine / "out" / "server.log").read_text(), re.MULTILINE)
    assert found, said
    return json.loads(found[1]), said


def _key(path: Path) -> str:
    key, entry = make_key("anna", ["user"], None)
    KeyFile(path).add(entry)
    return key


def _drop_in() -> str:
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
            f"ExecPaths={in_unit(sys.base_prefix)}",
            *(["ProtectHome=tmpfs"] if any(place.startswith("/root") for place in hidden) else []),
            *(f"BindReadOnlyPaths={in_unit(place)}" for place in hidden),
            f"ExecStartPost={CHECKS} inside",
        ]
    )
