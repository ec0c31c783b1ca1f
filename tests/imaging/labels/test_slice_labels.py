from __future__ import annotations

import numpy as np
import pytest

from lib.imaging.labels.slice_labels import SliceLabels

MARKED = np.array([[0, 1, 0], [2, 0, 0]], np.uint8)


def test_it_stands_for_the_whole_volume():
    labels = SliceLabels((4, 2, 3), {2: MARKED})
    volume = np.asarray(labels)
    assert volume.shape == (4, 2, 3) and volume.dtype == labels.dtype == np.uint8
    assert np.argwhere(volume).tolist() == [[2, 0, 1], [2, 1, 0]]
    assert np.asarray(labels, dtype=np.int16).dtype == np.int16


@pytest.mark.parametrize("marked", [[], [0], [3], [0, 1, 2, 3], [1, 2]])
def test_its_pieces_are_the_volume_byte_by_byte(marked: list[int]):
    labels = SliceLabels((4, 2, 3), {k: (MARKED + k).astype(np.int32) for k in reversed(marked)}, np.dtype(np.int32))
    written = b"".join(bytes(piece) for piece in labels.pieces())
    assert written == np.asarray(labels).tobytes()
    assert sum(isinstance(piece, memoryview) for piece in labels.pieces()) == len(marked)


def test_of_a_whole_volume_the_marked_slices_are_held():
    volume = np.zeros((5, 2, 3), np.int16)
    volume[[1, 4]] = MARKED
    labels = SliceLabels.of(volume)
    assert list(labels.slices) == [1, 4] and labels.dtype == np.int16
    np.testing.assert_array_equal(np.asarray(labels), volume)
    assert SliceLabels.of(np.zeros((5, 2, 3), np.int16)).dtype == np.int16


def test_numbers_and_dtypes_change_in_the_held_slices():
    labels = SliceLabels((4, 2, 3), {2: MARKED})
    np.testing.assert_array_equal(labels.renumbered([7, 3]).slices[2], [[0, 7, 0], [3, 0, 0]])
    wide = labels.cast(np.dtype("<u2"))
    assert wide.dtype == wide.slices[2].dtype == np.uint16
    assert SliceLabels((4, 2, 3), {}).cast(np.dtype("<u2")).dtype == np.uint16
    with pytest.raises(ValueError, match="do not fit into uint8"):
        SliceLabels((1, 1, 1), {0: np.array([[256]])}, np.dtype(int)).cast(np.dtype(np.uint8))


@pytest.mark.parametrize(
    ("shape", "slices"),
    [
        ((4, 2), {}),
        ((0, 2, 3), {}),
        ((4, 2, 3), {4: MARKED}),
        ((4, 2, 3), {-1: MARKED}),
        ((4, 3, 2), {0: MARKED}),
        ((4, 2, 3), {0: MARKED.astype(int)}),
    ],
)
def test_what_does_not_fit_together_is_no_volume(shape: tuple[int, ...], slices: dict[int, np.ndarray]):
    with pytest.raises(ValueError, match=r"slice|\(K, rows, columns\)"):
        SliceLabels(shape, slices)
