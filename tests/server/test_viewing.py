"""The routes to look at images: what they return, who may use them, and that nothing is stored by looking."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from monailabel.interfaces.utils.app import app_instance

from lib.imaging.image_cache import image_sha256
from lib.imaging.readers import read_image
from support.phantoms import BALL_AFFINE, ball_volume
from support.rest import png
from support.series import ACQUISITIONS, write_series
from support.served_app import OTHER, TRAINER, ServedApp, served_app


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[ServedApp]:
    """The app with a volume among its studies, whose id is ``ball``."""
    with served_app(tmp_path_factory.mktemp("viewing") / "app") as served:
        nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_filename(served.studies / "ball.nii.gz")
        yield served


@pytest.fixture
def volume(place) -> Path:
    """The path of the volume."""
    return place.studies / "ball.nii.gz"


def sent(place: ServedApp, name: str, content: bytes) -> str:
    """Send a file; answers the route of its facts."""
    return f"/session/{place.put_session((name, content))}/view"


def values(place: ServedApp, path: str, facts: dict, plane: dict, index: int) -> np.ndarray:
    answer = place.get(f"{path.removesuffix('/view')}/slices/{plane['name']}/{index}?version={facts['version']}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    columns, rows, _ = plane["size"]
    array = np.frombuffer(answer.content, np.dtype(facts["dtype"]).newbyteorder("<"))
    return array.reshape(rows, columns, *([3] if facts["colour"] else []))


@pytest.fixture(params=["datastore", "session"])
def path(request, place, volume) -> str:
    """The route of the volume's facts."""
    return "/images/ball" if request.param == "datastore" else sent(place, "ball.nii.gz", volume.read_bytes())


def test_every_voxel_is_where_the_facts_say(place, volume, path):
    """Every slice of every plane: each of its pixels has the value of the voxel that the plane's facts name."""
    image = read_image(volume)
    facts = place.get(path).json()
    assert facts["shape"] == [64, 48, 16] and facts["dtype"] == "int16" and not facts["colour"]
    np.testing.assert_allclose(facts["affine"], image.affine)
    assert [plane["name"] for plane in facts["planes"]] == ["axial", "coronal", "sagittal"]
    for plane in facts["planes"]:
        columns, rows, count = plane["size"]
        for index in range(0, count, 5):
            y, x = np.indices((rows, columns))
            voxel: list = [0, 0, 0]
            for axis, at, flipped, size in zip(plane["axes"], (x, y), plane["flipped"], (columns, rows), strict=False):
                voxel[axis] = size - 1 - at if flipped else at
            voxel[plane["axes"][2]] = np.full_like(x, index)
            expected = image.frames[voxel[2], voxel[1], voxel[0]]
            np.testing.assert_array_equal(values(place, path, facts, plane, index), expected)


def test_nothing_is_stored_by_looking_and_each_opening_is_in_the_audit_log(place, volume, path):
    before = place.stored()
    facts = place.get(path).json()
    for index in range(6):
        values(place, path, facts, facts["planes"][0], index)
    assert place.stored() == before
    routes = {"images": "/images/{image}", "session": "/session/{session_id}/view"}
    assert place.audited(routes[path.split("/")[1]])[-1]["image_sha256"] == image_sha256(volume)
    assert not [line for line in place.audited("") if "slices" in line["route"]]


def test_hounsfield_units_window_and_padding(place):
    header = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
    path = sent(place, "ct.dcm", Path(header.filename).read_bytes())
    facts = place.get(path).json()
    assert facts["unit"] == "HU" and facts["positions"] is None
    assert facts["shown"] == {
        "center": 40.0,
        "width": 400.0,
        "function": "LINEAR",
        "source": "CT preset abdomen",
        "table_first": None,
        "table": None,
        "inverted": False,
        "padding": facts["shown"]["padding"],
    }
    (plane,) = facts["planes"]
    assert plane["letters"] == ["R", "L", "A", "P"]
    np.testing.assert_allclose(plane["spacing"][:2], [0.661468, 0.661468])
    expected = header.pixel_array.astype(int) * int(header.RescaleSlope) + int(header.RescaleIntercept)
    np.testing.assert_array_equal(values(place, path, facts, plane, 0), expected)


def test_colours_and_types_that_browsers_do_not_have(place, tmp_path):
    rgb = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    path = sent(place, "rgb.png", png(rgb))
    facts = place.get(path).json()
    assert facts["colour"] and facts["unit"] == "" and facts["affine"] is None
    assert facts["planes"][0]["letters"] == ["", "", "", ""]
    np.testing.assert_array_equal(values(place, path, facts, facts["planes"][0], 0), rgb)

    wide = np.arange(4 * 3 * 2, dtype=np.int64).reshape(4, 3, 2) * 10**7
    nibabel.Nifti1Image(wide, np.eye(4), dtype=np.int64).to_filename(tmp_path / "wide.nii")
    path = sent(place, "wide.nii", (tmp_path / "wide.nii").read_bytes())
    facts = place.get(path).json()
    assert facts["dtype"] in ("float64", "int32")
    axial = next(plane for plane in facts["planes"] if plane["name"] == "axial")
    np.testing.assert_array_equal(values(place, path, facts, axial, 1)[::-1, ::-1].T, wide[..., 1])


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/images/none", 404, "has no image"),
        ("/images/..%2f..%2fetc%2fpasswd", 404, ""),
        ("/session/none/view", 404, "there is no session 'none'"),
        ("/session/none/slices/axial/0?version=x", 404, "there is no session 'none'"),
        ("/images/ball/slices/axial/16?version={}", 404, "there is no slice 16; the plane 'axial' has 16, from 0"),
        ("/images/ball/slices/axial/-1?version={}", 422, "index"),
        ("/images/ball/slices/stored/0?version={}", 404, "no plane 'stored'; it has: axial, coronal, sagittal"),
        ("/images/ball/slices/tilted/0?version={}", 422, "axial"),
        ("/images/ball/slices/axial/0", 422, "version"),
        ("/images/ball/slices/axial/0?version=other", 409, "has changed"),
    ],
)
def test_what_cannot_be_shown_says_why(place, volume, path, status, said):
    version = place.get("/images/ball").json()["version"]
    refused = place.get(path.format(version))
    assert refused.status_code == status
    assert said in json.dumps(refused.json()["detail"]) and str(place.folder) not in refused.text


def test_a_changed_image_is_noticed(place, volume, tmp_path):
    facts = place.get("/images/ball").json()
    kept = shutil.copy2(volume, tmp_path)
    nibabel.Nifti1Image(ball_volume()[0] + 1, BALL_AFFINE).to_filename(volume)
    try:
        assert place.get(f"/images/ball/slices/axial/0?version={facts['version']}").status_code == 409
    finally:
        shutil.copy2(kept, volume)


def test_access_is_that_of_the_other_routes(place, path):
    facts = place.get(path).json()
    slice_path = f"{path.removesuffix('/view')}/slices/axial/0?version={facts['version']}"
    for one in (path, slice_path):
        assert place.get(one, None).status_code == 401
        assert place.get(one, TRAINER).status_code == 403
        assert place.get(one, OTHER).status_code == (200 if "images" in one else 404)


def test_a_series_of_a_session_is_looked_at_as_one_volume(place, tmp_path):
    sagittal = next(one for one in ACQUISITIONS if one.name == "sagittal")
    files = [(file.name, file.read_bytes()) for file in write_series(tmp_path, sagittal)]
    path = f"/session/{place.put_session(*files)}/view"
    facts, image = place.get(path).json(), read_image(tmp_path)
    assert facts["shape"] == [104, 88, 20] and facts["unit"] == "HU"
    np.testing.assert_allclose(facts["affine"], image.affine)
    stored = next(plane for plane in facts["planes"] if plane["axes"][2] == 2)
    flipped = tuple(-1 if flip else 1 for flip in stored["flipped"])
    expected = image.frames[7] if stored["axes"][:2] == [0, 1] else image.frames[7].T
    np.testing.assert_array_equal(values(place, path, facts, stored, 7)[:: flipped[1], :: flipped[0]], expected)


def test_looking_at_a_session_is_a_use_of_it(place, volume):
    session = place.put_session(("ball.nii.gz", volume.read_bytes()))
    version = place.get(f"/session/{session}/view").json()["version"]
    stored = app_instance().sessions().get_session(session, update_ts=False)
    for path in (f"/session/{session}/view", f"/session/{session}/slices/axial/0?version={version}"):
        stored.last_access_ts -= 600
        before = stored.expires
        assert place.get(path).status_code == 200 and stored.expires > before + 500
    place.ask("DELETE", f"/session/{session}")
    assert place.get(f"/session/{session}/slices/axial/0?version={version}").status_code == 404


def test_only_what_is_in_memory_is_shown_while_all_places_are_taken(place, path):
    """A slice of an image that has to be read waits for a place like a segmentation, or is refused."""
    version = place.get(path).json()["version"]
    slice_path = f"{path.removesuffix('/view')}/slices/axial/3?version={version}"
    admission, images = place.app.state.admission, place.app.state.load_image.images
    with ExitStack() as taken:
        for _ in range(admission.limit):
            taken.enter_context(admission.inside())
        assert place.get(slice_path).status_code == 200 and place.get(path).status_code == 429
        while images.evict_oldest():
            pass
        assert place.get(slice_path).status_code == 429
    assert place.get(slice_path).status_code == 200 and admission.count == 0


def test_what_is_seen_and_what_is_segmented_is_in_memory_once(place, volume):
    """Under every name that it has here: read once for all of them."""
    values = ball_volume()[0] + 7
    nibabel.Nifti1Image(values, BALL_AFFINE).to_filename(volume.with_name("new.nii.gz"))
    content = volume.with_name("new.nii.gz").read_bytes()
    before = place.app.state.load_image.images.stats()["misses"]
    session = place.put_session(("other name.nii.gz", content))
    assert place.get("/images/new").json()["version"] == place.get(f"/session/{session}/view").json()["version"]
    for named in ({"image": "new"}, {"session": session}):
        assert place.segment({**named, "automatic": False}).status_code == 200
    place.send(content)
    assert place.app.state.load_image.images.stats()["misses"] == before + 1


def test_a_slice_of_512_by_512_takes_few_milliseconds(place, tmp_path):
    """Of a volume in memory, in each plane. The fastest counts, as other work runs on the machine."""
    rng = np.random.default_rng(2)
    frames = rng.integers(-1000, 1000, (512, 512, 40), dtype=np.int16)
    nibabel.Nifti1Image(frames, np.diag([0.7, 0.7, 2.5, 1])).to_filename(tmp_path / "large.nii")
    path = sent(place, "large.nii", (tmp_path / "large.nii").read_bytes())
    facts = place.get(path).json()
    for plane in facts["planes"]:
        times = []
        for index in range(5, 25):
            started = time.perf_counter()
            values(place, path, facts, plane, index)
            times.append(1000 * (time.perf_counter() - started))
        print(f"{plane['name']}: {np.median(times):.1f} ms, the fastest {min(times):.1f} ms")
        assert min(times) < 30
