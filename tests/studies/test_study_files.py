"""Checks of a folder's files: what one thread has found holds, whatever another one was reading at that time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lib.imaging.image import CorruptImageError
from lib.studies.study_files import Depth, StudyFiles

WHOLE, CUT = b"\x89PNG\r\n\x1a\n whole", b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def files(tmp_path) -> StudyFiles:
    (tmp_path / "a.png").write_bytes(WHOLE)
    return StudyFiles(tmp_path, (".png",))


def read(path: Path) -> None:
    if path.read_bytes() != WHOLE:
        raise CorruptImageError("cut")


@pytest.mark.parametrize("depth", [Depth.LENGTH, Depth.ALL])
def test_a_check_of_the_file_as_it_was_does_not_undo_one_of_the_file_as_it_is(files, depth):
    def read_slowly(path: Path) -> None:
        read(path)
        path.write_bytes(CUT)
        assert files.check("a.png", Depth.ALL, read) == "cut"

    assert files.scan() == (["a.png"], {})
    assert files.check("a.png", depth, read_slowly) is None
    assert files.is_refused("a.png") and files.scan() == ([], {"a.png": "cut"})


def test_a_scan_meanwhile_does_not_lose_what_a_check_finds(files):
    def read_slowly(path: Path) -> None:
        files.scan()
        read(path)

    files.folder.joinpath("a.png").write_bytes(CUT)
    assert files.check("a.png", Depth.ALL, read_slowly) == "cut"
    assert files.scan() == ([], {"a.png": "cut"})


def test_a_file_that_is_gone_or_changes_while_it_is_read_is_not_read_for_ever(files):
    path = files.folder / "a.png"

    def change(path: Path) -> None:
        path.write_bytes(path.read_bytes() + b".")

    files.scan()
    assert files.to_check() == ["a.png"]
    assert files.check("a.png", Depth.ALL, change) is None
    assert files.to_check() == []  # the next scan finds it again
    assert files.scan() == (["a.png"], {}) and files.to_check() == ["a.png"]
    os.remove(path)
    assert "cannot be opened" in str(files.check("a.png", Depth.ALL, Path.read_bytes))
    assert files.to_check() == [] and not files.is_refused("a.png")
