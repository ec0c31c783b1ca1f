"""Small files whose headers request too much memory or time are refused; see ``tests/long`` for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.imaging.decoding.memory_budget import budget
from lib.imaging.image import ImageTooLargeError
from lib.imaging.readers import read_image
from support import bombs


@pytest.mark.parametrize("make", [bombs.jpeg_scans, bombs.dicom_scans])
def test_a_jpeg_of_too_many_scans_is_refused_with_how_many_it_has(tmp_path: Path, make) -> None:
    (tmp_path / "bomb").write_bytes(make())
    with pytest.raises(ImageTooLargeError, match=r"has \d{4} scans; at most 100"):
        read_image(tmp_path / "bomb")


@pytest.mark.parametrize("make", [bombs.bmp_rle, bombs.dicom_rle, bombs.dicom_jpeg_lossless, bombs.nrrd_text])
def test_what_needs_more_than_the_budget_is_refused(tmp_path: Path, make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "total", 1024 * 2**20)
    (tmp_path / "bomb").write_bytes(make())
    with pytest.raises(ImageTooLargeError, match=r"needs \d+ MiB of memory.*at most 1024 MiB"):
        read_image(tmp_path / "bomb")
