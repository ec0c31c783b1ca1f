from __future__ import annotations

import numpy as np
import pytest

from lib.sam.packed_mask import PackedMask


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 1])
@pytest.mark.parametrize("size", [(1, 1), (30, 41), (17, 8)])
def test_a_mask_comes_back_as_it_was(size: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(0).random(size) < share
    packed = PackedMask.of(mask)
    assert np.array_equal(np.asarray(packed), mask) and np.asarray(packed).dtype == bool
    assert packed.area == mask.sum()
    assert np.array_equal(packed.part, mask[packed.rows, packed.columns])


def test_it_takes_the_bits_of_its_rectangle_alone() -> None:
    mask = np.zeros((2000, 3000), bool)
    mask[100:140, 200:280] = np.random.default_rng(0).random((40, 80)) < 0.5
    assert len(PackedMask.of(mask).bits) <= 40 * 80 // 8 + 20, "even if they cannot be compressed"


def test_a_large_mask_takes_a_fiftieth_of_its_bits() -> None:
    rows, columns = np.mgrid[:4000, :4000]
    disc = (rows - 2000) ** 2 + (columns - 2000) ** 2 < 1900**2
    assert len(PackedMask.of(disc).bits) < 4000 * 4000 / 8 / 50
