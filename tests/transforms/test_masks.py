import numpy as np

from lib.imaging.image import MedicalImage
from lib.sam.packed_mask import PackedMask
from lib.sam.predictor import Prediction
from lib.transforms.masks import BestMasksd, CleanMasksd, FrameToVolumed, MergeMasksd, candidate_masks, merge_masks
from support.segment_requests import data_with


def prediction(mask: np.ndarray) -> Prediction:
    worse = np.zeros_like(mask)
    return Prediction(
        packed=(PackedMask.of(mask), PackedMask.of(worse)),
        scores=np.array([0.9, 0.1]),
        low_res_logits=np.zeros((2, 256, 256)),
    )


def test_smaller_objects_are_on_top_and_keep_their_numbers():
    small, large = np.zeros((10, 12), bool), np.zeros((10, 12), bool)
    small[4:6, 4:6] = True
    large[2:9, 2:9] = True
    data = BestMasksd()({"predictions": [prediction(small), prediction(large)], "frame": np.zeros((10, 12, 3), "u1")})
    labels = MergeMasksd()(data)["labels"]
    assert np.array_equal(data["masks"][1], large), "whole, also below the other one"
    assert labels.dtype == np.uint8
    assert np.array_equal(labels == 1, small)
    assert np.array_equal(labels == 2, large & ~small)


def test_of_equally_large_objects_the_later_is_on_top():
    mask = np.eye(4, dtype=bool)
    assert np.array_equal(merge_masks([PackedMask.of(mask)] * 2, (4, 4)), 2 * mask)


def test_an_object_without_that_candidate_gives_its_best_one():
    mask = np.eye(4, dtype=bool)
    masks = candidate_masks([prediction(mask)], 1), candidate_masks([prediction(mask)], 2)
    assert not masks[0][0].area and np.array_equal(masks[1][0], mask)


def test_no_objects_give_an_empty_map():
    data = BestMasksd()({"predictions": [], "frame": np.zeros((4, 5, 3), np.uint8)})
    assert not MergeMasksd()(data)["labels"].any()


def test_the_mask_lies_in_its_slice_in_the_images_order():
    image = MedicalImage(frames=np.zeros((5, 10, 12), np.int16))
    labels = np.zeros((10, 12), np.uint8)
    labels[7, 3] = 1  # j = 7, i = 3
    pred = FrameToVolumed()({"image": image, "slice": 2, "labels": labels})["pred"]
    assert list(pred.slices) == [2]
    volume = np.asarray(pred)
    assert np.argwhere(volume).tolist() == [[2, 7, 3]]
    assert volume.T[3, 7, 2] == 1  # ijk


def test_the_largest_piece_is_kept_and_holes_are_filled_if_asked_for():
    mask = np.zeros((20, 30), bool)
    mask[2:12, 2:12] = True
    mask[5:8, 5:8] = False
    mask[15:18, 20:24] = True
    mask[12, 12] = True  # touches the large piece at a corner only: another piece
    before = mask.copy()
    cases = {(False, False): 100 - 9 + 12 + 1, (True, False): 91, (False, True): 100 + 12 + 1, (True, True): 100}
    for (largest, fill), area in cases.items():
        data = data_with(largest_component=largest, fill_holes=fill)
        data["masks"] = [PackedMask.of(mask), PackedMask.of(~mask)]
        cleaned = np.asarray(CleanMasksd()(data)["masks"][0])
        assert np.count_nonzero(cleaned) == area and cleaned.dtype == bool, (largest, fill)
    assert np.array_equal(CleanMasksd()({**data_with(), "masks": [PackedMask.of(mask)]})["masks"][0], before)


def test_an_empty_mask_stays_empty():
    empty = [PackedMask.of(np.zeros((20, 30), bool))]
    data = {**data_with(largest_component=True, fill_holes=True), "masks": empty}
    assert not CleanMasksd()(data)["masks"][0].area
