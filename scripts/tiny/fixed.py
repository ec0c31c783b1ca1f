"""Makes the synthetic pictures by which versions are kept from forgetting, see ``lib/learning/fixed.py``.

Run as ``python scripts/tiny/fixed.py`` with ``scripts`` and ``apps/sam_app`` on the path; the same file each time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from lib.learning.fixed import FILE
from tiny.scenes import load_scenes, make_scenes

SEED = 7
COUNT, SIDE, OBJECTS = 24, 256, 4
LEAST_AREA = 60
"""In pixels of the pictures."""


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        scenes = load_scenes(make_scenes(Path(folder), seed=SEED, count=COUNT, size=2 * SIDE, workers=2))
        pictures, masks, owners = [], [], []
        for index in range(COUNT):
            objects = np.arange(scenes.starts[index + 1] - scenes.starts[index])
            planes = torch.from_numpy(scenes.object_masks(index, objects).astype(np.float32))[None]
            small = F.avg_pool2d(planes, 2)[0].numpy() > 0.5
            kept = [mask for mask in small if mask.sum() >= LEAST_AREA][:OBJECTS]
            grey = torch.from_numpy(scenes.images[index].astype(np.float32))[None, None]
            pictures.append(F.avg_pool2d(grey, 2)[0, 0].round().numpy().astype(np.uint8))
            masks += kept
            owners += [index] * len(kept)
    packed = np.packbits(np.stack(masks).reshape(len(masks), -1), axis=-1)
    np.savez_compressed(FILE, pictures=np.stack(pictures), masks=packed, owners=np.array(owners, np.uint8))


if __name__ == "__main__":
    main()
