"""Where the labels of studies are kept that cannot be written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
from fastapi import HTTPException
from monailabel.config import settings

from lib.base import locks
from lib.base.locks import FolderInUseError
from lib.imaging.readers import read_image
from lib.studies.folder_datastore import FolderDatastore
from lib.studies.folder_index import StudiesError
from lib.studies.folder_place import open_folder
from lib.studies.study_files import INDEX

IMAGE = nibabel.Nifti1Image(np.ones((4, 5, 6), np.int16), np.eye(4)).to_bytes()


@contextmanager
def opened(studies: Path, datastore: Path) -> Iterator[FolderDatastore]:
    store = open_folder(studies, datastore, read_image, read_image)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def studies(tmp_path) -> Path:
    """With an image that has a label already, and a note of it."""
    folder = tmp_path / "studies"
    (folder / "labels" / "final").mkdir(parents=True)
    (folder / "a.nii").write_bytes(IMAGE)
    (folder / "b.nii").write_bytes(IMAGE)
    (folder / "labels" / "final" / "a.nii").write_bytes(IMAGE)
    label = {"final": {"ext": ".nii", "info": {"checked": True}}}
    image = {"image": {"ext": ".nii", "info": {}}, "labels": label}
    (folder / INDEX).write_text(json.dumps({"name": "n", "description": "d", "objects": {"a": image}}))
    return folder


@pytest.fixture
def read_only(studies, tmp_path) -> Iterator[Path]:
    """The same on a file system that is read-only, also for root."""
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    bind = ["mount", "--bind", str(studies), str(mounted)]
    if os.geteuid() or subprocess.run(bind, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(mounted)], check=True)
        yield mounted
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def check_it_is_served_beside(studies: Path, datastore: Path, label: Path) -> None:
    before = sorted(studies.rglob("*"))
    label.write_bytes(IMAGE)
    with opened(studies, datastore) as store:
        assert store.list_images() == ["a", "b"] and store.get_labeled_images() == ["a"]
        assert store.get_label_info("a", "final") == {"checked": True}
        assert Path(store.get_image_uri("b")) == studies / "b.nii"
        store.save_label("b", str(label), "final", {"by": "me"})
        store.update_image_info("a", {"seen": 1})
        for change in (lambda: store.add_image("c", str(label), {}), lambda: store.remove_image("a")):
            with pytest.raises(HTTPException, match="read-only") as refused:
                change()
            assert refused.value.status_code == 409
        with pytest.raises(FolderInUseError), opened(studies, datastore):
            pass
    with opened(studies, datastore) as again:
        assert sorted(again.get_labeled_images()) == ["a", "b"] and again.get_label_info("b", "final")["by"] == "me"
        assert again.get_image_info("a")["seen"] == 1
        assert str(studies) not in json.dumps(again.json()), "where they are is not told to clients"
    assert sorted(studies.rglob("*")) == before


def test_a_read_only_file_system_is_served(read_only, tmp_path):
    check_it_is_served_beside(read_only, tmp_path / "datastore", tmp_path / "label.nii")


def test_studies_that_the_operator_calls_read_only_are_served_likewise(studies, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_DATASTORE_READ_ONLY", True)
    check_it_is_served_beside(studies, tmp_path / "datastore", tmp_path / "label.nii")


def test_two_folders_have_places_of_their_own(studies, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_DATASTORE_READ_ONLY", True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.nii").write_bytes(IMAGE)
    with opened(studies, tmp_path / "datastore"), opened(other, tmp_path / "datastore") as store:
        assert store.get_labeled_images() == []


def test_a_second_server_is_refused_and_what_a_killed_one_left_is_removed(studies, tmp_path):
    left = [folder / f".{'0' * 32}.part" for folder in (studies, studies / "labels" / "final")]
    with opened(studies, tmp_path / "datastore") as store:
        for path in left:
            path.touch()
        with pytest.raises(FolderInUseError, match="another server uses"), opened(studies, tmp_path / "datastore"):
            pass
        assert all(path.exists() for path in left) and store.json()["left_out"] == {}
    with opened(studies, tmp_path / "datastore") as store:
        assert not any(path.exists() for path in left) and store.list_images() == ["a", "b"]
        assert store.json()["left_out"] == {}, "the lock is no image"


def test_a_file_system_without_locks_is_served_with_a_warning(studies, tmp_path, monkeypatch, caplog):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with opened(studies, tmp_path / "datastore") as store:
        assert store.list_images() == ["a", "b"] and "does not support locks" in caplog.text


def test_without_any_place_for_labels_the_reason_is_one_line(studies, tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "MONAI_LABEL_DATASTORE_READ_ONLY", True)
    (tmp_path / "file").touch()
    with pytest.raises(StudiesError, match="--conf datastore FOLDER") as refused, opened(studies, tmp_path / "file"):
        pass
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "reason"), [("file", "Not a directory"), ("none", "No such file")])
def test_what_is_no_folder_is_named(tmp_path, name, reason):
    (tmp_path / "file").touch()
    with (
        pytest.raises(StudiesError, match=f"cannot be read: {reason}"),
        opened(tmp_path / name, tmp_path / "datastore"),
    ):
        pass
