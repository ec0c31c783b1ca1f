import numpy as np

from lib.imaging.image import MedicalImage
from lib.sam.predictor import Prediction
from lib.transforms.masks import CleanLabelsd, FrameToVolumed, MergeObjectsd, merge_objects


def prediction(mask: np.ndarray) -> Prediction:
    worse = np.zeros_like(mask)
    return Prediction(
        masks=np.stack([mask, worse]), scores=np.array([0.9, 0.1]), low_res_logits=np.zeros((2, 256, 256))
    )


def test_smaller_objects_are_on_top_and_keep_their_numbers():
    small, large = np.zeros((10, 12), bool), np.zeros((10, 12), bool)
    small[4:6, 4:6] = True
    large[2:9, 2:9] = True
    labels = merge_objects([prediction(small), prediction(large)], (10, 12))
    assert labels.dtype == np.uint8
    assert np.array_equal(labels == 1, small)
    assert np.array_equal(labels == 2, large & ~small)


def test_no_objects_give_an_empty_map():
    assert not MergeObjectsd()({"predictions": [], "frame": np.zeros((4, 5, 3), np.uint8)})["labels"].any()


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
    labels = np.zeros((20, 30), np.uint8)
    labels[2:12, 2:12] = 1
    labels[5:8, 5:8] = 0
    labels[15:18, 20:24] = 1
    labels[12, 12] = 1  # touches the large piece at a corner only: another piece
    cases = {(False, False): 100 - 9 + 12 + 1, (True, False): 91, (False, True): 100 + 12 + 1, (True, True): 100}
    for (largest, fill), area in cases.items():
        cleaned = CleanLabelsd()({"labels": labels, "largest_component": largest, "fill_holes": fill})["labels"]
        assert np.count_nonzero(cleaned) == area and cleaned.dtype == np.uint8, (largest, fill)
    assert np.array_equal(CleanLabelsd()({"labels": labels})["labels"], labels)


def test_an_empty_mask_stays_empty():
    empty = {"labels": np.zeros((20, 30), np.uint8), "largest_component": True, "fill_holes": True}
    assert not CleanLabelsd()(empty)["labels"].any()
