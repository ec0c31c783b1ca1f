"""``scripts/pacs``: an archive for those who have none."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
def running_pacs(data: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The script as a process, and the DICOMweb address that it tells."""
    try:
        program()
    except OrthancError as error:
        pytest.skip(str(error))
    command = [sys.executable, str(REPOSITORY / "scripts" / "pacs.py"), "--port", "0", "--data", str(data), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout
    said = ""
    while "/ohif/" not in said and (line := process.stdout.readline()):
        said += line
    found = re.search(r"DICOMweb +(\S+)", said)
    try:
        assert found, said
        assert f"scripts/start --studies {found[1]}" in said
        yield process, found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stdout.close()


def _studies(dicomweb: str) -> int:
    return len(requests.get(f"{dicomweb}/studies", timeout=10).json())


@pytest.mark.slow
def test_a_newcomer_gets_two_studies_that_stay(tmp_path, sample):
    with running_pacs(tmp_path / "data") as (process, dicomweb):
        assert _studies(dicomweb) == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        with pytest.raises(requests.ConnectionError):
            requests.get(dicomweb, timeout=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "ct.dcm").write_bytes(sample("CT_small.dcm").read_bytes())
    (tmp_path / "mine" / "notes.txt").write_text("no DICOM")
    with running_pacs(tmp_path / "data", str(tmp_path / "mine")) as (_, dicomweb):
        assert _studies(dicomweb) == 3


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
