"""Rows of what is encoded once and then kept: over REST, and on disk over a restart."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from PIL import Image

from bench.click_rows import NOTHING_AHEAD, clicks, open_viewer, stage_table, times
from bench.figures import Sample, pair_ratios
from bench.peers import running_peer
from bench.row import Bar, Measurement, NotAvailableError, Row
from bench.server import Answer, png
from bench.workplace import Workplace, pictures

_WRITTEN_WITHIN_S = 20.0


def rest_second(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    model = workplace.large_model
    peer_name = "bundled_model_for_each_request" if workplace.quick else "model_for_each_request"
    asked = {"architecture": "vit_b", "checkpoint": str(workplace.checkpoint(model))}
    firsts, medians, peers = [], [], []
    ours: list[Answer] = []
    with (
        workplace.server(model, conf=NOTHING_AHEAD) as server,
        server.client() as client,
        running_peer(peer_name, workplace.model_folder(model)) as peer,
    ):
        for turn, image in enumerate(pictures(workplace.times(2, 1), seed=8)):
            path = workplace.folder / f"rest-{turn}.png"
            Image.fromarray(image).save(path)
            request = {**asked, "image": str(path), "points": [[250, 220]]}
            if turn == 0:
                peer.seconds(request)  # its warm-up
            content = png(image)
            firsts.append(client.segment(content, {"model": model, "positive_points": [{"x": 250, "y": 200}]}))
            server.wait_until_idle()
            answers = [
                client.segment(content, {"model": model, "positive_points": [{"x": 200 + 9 * number, "y": 220}]})
                for number in range(workplace.times(10, 5))
            ]
            ours += answers
            medians.append(statistics.median(times(answers)))
            server.wait_until_idle()
            peers.append(1000 * peer.seconds(request))
    ratio = pair_ratios(medians, peers, "our median of a turn / the peer's request")
    return Measurement(
        ours=[
            Sample.of(f"second request with the same image, {model}", times(ours)),
            Sample.of("first request with it", times(firsts)),
        ],
        peer=[Sample.of("model built and image encoded for each request", peers)],
        ratio=ratio,
        values={"ratio": ratio.median},
        table=stage_table(ours),
        notes=workplace.large_model_notes,
    )


def disk_hit(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    model = workplace.large_model
    volume = workplace.volume("disk", 20)
    folder = workplace.folder / "kept-embeddings"
    folder.mkdir()
    conf = ["embeddings", str(folder), *NOTHING_AHEAD]
    slices = list(range(2, 20, 6))[: workplace.times(3, 2) + 1]
    with workplace.server(model, conf=conf) as server, server.client() as client:
        open_viewer(client)
        encoded: list[Answer] = []
        for k in slices:
            encoded += clicks(client, model, volume, k, 1)
            server.wait_until_idle()
        _wait_for_files(folder)
    with workplace.server(model, conf=conf) as server, server.client() as client:
        open_viewer(client)
        found = [next(clicks(client, model, volume, k, 1)) for k in slices]
    # The first click of each server also reads the volume and loads the model.
    encoded, found = encoded[1:], found[1:]
    if any("encode" in answer.stages for answer in found):
        raise NotAvailableError("after the restart the server encoded again, although it had written its embeddings")
    ratio = pair_ratios(times(found), times(encoded), "whole click from the disk / whole click with an encode")
    return Measurement(
        ours=[Sample.of(f"first click on a slice after a restart, {model}", times(found))],
        peer=[Sample.of("first click on the slice ever", times(encoded))],
        ratio=ratio,
        values={"ratio": ratio.median},
        table={
            **_of_stages(found, encoded),
            **{f"after a restart: {name}": text for name, text in stage_table(found).items()},
            **{f"with an encode: {name}": text for name, text in stage_table(encoded).items()},
        },
        notes=workplace.large_model_notes,
    )


def _of_stages(found: list[Answer], encoded: list[Answer]) -> dict[str, str]:
    """Reading the embedding over making it, where the answers tell both stages."""
    reads = [answer.stages["embedding"] for answer in found if "embedding" in answer.stages]
    encodes = [answer.stages["encode"] for answer in encoded if "encode" in answer.stages]
    if not reads or not encodes:
        return {}
    ratio = statistics.median(reads) / statistics.median(encodes)
    return {"stages: embedding / encode": f"{ratio:.4f} x"}


def _wait_for_files(folder: Path) -> None:
    """Until something was written into the folder.

    Raises:
        NotAvailableError: If nothing was.
    """
    end = time.monotonic() + _WRITTEN_WITHIN_S
    while time.monotonic() < end:
        if any(path.is_file() and path.stat().st_size for path in folder.rglob("*")):
            return
        time.sleep(0.2)
    raise NotAvailableError("the server writes no embeddings into the folder of --conf embeddings")


ROWS = [
    Row(
        "rest-second",
        "second POST /segment_input_image/ with the same image, sam_vit_b",
        "a server that builds the model from its checkpoint and encodes for each request (SamPredictor, PyTorch)",
        [Bar("ratio", 1 / 100, "x")],
        rest_second,
    ),
    Row(
        "disk-hit",
        "first click on a slice after a restart, its embedding kept on disk, sam_vit_b",
        "the same click with the encode",
        [Bar("ratio", 1 / 20, "x")],
        disk_hit,
    ),
]
