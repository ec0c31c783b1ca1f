"""Orthanc as a process of its own: a real DICOM server with DICOMweb."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import orthanc as archive
from orthanc import Orthanc
from support.server_process import free_port


@contextmanager
def running_orthanc(folder: Path, *, login: tuple[str, str] | None = None, port: int = 0) -> Iterator[Orthanc]:
    """Start it with its store in ``folder``, reachable from this machine alone; stop it at the end.

    Args:
        folder: Made if need be.
        login: Name and password to ask for.
        port: 0: a free one.
    """
    try:
        archive.program()
    except archive.OrthancError as error:
        pytest.skip(str(error))
    with archive.running(folder, port or free_port(), login=login) as running:
        yield running
