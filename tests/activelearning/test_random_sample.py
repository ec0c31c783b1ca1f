from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest
from monailabel.datastore.local import LocalDatastore
from monailabel.tasks.activelearning.random import Random

from lib.activelearning.random_sample import RandomSample

REQUEST = {"strategy": "random"}


@pytest.fixture
def datastore(tmp_path: Path) -> LocalDatastore:
    for image in ("a", "b"):
        (tmp_path / f"{image}.nii.gz").touch()
    return LocalDatastore(str(tmp_path))


def offered(datastore: LocalDatastore, image: str, seconds_ago: float) -> None:
    note = {"strategy": {"random": {"ts": int(time.time() - seconds_ago)}}}
    datastore.update_image_info(image, note)


def test_images_that_were_all_offered_just_now_are_offered_again(datastore):
    for image in ("a", "b"):
        offered(datastore, image, seconds_ago=-60)  # the clock went back: the worst case
    assert RandomSample()(REQUEST, datastore)["id"] in ("a", "b")
    for image in ("a", "b"):
        offered(datastore, image, seconds_ago=0)
    assert RandomSample()(REQUEST, datastore)["id"] in ("a", "b")


def test_upstream_s_own_fails_then(datastore, monkeypatch):
    now = time.time()
    monkeypatch.setattr("monailabel.tasks.activelearning.random.time.time", lambda: now)
    for image in ("a", "b"):
        datastore.update_image_info(image, {"strategy": {"random": {"ts": int(now)}}})
    with pytest.raises(ValueError, match="greater than zero"):
        Random()(REQUEST, datastore)


def test_what_was_not_offered_for_long_is_more_likely(datastore):
    offered(datastore, "a", seconds_ago=0)
    offered(datastore, "b", seconds_ago=10_000)
    drawn = Counter(RandomSample()(REQUEST, datastore)["id"] for _ in range(200))
    assert drawn["b"] > 190


def test_there_is_none_when_all_are_labelled(datastore):
    for image in ("a", "b"):
        datastore.save_label(image, datastore.get_image_uri(image), "final", {})
    assert RandomSample()(REQUEST, datastore) is None
