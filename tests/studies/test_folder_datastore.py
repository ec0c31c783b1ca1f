"""The datastore of a folder: what it lists, what it leaves out, and what it never replaces."""

from __future__ import annotations

import gzip
import json
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from fastapi import HTTPException
from PIL import Image

from lib.activelearning.random_sample import RandomSample
from lib.activelearning.uncertainty import Uncertainty
from lib.base import files
from lib.imaging.image import CorruptImageError, ImageError, UnsupportedImageError
from lib.imaging.readers import read_image
from lib.studies.folder_datastore import FolderDatastore
from lib.studies.study_files import INDEX

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
    with pytest.raises(HTTPException, match=r"there is a file 'scan.nii.gz'"):
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


def test_a_label_in_whose_place_another_came_is_removed_also_if_the_server_is_killed(
    opened, studies, upload, monkeypatch
):
    class Killed(BaseException):
        pass

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name == "scan.nii.gz":
            raise Killed
        real(path, missing_ok)

    def names_after_a_start() -> list[str]:
        FolderDatastore(studies, studies, read_image, read_image, exclusive=True).close()
        return sorted(path.name for path in (studies / "labels" / "final").iterdir())

    store, real = opened(), Path.unlink
    store.add_image("scan", upload(nifti()), {})
    store.save_label("scan", upload(nifti()), "final", {"model": "a"})
    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(Killed):
        store.save_label("scan", upload(gzip.decompress(nifti()), ".nii"), "final", {"model": "b"})
    monkeypatch.undo()
    assert opened().get_label_info("scan", "final")["model"] == "b"
    assert names_after_a_start() == ["scan.nii"]
    (studies / "labels" / "final" / "scan.nii.gz").write_bytes(b"of the operator")
    assert names_after_a_start() == ["scan.nii", "scan.nii.gz"]
    assert opened().get_label_info("scan", "final")["model"] == "b"


@pytest.mark.parametrize("name", ["../scan.nii.gz", "/scan.nii.gz", "final/../../scan.nii.gz", "scan.nii.gz", 5])
def test_what_a_list_says_is_left_over_of_labels_is_removed_among_the_labels_alone(opened, studies, upload, name):
    opened().add_image("scan", upload(nifti()), {})
    listed = json.loads((studies / INDEX).read_text())
    (studies / INDEX).write_text(json.dumps({**listed, "replaced": name}))
    store = FolderDatastore(studies, studies, read_image, read_image, exclusive=True)
    store.close()
    assert store.list_images() == ["scan"] and (studies / "scan.nii.gz").exists()


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
        "link.png": "a dangling link",
        "round.png": "cannot be opened",
        "pipe.nii": "not a regular file",
        "text.png": "found: text",
        "cut.nii.gz": "truncated",
        "four.nii.gz": "only one 2D or 3D image is supported",
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


@pytest.mark.parametrize("content", ["", "{", "[]", '{"objects": 3}', "[" * 100_000, '{"objects": {"a'])
def test_a_damaged_list_is_kept_and_made_anew_of_the_files(opened, studies, upload, content, caplog):
    store = opened()
    store.add_image("Doe", upload(nifti()), {})
    store.save_label("Doe", upload(nifti()), "final", {})
    store.save_label("Doe", upload(bytes(8 * 6 * 4), ".bin"), "raw", {})
    for kept in (".damaged", ".damaged-2"):
        (studies / INDEX).write_text(content)
        store = opened()
        assert store.json()["objects"]["Doe"]["labels"].keys() == {"final", "raw"} and not store.json()["left_out"]
        assert (studies / f"{INDEX}{kept}").read_text() == content
        assert json.loads((studies / INDEX).read_text())["objects"].keys() == {"Doe"}
    [line, _] = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert f"{INDEX}.damaged" in line and "\n" not in line and "Doe" not in line


def test_a_list_that_is_damaged_while_the_server_runs_is_written_again(opened, studies):
    (studies / "a.nii.gz").write_bytes(nifti())
    store = opened()
    store.update_image_info("a", {"x": 1})
    (studies / INDEX).write_text("")
    store.refresh()
    assert store.get_image_info("a")["x"] == 1 and opened().get_image_info("a")["x"] == 1


ODD = {
    "image": {"ext": ".nii.gz", "info": {"strategy": [1], "ts": "late", "kept": 1, "x": math.nan, "y": ["\ud800", 2]}},
    "labels": {
        "final": {"ext": ".nii.gz", "info": {"ts": [], "big": 10**30, "deep": {"a": {"b": math.inf, "kept": 2}}}},
        "second": [],
        "\ud800": {"ext": ".nii.gz", "info": {}},
    },
}


@pytest.mark.parametrize(
    "entry", [ODD, {**ODD, "labels": [1]}, {**ODD, "labels": {"final": {"ext": 3}}}, {"image": []}, 3, None]
)
def test_odd_values_of_a_list_are_left_out_and_named(opened, studies, entry, caplog):
    (studies / "Doe.nii.gz").write_bytes(nifti())
    for tag in ("final", "second"):
        (studies / "labels" / tag).mkdir(parents=True)
        (studies / "labels" / tag / "Doe.nii.gz").write_bytes(nifti())
    before = json.dumps({"name": 5, "description": "d", "objects": {"Doe": entry, "\ud800": entry}})
    (studies / INDEX).write_text(before)
    for _ in range(2):
        store = opened()
        listed = store.json()
        json.dumps(listed, allow_nan=False, ensure_ascii=False).encode()
        assert listed["objects"]["Doe"]["labels"].keys() == {"final", "second"}
        if entry is ODD:
            assert listed["objects"]["Doe"]["image"]["info"] == {"kept": 1, "y": [2]}
            assert listed["objects"]["Doe"]["labels"]["final"]["info"] == {"deep": {"a": {"kept": 2}}}
        for strategy in (RandomSample(), Uncertainty()):
            (studies / "other.nii.gz").write_bytes(nifti())
            assert strategy({"strategy": "random"}, store)["id"] == "other"
        (studies / "other.nii.gz").unlink()
    assert (studies / f"{INDEX}.damaged").read_text() == before and not (studies / f"{INDEX}.damaged-2").exists()
    [line] = [record.getMessage() for record in caplog.records if "invalid values" in record.getMessage()]
    assert "Doe" not in line and (entry is not ODD or "image info: strategy is not" in line)


def test_values_that_the_server_makes_itself_are_kept_as_json(opened, studies, upload):
    (studies / "a.nii.gz").write_bytes(nifti())
    store = opened()
    store.save_label("a", upload(nifti()), "final", {"params": {"scores": [math.nan, 0.5], "path": Path("x")}})
    for opened_store in (store, opened()):
        assert opened_store.get_label_info("a", "final")["params"] == {"scores": [0.5], "path": "x"}


def test_what_is_noted_in_pieces_is_bounded_as_a_whole(opened, studies):
    (studies / "a.nii.gz").write_bytes(nifti())
    store = opened()
    store.update_image_info("a", {"x": "x" * 600_000})
    with pytest.raises(HTTPException, match="larger than"):
        store.update_image_info("a", {"y": "y" * 600_000})
    assert "y" not in store.get_image_info("a") and "x" in opened().get_image_info("a")


def test_a_crash_while_the_list_is_written_leaves_the_one_before(opened, studies, monkeypatch):
    (studies / "a.nii.gz").write_bytes(nifti())
    store = opened()
    before = (studies / INDEX).read_bytes()
    monkeypatch.setattr(files.os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        store.update_image_info("a", {"x": 1})
    assert (studies / INDEX).read_bytes() == before and "x" not in store.get_image_info("a")


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The disk is full when the file of that name is about to take its place."""
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if target.name == name and source.exists() and not target.with_name("failed").exists():
            target.with_name("failed").touch()
            raise OSError(28, "full")
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)


@pytest.mark.parametrize("name", [INDEX, "a.nii.gz", "a.nii"])
@pytest.mark.parametrize("has_label", [True, False])
def test_a_label_that_cannot_be_kept_leaves_the_one_before(opened, studies, upload, monkeypatch, name, has_label):
    (studies / "a.nii.gz").write_bytes(nifti())
    store = opened()
    if has_label:
        store.save_label("a", upload(nifti(3)), "final", {"model": "before"})
    before = {path: path.read_bytes() for path in studies.rglob("*") if path.is_file()}
    listed = store.json()
    fail_at(monkeypatch, name)
    suffix = ".nii" if name.endswith(".nii") else ".nii.gz"
    content = gzip.decompress(nifti(5)) if suffix == ".nii" else nifti(5)
    with pytest.raises(OSError, match="full"):
        store.save_label("a", upload(content, suffix), "final", {"model": "after"})
    for failed in studies.rglob("failed"):
        failed.unlink()
    assert {path: path.read_bytes() for path in studies.rglob("*") if path.is_file()} == before
    assert store.json() == listed and opened().json() == listed


@pytest.mark.parametrize("name", [INDEX, "new.nii.gz"])
def test_an_image_that_cannot_be_kept_leaves_nothing(opened, studies, upload, monkeypatch, name):
    store = opened()
    fail_at(monkeypatch, name)
    with pytest.raises(OSError, match="full"):
        store.add_image("new", upload(nifti()), {})
    assert store.list_images() == [] and not list(studies.glob("*.nii*")) and not list(studies.glob(".*.part"))
    store.add_image("new", upload(nifti()), {})


def test_a_list_that_cannot_be_written_does_not_keep_images_from_being_seen(opened, studies, monkeypatch):
    (studies / "a.nii.gz").write_bytes(nifti())
    monkeypatch.setattr(files.os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    assert opened().list_images() == ["a"]


def test_what_is_stored_is_on_the_disk_before_the_answer(opened, studies, upload, monkeypatch):
    (studies / "a.nii.gz").write_bytes(nifti())
    store, synced, real = opened(), [], os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    store.save_label("a", upload(nifti()), "mine", {})
    assert len([name for name in synced if files.is_leftover(name)]) == 2, "label and list"
    assert {"labels", "mine", "studies"} <= set(synced)
    synced.clear()
    store.add_image("b", upload(nifti()), {})
    assert len([name for name in synced if files.is_leftover(name)]) == 2 and "studies" in synced
    synced.clear()
    store.remove_label("a", "mine")
    store.remove_image("b")
    assert {"mine", "studies"} <= set(synced)


def test_a_file_that_is_gone_when_it_is_read_is_not_excluded_for_good(opened, studies):
    """As when a share goes away while its files are read: it comes back with nothing changed."""
    (studies / "a.nii.gz").write_bytes(nifti())
    store = opened()
    (studies / "a.nii.gz").rename(studies.parent / "a.nii.gz")
    assert not store.opens("a")
    (studies.parent / "a.nii.gz").rename(studies / "a.nii.gz")
    assert store.opens("a") and "a.nii.gz" not in store._left_out


def test_a_file_that_goes_away_while_it_is_read_is_not_excluded_for_good(studies):
    """As when a share goes away just after the check of a file began."""
    path = studies / "a.nii.gz"
    path.write_bytes(nifti())
    aside = studies.parent / path.name

    def goes_away(asked: Path) -> object:
        asked.rename(aside)
        return read_image(asked)

    reads = iter([goes_away])
    store = FolderDatastore(studies, studies, lambda asked: next(reads, read_image)(asked), read_image)
    assert not store.opens("a")
    aside.rename(path)
    assert store.opens("a") and "a" in store.list_images()


def test_nor_is_one_that_is_back_before_the_check_has_ended(studies):
    path = studies / "a.nii.gz"
    path.write_bytes(nifti())

    def is_gone_for_a_moment(asked: Path) -> object:
        raise FileNotFoundError(2, "No such file or directory", asked)

    reads = iter([is_gone_for_a_moment])
    store = FolderDatastore(studies, studies, lambda asked: next(reads, read_image)(asked), read_image)
    store.opens("a")
    assert store.opens("a") and "a" in store.list_images()


def test_studies_that_go_away_are_503_and_come_back(opened, studies):
    (studies / "a.nii.gz").write_bytes(nifti())
    store = opened()
    studies.rename(studies.with_name("away"))
    with pytest.raises(HTTPException) as gone:
        store.list_images()
    assert gone.value.status_code == 503
    studies.with_name("away").rename(studies)
    assert store.list_images() == ["a"]
