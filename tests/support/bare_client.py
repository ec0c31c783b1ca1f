"""Run by a Python that has the client's wheel and what that requires, and nothing else: uses it, and prints what came.

Arguments: the server's address and a key.
"""

import asyncio
import importlib.util
import json
import sys

import numpy as np

import sam_app_client
from sam_app_client import AsyncClient, Client, StoredImage

BOX = (90, 50, 170, 130)


def disc() -> np.ndarray:
    """A bright disc: ``(200, 240)`` uint8."""
    rows, columns = np.mgrid[:200, :240]
    return np.where((columns - 130) ** 2 + (rows - 90) ** 2 <= 40**2, 190, 70).astype(np.uint8)


async def awaited(url: str, key: str) -> list[int]:
    """Return the pixels of two masks that were asked for at the same time."""
    async with AsyncClient(url, key) as client:
        one, other = await asyncio.gather(
            client.segment(disc(), boxes=[BOX]), client.segment(disc(), points=[(130, 90)], multimask=False)
        )
        refined = await one.refine(negative_points=[(10, 10)])
        return [int(result.mask.sum()) for result in (one, other, refined)]


def main() -> None:
    """Segment, refine and follow."""
    url, key = sys.argv[1:]
    with Client(url, key) as client:
        result = client.segment(disc(), boxes=[BOX])
        volume = client.segment_volume(StoredImage("ball"), points=[(30, 24, 7)])
        told = {
            "file": sam_app_client.__file__,
            "version": sam_app_client.__version__,
            "absent": [name for name in ("torch", "PIL", "monailabel") if importlib.util.find_spec(name) is None],
            "mask": [*result.mask.shape, int(result.mask.sum())],
            "seg": result.seg()[128:132].decode(),
            "volume": [*volume.mask.shape, int(volume.mask.sum())],
        }
    print(json.dumps({**told, "awaited": asyncio.run(awaited(url, key))}))


if __name__ == "__main__":
    main()
