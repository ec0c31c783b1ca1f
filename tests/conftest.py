"""Fixtures that more than one part of the tests uses."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name gzip content by its argument: it holds the time, and processes that share the tests need the same names."""
    return argname if isinstance(val, bytes) and val.startswith(b"\x1f\x8b") else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder of real images that is not part of the repository; tests that need it skip where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real images that this check needs are not on this machine")
    return folder


@pytest.fixture
def disc() -> tuple[np.ndarray, np.ndarray]:
    """A bright disc on a darker, slightly noisy ground: ``(200, 240, 3)`` uint8 and its ``(200, 240)`` bool mask."""
    rows, columns = np.mgrid[:200, :240]
    mask = (columns - 130) ** 2 + (rows - 90) ** 2 <= 40**2
    noise = np.random.default_rng(0).normal(0, 4, mask.shape)
    grey = np.clip(np.where(mask, 190, 70) + noise, 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), mask


@pytest.fixture(scope="session")
def sample() -> Callable[[str], Path]:
    """Finds one of the DICOM files that come inside the pydicom wheel; never by the network."""

    def find(name: str) -> Path:
        path = get_testdata_file(name, download=False)
        assert path is not None, f"pydicom ships no {name}"
        return Path(path)

    return find


@pytest.fixture(scope="session")
def dciodvfy() -> Callable[[Path], list[str]]:
    """Validates a file with David Clunie's dciodvfy; answers its errors."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")

    def errors(path: Path) -> list[str]:
        done = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).splitlines()
        assert any(line in ("SCImage", "Segmentation", "RTStructureSet") for line in lines), (
            f"the kind was not recognised: {lines}"
        )
        return [line for line in lines if line.startswith("Error")]

    return errors
