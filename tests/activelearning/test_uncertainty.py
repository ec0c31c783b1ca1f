from __future__ import annotations

import json
from pathlib import Path

import pytest
from monailabel.datastore.local import LocalDatastore

from lib.activelearning.uncertainty import Uncertainty, image_score

IMAGES = ("a", "b", "c", "d")


@pytest.fixture
def datastore(tmp_path: Path) -> LocalDatastore:
    for image in IMAGES:
        (tmp_path / f"{image}.nii.gz").touch()
    return LocalDatastore(str(tmp_path))


def save(datastore: LocalDatastore, image: str, scores: object, tag: str = "original", ts: int | None = None) -> None:
    label = Path(datastore.get_image_uri(image))
    datastore.save_label(image, str(label), tag, {"params": {"scores": scores}})
    if ts is not None:
        datastore.update_label_info(image, tag, {"ts": ts})


def choose(datastore: LocalDatastore, **request: object) -> object:
    return Uncertainty()(request, datastore)


def test_without_any_score_it_is_the_first(datastore):
    assert choose(datastore) == {"id": "a", "score": None}


def test_images_without_a_score_come_first_then_the_lowest(datastore):
    for image, scores in {"a": [0.9], "b": [0.95, 0.4], "d": [0.7]}.items():
        save(datastore, image, scores)
    assert choose(datastore) == {"id": "c", "score": None}
    save(datastore, "c", [0.99])
    assert choose(datastore) == {"id": "b", "score": 0.4}


def test_what_has_a_final_label_is_done(datastore):
    for image, score in zip(IMAGES, (0.1, 0.2, 0.3, 0.4), strict=True):
        save(datastore, image, [score])
    save(datastore, "a", None, tag="final")
    assert choose(datastore) == {"id": "b", "score": 0.2}
    for image in IMAGES:
        save(datastore, image, None, tag="final")
    assert choose(datastore) is None


def test_the_newest_scored_label_counts_or_that_with_the_tag(datastore):
    save(datastore, "a", [0.2], tag="original", ts=1)
    save(datastore, "a", [0.8], tag="second", ts=2)
    save(datastore, "a", "no list", tag="third", ts=3)
    assert image_score(datastore, "a") == 0.8
    assert image_score(datastore, "a", "original") == 0.2
    assert image_score(datastore, "a", "third") is None
    assert image_score(datastore, "b") is None


def test_of_an_object_in_a_volume_the_worst_slice_counts(datastore):
    label = datastore.get_image_uri("a")
    found = [{"k": 3, "score": 0.9}, {"k": 4, "score": 0.6}]
    datastore.save_label("a", label, "original", {"params": {"found": found}})
    assert image_score(datastore, "a") == 0.6


def test_a_label_without_an_object_has_no_score(datastore):
    save(datastore, "a", [0.2], ts=1)
    save(datastore, "a", [], tag="second", ts=2)
    assert image_score(datastore, "a") is None


def test_its_answer_is_json(datastore):
    assert json.loads(json.dumps(choose(datastore))) == {"id": "a", "score": None}
