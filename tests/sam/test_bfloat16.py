"""bfloat16 is used unasked only where the CPU has it and the masks stay the same."""

import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lib.sam import bfloat16
from lib.sam.bfloat16 import in_bfloat16, is_known_to_agree
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts
from lib.sam.runtimes.openvino_ir import FOLDER, has_bfloat16


@pytest.fixture(scope="module")
def exact() -> Predictor:
    return Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu", precision="float32").predictor("sam_tiny")


needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(), reason="this CPU has neither AVX512_BF16 nor AMX")


@needs_bfloat16
@pytest.mark.slow
def test_masks_of_the_bundled_model_agree_and_are_compared_once(tmp_path: Path, exact, disc, caplog):
    caplog.set_level(logging.INFO)
    known = partial(is_known_to_agree, exact.spec, exact.checkpoint_sha256, tmp_path)
    assert not known()
    fast, again = in_bfloat16(exact, tmp_path), in_bfloat16(exact, tmp_path)
    assert known()
    assert caplog.text.count("Comparing masks of sam_tiny in bfloat16") == 1
    image, _ = disc
    embeddings = [predictor.encode(image) for predictor in (exact, fast, again)]
    assert embeddings[0].key != embeddings[1].key == embeddings[2].key
    assert "bfloat16" in fast.runtime.name and "float32" in exact.runtime.name
    prompts = [Prompts.from_clicks([[130.0, 90.0]]), Prompts.from_clicks(box=[80, 40, 180, 140])]
    for one, other in zip(fast.decode(embeddings[1], prompts), exact.decode(embeddings[0], prompts), strict=True):
        union = np.count_nonzero(one.masks | other.masks)
        assert union and np.count_nonzero(one.masks & other.masks) / union >= 0.99
        assert not np.array_equal(one.low_res_logits, other.low_res_logits), "it is another arithmetic"


@needs_bfloat16
@pytest.mark.slow
def test_masks_that_differ_are_not_used_and_the_log_says_so(tmp_path: Path, exact, caplog, monkeypatch):
    monkeypatch.setattr(bfloat16, "MIN_IOU", 1.1)
    assert in_bfloat16(exact, tmp_path) is exact
    assert not is_known_to_agree(exact.spec, exact.checkpoint_sha256, tmp_path)
    assert "sam_tiny runs in float32: in bfloat16 the masks' mean IoU with float32's is 0.99" in caplog.text


def test_a_cpu_without_it_compares_nothing(tmp_path: Path, exact, monkeypatch):
    monkeypatch.setattr(bfloat16, "has_bfloat16", lambda: False)
    assert in_bfloat16(exact, tmp_path) is exact
    assert not (tmp_path / FOLDER).exists()


@needs_bfloat16
def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, exact, caplog):
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    assert in_bfloat16(exact, tmp_path) is exact
    assert "could not be compared" in caplog.text and str(tmp_path) not in caplog.text
