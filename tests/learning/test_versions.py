"""Versions in the model folder: whole ones or none, and one step back."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import warnings
from pathlib import Path

import pytest
import torch

from lib.sam.models.overlay import LearnedPrompt, Overlay
from lib.sam.models.versions import VersionError, VersionStore

FACTS = {"model": "sam_tiny", "checkpoint_sha256": "00"}


def overlay(value: float) -> Overlay:
    """Return weights that are told apart by their value."""
    return Overlay({"weight": torch.full((2, 3), value)})


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return VersionStore(tmp_path)


def test_a_new_version_is_not_served_until_it_is_promoted(store: VersionStore) -> None:
    version = store.add("sam_tiny", overlay(1), FACTS, b"png")
    assert version.title == "sam_tiny@1" and store.served("sam_tiny") is None
    stamp = store.stamp("sam_tiny")
    store.promote("sam_tiny", 1)
    assert store.served("sam_tiny") == 1 and store.stamp("sam_tiny") != stamp
    assert store.overlay(store.get("sam_tiny", 1)).decoder["weight"].tolist() == [[1.0] * 3] * 2


def test_a_rollback_returns_to_what_was_served_before_step_by_step(store: VersionStore) -> None:
    for value in (1, 2, 3):
        store.promote("sam_tiny", store.add("sam_tiny", overlay(value), FACTS).number)
    assert [version.manifest["parent"] for version in store.versions("sam_tiny")] == [None, 1, 2]
    assert [store.rollback("sam_tiny").number for _ in range(2)] == [2, 1]  # type: ignore[union-attr]
    assert store.rollback("sam_tiny") is None and store.served("sam_tiny") is None
    with pytest.raises(VersionError, match="no version of sam_tiny is served; there are 1, 2, 3"):
        store.rollback("sam_tiny")
    assert store.add("sam_tiny", overlay(4), FACTS).number == 4


def test_a_learned_prompt_is_stored_with_the_weights(store: VersionStore) -> None:
    prompt = LearnedPrompt(torch.ones(1, 4, 8), torch.zeros(1, 8, 1, 1))
    version = store.add("auto_left kidney".replace(" ", "_"), Overlay({"weight": torch.ones(1)}, prompt), FACTS)
    read = store.overlay(version).prompt
    assert read is not None and read.tokens.shape == (1, 4, 8) and read.dense.shape == (1, 8, 1, 1)


def test_damaged_weights_are_not_promoted(store: VersionStore, tmp_path: Path) -> None:
    store.promote("sam_tiny", store.add("sam_tiny", overlay(1), FACTS).number)
    second = store.add("sam_tiny", overlay(2), FACTS)
    path = tmp_path / "learned" / "sam_tiny" / "2" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(VersionError, match="the weights of sam_tiny@2 are damaged"):
        store.promote("sam_tiny", second.number)
    assert store.served("sam_tiny") == 1


def test_weights_that_are_not_finite_are_not_promoted(store: VersionStore) -> None:
    version = store.add("sam_tiny", overlay(float("nan")), FACTS)
    with pytest.raises(VersionError, match="cannot be used: the learned weights are not finite"):
        store.promote("sam_tiny", version.number)


def test_what_a_killed_training_left_is_neither_listed_nor_kept(store: VersionStore, tmp_path: Path) -> None:
    leftover = tmp_path / "learned" / "sam_tiny" / ".1.abc.part"
    leftover.mkdir(parents=True)
    (leftover / "weights.safetensors").write_bytes(b"half")
    assert store.versions("sam_tiny") == []
    assert store.add("sam_tiny", overlay(1), FACTS).number == 1 and not leftover.exists()


def test_a_choice_that_cannot_be_read_is_cured_by_the_next_one(store: VersionStore, tmp_path: Path) -> None:
    store.promote("sam_tiny", store.add("sam_tiny", overlay(1), FACTS).number)
    (tmp_path / "learned" / "sam_tiny" / "served.json").write_text("{")
    with pytest.raises(VersionError, match="choose a version with `scripts/models`"):
        store.served("sam_tiny")
    store.promote("sam_tiny", 1)
    assert store.served("sam_tiny") == 1


@pytest.mark.parametrize("name", ["../model", "", ".hidden", "a/b"])
def test_names_are_no_paths(store: VersionStore, name: str) -> None:
    with pytest.raises(VersionError, match="letters, digits"):
        store.served(name)


def test_a_manifest_names_weights_and_parent(store: VersionStore, tmp_path: Path) -> None:
    store.add("sam_tiny", overlay(1), FACTS)
    manifest = json.loads((tmp_path / "learned" / "sam_tiny" / "1" / "manifest.json").read_text())
    assert manifest == {**FACTS, "version": 1, "parent": None, "sha256": manifest["sha256"]}
    assert len(manifest["sha256"]) == 64


def test_whatever_is_killed_and_when_a_whole_version_is_served(store: VersionStore) -> None:
    store.promote("sam_tiny", store.add("sam_tiny", overlay(1), FACTS).number)
    rng = random.Random(0)
    for _ in range(20):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons: there are other threads
            teacher = os.fork()
        if teacher == 0:
            while True:
                store.promote("sam_tiny", store.add("sam_tiny", overlay(2), FACTS, b"png" * 4096).number)
        time.sleep(rng.uniform(0.005, 0.1))
        os.kill(teacher, signal.SIGKILL)
        os.waitpid(teacher, 0)
        number = store.served("sam_tiny")
        assert number is not None
        assert store.overlay(store.get("sam_tiny", number)).decoder["weight"].shape == (2, 3)
    assert len(store.versions("sam_tiny")) > 20
