from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lib.imaging.image import CorruptImageError, MedicalImage
from lib.imaging.labels.label_writers import write_label_volume
from lib.imaging.labels.slice_labels import SliceLabels
from lib.sam.prompts import PromptError
from lib.transforms.load import LoadMedicalImage
from lib.transforms.prompt_sources import (
    LabelVolumePromptsd,
    PromptSourced,
    RestoreValuesd,
    as_prompt_source,
    inner_points,
    label_prompts,
)
from lib.transforms.request import SegmentRequest, Source

AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])


def volume() -> np.ndarray:
    """A bar and a ring on slice 2, less on slice 1."""
    labels = np.zeros((4, 40, 50), np.uint8)
    labels[2, 5:12, 4:31] = 3
    rows, columns = np.mgrid[:40, :50]
    radius = np.hypot(rows - 27, columns - 30)
    labels[2][(radius > 5) & (radius < 10)] = 7
    labels[1, 1:4, 1:4] = 9
    return labels


def test_the_point_of_each_piece_lies_inside_it_and_far_from_its_border():
    labels = volume()[2]
    [(x, y)] = inner_points(labels == 3)
    assert y == 8 and 7 <= x <= 27
    [(x, y)] = inner_points(labels == 7)  # a ring's middle is not in it
    assert labels[int(y), int(x)] == 7
    two = labels.copy()
    two[36:39, 2:5] = 3
    assert [two[int(y), int(x)] for x, y in inner_points(two == 3)] == [3, 3]
    assert inner_points(two == 3)[1] == (3, 37)


def test_a_piece_at_the_border_of_the_image_is_deepest_in_its_own_middle():
    mask = np.zeros((20, 20), bool)
    mask[:9, :9] = True
    assert inner_points(mask) == [(4, 4)]


def test_the_slice_with_most_of_it_prompts():
    k, objects = label_prompts(volume())
    assert k == 2 and list(objects) == [3, 7]
    assert all(prompts.labels.tolist() == [1] for prompts in objects.values())
    assert label_prompts(np.zeros((5, 3, 3), np.uint8)) == (2, {})


@pytest.mark.parametrize("value", [300, -1, 0.5])
def test_numbers_that_are_no_labels_are_refused(value):
    labels = np.zeros((1, 4, 4))
    labels[0, 1, 1] = value
    with pytest.raises(PromptError, match="whole numbers"):
        label_prompts(labels)


@pytest.fixture
def sourced() -> PromptSourced:
    return PromptSourced(LoadMedicalImage())


@pytest.fixture
def image() -> MedicalImage:
    return MedicalImage(frames=np.zeros((4, 40, 50)), affine=AFFINE, is_geometric=True)


def asked(image: MedicalImage, source: Source, label: Path | None = None) -> dict[str, object]:
    request = SegmentRequest(source, "sam_tiny", "image", prompting_label=str(label) if label else None)
    return {"image": image, "request": request}


def test_labels_of_a_file_become_objects_and_get_their_numbers_back(sourced, image, tmp_path: Path):
    write_label_volume(volume(), AFFINE, tmp_path / "label.nii.gz")
    data = sourced(asked(image, Source.LABELS, tmp_path / "label.nii.gz"))
    assert data["slice"] == 2 and data["slice_source"] == "labels"
    assert len(data["objects"]) == 2
    data["pred"] = SliceLabels((1, 1, 3), {0: np.array([[0, 1, 2]], np.uint8)})
    assert RestoreValuesd()(data)["pred"].slices[0].tolist() == [[0, 3, 7]]


def test_automatic_has_no_objects_and_the_middle_slice(sourced, image):
    data = sourced({**asked(image, Source.AUTOMATIC), "pred": "unchanged"})
    assert (data["slice"], data["objects"], data["slice_source"]) == (2, [], "automatic")
    assert RestoreValuesd()(data)["pred"] == "unchanged"


def test_what_cannot_be_is_refused(sourced, image, tmp_path: Path):
    with pytest.raises(PromptError, match="labels, automatic"):
        as_prompt_source("everything", "prompts")
    with pytest.raises(PromptError, match="has no label"):
        sourced(asked(image, Source.LABELS))
    moved = AFFINE.copy()
    moved[0, 3] = 4
    write_label_volume(volume(), moved, tmp_path / "label.nii.gz")
    with pytest.raises(CorruptImageError, match="do not lie on"):
        sourced(asked(image, Source.LABELS, tmp_path / "label.nii.gz"))


def test_one_object_prompts_in_a_volume(image, tmp_path: Path):
    prompts = LabelVolumePromptsd(LoadMedicalImage())
    labels = volume()
    write_label_volume(labels, AFFINE, tmp_path / "two.nii.gz")
    with pytest.raises(PromptError, match="2 on slice 2"):
        prompts(asked(image, Source.LABELS, tmp_path / "two.nii.gz"))
    labels[labels == 7] = 0
    write_label_volume(labels, AFFINE, tmp_path / "one.nii.gz")
    data = prompts(asked(image, Source.LABELS, tmp_path / "one.nii.gz"))
    [(k, found)] = data["volume_prompts"].marked.items()
    [[x, y]] = found.points.tolist()
    assert labels[k, int(y), int(x)] == 3 and data["label_values"] == [3]
    with pytest.raises(PromptError, match="must be labels"):
        prompts(asked(image, Source.AUTOMATIC))
