"""The Python client at a real server; its wheel in an environment with what it requires and nothing else."""

from __future__ import annotations

import asyncio
import http.server
import inspect
import io
import json
import shutil
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from itertools import pairwise
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from packaging.requirements import Requirement
from PIL import Image
from pydicom.data import get_testdata_file

from learning.conftest import disc_picture
from lib.server.auth.api_keys import make_key
from lib.server.auth.key_file import KeyFile
from lib.version import VERSION
from sam_app_client import (
    ApiError,
    AsyncClient,
    Client,
    ConnectionFailedError,
    Lasso,
    NotFinishedError,
    Scribble,
    StoredImage,
    VersionMismatchError,
    Volume,
)
from support import bare_client
from support.phantoms import BALL_AFFINE, BALL_CENTRE, ball_volume
from support.rest import dice
from support.series import ACQUISITIONS, voxels, write_series
from support.server_process import REPOSITORY, SAM_APP, Server, free_port, running_server

pytestmark = pytest.mark.server

SOURCE = REPOSITORY / "clients" / "python"
DISC = bare_client.disc()
BOX = bare_client.BOX
BALL = StoredImage("ball")


@dataclass
class Served:
    """A server with a login, and keys of one who may do everything and of one who may only segment."""

    server: Server
    key: str
    viewer: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("python client")
    app, studies = folder / "sam_app", folder / "studies"
    shutil.copytree(SAM_APP, app, ignore=shutil.ignore_patterns("__pycache__", "results", "logs", "learned", "*.pt*"))
    studies.mkdir()
    nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_filename(studies / "ball.nii.gz")
    for seed in range(8):
        Image.fromarray(disc_picture(seed)[0]).save(studies / f"image{seed}.png")
    keys = {}
    for name, roles in (("anybody", ["user", "annotator", "admin"]), ("viewer", ["user"])):
        keys[name], entry = make_key(name, roles, None)
        KeyFile(folder / "keys.json").add(entry)
    options = ("models", "sam_tiny", "api_keys", str(folder / "keys.json"))
    with running_server(folder, *options, app=app, studies=studies) as server:
        yield Served(server, keys["anybody"], keys["viewer"])
        assert "Traceback" not in server.log.read_text(errors="replace")


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Client]:
    with Client(served.server.url, served.key) as one:
        yield one


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's wheel, built by pip of a copy of its source."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(SOURCE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", folder, folder / "source"], check=True, timeout=120)
    [built] = folder.glob("*.whl")
    return built


def use(python: Path, served: Served) -> dict:
    """What the client does in an environment."""
    done = subprocess.run(
        [python, "-I", bare_client.__file__, served.server.url, served.key],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def required_files(name: str) -> set[Path]:
    """Files and folders, among this Python's packages, of a package and of all that it requires."""
    found = distribution(name)
    files = {Path(str(found.locate_file(file.parts[0]))) for file in found.files or () if file.parts[0] != ".."}
    for requirement in map(Requirement, found.requires or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            files |= required_files(requirement.name)
        elif requirement.name == "anyio":  # httpx wants httpcore with it, by an extra
            files |= required_files("anyio")
    return files


def test_the_wheel_works_with_what_it_requires_and_nothing_else(wheel, served, tmp_path):
    venv.create(tmp_path / "bare", symlinks=True)
    python = tmp_path / "bare" / "bin" / "python"
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python]
    subprocess.run([*uv, wheel], check=True, timeout=120)
    [site] = (tmp_path / "bare" / "lib").glob("python*/site-packages")
    [info] = site.glob("*.dist-info")
    requires = [line for line in (info / "METADATA").read_text().splitlines() if line.startswith("Requires-Dist: ")]
    needed = [Requirement(line.split(": ", 1)[1]) for line in requires if "extra ==" not in line]
    assert {one.name for one in needed} == {"numpy", "httpx"}
    for file in set().union(*(required_files(one.name) for one in needed)):
        if file.name != "__pycache__" and not (site / file.name).exists():
            (site / file.name).symlink_to(file)

    told = use(python, served)
    assert Path(told["file"]).is_relative_to(site) and told["version"] == VERSION
    assert told["absent"] == ["torch", "PIL", "monailabel"]
    rows, columns, pixels = told["mask"]
    truth = np.count_nonzero(DISC == 190)
    assert (rows, columns) == DISC.shape and abs(pixels / truth - 1) < 0.1
    assert told["seg"] == "DICM"
    assert told["volume"][:3] == [16, 48, 64] and abs(told["volume"][3] / ball_volume()[1].sum() - 1) < 0.15
    assert told["awaited"][0] == pixels and all(abs(one / truth - 1) < 0.15 for one in told["awaited"])


@pytest.mark.long
@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_both_ends_of_the_ranges_work(wheel, served, tmp_path, resolution):
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "bare"], check=True)
    python = tmp_path / "bare" / "bin" / "python"
    install = [*uv, "pip", "install", "--quiet", "--only-binary", ":all:", "--resolution", resolution]
    subprocess.run([*install, "--python", python, wheel], check=True, timeout=240)
    assert use(python, served)["mask"][:2] == [200, 240]


def test_one_version_and_the_types_are_in_the_wheel(wheel):
    listed = subprocess.run([sys.executable, "-m", "zipfile", "-l", wheel], capture_output=True, text=True).stdout
    assert wheel.name == f"sam_app_client-{VERSION}-py3-none-any.whl" and "sam_app_client/py.typed" in listed


def test_an_image_is_segmented_refined_and_shown(client):
    first = client.segment(DISC, boxes=[BOX])
    assert first.mask.shape == DISC.shape and first.mask.dtype == np.uint8 and set(np.unique(first.mask)) == {0, 1}
    assert dice(first.mask == 1, DISC == 190) > 0.9
    assert first.areas == (np.count_nonzero(first.mask),) and 0 < first.scores[0] <= 1 and first.frame == 0
    second = first.refine(negative_points=[(130, 60)])
    assert second.timestamp > first.timestamp and second.mask[60, 130] == 0 < first.mask[60, 130]
    assert np.array_equal(client.result(first.timestamp).mask, first.mask), "the earlier one stays"
    overlay = first.picture()
    assert np.array_equal((overlay != DISC[..., None]).any(axis=2), first.mask == 1)
    assert np.array_equal(first.picture("image"), np.repeat(DISC[..., None], 3, 2))
    assert not np.array_equal(first.picture("contour"), overlay)
    capture = pydicom.dcmread(io.BytesIO(first.dicom("sc")))
    assert capture.SOPClassUID.name == "Secondary Capture Image Storage"
    assert np.array_equal(capture.pixel_array, overlay)
    seg = pydicom.dcmread(io.BytesIO(first.seg()))
    assert np.array_equal(seg.pixel_array.reshape(DISC.shape), first.mask)


def test_every_kind_of_prompt_reaches_the_server(client):
    outline = [(130 + 45 * np.cos(a), 90 + 45 * np.sin(a)) for a in np.linspace(0, 6, 20)]
    result = client.segment(
        DISC,
        model="sam_tiny",
        points=np.array([(130, 90), (140, 100)]),
        negative_points=[(10, 10)],
        scribbles=[Scribble([(110, 90), (150, 90)], width=5), Scribble([(5, 5), (5, 100)], positive=False)],
        lassos=[Lasso(outline), Lasso([(150, 50), (200, 50), (200, 130), (150, 130)], positive=False)],
        frame=np.int64(0),
        window=(120, 200),
        label="disc",
        multimask=True,
        protect=(np.arange(200)[:, None] >= 100) & np.ones(240, bool),
    )
    assert result.facts["window"] == {"center": 120.0, "width": 200.0, "source": "request"} and result.candidates == 3
    assert not result.mask[100:].any() and not result.mask[60:100, 152:].any() and result.mask[80:99, 110:140].all()
    assert pydicom.dcmread(io.BytesIO(result.seg())).SegmentSequence[0].SegmentLabel == "disc"
    assert np.array_equal(result.candidate_mask(0), result.mask)
    assert np.array_equal(result.object_mask(1, candidate=2), result.candidate_mask(2) == 1)


def test_a_mask_to_start_from_is_an_array_a_file_or_a_result(client, tmp_path):
    first = client.segment(DISC, boxes=[BOX])
    Image.fromarray(first.mask).save(tmp_path / "mask.png")
    cut = [
        client.segment(image, start=start, negative_points=[(130, 60)])
        for image, start in ((None, first), (DISC, first.mask == 1), (DISC, tmp_path / "mask.png"))
    ]
    assert all(np.array_equal(one.mask, cut[0].mask) for one in cut) and cut[0].mask[60, 130] == 0
    assert cut[0].mask[110, 130] == 1
    with pytest.raises(ValueError, match="give an image"):
        client.segment(points=[(1, 1)])


def test_objects_that_overlap_are_whole_one_by_one(client):
    result = client.segment(DISC, boxes=[BOX, (100, 60, 160, 120)])
    assert set(np.unique(result.mask)) == {0, 1, 2} and len(result.areas) == 2
    assert [np.count_nonzero(result.object_mask(number)) for number in (1, 2)] == list(result.areas)


def test_dicom_paths_bytes_data_sets_and_arrays_are_images(client):
    path = Path(str(get_testdata_file("CT_small.dcm", download=False)))
    dataset = pydicom.dcmread(path)
    box = (30, 40, 90, 90)
    masks = [client.segment(one, boxes=[box]).mask for one in (path, str(path), path.read_bytes(), dataset)]
    assert masks[0].any() and all(np.array_equal(masks[0], mask) for mask in masks)
    seg = pydicom.dcmread(io.BytesIO(client.segment(dataset, boxes=[box]).seg()))
    assert seg.StudyInstanceUID == dataset.StudyInstanceUID
    hounsfield = dataset.pixel_array.astype(np.int16) * int(dataset.RescaleSlope) + int(dataset.RescaleIntercept)
    expected = client.segment(path, boxes=[box], window=(40, 400)).mask
    for values in (hounsfield, np.stack([hounsfield * 0, hounsfield])):
        shown = client.segment(values, boxes=[box], window=(40, 400), frame=values.ndim - 2)
        assert np.array_equal(shown.mask, expected)
    rounded = client.segment(hounsfield.astype(np.float32), boxes=[box], window=(40, 400))  # to grey in another way
    assert dice(rounded.mask == 1, expected == 1) > 0.99


def test_an_answer_that_takes_long_is_fetched_later(client):
    waits: list[float] = []
    timestamps = [client.submit(DISC + np.uint8(shade), boxes=[BOX]) for shade in range(3)]
    with pytest.raises(NotFinishedError, match="not finished yet"):
        client.result(timestamps[-1], within=0, on_wait=waits.append)
    assert waits == []
    result = client.result(timestamps[-1], on_wait=waits.append)
    assert dice(result.mask == 1, DISC == 190) > 0.9 and waits and all(seconds >= 1 for seconds in waits)
    failing = client.submit(DISC, boxes=[BOX], frame=3)
    with pytest.raises(ApiError) as refused:
        client.result(failing)
    assert refused.value.status == 422 and "frame" in str(refused.value.detail)


def test_an_object_is_followed_through_a_stored_volume_and_labelled(client, served):
    volume = client.segment_volume(BALL, points=[BALL_CENTRE], label="ball")
    truth = ball_volume()[1].T
    assert volume.mask.shape == truth.shape == (16, 48, 64) and dice(volume.mask > 0, truth) > 0.85
    assert np.allclose(volume.affine, BALL_AFFINE)
    assert volume.areas == {k: int(n) for k, n in enumerate(np.count_nonzero(volume.mask, (1, 2))) if n}
    assert volume.scores.keys() == volume.areas.keys()
    assert volume.millilitres == pytest.approx(volume.mask.sum() * 6.75 / 1000)
    assert repr(volume) == f"Volume({volume.mask.sum()} voxels, {volume.millilitres:.2f} ml, of (16, 48, 64))"
    assert set(volume.uncertain_slices) <= volume.areas.keys()

    corrected = volume.mask.copy()
    corrected[12:] = 0
    client.save_label(BALL, volume.with_mask(corrected), names={1: "ball"})
    assert {one.id: one.labels for one in client.images()}["ball"] == {"final": {1: "ball"}}
    content = client.download_label(BALL)
    (served.server.results / "label.nrrd").write_bytes(content)
    label = SimpleITK.ReadImage(str(served.server.results / "label.nrrd"))
    assert np.array_equal(SimpleITK.GetArrayFromImage(label), corrected)
    assert np.allclose(label.GetOrigin(), [-40, -30, -20]) and label.GetSpacing() == (1.5, 1.5, 3.0)

    started = client.segment_volume(BALL, start=served.server.results / "label.nrrd", points=[(30, 24, 12)])
    assert started.mask[12].any() and np.array_equal(started.mask[:10], corrected[:10])
    beside = client.segment_volume(BALL, protect=volume.nrrd(), points=[BALL_CENTRE], label="other")
    assert not (beside.mask & volume.mask).any()


def test_a_volume_is_a_file_an_array_or_a_folder_of_dicom(client, tmp_path):
    values = ball_volume()[0].T
    image = SimpleITK.GetImageFromArray(values)
    SimpleITK.WriteImage(image, str(tmp_path / "ball.nrrd"))
    i, j, k = BALL_CENTRE
    marked = {"box": (i - 11, j - 11, k, i + 11, j + 11, k), "max_slices": 2, "window": (250, 500)}
    of_file = client.segment_volume(tmp_path / "ball.nrrd", **marked)
    assert sorted(of_file.areas) == [k - 2, k - 1, k, k + 1, k + 2]
    assert np.array_equal(client.segment_volume(values, **marked).mask, of_file.mask)

    series = ACQUISITIONS[1]  # whose files are against the order in space
    write_series(tmp_path / "series", series)
    truth = voxels(series)[1][::-1]
    k, j, i = (int(n) for n in np.argwhere(truth).mean(axis=0))
    found = client.segment_volume(
        tmp_path / "series",
        scribbles=[Scribble([(i - 4, j, k), (i + 4, j, k)])],
        lassos=[Lasso([(i - 18, j - 18, k), (i + 18, j - 18, k), (i + 18, j + 18, k), (i - 18, j + 18, k)])],
        negative_points=[(5, 5, k)],
    )
    assert found.mask.shape == truth.shape and dice(found.mask > 0, truth) > 0.8
    assert not list((tmp_path / "series").parent.glob("sessions/*"))


def test_labels_come_in_other_formats(client, tmp_path):
    series = ACQUISITIONS[1]
    write_series(tmp_path / "series", series)
    truth = voxels(series)[1][::-1]
    k, j, i = (int(n) for n in np.argwhere(truth).mean(axis=0))
    label = client.segment_volume(tmp_path / "series", points=[(i, j, k)]).with_mask(truth)
    content = client.export(tmp_path / "series", label, names={1: "ball"})
    segmentation = pydicom.dcmread(io.BytesIO(content))
    assert [one.SegmentLabel for one in segmentation.SegmentSequence] == ["ball"]
    assert segmentation.pixel_array.sum() == truth.sum()
    structures = pydicom.dcmread(io.BytesIO(client.export(tmp_path / "series", label, "rtstruct")))
    assert structures.Modality == "RTSTRUCT"
    volume = client.segment_volume(BALL, points=[BALL_CENTRE])
    assert zipfile.ZipFile(io.BytesIO(client.export(BALL, volume, "stl", names={1: "ball"}))).namelist() == [
        "1 ball.stl"
    ]
    with pytest.raises(ApiError, match="needs a DICOM image"):
        client.export(BALL, volume)
    assert not list((tmp_path / "series").parent.glob("sessions/*"))


def test_a_long_volume_tells_its_progress(client):
    values = np.random.default_rng(0).normal(40, 10, (160, 64, 64)).astype(np.int16)
    rows, columns = np.ogrid[:64, :64]
    values[:, (rows - 30) ** 2 + (columns - 34) ** 2 < 144] += 160
    seen: list[Volume] = []
    found = client.segment_volume(values, points=[(34, 30, 80)], slices=(10, 149), on_progress=seen.append)
    assert seen and all((one.mask <= other.mask).all() for one, other in pairwise([*seen, found]))
    assert not seen[0].facts["is_complete"] and found.facts["is_complete"]
    assert found.facts["slices"] == [10, 149]


def test_images_are_stored_and_come_back(client, tmp_path):
    Image.fromarray(DISC).save(tmp_path / "stored by path.png")
    by_path = client.upload_image(tmp_path / "stored by path.png")
    by_name = client.upload_image(DISC, "stored by name")
    assert (by_path, by_name) == (StoredImage("stored by path"), StoredImage("stored by name"))
    listed = {one.id: one for one in client.images()}
    assert listed["stored by name"] == StoredImage("stored by name", "stored by name.png")
    assert client.download_image(by_path) == (tmp_path / "stored by path.png").read_bytes()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(client.download_image(by_name)))), DISC)
    result = client.segment(DISC, boxes=[BOX])
    client.save_label(by_name, result, names={1: "disc"}, tag="draft")
    client.save_label(by_path, result.mask > 0)
    for image, tag in ((by_name, "draft"), (by_path, "final")):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(client.download_label(image, tag)))), result.mask)
    with pytest.raises(ApiError, match=r"409|422"):
        client.upload_image(DISC, "stored by name")
    with pytest.raises(ValueError, match="with_mask"):
        client.save_label(BALL, np.zeros((16, 48, 64), np.uint8))


def test_a_refusal_has_its_status_and_the_server_s_words(client, served):
    with pytest.raises(ApiError) as outside:
        client.segment(DISC, points=[(1000, 1)])
    assert outside.value.status == 422 and outside.value.detail.startswith("the point (1000, 1) is outside the image")
    with pytest.raises(ApiError) as several:
        client.segment(DISC, frame=-1, window=(1, -1))
    assert isinstance(several.value.detail, list) and len(several.value.detail) == 2
    assert "sam_input.frame: " in str(several.value) and "sam_input.window.width: " in str(several.value)
    for model in ("none", "../health_check", "a b?c#d"):
        with pytest.raises(ApiError) as unknown:
            client.segment_volume(BALL, model=model, points=[BALL_CENTRE])
        assert unknown.value.status == 404
    with pytest.raises(TypeError, match=r"'pionts'; did you mean points\?"):
        client.segment(DISC, pionts=[(1, 1)])
    with Client(served.server.url) as nobody, pytest.raises(ApiError) as no_key:
        nobody.images()
    assert no_key.value.status == 401 and no_key.value.detail
    with Client(served.server.url, served.viewer) as viewer:
        assert dice(viewer.segment(DISC, boxes=[BOX]).mask == 1, DISC == 190) > 0.9
        with pytest.raises(ApiError) as no_role:
            viewer.upload_image(DISC, "not allowed")
        assert no_role.value.status == 403
        with pytest.raises(ApiError) as not_admin:
            viewer.train("sam_tiny")
        assert not_admin.value.status == 403


def test_health(client):
    health = client.health()
    assert (health.status, health.version, health.default_model) == ("ok", VERSION, "sam_tiny")
    assert health.models == {"sam_tiny": "ready"} and health.model_facts["sam_tiny"]["license"] == "MIT"
    assert health.running == 0 < health.limit


def test_a_training_is_started_watched_and_stopped(client):
    for seed in range(7):
        mask = disc_picture(seed)[1].astype(np.uint8)
        client.save_label(StoredImage(f"image{seed}"), mask, names={1: "bright disc"})
    with pytest.raises(ApiError) as unknown:
        client.train("none")
    assert unknown.value.status == 404 and "sam_tiny" in unknown.value.detail
    started = client.train("sam_tiny", teach="bright disc", minutes=5)
    assert started.status == "RUNNING" and started.facts["request"]["minutes"] == 5
    seen: list[float] = []
    with pytest.raises(NotFinishedError, match="still running"):
        client.wait_for_training(within=0.1, on_progress=lambda now: seen.append(now.progress))
    assert seen and all(0 <= part < 1 for part in seen)
    assert client.stop_training() is not None
    assert client.wait_for_training(within=60).status == "STOPPED"
    now = client.training()
    assert now is not None and now.status == "STOPPED" and now.details
    assert client.stop_training() is None
    assert client.learned() == []
    with pytest.raises(ApiError) as nothing:
        client.promote("sam_tiny", 1)
    assert nothing.value.status == 404


@pytest.mark.long
@pytest.mark.timeout(900)
def test_what_was_learned_is_served_rolled_back_and_promoted(client):
    for seed in range(7):
        mask = disc_picture(seed)[1].astype(np.uint8)
        client.save_label(StoredImage(f"image{seed}"), mask, names={1: "bright disc"})
    client.train("sam_tiny", teach="bright disc", minutes=0.8)
    seen: list[float] = []
    done = client.wait_for_training(within=800, on_progress=lambda now: seen.append(now.progress))
    assert done.status == "DONE" and done.progress == 1 and seen == sorted(seen)
    [learned] = client.learned()
    assert (learned.name, learned.served, learned.versions[0].version) == ("auto_bright_disc", 1, 1)
    assert learned.versions[0].learned and learned.versions[0].created
    assert client.rollback("auto_bright_disc").served is None
    assert client.promote("auto_bright_disc", 1).served == 1
    found = client.segment_volume(StoredImage("image7"), model="auto_bright_disc")
    assert found.mask.shape == (1, 128, 128) and dice(found.mask[0] > 0, disc_picture(7)[1]) > 0.5
    assert client.segment(disc_picture(7)[0], model="auto_bright_disc").facts["version"] == "auto_bright_disc@1"


def test_awaiting_is_the_same_with_everything_at_once(client, served):
    async def work() -> tuple:
        async with AsyncClient(served.server.url, served.key) as other:
            result, volume, images, health, timestamp = await asyncio.gather(
                other.segment(DISC, boxes=[BOX]),
                other.segment_volume(BALL, points=[BALL_CENTRE]),
                other.images(),
                other.health(),
                other.submit(DISC, boxes=[BOX]),
            )
            later = await other.result(timestamp)
            refined = await later.refine(negative_points=[(130, 60)])
            with pytest.raises(ApiError, match="is outside the image"):
                await later.refine(points=[(1000, 1)])
            return result, volume, images, health, refined, await refined.seg()

    result, volume, images, health, refined, seg = asyncio.run(work())
    expected = client.segment(DISC, boxes=[BOX])
    assert np.array_equal(result.mask, expected.mask)
    assert np.array_equal(refined.mask, expected.refine(negative_points=[(130, 60)]).mask)
    assert isinstance(volume, Volume) and volume.mask.any() and seg[128:132] == b"DICM"
    assert images == client.images() and health.version == VERSION


def test_both_clients_have_the_same_methods():
    def methods(kind: type) -> dict[str, inspect.Signature]:
        public = inspect.getmembers(kind, inspect.isfunction)
        return {name: inspect.signature(method) for name, method in public if not name.startswith("_")}

    blocking, awaited = methods(Client), methods(AsyncClient)
    assert {**blocking, "aclose": None}.keys() - {"close"} == awaited.keys()
    assert all(awaited[name] == signature for name, signature in blocking.items() if name != "close")
    assert all(getattr(Client, name).__doc__ for name in blocking)


class Other(http.server.BaseHTTPRequestHandler):
    """Answers ``/health_check/`` as a server of another version does, or as something else."""

    content = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b'{"version": "0.9.3", "default_model": "x"}',
            f"is version 0.9.3, and this sam-app-client {VERSION} does not",
        ),
        (b"<html>another program</html>", "not as a SAM app does"),
        (b'{"status": "UP"}', "not as a SAM app does"),
    ],
)
def test_a_server_that_does_not_fit_is_told_before_anything_is_sent(content, words):
    handler = type("_Other", (Other,), {"content": content})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{other.server_port}/") as client, pytest.raises(VersionMismatchError) as told:
            client.segment(DISC, boxes=[BOX])
        other.shutdown()
    assert words in str(told.value)


def test_no_server_at_all():
    url = f"http://127.0.0.1:{free_port()}"
    with Client(url) as client, pytest.raises(ConnectionFailedError, match=f"{url} cannot be reached"):
        client.health()
