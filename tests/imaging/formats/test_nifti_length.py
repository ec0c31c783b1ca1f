"""Whether a NIfTI file is as long as its header says."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from lib.imaging.formats.nifti import has_stated_length

VOXELS = np.random.default_rng(0).integers(0, 2**15, (16, 16, 16), np.int16)


def content(kind: type = nibabel.Nifti1Image, shape: tuple[int, ...] = (16, 16, 16)) -> bytes:
    return kind(VOXELS.reshape(shape), np.eye(4)).to_bytes()


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("keep", [1.0, 0.99, 0.5, 0.05, 0.01, 0.0])
def test_a_truncated_file_is_told_from_a_whole_one(tmp_path: Path, kind: type, packed: bool, keep: float) -> None:
    whole = gzip.compress(content(kind)) if packed else content(kind)
    path = tmp_path / "a"
    path.write_bytes(whole[: int(len(whole) * keep)])
    assert has_stated_length(path) is (keep == 1)


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"text",
        content(shape=(16, 16, 8, 2)),
        gzip.compress(content()[:2000]) + gzip.compress(content()[2000:]),
        content().replace(b"n+1", b"n+9"),
        content()[:70] + b"\xff\xff" + content()[72:],
    ],
)
def test_what_its_length_does_not_tell_is_left_to_the_reader(tmp_path: Path, other: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(other)
    assert not has_stated_length(path)


def test_one_more_dimension_of_one_is_plain(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(content(shape=(16, 16, 16, 1)))
    assert has_stated_length(path)
