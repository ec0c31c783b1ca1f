"""``scripts/evaluate`` as a person tries it: on its sample folder, and interrupted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from evaluation import main as command
from evaluation.cases import find_cases
from evaluation.sample import NAMES, fill
from lib.imaging.readers import read_image
from phantom_series import ORGANS, SERIES
from support.server_process import REPOSITORY


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("samples") / "samples")


def test_the_sample_folder_holds_cases_that_lie_where_the_phantom_s_organs_do(folder):
    cases = find_cases(folder)
    assert {case.label for case in cases} == set(NAMES)
    assert len({case.file for case in cases}) == len(SERIES) == 2
    aorta = next(organ for organ in ORGANS if organ.name == "aorta")
    for case in cases:
        assert case.spacing == pytest.approx((1.5, 1.5))
        if case.label == "aorta" and case.file.name == "torso_ct.nii.gz":
            columns = np.argwhere(case.truth).mean(axis=0)[::-1]
            affine = read_image(case.file).affine
            ras = affine @ (*columns, case.frame_index, 1)
            assert ras[:2] == pytest.approx(-np.array(aorta.centre[:2]), abs=1.5)


def test_a_folder_that_is_there_stays_as_it_is(folder, tmp_path):
    (tmp_path / "mine.txt").touch()
    assert fill(tmp_path) == tmp_path and [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning")
def test_without_a_folder_the_samples_are_measured(folder, monkeypatch, capsys):
    monkeypatch.setattr(command, "SAMPLES", folder)
    assert command.main(["--protocols", "box"]) == 0
    shown = capsys.readouterr()
    assert str(folder) in shown.err
    dice = {
        line[:31].strip(): float(line[31:].split()[0]) for line in shown.out.splitlines() if "tight box" in line[:31]
    }
    assert dice["tight box"] > 0.95 > dice["tight box: filled"]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 6])
def test_ctrl_c_ends_it_without_a_traceback(folder, seconds):
    """While it is being imported, and later, when workers that read images get the signal, too."""
    user, terminal = os.openpty()
    script = [sys.executable, str(REPOSITORY / "scripts" / "evaluate.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "apps" / "sam_app")}
    process = subprocess.Popen(
        ["setsid", "--ctty", *script], stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    )
    time.sleep(seconds)
    os.write(user, b"\x03")
    assert process.wait(60) == 130
    os.close(terminal)
    said = b""
    while b"nothing was written" not in said:
        said += os.read(user, 4096)
    os.close(user)
    assert b"Traceback" not in said and b"KeyboardInterrupt" not in said
