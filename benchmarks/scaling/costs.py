"""What was measured by ``costs.py`` on one machine: seconds of processor, bytes and memory, by model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COSTS = Path(__file__).with_name("costs.json")

_WAY_S, _WAY_BYTES = 0.018, 262144 + 2621440
"""What a remote encode of ``sam_tiny`` took beside the encode, on one machine, and the bytes that it moved."""

FRONT_CORES = 2
"""Of a front, for clicks. Clients without a pause kept both busy, so they are the limit; more were not tried."""


@dataclass(frozen=True)
class Costs:
    """What the simulation takes of one model.

    Args:
        encode_s: Seconds of an encode by a worker of one core.
        way_s: Seconds there and back, beside the encode, without the network.
        wire_bytes: Of the image there, one byte a pixel of grey, and the embedding back, float32.
        click_s: For which a click occupies a front of two cores.
        click_delay_s: What a click takes beside that while nothing else is done.
        stop_s: Within which an encode ends that is to stop.
        disk_bytes: Of an embedding on disk.
        series_bytes: Of a series in the archive, not compressed.
        read_s: Seconds of one core for reading its files.
    """

    encode_s: float
    way_s: float
    wire_bytes: float
    click_s: float
    click_delay_s: float
    stop_s: float
    disk_bytes: float
    series_bytes: float
    read_s: float

    @classmethod
    def of(cls, model: str, path: Path = COSTS, *, repeated: bool = False) -> Costs:
        """Those that were measured of a model; ``repeated``: when it was measured once more, if it was.

        The way grows with the bytes, which was measured of ``sam_tiny`` alone. A running encode looks whether it must
        stop at most 20 ms later in the front and again in the worker, and then needs what was measured.

        Raises:
            KeyError: If the model was not measured.
        """
        everything = json.loads(path.read_text())
        facts, series = everything["models"][model], everything["series"]
        facts = facts["repeated"] if repeated else facts
        wire = facts["image_bytes"] + facts["embedding_bytes"]
        way, click = _WAY_S * wire / _WAY_BYTES, facts["front"]["busy"]["cpu_s"] / FRONT_CORES
        return cls(
            encode_s=facts["encode_cpu_s"],  # of one thread: the time of a core of its own
            way_s=way,
            wire_bytes=wire,
            click_s=click,
            click_delay_s=max(0.0, facts["front"]["click"]["wall_s"] - click),
            stop_s=0.02 + facts["stop_s"]["max"],
            disk_bytes=facts["disk_bytes"],
            series_bytes=series["bytes"],
            read_s=series["read_cpu_s"],
        )


def measured(path: Path = COSTS) -> dict[str, dict[str, Any]]:
    """All figures by model, the small ones first."""
    models: dict[str, dict[str, Any]] = json.loads(path.read_text())["models"]
    return models
