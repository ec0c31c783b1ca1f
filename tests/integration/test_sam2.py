"""SAM 2 through the real server, with a checkpoint of random weights in the model folder of a copy of the app."""

from __future__ import annotations

import io
import json
import shutil

import nibabel
import numpy as np
import pytest
from nnInteractive.inference.remote import nnInteractiveRemoteInferenceSession
from PIL import Image

from lib.sam.engine import Engine
from lib.sam.models.registry import MODELS
from support.sam2_checkpoint import write_sam2_checkpoint
from support.server_process import SAM_APP, running_server

pytestmark = [pytest.mark.server, pytest.mark.slow]

SPEC = MODELS["medsam2"]
"""The SAM 2 that takes the least time."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam2")
    app = folder / "sam_app"
    shutil.copytree(SAM_APP, app, ignore=shutil.ignore_patterns("__pycache__", "results", "logs", "*.pth", "*.pt"))
    write_sam2_checkpoint(app / "model", SPEC)
    Engine([SPEC], app / "model", device="cpu", precision="float32").predictor(SPEC.name)  # converts it, once
    (folder / "studies").mkdir()
    values = np.random.default_rng(1).normal(0, 100, (64, 64, 3)).astype(np.int16)
    nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 3.0, 1.0])).to_filename(folder / "studies" / "small.nii.gz")
    with running_server(folder, "precision", "float32", app=app) as server:
        yield server


def test_a_model_whose_checkpoint_is_there_is_offered(server):
    models = server.get("/info/").json()["models"]
    assert (models[SPEC.name]["dimension"], models[f"{SPEC.name}_3d"]["dimension"]) == (2, 3)
    assert "sam2_hiera_small" not in models
    assert server.get("/health_check/").json()["models"][SPEC.name] in ("not loaded", "ready")


def test_an_image_is_segmented_without_any_connection_to_the_outside(server):
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)).save(picture, "png")
    sam_input = {"model": SPEC.name, "positive_points": [{"x": 50, "y": 40}]}
    answer = server.segment(picture.getvalue(), json.dumps(sam_input))
    assert answer.status_code == 200, answer.text
    timestamp = answer.json()["timestamp"]
    mask = server.get(f"/get_segmented_image/{timestamp}?view=mask")
    assert np.asarray(Image.open(io.BytesIO(mask.content))).shape == (90, 160)
    (manifest,) = server.results.glob("*/manifest.json")
    assert json.loads(manifest.read_text())["result"]["model"] == SPEC.name
    assert server.get("/health_check/").json()["models"][SPEC.name] == "ready"
    assert "OUTBOUND REFUSED" not in server.log.read_text(errors="replace")


def test_a_click_is_followed_through_a_volume_by_its_memory(server, tmp_path):
    params = {"foreground": [[30, 20, 1]], "background": [], "result_extension": ".nii.gz"}
    url = f"/infer/{SPEC.name}_3d?image=small&output=image"
    answer = server.post(url, data={"params": json.dumps(params)})
    assert answer.status_code == 200, answer.text
    path = tmp_path / "mask.nii.gz"
    path.write_bytes(answer.content)
    mask = np.asarray(nibabel.load(path).dataobj)
    assert mask.shape == (64, 64, 3)
    assert mask.any(axis=(0, 1)).all(), "random weights find something on every slice"
    assert "Traceback" not in server.log.read_text(errors="replace")


def test_it_answers_nninteractive_s_clients(server):
    session = nnInteractiveRemoteInferenceSession(f"{server.url}/nninteractive/{SPEC.name}")
    try:
        assert SPEC.name in session.license
        image = np.random.default_rng(1).normal(0, 100, (3, 64, 64)).astype(np.int16)
        session.set_image(image[None], {"spacing": [3.0, 1.0, 1.0]})
        mask = np.zeros(image.shape, np.uint8)
        session.set_target_buffer(mask)
        box = session.add_bbox_interaction([[1, 2], [20, 40], [20, 40]], True)
        assert (box is not None) == mask.any()
        session.add_point_interaction([1, 30, 30], True)
        while session.undo():
            pass
        assert not mask.any()
    finally:
        session.close()
