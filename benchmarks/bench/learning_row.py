"""Row of a server that learns from accepted labels while it serves."""

from __future__ import annotations

import io
import json
import shutil
import time

import httpx
import numpy as np
from PIL import Image

from bench.click_rows import NOTHING_AHEAD, clicks, open_viewer, times
from bench.figures import Sample, percentile
from bench.load_rows import LIGHT, probe
from bench.row import Bar, Measurement, Row
from bench.server import Client, Server, ServerError
from bench.workplace import SIZE, Workplace, pictures

MODEL = "sam_tiny"
LABELLED = 12


def while_it_learns(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    volume = workplace.volume("deep", 200)
    studies = workplace.folder / "studies-to-learn"
    studies.mkdir()
    shutil.copy(volume.path, studies)
    for number, picture in enumerate(pictures(LABELLED, seed=20)):
        Image.fromarray(picture).save(studies / f"picture{number}.png")
    count, seconds = workplace.times(60, 6), workplace.times(20, 4)
    light: dict[str, dict[str, list[float]]] = {}
    warm: dict[str, list[float]] = {}
    with workplace.server(MODEL, conf=NOTHING_AHEAD, studies=studies) as server, server.client() as client:
        open_viewer(client)
        list(clicks(client, MODEL, volume, 100, 5))
        server.wait_until_idle()
        probe(server, 1)
        for state in ("idle", "learning"):
            if state == "learning":
                _begin_to_learn(server, client)
            light[state] = probe(server, seconds)
            warm[state] = times(list(clicks(client, MODEL, volume, 100, count, seed=1)))
        if _step(client).get("stage") != "learning":
            raise ServerError("the training ended before all was measured")
        httpx.delete(server.url + "/train/", timeout=30, trust_env=False).raise_for_status()
    p99 = {route: {state: percentile(light[state][route], 99) for state in light} for route in LIGHT}
    learning, idle = (
        [
            Sample.of(f"click on an encoded slice, {state}", warm[state]),
            *(Sample.of(f"{route} {state}", light[state][route]) for route in LIGHT),
        ]
        for state in ("learning", "idle")
    )
    slower = learning[0].median / idle[0].median
    return Measurement(
        ours=learning,
        peer=idle,
        ratio=Sample.of("click learning / idle, medians", [slower], "x"),
        values={"click": slower, "p99": max(of_route["learning"] for of_route in p99.values())},
        table={
            route: f"p99 {of_route['learning']:.1f} ms learning, {of_route['idle']:.1f} ms idle"
            for route, of_route in p99.items()
        },
    )


def _begin_to_learn(server: Server, client: Client) -> None:
    """Accept a label on each picture, start a training, and wait until its network learns."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[200:300, 180:300] = 1
    content = io.BytesIO()
    Image.fromarray(mask).save(content, "PNG")
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
        for number in range(LABELLED):
            http.put(
                f"/datastore/label?image=picture{number}&tag=final",
                data={"params": json.dumps({"label_info": [{"name": "square", "idx": 1}]})},
                files={"label": ("label.png", content.getvalue(), "image/png")},
            ).raise_for_status()
        http.post(f"/train/{MODEL}", json={"teach": "prompts", "minutes": 10}).raise_for_status()
    until = time.monotonic() + 300
    while _step(client).get("stage") != "learning":
        if time.monotonic() > until:
            raise ServerError("the training did not begin to learn")
        time.sleep(0.5)


def _step(client: Client) -> dict[str, object]:
    """Return the state of the latest training."""
    return dict(json.loads(client.get("/train/").content))


ROWS = [
    Row(
        "while-learning",
        "clicks on an encoded slice, /health_check/ and /info/ while a training learns from accepted labels, sam_tiny",
        "the same server, idle",
        [Bar("click", 1.5, "x"), Bar("p99", 50, "ms")],
        while_it_learns,
    ),
]
