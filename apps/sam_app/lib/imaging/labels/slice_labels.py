"""Label volumes of which most slices are empty, as interactive segmentation makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class SliceLabels:
    """Labels of a volume ``[k, j, i]`` that stores only the slices with labels.

    ``np.asarray`` converts it to the whole volume.

    Args:
        shape: ``(K, rows, columns)`` of the volume, each at least 1.
        slices: Object numbers, 0 for background: ``(rows, columns)`` for each ``k``. Do not write into them.
        dtype: Dtype of the slices.

    Raises:
        ValueError: If shape, slices and dtype do not match.
    """

    shape: tuple[int, int, int]
    slices: Mapping[int, np.ndarray]
    dtype: np.dtype = field(default_factory=lambda: np.dtype(np.uint8))

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"a label volume is (K, rows, columns), not {self.shape}")
        for k, labels in self.slices.items():
            if not 0 <= k < self.shape[0] or labels.shape != self.shape[1:] or labels.dtype != self.dtype:
                found = f"slice {k}, {labels.shape} of {labels.dtype}"
                raise ValueError(f"{found}, does not belong to a volume {self.shape} of {self.dtype}")

    @classmethod
    def of(cls, volume: np.ndarray) -> SliceLabels:
        """Return the labels of a whole volume, ``(K, rows, columns)``.

        Raises:
            ValueError: For another shape.
        """
        if volume.ndim != 3 or 0 in volume.shape:
            raise ValueError(f"a label volume is (K, rows, columns), not {volume.shape}")
        slices = {k: labels for k, labels in enumerate(volume) if labels.any()}
        return cls((volume.shape[0], volume.shape[1], volume.shape[2]), slices, volume.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        volume = np.zeros(self.shape, dtype=dtype or self.dtype)
        for k, labels in self.slices.items():
            volume[k] = labels
        return volume

    def renumbered(self, values: Sequence[int]) -> SliceLabels:
        """Return the volume with new object numbers: 1 becomes the first of ``values`` (1 to 255), and so on."""
        numbers = np.array([0, *values], dtype=np.uint8)
        return SliceLabels(self.shape, {k: numbers[labels] for k, labels in self.slices.items()})

    def cast(self, dtype: np.dtype) -> SliceLabels:
        """Convert the volume to another dtype without changing any value.

        Raises:
            ValueError: If a number does not fit into it.
        """
        return SliceLabels(self.shape, {k: _cast(labels, dtype) for k, labels in self.slices.items()}, dtype)

    def pieces(self) -> Iterator[memoryview | int]:
        """Yield the volume's bytes in order, ``i`` fastest: slices, and in between the number of zero bytes."""
        count, rows, columns = self.shape
        done = 0
        for k in sorted(self.slices):
            if k > done:
                yield (k - done) * rows * columns * self.dtype.itemsize
            yield np.ascontiguousarray(self.slices[k]).data
            done = k + 1
        if done < count:
            yield (count - done) * rows * columns * self.dtype.itemsize


def _cast(labels: np.ndarray, target: np.dtype) -> np.ndarray:
    if labels.dtype == target:
        return labels
    if not np.can_cast(labels.dtype, target) and not np.array_equal(labels, labels.astype(target)):
        raise ValueError(f"the labels do not fit into {target}")
    return labels.astype(target)
