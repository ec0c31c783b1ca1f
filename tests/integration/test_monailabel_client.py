"""The real ``MONAILabelClient`` against a real server with a local datastore; requests as OHIF and Slicer send them."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
import time
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK
from monailabel.client.client import MONAILabelClient, MONAILabelClientException
from PIL import Image

from support.phantoms import BALL_AFFINE, BALL_CENTRE, ball_volume

pytestmark = [
    pytest.mark.server,
    # monailabel.client leaves its connections for the garbage collector to close
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

POINT = list(BALL_CENTRE)


@pytest.fixture
def client(server, tmp_path) -> MONAILabelClient:
    return MONAILabelClient(server.url, tmpdir=str(tmp_path))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def test_info_is_what_the_viewers_need(client):
    info = client.info()
    assert isinstance(info["labels"], list) and "liver" in info["labels"] and "background" not in info["labels"]
    model = info["models"]["sam_tiny"]
    assert (model["type"], model["labels"], model["dimension"]) == ("deepgrow", [], 2)
    for key, value in model["config"].items():
        assert key not in ("foreground", "background", "roi", "slice", "label", "image", "model")
        assert isinstance(value, (str, int, float, bool)) or all(isinstance(item, str) for item in value)


def test_models_without_their_checkpoint_are_not_offered(client):
    assert list(client.info()["models"]) == ["sam_tiny", "sam_tiny_3d"]


def test_next_sample_and_infer_on_a_volume(client):
    sample = client.next_sample("first", {})
    assert sample["id"] == "ball"
    params = {"foreground": [POINT], "background": [[3, 3, 7]], "roi": [18, 42, 12, 36, 7, 7], "slice": 7}
    params |= {"label": "organ", "result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "tester"}
    path, facts = client.infer("sam_tiny", sample["id"], params)
    labels, header = nrrd.read(path)
    values, truth = ball_volume()
    assert labels.shape == values.shape and labels.dtype == np.uint8
    k = BALL_CENTRE[2]
    assert set(np.unique(labels)) == {0, 1}
    assert not labels[:, :, :k].any() and not labels[:, :, k + 1 :].any()
    assert labels[tuple(BALL_CENTRE)] == 1
    assert dice(labels[:, :, k] == 1, truth[:, :, k]) > 0.7
    assert header["encoding"] == "gzip"
    assert facts["slice"] == k and facts["model"] == "sam_tiny" and facts["window"]["source"]
    assert 0 <= facts["scores"][0] <= 1.1 and facts["latencies"]["total"] >= 0


def test_a_click_fills_the_volume(client):
    model = client.info()["models"]["sam_tiny_3d"]
    assert (model["type"], model["labels"], model["dimension"]) == ("deepgrow", [], 3)
    params = {"foreground": [POINT], "background": [], "label": "organ", "result_extension": ".nrrd", "client_id": "me"}
    path, facts = client.infer("sam_tiny_3d", "ball", params | model["config"] | {"window": "auto"})
    labels, _ = nrrd.read(path)
    _, truth = ball_volume()
    assert labels.shape == truth.shape and dice(labels == 1, truth) > 0.8
    assert facts["voxels"] == np.count_nonzero(labels) and len(facts["stops"]) == 2


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz"])
def test_the_label_lies_where_the_image_does(client, server, suffix):
    roi = [45, 18, 10, 38, 7, 7]  # a pair the wrong way round, as Slicer can send it
    path, facts = client.infer("sam_tiny", "ball", {"roi": roi, "slice": -12.5, "result_extension": suffix})
    label = SimpleITK.ReadImage(path)
    image = SimpleITK.ReadImage(str(server.studies / "ball.nii.gz"))
    assert label.GetSize() == image.GetSize()
    np.testing.assert_allclose(label.GetOrigin(), image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(label.GetSpacing(), image.GetSpacing(), atol=1e-4)
    np.testing.assert_allclose(label.GetDirection(), image.GetDirection(), atol=1e-4)
    centroid = np.argwhere(SimpleITK.GetArrayFromImage(label).T).mean(axis=0)
    assert np.linalg.norm((centroid - BALL_CENTRE)[:2]) < 2 and facts["slice"] == 7


def test_ohif_request_is_answered_with_the_bare_file(server):
    params = {
        "foreground": [POINT],
        "background": [[4, 4, 7]],
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
        "result_compress": False,
        "restore_label_idx": False,
    }
    answer = server.post("/infer/sam_tiny?image=ball&output=image", files={"params": (None, json.dumps(params))})
    assert answer.status_code == 200, answer.text
    header, _, body = answer.content.partition(b"\n\n")
    assert header.startswith(b"NRRD") and b"encoding: gzip" in header and b"sizes: 64 48 16" in header
    labels = np.frombuffer(gzip.decompress(body), np.uint8).reshape(16, 48, 64)  # i fastest
    assert labels[POINT[2], POINT[1], POINT[0]] == 1 and len(answer.content) < 5000


def test_infer_on_a_png_and_on_an_uploaded_file(client, server):
    params = {"foreground": [[130, 90, 0]]}
    path, _ = client.infer("sam_tiny", "disc", params)
    mask = np.asarray(Image.open(path))
    assert mask.shape == (200, 240) and mask[90, 130] == 1
    path, _ = client.infer(
        "sam_tiny", "", {**params, "result_extension": ".png"}, file=str(server.studies / "disc.png")
    )
    assert np.array_equal(np.asarray(Image.open(path)), mask)


def test_session(client, server):
    session = client.create_session(str(server.studies / "ball.nii.gz"))["session_id"]
    path, _ = client.infer("sam_tiny", "", {"foreground": [POINT]}, session_id=session)
    assert nibabel.load(path).shape == (64, 48, 16)
    client.remove_session(session)
    with pytest.raises(MONAILabelClientException):
        client.infer("sam_tiny", "", {"foreground": [POINT]}, session_id=session)


def test_a_label_saved_and_fetched_again_is_the_same(client, server, tmp_path):
    _, truth = ball_volume()
    label = tmp_path / "label.nii.gz"
    nibabel.Nifti1Image(truth.astype(np.uint8), BALL_AFFINE).to_filename(label)
    client.save_label("ball", str(label), tag="final", params={"label_info": [{"name": "ball", "idx": 1}]})
    saved = client.download_label("ball", "final")
    assert np.array_equal(np.asarray(nibabel.load(saved).dataobj), truth)
    assert (server.studies / "labels" / "final" / "ball.nii.gz").is_file()


@pytest.mark.parametrize(
    ("query", "params", "status", "said"),
    [
        ("image=ball", {}, 422, "no prompt"),
        ("image=ball", {"foreground": [[64, 1, 1]]}, 422, "[64, 48, 16]"),
        ("image=ball", {"foreground": [[1, 1]]}, 422, "[i, j, k]"),
        ("image=ball", {"foreground": [POINT], "result_extension": ".exe"}, 422, ".nrrd"),
        ("image=ball", {"foreground": [POINT], "result_extension": ".png"}, 422, "2D"),
        ("image=ball", {"foreground": [POINT], "result_dtype": "object"}, 422, "uint8"),
        ("image=ball", {"foreground": [POINT], "window": "purple"}, 422, "abdomen"),
        ("image=ball", [1, 2], 422, "JSON object"),
        ("image=nowhere", {"foreground": [POINT]}, 404, "no image 'nowhere'"),
        ("image=", {"foreground": [POINT]}, 422, "no image"),
        ("session_id=none", {"foreground": [POINT]}, 404, "no session"),
        ("image=ball", {"foreground": [POINT], "label_tag": "../../x", "save_label": True}, 422, "label_tag"),
    ],
)
def test_bad_requests_are_answered_with_the_reason(server, query, params, status, said):
    answer = server.post(f"/infer/sam_tiny?{query}", data={"params": json.dumps(params)})
    assert answer.status_code == status, answer.text
    assert said in answer.json()["detail"]
    assert "/tmp" not in answer.text and "Traceback" not in answer.text


def test_unknown_models_are_answered_with_the_known_ones(server):
    answer = server.post("/infer/sam_vit_x?image=ball", data={"params": "{}"})
    assert answer.status_code == 404 and "sam_tiny" in answer.json()["detail"]


def test_a_client_cannot_name_files_of_the_server(server, tmp_path):
    """Against MONAI Label's own route both ways read the file."""
    outside = tmp_path / "outside.nii.gz"
    values, _ = ball_volume()
    nibabel.Nifti1Image(values[:10, :10, :10], np.eye(4)).to_filename(outside)
    answer = server.post(f"/infer/sam_tiny?image={outside}", data={"params": '{"foreground": [[1, 1, 1]]}'})
    assert answer.status_code == 404
    params = {"foreground": [POINT], "image": str(outside), "model": "other", "result_extension": ".nii.gz"}
    answer = server.post("/infer/sam_tiny?image=ball&output=image", data={"params": json.dumps(params)})
    assert answer.status_code == 200
    assert nibabel.Nifti1Image.from_bytes(gzip.decompress(answer.content)).shape == values.shape


def test_params_of_a_multipart_answer_are_json(server):
    answer = server.post("/infer/sam_tiny?image=ball&output=json", data={"params": json.dumps({"foreground": [POINT]})})
    assert answer.status_code == 200 and answer.json()["slice"] == 7


def test_answers_leave_no_files_behind(server):
    def left() -> set[Path]:
        return {path for path in Path(tempfile.gettempdir()).glob("tmp*.nrrd")}

    before = left()
    params = json.dumps({"foreground": [POINT], "result_extension": ".nrrd"})
    for _ in range(3):
        answer = server.post("/infer/sam_tiny?image=ball&output=image", data={"params": params})
        assert io.BytesIO(answer.content).read(4) == b"NRRD"
    deadline = time.monotonic() + 10  # the file goes just after the answer has been sent
    while left() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left() - before == set()
