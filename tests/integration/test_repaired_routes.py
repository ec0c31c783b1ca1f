"""What the repairs of MONAI Label's routes leave working, and what they say when they refuse."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monailabel.client.client import MONAILabelClient

from support.attacks import IMAGE, Target
from support.phantoms import BALL_AFFINE, BALL_CENTRE, ball_volume
from support.server_process import running_server

pytestmark = [
    pytest.mark.server,
    # monailabel.client leaves its connections for the garbage collector to close
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def _becomes(true: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.1)
    return true()


PROMPT = {"foreground": [list(BALL_CENTRE)], "result_extension": ".nii.gz"}


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Iterator[Target]:
    """A server whose temporary files have a folder of their own."""
    folder = tmp_path_factory.mktemp("repaired")
    (folder / "studies").mkdir()
    (folder / "tmp").mkdir()
    nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_filename(folder / "studies" / "ball.nii.gz")
    with running_server(folder, variables={"TMPDIR": str(folder / "tmp")}) as server:
        yield Target(server, folder, folder / "studies" / "ball.nii.gz")


@pytest.fixture
def client(target, tmp_path) -> MONAILabelClient:
    return MONAILabelClient(target.server.url, tmpdir=str(tmp_path))


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "of a user.v1.nii.gz"
    nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_filename(path)
    return path


@pytest.mark.parametrize("name", ["2: CT Thorax 5.0 (B30f)", "Zähne", "image=x&tag=final", "1.2.840.113619.2"])
def test_an_image_is_uploaded_segmented_and_removed_under_any_plain_name(client, target, image, name):
    assert client.upload_image(str(image), name) == {"image": name}
    assert (target.folder / "studies" / f"{name}.nii.gz").is_file()
    assert name in client.datastore()["objects"]
    labels, _ = client.infer("sam_tiny", name, dict(PROMPT))
    assert nibabel.load(labels).shape == (64, 48, 16)
    answer = target.server.get("/datastore/image", params={"image": name})
    assert answer.content == image.read_bytes()
    assert target.send("DELETE", f"/datastore/image?id={name.replace('&', '%26')}").status_code == 200
    assert not (target.folder / "studies" / f"{name}.nii.gz").exists()
    assert _becomes(lambda: name not in client.datastore()["objects"])  # the server watches the folder


def test_without_an_id_an_image_gets_its_file_s_name(target):
    files = {"file": (r"C:\Users\a.b\ct.nii.gz", IMAGE)}
    assert target.send("PUT", "/datastore/image", files=files).json() == {"image": "ct"}
    assert target.send("DELETE", "/datastore/image?id=ct").status_code == 200


def test_a_label_s_whole_life(client, target, tmp_path):
    label = tmp_path / "label.seg.nrrd.nii.gz"
    nibabel.Nifti1Image(ball_volume()[1].astype(np.uint8), BALL_AFFINE).to_filename(label)
    assert target.send("GET", "/datastore/dataset").status_code == 404
    saved = client.save_label("ball", str(label), params={"label_info": [{"name": "ball", "idx": 1}]})
    assert saved == {"image": "ball", "label": "ball"}
    query = "/datastore/label?label=ball&tag=final"
    assert target.send("GET", query).content == label.read_bytes()
    assert target.send("HEAD", query.replace("label=", "image=")).status_code == 200
    answer = target.send("PUT", "/datastore/label/info?label=ball&tag=final", data={"info": '{"checked": true}'})
    assert answer.status_code == 200
    info = target.send("GET", "/datastore/label/info?label=ball&tag=final").json()
    assert info["checked"] is True and info["label_info"] == [{"name": "ball", "idx": 1}]
    archive = zipfile.ZipFile(io.BytesIO(target.send("GET", "/datastore/dataset").content))
    assert sorted(archive.namelist()) == ["image/ball.nii.gz", "label/ball.nii.gz", "metadata.json"]
    assert target.send("DELETE", "/datastore/label?id=ball&tag=final").status_code == 200
    assert target.send("GET", query).status_code == 404


def test_a_session_is_found_and_removed(client, target):
    created = client.create_session(str(target.folder / "studies" / "ball.nii.gz"))
    session = created["session_id"]
    assert created["session_info"]["image"] == "ball.nii.gz"
    found = client.get_session(session)
    assert (found["name"], found["image"], "path" in found) == (session, "ball.nii.gz", False)
    assert target.send("GET", f"/session/{session}?image=true").content == target.secret.read_bytes()
    client.remove_session(session)
    assert target.send("GET", f"/session/{session}").status_code == 404


def test_a_series_of_files_is_a_session(target):
    files = [("files", (name, IMAGE)) for name in ("a.dcm", "b.dcm")]
    session = target.send("PUT", "/session/", files=files).json()["session_id"]
    assert target.send("GET", f"/session/{session}").status_code == 200
    assert target.send("GET", f"/session/{session}?image=true").status_code == 422
    assert target.send("DELETE", f"/session/{session}").status_code == 200


def test_a_client_cannot_set_the_level_of_the_log(target):
    """Upstream takes it from ``params``: a client could silence the log, and a level that is none is a 500."""
    params = json.dumps({**PROMPT, "logging": "no level at all"})
    assert target.send("POST", "/infer/sam_tiny?image=ball", data={"params": params}).status_code == 200


def test_what_else_a_client_says_has_no_effect(target):
    """Upstream works with the dictionary that a client sends: each of these was an error of the server, or a change."""
    said = {"latencies": 5, "centroids": 5, "device": 5, "timeout": "soon", "request": {}, "skip_writer": True}
    params = json.dumps({**PROMPT, **said})
    answer = target.send("POST", "/infer/sam_tiny?image=ball&output=json", data={"params": params})
    assert answer.status_code == 200 and answer.json()["centroids"] == {}
    for key, value in {"client_id": 5, "foreground": {}, "fill_holes": [], "result_dtype": 8}.items():
        answer = target.send("POST", "/infer/sam_tiny?image=ball", data={"params": json.dumps({**PROMPT, key: value})})
        assert answer.status_code == 422 and key in answer.json()["detail"]


def test_a_file_where_the_server_was_started_is_no_image(target):
    """Upstream opens a path of that name instead of the datastore's image."""
    (target.folder / "cwd").write_bytes(IMAGE)
    files = {"file": ("x.nii.gz", IMAGE)}
    assert target.send("PUT", "/datastore/image?image=cwd", files=files).status_code == 200
    answer = target.send("POST", "/infer/sam_tiny?image=cwd", data={"params": json.dumps(PROMPT)})
    assert answer.status_code == 409 and "'cwd'" in answer.json()["detail"]
    assert target.send("DELETE", "/datastore/image?id=cwd").status_code == 200


IMAGE_FILE = {"files": {"file": ("a.nii.gz", IMAGE)}}
LABEL_FILE = {"files": {"label": ("a.nii.gz", IMAGE)}}


@pytest.mark.parametrize(
    ("method", "path", "kwargs", "status", "said"),
    [
        ("PUT", "/datastore/image?image=.hidden", IMAGE_FILE, 422, "must not begin with '.'"),
        ("PUT", "/datastore/image?image=a%00b", IMAGE_FILE, 422, "characters that control"),
        ("PUT", "/datastore/image?image=" + "a" * 201, IMAGE_FILE, 422, "1 to 200 bytes"),
        ("PUT", "/datastore/image?image=a%5Cb", IMAGE_FILE, 422, "without '/'"),
        ("PUT", "/datastore/image?image=a", {"files": {"file": ("a.exe", IMAGE)}}, 422, ".nii.gz"),
        ("PUT", "/datastore/image?image=a", {**IMAGE_FILE, "data": {"params": "[1]"}}, 422, "JSON object"),
        ("PUT", "/datastore/image?image=a", {**IMAGE_FILE, "data": {"params": "{"}}, 422, "JSON object"),
        ("PUT", "/datastore/label?image=none", LABEL_FILE, 404, "no image 'none'"),
        ("PUT", "/datastore/label?image=ball&tag=..", LABEL_FILE, 422, "tag"),
        ("PUT", "/datastore/label?image=ball", {"files": {"label": ("a.sh", IMAGE)}}, 422, ".bin"),
        ("PUT", "/datastore/label?image=ball&tag=a%20b", LABEL_FILE, 422, "do not lie on"),
        ("POST", "/infer/sam_tiny?image=ball&output=dicom_seg", {"data": {"params": json.dumps(PROMPT)}}, 422, "DICOM"),
        ("PUT", "/datastore/label/info?label=ball&tag=none", {"data": {"info": "{}"}}, 404, "not found"),
        ("PUT", "/datastore/updatelabelinfo?label=ball&tag=..", {"data": {"params": "{}"}}, 422, "tag"),
        ("PUT", "/datastore/image/info?image=none", {"data": {"info": "{}"}}, 404, "no image"),
        ("PUT", "/datastore/image/info?image=ball", {"data": {"info": "nonsense"}}, 422, "JSON object"),
        ("GET", "/datastore/image?image=none", {}, 404, "no image"),
        ("GET", "/datastore/image/info?image=none", {}, 404, "no image"),
        ("GET", "/datastore/label?label=none&tag=final", {}, 404, "no image"),
        ("GET", "/datastore/label?label=ball&tag=../..", {}, 422, "tag"),
        ("GET", "/datastore/label/info?label=none&tag=final", {}, 404, "no image"),
        ("DELETE", "/datastore/image?id=none", {}, 404, "no image"),
        ("DELETE", "/datastore/?id=none", {}, 404, "no image"),
        ("DELETE", "/datastore/label?id=none&tag=final", {}, 404, "no image"),
        ("POST", "/activelearning/best", {}, 404, "first, random"),
        ("PUT", "/session/", {"files": {"files": ("..", IMAGE)}}, 422, "begin with"),
        ("GET", "/session/..", {}, 404, "no session"),
        ("DELETE", "/session/..", {}, 404, "no session"),
        ("POST", "/infer/sam_tiny?session_id=../..", {}, 404, "no session"),
        ("POST", "/infer/sam_tiny", {"files": {"file": IMAGE, "label": ("a.bin", b"1")}}, 422, "raw label"),
        ("GET", "/proxy/dicom/qido/studies", {}, 404, "no DICOMweb server"),
        ("GET", "/logs/gpu", {}, 404, "not served"),
        ("GET", "/batch/infer?check_if_running=true", {}, 404, "no batch"),
        ("POST", "/batch/infer/none", {}, 404, "no model"),
        ("POST", "/batch/infer/sam_tiny", {"json": {"label_tag": "final"}}, 422, "final"),
        ("POST", "/train/none", {}, 404, "'none' is not taught here; sam_tiny can be"),
        ("POST", "/train/sam_tiny", {"json": {"minutes": "ten"}}, 422, "minutes must be a number above 0"),
        ("POST", "/train/", {}, 422, "learning needs final labels of at least 2 studies"),
        ("GET", "/train/", {}, 404, "no training has been started yet"),
        ("GET", "/train/?check_if_running=true", {}, 404, "no training is running"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(target, method, path, kwargs, status, said):
    answer = target.send(method, path, **kwargs)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]
    assert not target.tells_paths(answer)


def test_checksums_of_unknown_kinds_are_refused(target):
    assert target.send("HEAD", "/datastore/image?image=ball").status_code == 200
    assert target.send("HEAD", "/datastore/image?image=ball&check_sum=CRC:1").status_code == 422


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("", "text/html"),
        ("viewer?StudyInstanceUIDs=1.2", "text/html"),
        ("app-config.js", "javascript"),
        ("assets/favicon.ico", "image/"),
        ("assets/images/none.png", "text/html"),
        ("..", "text/html"),
        ("..%2Ffavicon.ico", "text/html"),
        ("%2Fetc%2Fpasswd", "text/html"),
        ("a%00b", "text/html"),
        ("a" * 4000, "text/html"),
    ],
)
def test_ohif_s_files_are_served_and_everything_else_is_its_start_page(target, path, media_type):
    """With upstream's route ``assets/favicon.ico`` is the start page, and ``..`` a 500.

    Without a PACS the start page says what to do, see :mod:`integration.test_dicomweb` for OHIF's.
    """
    answer = target.send("GET", f"/ohif/{path}")
    assert answer.status_code == 200 and media_type in answer.headers["content-type"]
    assert (media_type == "text/html") == ("<title>OHIF needs a PACS</title>" in answer.text)
    assert media_type != "text/html" or "scripts/start --studies https://" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/docs", "/openapi.json", "/info/", "/health_check/", "/metrics", "/sam/", "/auth/", "/nowhere"),
        *("/datastore/", "/datastore/?output=all", "/datastore/?output=train", "/datastore/dataset"),
        *("/datastore/image/info?image=ball", "/datastore/image?image=none", "/datastore/label/info?label=ball&tag=x"),
        *("/train/", "/train/?check_if_running=true", "/batch/infer", "/scoring/", "/model/sam_tiny", "/logs/"),
        *("/ohif/", "/ohif/none/none", "/static/none", "/session/none", "/proxy/dicom/studies", "/reload"),
        *("/get_segmented_image/1", "/get_dicom_image/1", "/get_segmented_image/..%2F..", "/%2e%2e/%2e%2e/etc/passwd"),
    ],
)
def test_no_answer_tells_a_path_of_the_server(target, path):
    answer = target.send("GET", path)
    assert answer.status_code < 500
    assert not target.tells_paths(answer), answer.text


def test_a_file_that_is_sent_along_goes_however_inference_ends(target):
    files = {"file": ("a.nii.gz", IMAGE), "label": ("b.nii.gz", IMAGE)}
    fine = {"params": '{"foreground": [[1, 1, 1]]}'}
    assert target.send("POST", "/infer/sam_tiny?output=image", files=files, data=fine).status_code == 200
    refused = {"params": '{"foreground": [[1, 1, 99]]}'}
    assert target.send("POST", "/infer/sam_tiny?output=image", files=files, data=refused).status_code == 422


def test_a_label_is_not_said_to_be_saved_where_it_cannot_be(target):
    session = target.send("PUT", "/session/", files={"files": ("a.nii.gz", IMAGE)}).json()["session_id"]
    saving = {"params": json.dumps({**PROMPT, "save_label": True})}
    for query, files in ((f"session_id={session}", None), ("", {"file": ("a.nii.gz", IMAGE)})):
        answer = target.send("POST", f"/infer/sam_tiny?{query}", data=saving, files=files)
        assert answer.status_code == 422 and "datastore" in answer.json()["detail"]


def test_the_session_s_description_is_no_image_and_tells_no_path(target):
    files = {"files": ("meta.info", IMAGE)}
    answer = target.send("PUT", "/session/", files=files)
    assert answer.status_code == 409
    series = [("files", ("meta.info", IMAGE)), ("files", ("b.nii.gz", IMAGE))]
    session = target.send("PUT", "/session/", files=series).json()["session_id"]
    assert not target.tells_paths(target.send("GET", f"/session/{session}"))


def test_no_temporary_file_stays(target):
    """The last test of this file: after all of the above."""

    def left() -> list[Path]:
        return [path for path in (target.folder / "tmp").rglob("*") if path.is_file()]

    assert _becomes(lambda: not left()), left()  # the last one goes just after the answer has been sent
