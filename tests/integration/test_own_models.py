"""An operator's own model through the real server: described by a file, its checkpoint in the model folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from support.phantoms import BALL_AFFINE, ball_volume
from support.server_process import SAM_APP, running_server

pytestmark = [pytest.mark.server, pytest.mark.slow]

MODELS = """
- name: our_tiny
  description: The bundled model as if it were ours
  license: for this hospital alone
  architecture: tiny
  checkpoint: our_tiny.safetensors
  prompts: [point, box]
  point_candidates: false
"""


def test_it_is_listed_with_its_licence_and_segments_a_slice_and_a_volume(tmp_path: Path) -> None:
    app, studies = tmp_path / "sam_app", tmp_path / "studies"
    left_out = shutil.ignore_patterns("__pycache__", "results", "logs", "openvino", "*.pth", "*.pt")
    shutil.copytree(SAM_APP, app, ignore=left_out)
    shutil.copy(app / "model" / "sam_tiny.safetensors", app / "model" / "our_tiny.safetensors")
    (tmp_path / "models.yaml").write_text(MODELS)
    studies.mkdir()
    values, truth = ball_volume()
    nibabel.Nifti1Image(values, BALL_AFFINE).to_filename(studies / "ball.nii.gz")
    i, j, k = (int(position) for position in np.argwhere(truth).mean(axis=0))
    params = json.dumps({"foreground": [[i, j, k]], "background": [], "result_extension": ".nii.gz"})
    with running_server(tmp_path, "model_specs", "models.yaml", "models", "our_tiny", app=app) as server:
        models = server.get("/info/").json()["models"]
        assert list(models) == ["our_tiny", "our_tiny_3d"]
        shown = models["our_tiny"]
        assert shown["description"] == "The bundled model as if it were ours"
        assert (shown["license"], shown["prompts"]) == ("for this hospital alone", ["point", "box"])
        for task, everywhere in (("our_tiny", False), ("our_tiny_3d", True)):
            answer = server.post(f"/infer/{task}?image=ball&output=image", data={"params": params})
            assert answer.status_code == 200, answer.text
            (tmp_path / "mask.nii.gz").write_bytes(answer.content)
            mask = np.asarray(nibabel.load(tmp_path / "mask.nii.gz").dataobj) > 0
            part = truth > 0 if everywhere else (truth > 0) & (np.arange(truth.shape[2]) == k)
            assert 2 * (mask & part).sum() / (mask.sum() + part.sum()) > 0.7
        assert "Traceback" not in server.log.read_text(errors="replace")
