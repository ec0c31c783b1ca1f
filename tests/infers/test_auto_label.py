"""The tasks that find labels without prompts, by themselves; what stands for a label here is a click where it is."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
from PIL import Image

from lib.imaging.limits import Limits
from lib.infers.auto_label import ALL, AutoLabel
from lib.infers.facts import result_facts
from lib.learning.pupil import Pupil
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER, CheckpointStore
from lib.sam.models.overlay import LearnedPrompt, Overlay
from lib.sam.models.registry import MODELS
from lib.sam.models.versions import auto_name
from lib.sam.prompts import Prompts
from lib.transforms.request import SegmentRequest, Source
from lib.transforms.sam_input import SAMPrompts
from support.segment_requests import viewer_request

SPEC = MODELS["sam_tiny"]
SIDE, BRIGHT, DARK = 128, (40, 44), (90, 84)
pytestmark = pytest.mark.slow


def disc(centre: tuple[int, int]) -> np.ndarray:
    """Return where a disc is, ``(H, W)`` bool; its centre is XY."""
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.asarray(np.hypot(x - centre[0], y - centre[1]) < 16)


def picture() -> np.ndarray:
    """Return a picture ``(H, W)`` of two discs."""
    grey = np.full((SIDE, SIDE), 100.0)
    grey[disc(BRIGHT)], grey[disc(DARK)] = 190, 40
    return (grey + np.random.default_rng(0).normal(0, 5, grey.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Two labels are served: ``bright``, and ``dark disc``."""
    folder = tmp_path_factory.mktemp("taught") / "model"
    folder.mkdir()
    shutil.copy(MODEL_FOLDER / "sam_tiny.safetensors", folder)
    pupil, engine = Pupil(SPEC, CheckpointStore(folder)), Engine([SPEC], folder, device="cpu")
    for label, centre in (("bright", BRIGHT), ("dark disc", DARK)):
        tokens, dense = pupil.predictor.prompt_embeddings([Prompts.from_clicks([centre])], (SIDE, SIDE))
        overlay = Overlay.of(pupil.decoder, LearnedPrompt(tokens.detach(), dense.detach()))
        facts = {"model": SPEC.name, "label": label, "checkpoint_sha256": pupil.predictor.checkpoint_sha256}
        facts["in_one_piece"] = label == "bright"
        version = engine.versions.add(auto_name(label), overlay, facts)
        engine.versions.promote(version.name, version.number)
    return engine


@pytest.fixture
def task(engine: Engine) -> AutoLabel:
    return AutoLabel(ALL, list(engine.automatic().values()), engine, Limits())


@pytest.fixture
def volume(tmp_path: Path) -> str:
    """A NIfTI file of two slices with both discs and an empty one."""
    values = np.stack([picture(), picture(), np.full((SIDE, SIDE), 100, np.uint8)])
    nibabel.save(nibabel.Nifti1Image(values.T.astype(np.int16), np.diag([-1, -1, 3, 1])), tmp_path / "discs.nii.gz")
    return str(tmp_path / "discs.nii.gz")


def ask(task: AutoLabel, image: str, **params: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the labels ``(K, H, W)`` and the facts."""
    path, facts = task(viewer_request(image, result_extension=".nrrd", **params))
    labels = nrrd.read(path)[0].T
    Path(path).unlink()
    return labels, facts


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def test_all_labels_are_found_at_once_each_by_its_own_version(task: AutoLabel, volume: str) -> None:
    assert task.is_valid() and task.labels == {"bright": 1, "dark disc": 2}
    labels, facts = ask(task, volume)
    for k in (0, 1):
        assert dice(labels[k] == 1, disc(BRIGHT)) > 0.85 and dice(labels[k] == 2, disc(DARK)) > 0.85
    assert facts["model"] == "auto" and facts["versions"] == ["auto_bright@1", "auto_dark_disc@1"]
    assert "version" not in facts and facts["label_names"] == task.labels
    for found in facts["found"]:
        number = task.labels[found["label"]]
        assert found["area"] == np.count_nonzero(labels[found["k"]] == number) and 0 <= found["score"] <= 1
    assert facts["voxels"] == np.count_nonzero(labels)


def test_each_label_alone_is_where_it_is_among_all(engine: Engine, task: AutoLabel, volume: str) -> None:
    together, _ = ask(task, volume)
    alone = AutoLabel("auto_dark_disc", [engine.automatic()["auto_dark_disc"]], engine, Limits())
    labels, facts = ask(alone, volume)
    assert alone.labels == {"dark disc": 1} and facts["version"] == "auto_dark_disc@1"
    assert dice(labels[0] > 0, together[0] == 2) > 0.95


@pytest.fixture
def two_volumes(tmp_path: Path) -> str:
    """A NIfTI file of two slices with both discs, an empty one, and another one with both discs."""
    slices = [picture(), picture(), np.full((SIDE, SIDE), 100, np.uint8), picture()]
    nibabel.save(nibabel.Nifti1Image(np.stack(slices).T.astype(np.int16), np.diag([-1, -1, 3, 1])), tmp_path / "d.nii")
    return str(tmp_path / "d.nii")


def test_the_largest_piece_is_kept_of_a_label_that_is_in_one_piece(task: AutoLabel, two_volumes: str) -> None:
    labels, facts = ask(task, two_volumes)
    assert [k for k in range(4) if (labels[k] == 1).any()] == [0, 1]
    assert {0, 1, 3} <= {k for k in range(4) if (labels[k] == 2).any()}, "the other may be in several"
    assert {one["k"] for one in facts["found"] if one["label"] == "bright"} == {0, 1}
    assert task.config()["largest_component"] is True, "and viewers show it so"


def test_all_pieces_are_kept_where_they_are_asked_for(task: AutoLabel, two_volumes: str) -> None:
    labels, _ = ask(task, two_volumes, largest_component=False)
    assert (labels[3] == 1).any() and (labels[0] == 1).any()


def test_what_is_protected_is_left_out(task: AutoLabel, volume: str, tmp_path: Path) -> None:
    whole, _ = ask(task, volume)
    present = np.zeros_like(whole)
    present[1, : whole.shape[1] // 2] = 5
    present.tofile(tmp_path / "label.bin")
    kept, _ = ask(task, volume, sent_label=str(tmp_path / "label.bin"), protect=True)
    assert (whole > 0)[present > 0].any() and np.array_equal(kept, np.where(present == 0, whole, 0))


def test_rest_gets_the_labels_of_one_picture(task: AutoLabel, tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(picture()).save(content, "PNG")
    (tmp_path / "picture.png").write_bytes(content.getvalue())
    asked = SegmentRequest(Source.REST, ALL, str(tmp_path / "picture.png"), SAMPrompts.model_validate({}))
    _, data = task({**asked.as_monai(), "skip_writer": True})
    facts = result_facts(data, ALL)
    assert facts["names"] == ["bright", "dark disc"] and facts["versions"] == ["auto_bright@1", "auto_dark_disc@1"]
    labels = np.asarray(data["pred"])[0]
    assert dice(labels == 1, disc(BRIGHT)) > 0.85 and dice(labels == 2, disc(DARK)) > 0.85


def test_it_is_not_offered_once_one_of_its_labels_is_not_served(engine: Engine, task: AutoLabel) -> None:
    engine.versions.rollback("auto_bright")
    assert not task.is_valid()
    engine.versions.promote("auto_bright", 1)
    assert task.is_valid()
