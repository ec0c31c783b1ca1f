"""How the first version of this server made the answer to a click, kept here to be measured against."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np


def full_volume_answer(labels: np.ndarray, k: int, slices: int, file: Path) -> bytes:
    """The whole volume in memory, written as NRRD with gzip level 1, and read again to be sent.

    Args:
        labels: ``(H, W)`` uint8 of slice k.
        k: The slice.
        slices: Of the volume.
        file: Where to write it.

    Returns:
        The answer's bytes.
    """
    volume = np.zeros((slices, *labels.shape), dtype=np.uint8)
    volume[k] = labels
    stored = np.ascontiguousarray(volume)
    header = [
        "NRRD0004",
        "type: uint8",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, stored.shape[::-1]))}",
        "space directions: (0.8,0,0) (0,0.8,0) (0,0,2.5)",
        "kinds: domain domain domain",
        "encoding: gzip",
        "space origin: (0,0,0)",
    ]
    packer = zlib.compressobj(level=1, wbits=31)
    aside = file.with_name(f".{file.name}")
    with aside.open("wb") as output:
        output.write(("\n".join(header) + "\n\n").encode("ascii"))
        for piece in stored:
            output.write(packer.compress(piece))
        output.write(packer.flush())
    aside.replace(file)
    return file.read_bytes()
