"""Orthanc as a process of its own: a real DICOM server with DICOMweb."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from support.server_process import free_port

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@dataclass
class Orthanc:
    """A running Orthanc."""

    url: str

    @property
    def dicomweb(self) -> str:
        return f"{self.url}/dicom-web"

    def store(self, *files: Path) -> None:
        for file in files:
            requests.post(f"{self.url}/instances", data=file.read_bytes(), timeout=30).raise_for_status()


@contextmanager
def running_orthanc(folder: Path) -> Iterator[Orthanc]:
    """Start it with an empty store in ``folder``, reachable from this machine alone; stop it at the end."""
    program = shutil.which("Orthanc")
    if program is None or not PLUGIN.exists():
        pytest.skip("Orthanc (Debian packages orthanc and orthanc-dicomweb) is not installed")
    folder.mkdir(parents=True)
    port = free_port()
    configuration = {
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    log = folder / "orthanc.log"
    with log.open("wb") as output:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=output, stderr=subprocess.STDOUT)
    orthanc = Orthanc(f"http://127.0.0.1:{port}")
    try:
        _wait_until_ready(orthanc, process, log)
        yield orthanc
    finally:
        process.terminate()
        process.wait(20)


def _wait_until_ready(orthanc: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"{orthanc.dicomweb}/studies", timeout=10).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.1)
    pytest.fail("Orthanc did not start:\n" + log.read_text(errors="replace")[-2000:])
