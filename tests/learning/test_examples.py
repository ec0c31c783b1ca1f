"""Which pictures teach what, and on which side of the split they are."""

from __future__ import annotations

import numpy as np
import pytest

from learning.conftest import disc_picture
from lib.imaging.image import MedicalImage
from lib.learning.accepted import MOST_ABSENT, examples_of
from lib.learning.encoded import varied
from lib.learning.examples import Example, is_in_one_piece, objects_of, split
from lib.learning.job import TrainingRequestError


def example(study: str) -> Example:
    """Return an empty picture of a study."""
    return Example(study, np.zeros((8, 8, 3), np.uint8), {"disc": np.zeros((8, 8), bool)})


def test_a_study_is_never_split() -> None:
    examples = [example(f"study {number}") for number in range(10) for _ in range(3)]
    learned, held_out = split(examples)
    assert len(held_out) == 6 and len(learned) == 24
    assert not {one.study for one in learned} & {one.study for one in held_out}


def test_studies_stay_on_their_side_when_others_arrive() -> None:
    first = {one.study for one in split([example(f"study {n}") for n in range(10)])[0]}
    later = {one.study for one in split([example(f"study {n}") for n in range(40)])[1]}
    assert len(first & later) <= 2


def test_one_study_is_too_few() -> None:
    with pytest.raises(TrainingRequestError, match="at least 2 studies, there are 1"):
        split([example("one")])


def learned_slices(present: list[int], count: int = 20, names: dict[int, str] | None = None) -> dict[int, bool]:
    """Return the slices that are learned from, by their place, and whether the label is on them."""
    frames = np.zeros((count, 16, 16), np.int16)
    for k in range(count):
        frames[k] = k  # so that a slice tells its place
    labels = np.zeros((count, 16, 16), np.uint8)
    labels[present, 4:9, 4:9] = 1
    image = MedicalImage(frames=np.repeat(frames.astype(np.uint8)[..., None], 3, 3))
    found = list(examples_of("study", image, labels, names or {1: "disc"}))
    return {int(one.picture[0, 0, 0]): bool(one.masks["disc"].any()) for one in found}


def test_a_structure_labelled_through_teaches_where_it_is_not_as_well() -> None:
    found = learned_slices([8, 9, 10, 11])
    assert [k for k, is_there in found.items() if is_there] == [8, 9, 10, 11]
    absent = [k for k, is_there in found.items() if not is_there]
    assert len(absent) == MOST_ABSENT and not set(absent) & {6, 7, 12, 13}


@pytest.mark.parametrize("present", [[8], [8, 9], [4, 8, 12]])
def test_slices_labelled_here_and_there_say_nothing_about_the_others(present: list[int]) -> None:
    assert learned_slices(present) == dict.fromkeys(present, True)


def test_an_image_whose_label_set_names_what_it_does_not_hold_teaches_its_absence() -> None:
    assert set(learned_slices([]).values()) == {False}
    assert learned_slices([], names={2: "disc", 1: "disc"}) != {}


def test_a_label_that_is_not_in_the_set_is_not_known_to_be_absent() -> None:
    image = MedicalImage(frames=np.zeros((3, 16, 16, 3), np.uint8))
    assert not list(examples_of("study", image, np.zeros((3, 16, 16), np.uint8), {}))


def labels_of(*boxes: tuple[slice, slice, slice]) -> np.ndarray:
    """Return a label volume with boxes of 1 in it."""
    labels = np.zeros((12, 16, 16), np.uint8)
    for box in boxes:
        labels[box] = 1
    return labels


@pytest.mark.parametrize(
    ("labels", "is_one"),
    [
        (labels_of(np.s_[2:8, 2:9, 2:9]), True),
        (labels_of(np.s_[2:8, 2:9, 2:9], np.s_[9, 15, 15]), True),  # what a brush left
        (labels_of(np.s_[2:8, 2:6, 2:6], np.s_[2:8, 9:13, 9:13]), False),
        (labels_of(np.s_[1:4, 2:6, 2:6], np.s_[7:10, 2:6, 2:6]), False),  # one on each slice, and yet two
        (labels_of(np.s_[2, 2:6, 2:6]), False),  # nobody followed it
    ],
)
def test_what_is_in_one_piece(labels: np.ndarray, is_one: bool) -> None:
    image = MedicalImage(frames=np.zeros((12, 16, 16, 3), np.uint8))
    found = list(examples_of("study", image, labels, {1: "disc", 2: "absent"}))
    assert {one.in_one_piece for one in found} == {frozenset({"disc"} if is_one else ())}
    assert is_in_one_piece(found, "disc") is is_one
    whole = next(examples_of("other", image, labels_of(np.s_[2:8, 2:9, 2:9]), {1: "disc"}))
    assert is_in_one_piece([*found, whole], "disc") is is_one, "wherever it is"


def test_variations_keep_mask_and_picture_together() -> None:
    picture, mask = disc_picture(3)
    rng = np.random.default_rng(0)
    for _ in range(5):
        moved = varied(rng, Example("study", picture, {"disc": mask}))
        inside = moved.picture[moved.masks["disc"]]
        assert moved.picture.shape == picture.shape and moved.picture.dtype == np.uint8
        assert 0.5 < moved.masks["disc"].sum() / mask.sum() < 2
        assert inside.mean() > moved.picture[~moved.masks["disc"]].mean() + 40


def test_objects_are_the_connected_pieces_the_largest_first() -> None:
    mask = np.zeros((40, 40), bool)
    mask[2:5, 2:8], mask[20:30, 20:30], mask[38, 38] = True, True, True
    assert [int(one.sum()) for one in objects_of(mask)] == [100, 18]
