"""The datastore of a folder: what it lists, what it leaves out, and what it never replaces."""

from __future__ import annotations

import gzip
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from fastapi import HTTPException
from PIL import Image

from lib.imaging.image import CorruptImageError, ImageError, UnsupportedImageError
from lib.imaging.readers import read_image
from lib.server.mends.folder_datastore import FolderDatastore
from lib.server.mends.folder_index import StudiesError
from lib.server.study_files import INDEX

SHAPE = (8, 6, 4)


def nifti(value: int = 1, shape: tuple[int, ...] = SHAPE, affine: np.ndarray | None = None) -> bytes:
    voxels = np.full(shape, value, np.int16)
    return gzip.compress(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine).to_bytes())


def cut_nifti() -> bytes:
    """Half of a volume that cannot be packed well."""
    voxels = np.random.default_rng(0).integers(0, 2**15, (16, 16, 16), np.int16)
    content = gzip.compress(nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes())
    return content[: len(content) // 2]


def write_png(path: Path, size: tuple[int, int] = (9, 7)) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, size[::-1], np.uint8)).save(path, "PNG")
    return path


@pytest.fixture
def studies(tmp_path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    return folder


@pytest.fixture
def opened(studies) -> Callable[[], FolderDatastore]:
    return lambda: FolderDatastore(studies, studies, read_image, read_image)


def becomes(true: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


@pytest.fixture
def upload(tmp_path) -> Callable[..., str]:
    def written(content: bytes, suffix: str = ".nii.gz") -> str:
        path = tmp_path / f"upload{suffix}"
        path.write_bytes(content)
        return str(path)

    return written


@pytest.mark.parametrize(
    ("name", "suffix"), [("scan", ".nii.gz"), ("scan", ".nii"), ("SCAN", ".nii.gz"), ("Scan", ".NII.GZ")]
)
def test_an_image_never_takes_the_place_of_another(opened, studies, upload, name, suffix):
    store = opened()
    store.add_image("scan", upload(nifti(1)), {})
    with pytest.raises(HTTPException) as refused:
        store.add_image(name, upload(gzip.decompress(nifti(2)), suffix), {})
    assert refused.value.status_code == 409 and "delete it first" in refused.value.detail
    assert [path.name for path in studies.glob("*.nii*")] == ["scan.nii.gz"]
    assert nibabel.load(store.get_image_uri("scan")).get_fdata().max() == 1
    store.remove_image("scan")
    store.add_image("scan", upload(nifti(2)), {})
    assert nibabel.load(store.get_image_uri("scan")).get_fdata().max() == 2


def test_names_that_differ_in_how_an_accent_is_written_are_one(opened, upload):
    store = opened()
    store.add_image("Z\u00e4hne", upload(nifti()), {})
    with pytest.raises(HTTPException, match="there is an image"):
        store.add_image("Za\u0308hne", upload(nifti()), {})


def test_a_file_that_is_left_out_is_not_replaced_either(opened, studies, upload):
    (studies / "scan.nii.gz").write_bytes(b"")
    store = opened()
    with pytest.raises(HTTPException, match="there is a file 'scan.nii.gz'"):
        store.add_image("scan", upload(nifti()), {})
    assert (studies / "scan.nii.gz").read_bytes() == b""


def test_labels_of_an_image_that_is_gone_do_not_become_those_of_a_new_one(opened, studies, upload):
    store = opened()
    store.add_image("scan", upload(nifti()), {})
    store.save_label("scan", upload(nifti()), "final", {})
    (studies / "scan.nii.gz").unlink()
    with pytest.raises(HTTPException, match="labels of an earlier image"):
        store.add_image("scan", upload(nifti(2)), {})


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"no image at all", UnsupportedImageError), (cut_nifti(), CorruptImageError), (b"", UnsupportedImageError)],
)
def test_what_cannot_be_opened_is_not_stored(opened, studies, upload, content, kind):
    with pytest.raises(ImageError) as refused:
        opened().add_image("scan", upload(content), {})
    assert isinstance(refused.value, kind)
    assert not list(studies.glob("*.nii*"))


@pytest.mark.parametrize(
    "label",
    [
        nifti(shape=(4, 6, 4)),
        nifti(shape=(*SHAPE, 2)),
        nifti(affine=np.diag([1, 1, 1, 1.0]) + np.eye(4, k=3) * 190),
        nifti(affine=np.diag([1, 1, 2, 1.0])),
        cut_nifti(),
        b"",
    ],
)
def test_a_label_of_another_size_or_place_is_not_stored(opened, upload, label):
    store = opened()
    store.add_image("scan", upload(nifti()), {})
    store.save_label("scan", upload(nifti(3)), "final", {})
    with pytest.raises(ImageError):
        store.save_label("scan", upload(label), "final", {})
    assert nibabel.load(store.get_label_uri("scan", "final")).get_fdata().max() == 3


def test_the_refusal_of_a_label_says_both_sizes_and_places(opened, upload):
    store = opened()
    store.add_image("scan", upload(nifti()), {})
    moved = nifti(shape=(4, 6, 4), affine=np.eye(4) + np.eye(4, k=3) * 190)
    with pytest.raises(CorruptImageError) as refused:
        store.save_label("scan", upload(moved), "final", {})
    assert "4 x 6 x 4 from (190, 0, 0) to (193, 5, 3) mm" in str(refused.value)
    assert "8 x 6 x 4 from (0, 0, 0) to (7, 5, 3) mm" in str(refused.value)


def test_labels_on_the_same_voxels_are_stored_however_they_are_written(opened, studies, upload, tmp_path):
    write_png(studies / "picture.png")
    (studies / "scan.nii.gz").write_bytes(nifti())
    store = opened()
    flipped = nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4)).as_reoriented(
        np.array([[1, -1], [0, 1], [2, 1]])
    )
    store.save_label("scan", upload(gzip.compress(flipped.to_bytes())), "final", {})
    store.save_label("scan", upload(bytes(8 * 6 * 4), ".bin"), "raw", {})
    store.save_label("scan", upload(b'{"regions": []}', ".json"), "regions", {})
    store.save_label("picture", str(write_png(tmp_path / "label.png")), "final", {})
    colours = Image.fromarray(np.zeros((7, 9, 3), np.uint8))
    colours.save(tmp_path / "colours.png")
    store.save_label("picture", str(tmp_path / "colours.png"), "final", {})
    for other in (write_png(tmp_path / "other.png", (9, 8)), upload(bytes(7), ".bin")):
        with pytest.raises(CorruptImageError):
            store.save_label("picture", str(other), "final", {})


def test_a_label_of_another_type_takes_the_place_of_the_one_before(opened, studies, upload):
    store = opened()
    store.add_image("scan", upload(nifti()), {})
    store.save_label("scan", upload(nifti()), "final", {"model": "a"})
    store.save_label("scan", upload(gzip.decompress(nifti()), ".nii"), "final", {"model": "b"})
    assert [path.name for path in (studies / "labels" / "final").iterdir()] == ["scan.nii"]
    assert store.get_label_info("scan", "final")["model"] == "b"


def test_files_of_one_stem_are_all_reachable_with_labels_of_their_own(opened, studies, upload):
    (studies / "a.nii.gz").write_bytes(nifti(1))
    (studies / "a.nii").write_bytes(gzip.decompress(nifti(2)))
    write_png(studies / "b.png.png")
    write_png(studies / "b.png")
    for store in (opened(), opened()):
        assert sorted(store.list_images()) == ["a", "a.nii", "b", "b.png"]
        found = {id: os.path.basename(store.get_image_uri(id)) for id in store.list_images()}
        assert found == {"a": "a.nii.gz", "a.nii": "a.nii", "b": "b.png", "b.png": "b.png.png"}
        store.save_label("a.nii", upload(nifti()), "final", {})
    (studies / INDEX).unlink()
    store = opened()
    assert store.get_labeled_images() == ["a.nii"] and store.get_label_uri("a.nii", "final").endswith("a.nii.nii.gz")


def test_a_file_that_comes_later_leaves_the_ids_as_they_are(opened, studies):
    (studies / "a.nii").write_bytes(gzip.decompress(nifti(1)))
    store = opened()
    assert store.list_images() == ["a"]
    (studies / "a.nii.gz").write_bytes(nifti(2))
    assert store.list_images() == ["a", "a.nii.gz"]
    assert store.get_image_uri("a").endswith("a.nii")


@pytest.fixture
def with_rubbish(studies) -> dict[str, str]:
    """A folder with one image among all that is none; why each is left out."""
    (studies / "good.nii.gz").write_bytes(nifti())
    (studies / "._good.nii.gz").write_bytes(bytes.fromhex("0005160700020000") + bytes(100))
    (studies / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (studies / "Thumbs.db").write_bytes(b"x")
    (studies / "empty.nii.gz").touch()
    (studies / "folder.nii.gz").mkdir()
    (studies / "link.png").symlink_to("nowhere")
    (studies / "round.png").symlink_to("round.png")
    os.mkfifo(studies / "pipe.nii")
    (studies / "text.png").write_bytes(b"DOE^JANE is no picture")
    (studies / "cut.nii.gz").write_bytes(cut_nifti())
    (studies / "four.nii.gz").write_bytes(nifti(shape=(*SHAPE, 2)))
    (studies / "cut.png").write_bytes(write_png(studies / "p.tmp", (60, 60)).read_bytes()[:500])
    (studies / "p.tmp").unlink()
    with open(os.fsencode(studies) + b"/M\xfcller.nii.gz", "wb") as file:
        file.write(nifti())
    return {
        "._good.nii.gz": "macOS",
        ".DS_Store": "hidden",
        "Thumbs.db": "not named like an image",
        "empty.nii.gz": "empty",
        "folder.nii.gz": "a folder",
        "link.png": "a link to nothing",
        "round.png": "cannot be opened",
        "pipe.nii": "no ordinary file",
        "text.png": "found: text",
        "cut.nii.gz": "truncated",
        "four.nii.gz": "one 2D or 3D image is read",
        "cut.png": "truncated",
        "M\\xfcller.nii.gz": "not UTF-8",
    }


def test_what_is_no_image_is_left_out_counted_and_named_once(opened, with_rubbish, caplog):
    caplog.set_level(logging.WARNING)
    store = opened()
    assert becomes(lambda: store.list_images() == ["good"])
    left_out = store.json()["left_out"]
    assert left_out.keys() == with_rubbish.keys()
    assert all(reason in left_out[name] for name, reason in with_rubbish.items()), left_out
    assert store.status()["left_out"] == len(with_rubbish) and store.status()["total"] == 1
    assert list(store.json()["objects"]) == ["good"]
    json.dumps(store.json()).encode()
    lines = [record.getMessage() for record in caplog.records if "left out of the studies" in record.getMessage()]
    counts = [int(line.split()[0]) for line in lines]
    assert sum(counts) == len(with_rubbish)
    assert not any(name in line for line in lines for name in with_rubbish), "names can be patients'"
    store.refresh()
    opened_again = len(lines)
    lines = [record.getMessage() for record in caplog.records if "left out of the studies" in record.getMessage()]
    assert len(lines) == opened_again, "named once"


def test_what_is_mended_or_arrives_later_is_found(opened, studies):
    (studies / "empty.nii.gz").touch()
    (studies / "cut.nii.gz").write_bytes(cut_nifti())
    store = opened()
    assert becomes(lambda: store.list_images() == [])
    (studies / "cut.nii.gz").write_bytes(nifti())
    (studies / "empty.nii.gz").write_bytes(nifti())
    (studies / "late.NII.GZ").write_bytes(nifti())
    assert sorted(store.list_images()) == ["cut", "empty", "late"]
    (studies / "late.NII.GZ").unlink()
    assert sorted(store.list_images()) == ["cut", "empty"]


def test_what_is_noted_of_an_image_outlives_a_time_in_which_it_cannot_be_opened(opened, studies, upload):
    (studies / "a.nii.gz").write_bytes(nifti())
    store = opened()
    store.save_label("a", upload(nifti()), "final", {"model": "kept"})
    (studies / "a.nii.gz").write_bytes(b"")
    store = opened()
    assert store.list_images() == [] and not store.has_image("a") and store.holds("a")
    (studies / "a.nii.gz").write_bytes(nifti())
    assert store.get_labeled_images() == ["a"] and store.get_label_info("a", "final")["model"] == "kept"


def test_an_image_that_is_damaged_later_is_found_out_when_it_is_opened(opened, studies):
    (studies / "a.nii.gz").write_bytes(nifti())
    store = opened()
    assert store.opens("a")
    (studies / "a.nii.gz").write_bytes(cut_nifti())
    assert not store.opens("a") and store.list_images() == []
    assert not store.opens("none")


def test_a_list_of_upstream_s_with_files_that_are_no_images_is_cleaned(opened, studies):
    (studies / "a.nii.gz").write_bytes(nifti())
    (studies / "._a.nii.gz").write_bytes(bytes(100))
    image = {"image": {"ext": ".nii.gz", "info": {"strategy": {"first": {"ts": 3}}}}, "labels": {}}
    listed = {"name": "n", "description": "d", "images_dir": ".", "objects": {"._a": image, "a": image, "gone": image}}
    (studies / INDEX).write_text(json.dumps(listed))
    store = opened()
    assert store.list_images() == ["a"] and store.get_image_info("a")["strategy"] == {"first": {"ts": 3}}


def test_images_in_a_subfolder_that_the_list_names_are_served(opened, studies):
    (studies / "imagesTr").mkdir()
    (studies / "imagesTr" / "a.nii.gz").write_bytes(nifti())
    (studies / INDEX).write_text(json.dumps({"name": "n", "description": "d", "images_dir": "imagesTr"}))
    store = opened()
    assert store.list_images() == ["a"] and Path(store.get_image_uri("a")) == studies / "imagesTr" / "a.nii.gz"


@pytest.mark.parametrize("content", ["{", "[]", '{"objects": 3}'])
def test_a_damaged_list_is_named(opened, studies, content):
    (studies / INDEX).write_text(content)
    with pytest.raises(StudiesError, match="is damaged; restore it, or remove it"):
        opened()
    assert (studies / INDEX).read_text() == content


def test_a_crash_while_the_list_is_written_leaves_the_one_before(opened, studies, monkeypatch):
    (studies / "a.nii.gz").write_bytes(nifti())
    store = opened()
    before = (studies / INDEX).read_bytes()
    monkeypatch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        store.update_image_info("a", {"x": 1})
    assert (studies / INDEX).read_bytes() == before


def test_studies_that_go_away_are_503_and_come_back(opened, studies):
    (studies / "a.nii.gz").write_bytes(nifti())
    store = opened()
    studies.rename(studies.with_name("away"))
    with pytest.raises(HTTPException) as gone:
        store.list_images()
    assert gone.value.status_code == 503
    studies.with_name("away").rename(studies)
    assert store.list_images() == ["a"]
