"""What is sent for a session: ZIP archives, several series, files of one name; in this process."""

from __future__ import annotations

import io
import json
import stat
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pydicom
import pytest

from lib.imaging.readers import read_image
from support.phantoms import BALL_AFFINE, ball_volume
from support.rest import png
from support.series import ACQUISITIONS, write_series
from support.served_app import ServedApp, served_app

PICTURE = png(np.full((20, 20), 7, np.uint8))


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[ServedApp]:
    with served_app(tmp_path_factory.mktemp("sessions") / "app", max_upload_mb="1") as one:
        yield one


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> dict[str, list[Path]]:
    """Two series of 20 slices, by description."""
    chosen = [one for one in ACQUISITIONS if one.name in ("axial", "sagittal")]
    return {one.name: write_series(tmp_path_factory.mktemp("series"), one) for one in chosen}


@pytest.fixture(scope="module")
def nifti() -> bytes:
    return bytes(nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_bytes())


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def put(served: ServedApp, *files: tuple[str, bytes], query: str = "") -> httpx.Response:
    return served.ask("PUT", f"/session/{query}", files=[("files", file) for file in files])


def image_of(served: ServedApp, answer: httpx.Response) -> Path:
    """Where the image of a new session is."""
    assert answer.status_code == 200, answer.text
    [image] = (served.folder / "sessions" / answer.json()["session_id"] / "image").parent.glob("image")
    return image


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def test_a_zipped_series_is_a_session_without_what_does_not_belong_to_it(served, series):
    members = {f"CD/DICOM/S1/{file.name}": file.read_bytes() for file in series["sagittal"]}
    dirt = {"__MACOSX/CD/._1.dcm": b"x", "CD/README.TXT": b"hello", "CD/.DS_Store": b"x", "CD/viewer.exe": b"MZ"}
    dicomdir = pydicom.data.get_testdata_file("DICOMDIR", download=False)
    answer = put(served, ("cd.zip", zipped({**dirt, **members, "CD/DICOMDIR": Path(str(dicomdir)).read_bytes()})))
    image = image_of(served, answer)
    assert contents(image) == list(members.values())
    assert {stat.S_IMODE(path.stat().st_mode) for path in image.iterdir()} == {0o600}
    assert sorted(path.name for path in image.parent.iterdir()) == ["image", "meta.info"]
    facts = served.get(f"/session/{answer.json()['session_id']}/view").json()
    np.testing.assert_allclose(facts["affine"], read_image(series["sagittal"][0].parent).affine)
    done = served.segment({"session": answer.json()["session_id"], "positive_points": [{"x": 61, "y": 38}]})
    assert done.status_code == 200 and json.loads(done.headers["SAM-Result"])["frames"] == 20


@pytest.mark.parametrize("query", ["", "?uncompress=true"])
def test_a_zipped_image_is_a_session_of_one_file(served, nifti, query):
    answer = put(served, ("a.zip", zipped({"folder/": b"", "folder/brain.nii": nifti})), query=query)
    session = answer.json()["session_id"]
    assert contents(image_of(served, answer)) == [nifti]
    downloaded = served.get(f"/session/{session}?image=true")
    assert downloaded.content == nifti and downloaded.headers["content-disposition"].endswith('.nii"')
    assert served.get(f"/session/{session}/view").json()["shape"] == [64, 48, 16]


def files_elsewhere(served) -> set[Path]:
    """What is beside the sessions and the embeddings, which are encoded ahead of whoever has opened an image."""
    return {path for path in served.folder.parent.rglob("*") if not {"sessions", "embeddings"} & set(path.parts)}


def test_names_that_lead_elsewhere_do_not(served, series):
    files = [file.read_bytes() for file in series["axial"][:6]]
    names = ["../../../out.dcm", "/tmp/out.dcm", "C:\\out.dcm", "..\\out.dcm", "a\x00b.dcm", "x" * 5000 + ".dcm"]
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr(link, "/etc/passwd")
        for name, content in zip(names, files, strict=True):
            archive.writestr(name, content)
    before = files_elsewhere(served)
    image = image_of(served, put(served, ("a.zip", buffer.getvalue())))
    assert sorted(contents(image)) == sorted(files)
    assert not any(path.is_symlink() for path in image.iterdir())
    assert files_elsewhere(served) == before
    assert not Path("/tmp/out.dcm").exists()


def _encrypted() -> bytes:
    content = bytearray(zipped({"a.nii": b"abc"}))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def _tar() -> bytes:
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../a"))
    return buffer.getvalue()


DICOM = b"\x00" * 128 + b"DICM"
TEXTS = {"a.txt": b"hello there", "b.txt": b"hello again"}


@pytest.mark.parametrize(
    ("status", "said", "files", "query"),
    [
        (413, "larger than 1 MiB", [zipped({"a.nii": b"0" * 2**21})], ""),
        (413, "larger than 1 MiB", [zipped({f"{n}.dcm": DICOM + b"0" * 2**18 for n in range(8)})], ""),
        (413, "more than 1000 images", [zipped({f"{n}": DICOM for n in range(1001)})], ""),
        (415, "encrypted", [_encrypted()], ""),
        (415, "another method", [zipped({"a.nii": b"abc"}, zipfile.ZIP_LZMA)], ""),
        (415, "another method", [zipped({"a.nii": b"abc"}, zipfile.ZIP_BZIP2)], ""),
        (422, "truncated or damaged", [zipped({"a.nii": b"abc" * 99})[:-30]], ""),
        (422, "truncated or damaged", [zipped({"a.nii": bytes(range(256))}).replace(bytes(range(99)), b"x" * 99)], ""),
        (415, "has no file", [zipped({})], ""),
        (415, "has no file", [zipped({"DICOMDIR": DICOM, ".hidden": b"x"})], ""),
        (415, "2 files, none of which is DICOM", [zipped(TEXTS)], ""),
        (415, "send it alone", [zipped(TEXTS), PICTURE], ""),
        (415, "send it alone", [zipped(TEXTS), zipped(TEXTS)], ""),
        (415, "empty", [b""], ""),
        (422, "only ZIP archives", [_tar()], "?uncompress=true"),
        (422, "no image of the series '1.2'", [zipped({"a.png": PICTURE})], "?series=1.2"),
        (422, "no image of the series '1.2'", [PICTURE], "?series=1.2"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_session_leaves_nothing(served, status, said, files, query):
    before = set((served.folder / "sessions").rglob("*"))
    refused = put(served, *((f"{n}.zip", content) for n, content in enumerate(files)), query=query)
    assert refused.status_code == status and said in refused.json()["detail"], refused.text
    assert str(served.folder) not in refused.text
    assert set((served.folder / "sessions").rglob("*")) == before


@pytest.mark.parametrize("is_zipped", [False, True])
def test_of_several_series_the_client_chooses(served, series, is_zipped):
    files = [(f"{name}/{file.name}", file.read_bytes()) for name in series for file in series[name][:9]]
    files.append(("sagittal/more.dcm", series["sagittal"][9].read_bytes()))
    files = [("a.zip", zipped(dict(files)))] if is_zipped else files
    before = set((served.folder / "sessions").iterdir())
    refused = put(served, *files)
    assert refused.status_code == 409 and set((served.folder / "sessions").iterdir()) == before
    said = refused.json()
    assert "2 DICOM series" in said["detail"] and "axial (CT, 9 images); sagittal (CT, 10 images)" in said["detail"]
    assert [(one["description"], one["modality"], one["images"]) for one in said["series"]] == [
        ("axial", "CT", 9),
        ("sagittal", "CT", 10),
    ]
    chosen = put(served, *files, query=f"?series={said['series'][1]['uid']}")
    assert sorted(contents(image_of(served, chosen))) == sorted(file.read_bytes() for file in series["sagittal"][:10])


def test_files_of_one_name_in_several_folders_are_all_kept_in_the_order_of_their_paths(served, series):
    files = [file.read_bytes() for file in series["axial"][:4]]
    paths = ["b/1.dcm", "a/2.dcm", "a\\1.dcm", "b/2.dcm"]
    image = image_of(served, put(served, *zip(paths, files, strict=True)))
    assert contents(image) == [files[2], files[1], files[0], files[3]]
    assert len(contents(image_of(served, put(served, *(("same.dcm", content) for content in files))))) == 4
    names = sorted(path.name for path in image_of(served, put(served, *zip("dcba", files, strict=True))).iterdir())
    assert names == ["a", "b", "c", "d"]


def test_the_audit_log_has_the_hash_of_what_is_in_the_archive(served, nifti):
    put(served, ("a.nii", nifti))
    put(served, ("a.zip", zipped({"a.nii": nifti})))
    one, other = served.audited("/session/")[-2:]
    assert one["image_sha256"] == other["image_sha256"]


def test_several_files_that_are_no_series_cannot_be_opened(served):
    session = put(served, ("a.png", PICTURE), ("b.png", PICTURE)).json()["session_id"]
    refused = served.get(f"/session/{session}/view")
    assert refused.status_code == 415 and "any other image is one" in refused.json()["detail"]


def test_it_waits_its_turn_as_what_is_segmented_does(served):
    admission = served.app.state.admission
    with ExitStack() as taken:
        for _ in range(admission.limit):
            taken.enter_context(admission.inside())
        refused = put(served, ("a.png", PICTURE))
    assert refused.status_code == 429 and refused.headers["Retry-After"]
    assert put(served, ("a.png", PICTURE)).status_code == 200
