import threading
from pathlib import Path

import pytest

from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER, CheckpointError
from lib.sam.models.registry import MODELS


def test_a_model_is_loaded_once_however_many_ask_first():
    engine = Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu")
    assert engine.state("sam_tiny") == "not loaded"
    got = []
    threads = [threading.Thread(target=lambda: got.append(engine.predictor("sam_tiny"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(got) == 6 and len({id(predictor) for predictor in got}) == 1
    assert engine.state("sam_tiny") == "ready"
    assert len(got[0].checkpoint_sha256) == 64


def test_the_first_model_is_the_default_one():
    engine = Engine([MODELS["sam_vit_b"], MODELS["sam_tiny"]], MODEL_FOLDER)
    assert engine.default_model == "sam_vit_b"


def test_a_model_without_its_checkpoint_says_what_to_do(tmp_path: Path):
    engine = Engine([MODELS["sam_vit_l"]], tmp_path)
    assert engine.state("sam_vit_l") == "no checkpoint"
    with pytest.raises(CheckpointError, match="scripts/weights download sam_vit_l"):
        engine.predictor("sam_vit_l")
    with pytest.raises(KeyError):
        engine.predictor("sam_tiny")
