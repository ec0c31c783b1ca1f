"""``scripts/pacs``: an archive for those who have none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
import SimpleITK

from orthanc import OrthancError, program
from pacs import ensure_installed, files_of, main, where_to_go_next
from phantom_series import ORGANS, SERIES
from serve import UsageError
from support.server_process import REPOSITORY


@contextmanager
def running_pacs(
    data: Path, *arguments: str, hangup: str = "default"
) -> Iterator[tuple[subprocess.Popen[bytes], str, int]]:
    """The script as a process with a terminal of its own, the DICOMweb address that it tells, and its user's end.

    Args:
        data: The archive's folder.
        arguments: Of the script.
        hangup: ``default``, or ``ignore``, as ``nohup`` starts it.
    """
    try:
        program()
    except OrthancError as error:
        pytest.skip(str(error))
    script = [sys.executable, str(REPOSITORY / "scripts" / "pacs.py"), "--port", "0", "--data", str(data), *arguments]
    user, terminal = os.openpty()
    command = ["setsid", "--ctty", "env", f"--{hangup}-signal=HUP", *script]
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    said = b""
    try:
        while not said.endswith(b"in a browser.\r\n\r\n"):  # to the last byte: a write without a reader would fail
            said += os.read(user, 4096)
        found = re.search(rb"DICOMweb +(\S+)", said)
        assert found, said
        dicomweb = found[1].decode()
        assert f"scripts/start --studies {dicomweb}" in said.decode()
        yield process, dicomweb, user
    finally:
        process.terminate()
        process.wait(30)
        with suppress(OSError):
            os.close(user)


def _is_there(dicomweb: str) -> bool:
    try:
        return requests.get(f"{dicomweb}/studies", timeout=5).ok
    except requests.ConnectionError:
        return False


def _studies(dicomweb: str) -> int:
    return len(requests.get(f"{dicomweb}/studies", timeout=10).json())


@pytest.mark.slow
def test_a_newcomer_gets_two_studies_that_stay_and_an_archive_that_ends_with_its_terminal(tmp_path, sample):
    with running_pacs(tmp_path / "data") as (process, dicomweb, user):
        assert _studies(dicomweb) == 2
        os.write(user, b"\x03")
        assert process.wait(30) == 130
        assert not _is_there(dicomweb)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "ct.dcm").write_bytes(sample("CT_small.dcm").read_bytes())
    (tmp_path / "mine" / "notes.txt").write_text("no DICOM")
    with running_pacs(tmp_path / "data", str(tmp_path / "mine")) as (process, dicomweb, user):
        assert _studies(dicomweb) == 3
        os.close(user)
        assert process.wait(30) == 129
        assert not _is_there(dicomweb)


@pytest.mark.slow
def test_started_by_nohup_it_outlives_its_terminal(tmp_path):
    with running_pacs(tmp_path / "data", hangup="ignore") as (process, dicomweb, user):
        os.close(user)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        assert _is_there(dicomweb)
    assert process.returncode == 143 and not _is_there(dicomweb)


def test_what_cannot_be_done_is_told(tmp_path, monkeypatch, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "there is no such file or folder" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no file in"):
        files_of([tmp_path])

    def missing() -> str:
        raise OrthancError("Orthanc is not installed")

    monkeypatch.setattr("pacs.program", missing)
    with pytest.raises(UsageError, match=r"scripts/pacs --install' or '.*apt-get install -y orthanc orthanc-dicomweb'"):
        ensure_installed(install=False)


def test_one_study_is_no_studies():
    assert "with 1 study." in where_to_go_next("http://x/dicom-web", 1, Path(".pacs"))


@pytest.mark.parametrize("series", SERIES, ids=["CT", "MR"])
def test_the_phantom_lies_where_it_says(series, tmp_path):
    """ITK finds each organ's middle at its place in the patient."""
    files = series.write(tmp_path)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), series.values())
    for organ in ORGANS:
        index = series.grid.index(organ.centre)
        if all(0 <= at < size for at, size in zip(index, image.GetSize(), strict=True)):
            exact = image.TransformPhysicalPointToContinuousIndex(organ.centre)
            assert np.abs(np.subtract(exact, index)).max() < 0.501
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    assert len({header.SOPInstanceUID for header in headers}) == len(files) == series.grid.shape[0]
    assert {header.SeriesInstanceUID for header in headers} == {series.series_uid}


@pytest.mark.parametrize("series", SERIES, ids=["CT", "MR"])
def test_an_organ_looks_as_itself(series):
    values, stomach = series.values(), next(n for n, organ in enumerate(ORGANS) if organ.name == "stomach")
    expected = ORGANS[stomach].ct if series.modality == "CT" else ORGANS[stomach].mr
    assert abs(np.median(values[series.grid.label(stomach)]) - expected) < 5


def test_two_writings_are_the_same_series(tmp_path):
    first, second = (SERIES[0].write(tmp_path / name) for name in ("a", "b"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_port_8042_in_use_may_be_debian_s_own(monkeypatch, capsys, tmp_path):
    def taken(host: str, port: int) -> int:
        raise UsageError(f"port {port} on {host} cannot be used")

    monkeypatch.setattr("pacs.free_port", taken)
    monkeypatch.setattr("pacs.program", lambda: "/usr/sbin/Orthanc")
    assert main(["--data", str(tmp_path)]) == 2
    assert "systemctl disable --now orthanc" in capsys.readouterr().err
