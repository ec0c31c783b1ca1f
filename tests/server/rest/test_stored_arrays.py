from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lib.server.rest.outputs import read_array, read_arrays


def test_arrays_come_back_as_they_were_from_many_threads_at_once(tmp_path: Path) -> None:
    frame, masks = np.arange(24, dtype=np.uint8).reshape(2, 4, 3), {"mask_0": np.ones(3), "mask_1": np.zeros((2, 2))}
    np.save(tmp_path / "a.npy", frame)
    np.savez(tmp_path / "a.npz", **masks)
    with ThreadPoolExecutor(8) as threads:
        for again in threads.map(lambda _: read_array(tmp_path / "a.npy"), range(400)):
            np.testing.assert_array_equal(again, frame)
    found = read_arrays(tmp_path / "a.npz")
    assert found.keys() == masks.keys()
    np.testing.assert_array_equal(found["mask_0"], masks["mask_0"])


def test_pickled_objects_are_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="pickle"):
        read_array(tmp_path / "a.npy")
