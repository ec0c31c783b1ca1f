"""The row of what it costs to decode in a process of its own."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import imagecodecs
import numpy as np
from pydicom.uid import JPEG2000Lossless

from bench.figures import Sample
from bench.row import Bar, Measurement, Row
from bench.workplace import Workplace
from lib.imaging.decoding.codestream import read_codestream
from lib.imaging.decoding.frame_decoders import decode_frame
from lib.imaging.decoding.isolation import isolated
from lib.imaging.image import CorruptImageError

_BOUNDS = {"memory": 256 * 2**20, "seconds": 30}


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def decoders(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    noise = np.random.default_rng(0).normal(0, 20, (512, 512))
    values = (np.hypot(*np.mgrid[-256:256, -256:256]) * 4 + noise).clip(0, 4095).astype(np.uint16)
    frame = bytes(imagecodecs.jpeg2k_encode(values, codecformat="J2K", reversible=True, level=0))
    header = read_codestream(frame)
    assert header is not None
    arguments = (str(JPEG2000Lossless), frame, header, False)
    ours, peer = [], []
    for number in range(workplace.times(60, 10) + 10):
        pair = (
            _milliseconds(lambda: isolated(decode_frame, *arguments, **_BOUNDS)),
            _milliseconds(lambda: decode_frame(*arguments)),
        )
        if number >= 10:  # every worker has had a call
            ours.append(pair[0])
            peer.append(pair[1])
    return Measurement(
        ours=[Sample.of("in a worker process", ours, "ms")],
        peer=[Sample.of("in the caller's process", peer, "ms")],
        ratio=Sample.of("worker / caller", [mine / its for mine, its in zip(ours, peer, strict=True)], "x"),
        values={"overhead": statistics.median(mine - its for mine, its in zip(ours, peer, strict=True))},
        table={"an abort, until its error": f"{_milliseconds(_abort):.0f} ms"},
        notes=["JPEG 2000, lossless, 512x512 of 16 bits, one at a time"],
    )


def _abort() -> None:
    try:
        isolated(os.abort, **_BOUNDS)
    except CorruptImageError:
        return
    raise AssertionError("an aborting call returned")


ROWS = [
    Row(
        id="decoders",
        title="decoding a compressed frame in a process of its own",
        peer="the same decoder in the caller's process",
        bars=[Bar("overhead", 2, "ms")],
        measure=decoders,
    )
]
