"""Orthanc, the DICOM archive of Debian's packages ``orthanc`` and ``orthanc-dicomweb``, as a process of our own."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

PACKAGES = ("orthanc", "orthanc-dicomweb")
_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_STARTUP_S = 60.0


class OrthancError(RuntimeError):
    """Orthanc is not installed, or does not start; the message says why."""


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc.

    Args:
        url: Where it is.
        login: Name and password, if it asks for them.
    """

    url: str
    login: tuple[str, str] | None = None

    @property
    def dicomweb(self) -> str:
        """The root of its DICOMweb services."""
        return f"{self.url}/dicom-web"

    def store(self, *files: Path) -> list[Path]:
        """Store DICOM files; those that it has already stay as they are.

        Returns:
            The files that it does not take for DICOM.
        """
        with httpx.Client(auth=self.login, timeout=60) as client:
            answers = [(file, client.post(f"{self.url}/instances", content=file.read_bytes())) for file in files]
        for _, answer in answers:
            if answer.status_code != 400:
                answer.raise_for_status()
        return [file for file, answer in answers if answer.status_code == 400]

    def count(self, what: str) -> int:
        """How many ``studies``, ``series`` or ``instances`` it has."""
        return len(httpx.get(f"{self.url}/{what}", auth=self.login, timeout=60).json())


def program() -> str:
    """Orthanc's program.

    Raises:
        OrthancError: If it or its DICOMweb plugin is not installed.
    """
    found = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin")
    if found is None or not _PLUGIN.exists():
        raise OrthancError(f"Orthanc with DICOMweb (Debian packages {' and '.join(PACKAGES)}) is not installed")
    return found


@contextmanager
def running(folder: Path, port: int, *, login: tuple[str, str] | None = None) -> Iterator[Orthanc]:
    """Run it, reachable from this machine alone, and stop it at the end.

    Only the DICOMweb plugin is loaded. Debian's GDCM plugin, which would transcode, crashes on JPEG 2000.

    Args:
        folder: Of its images, its configuration and its log; made if need be. It may have images of an earlier time.
        port: Where it listens on 127.0.0.1.
        login: Name and password to ask for; None: it asks for none.

    Raises:
        OrthancError: If it is not installed, or does not start.
    """
    command = [program(), str(folder / "orthanc.json")]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / "orthanc.json").write_text(json.dumps(_configuration(folder, port, login), indent=2))
    log = folder / "orthanc.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    orthanc = Orthanc(f"http://127.0.0.1:{port}", login)
    try:
        _wait_until_ready(orthanc, process, log)
        yield orthanc
    finally:
        process.terminate()
        process.wait(20)


def _configuration(folder: Path, port: int, login: tuple[str, str] | None) -> Mapping[str, object]:
    return {
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": login is not None,
        "RegisteredUsers": dict([login] if login else []),
        "DicomServerEnabled": False,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(_PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }


def _wait_until_ready(orthanc: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _STARTUP_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{orthanc.dicomweb}/studies", auth=orthanc.login, timeout=10).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise OrthancError("Orthanc did not start:\n" + log.read_text(errors="replace")[-2000:])
