"""Rows of a viewer's clicks over HTTP: ``POST /infer/<model>`` as OHIF's plugin sends it."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Sequence

import numpy as np

from bench import peers
from bench.figures import Sample, milliseconds, pair_ratios, percentile
from bench.first_version import full_volume_answer
from bench.row import Bar, Measurement, NotAvailableError, Row
from bench.server import Answer, Client
from bench.workplace import SIZE, Volume, Workplace

MB = 1e6
_POINTS_AT_MOST = 6
_REST_S = 3.0

NOTHING_AHEAD = ("ahead", "0")
"""Option of a server that encodes nothing before it is asked for, so that a peer has the machine to itself."""


def open_viewer(client: Client) -> None:
    """Fetch the viewer's page, with which a browser gets its cookie."""
    client.get("/ohif/viewer")


def clicks(client: Client, model: str, volume: Volume, k: int, count: int, seed: int = 0) -> Iterator[Answer]:
    """Clicks on one slice: each adds a point to those before, and after some points a new object is begun."""
    place = random.Random(seed)  # noqa: S311 - places of clicks
    points: list[list[int]] = []
    for _ in range(count):
        if len(points) >= _POINTS_AT_MOST:
            points = []
        points = [*points, [place.randrange(130, 380), place.randrange(150, 360), k]]
        yield client.click(model, volume.id, points)


def next_prompts(workplace: Workplace, volume: Volume, count: int) -> dict[str, list[Answer]]:
    """By model, clicks on a slice that was clicked on before: by the bundled model, and by the large one."""
    k = volume.slices // 2
    models = list(dict.fromkeys(["sam_tiny", workplace.large_model]))
    answers = {}
    with workplace.server(*models, conf=NOTHING_AHEAD) as server, server.client() as client:
        open_viewer(client)
        for model in models:
            list(clicks(client, model, volume, k, 3))
            server.wait_until_idle()
            answers[model] = list(clicks(client, model, volume, k, count, seed=1))
    return answers


def times(answers: Sequence[Answer]) -> list[float]:
    """Milliseconds of each."""
    return [answer.milliseconds for answer in answers]


def next_prompt_http_vit_b(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    model, size = (workplace.large_model, "tiny" if workplace.quick else "large")
    volume = workplace.volume("next-prompt", 20)
    k = volume.slices // 2
    asked = {
        "model": "sam2",
        "image": str(volume.path),
        "foreground": [[171, 256, k]],
        "background": [],
        "result_extension": ".nrrd",
        "result_dtype": "uint8",
        "result_compress": False,
    }
    ours: list[Answer] = []
    medians, peer_clicks = [], []
    with peers.monailabel_sam2(workplace.folder / "sam2", size) as peer:
        peer.seconds(asked)  # loads the model and the volume
        with workplace.server(model, conf=NOTHING_AHEAD) as server, server.client() as client:
            open_viewer(client)
            list(clicks(client, model, volume, k, 3))
            for turn in range(workplace.times(3, 2)):
                server.wait_until_idle()
                answers = list(clicks(client, model, volume, k, workplace.times(20, 5), seed=turn))
                ours += answers
                medians.append(statistics.median(times(answers)))
                server.wait_until_idle()
                peer_clicks.append(1000 * peer.seconds({**asked, "foreground": [[171 + turn, 256, k]]}))
    with workplace.server(model) as server, server.client() as client:
        open_viewer(client)
        list(clicks(client, model, volume, k, 1))
        meanwhile = list(clicks(client, model, volume, k, workplace.times(20, 5)))
    sample = Sample.of(f"next prompt over HTTP, {model}", times(ours))
    busy = Sample.of("the same while the slices beside it are encoded ahead", times(meanwhile))
    ratio = pair_ratios(medians, peer_clicks, "our median of a turn / the peer's click")
    return Measurement(
        ours=[sample, busy],
        peer=[Sample.of(f"MONAI Label's SAM 2 task, hiera-{size}, without HTTP", peer_clicks)],
        ratio=ratio,
        values={"ratio": ratio.median, "p50": max(sample.median, busy.median)},
        table=stage_table(ours),
        notes=workplace.large_model_notes,
    )


def next_prompt_200(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    volume = workplace.volume("deep", 200)
    ours, table = [], {}
    values: dict[str, float] = {}
    answer_of_last: Answer | None = None
    for model, answers in next_prompts(workplace, volume, workplace.times(20, 5)).items():
        ours.append(Sample.of(f"next prompt over HTTP, {model}, 200 slices", times(answers)))
        table.update({f"{model}: {name}": text for name, text in stage_table(answers).items()})
        answer_of_last = answers[-1]
        values["answer"] = max(values.get("answer", 0.0), *(len(answer.content) / MB for answer in answers))
    assert answer_of_last is not None
    labels = np.ascontiguousarray(answer_of_last.labels[..., volume.slices // 2].T)
    file = workplace.folder / "first-version.nrrd"
    content = b""

    def first_version() -> None:
        nonlocal content
        content = full_volume_answer(labels, volume.slices // 2, volume.slices, file)

    peer = [milliseconds(first_version) for _ in range(workplace.times(7, 3))]
    file.unlink()
    worst = max(sample.median for sample in ours)
    return Measurement(
        ours=ours,
        peer=[Sample.of("first version: making the answer alone", peer)],
        ratio=Sample.of("slowest p50 / the peer's median", [worst / statistics.median(peer)], "x"),
        values={"p50": worst, **values},
        table={**table, "answer of the first version": f"{len(content) / MB:.3f} MB"},
        notes=["the peer is only the full volume, its NRRD file and reading it; ours is the whole click"],
    )


def next_prompt_tiny(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    volume, deep = workplace.volume("next-prompt", 20), workplace.volume("deep", 200)
    k = volume.slices // 2
    ours: list[Answer] = []
    firsts: list[Answer] = []
    with workplace.server("sam_tiny") as server, server.client() as client:
        open_viewer(client)
        list(clicks(client, "sam_tiny", deep, 0, 1))
        list(clicks(client, "sam_tiny", volume, k, 3))
        for turn in range(workplace.times(8, 2)):
            server.wait_until_idle()
            ours += clicks(client, "sam_tiny", volume, k, workplace.times(25, 10), seed=turn)
            firsts += clicks(client, "sam_tiny", deep, 20 + 22 * turn, 1, seed=turn)
    sample = Sample.of("next prompt over HTTP, sam_tiny", times(ours))
    p99 = percentile(sample.values, 99)
    peer = Sample.of("first prompt on a slice far from any other", times(firsts))
    return Measurement(
        ours=[sample],
        peer=[peer],
        ratio=Sample.of("medians", [sample.median / peer.median], "x"),
        values={"p50": sample.median, "p99": p99},
        table={"p99": f"{p99:.1f} ms", **stage_table(ours)},
    )


def neighbour(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    volume = workplace.volume("deep", 200)
    cold: list[Answer] = []
    rested: list[Answer] = []
    with workplace.server("sam_tiny") as server, server.client() as client:
        open_viewer(client)
        list(clicks(client, "sam_tiny", volume, 0, 2))
        for turn in range(workplace.times(6, 2)):
            k = 20 + 25 * turn
            server.wait_until_idle()
            cold += clicks(client, "sam_tiny", volume, k, 1, seed=turn)
            time.sleep(_REST_S)
            rested += clicks(client, "sam_tiny", volume, k + 1, 1, seed=turn)
    ratio = pair_ratios(times(rested), times(cold))
    measurement = Measurement(
        ours=[Sample.of("click on slice k + 1, 3 s after one on k", times(rested))],
        peer=[Sample.of("click on a slice far from any other", times(cold))],
        ratio=ratio,
        values={"clicks that encoded": float(sum("encode" in answer.stages for answer in rested))},
        table=stage_table(rested),
    )
    if not any("encode" in answer.stages for answer in cold):
        raise NotAvailableError(
            "no answer to a cold click has a Server-Timing with an encode stage",
            Measurement(ours=measurement.ours, peer=measurement.peer, ratio=ratio, table=measurement.table),
        )
    return measurement


def profile(workplace: Workplace) -> Measurement:
    """See :data:`ROWS`."""
    volume = workplace.volume("next-prompt", 20)
    ours, table = [], {}
    stages_seen = False
    for model, answers in next_prompts(workplace, volume, workplace.times(30, 5)).items():
        ours.append(Sample.of(f"warm click, {model}, as the client sees it", times(answers)))
        stages = stage_table(answers)
        stages_seen = stages_seen or bool(stages)
        table.update({f"{model}: {name}": text for name, text in stages.items()})
    measurement = Measurement(ours=ours, table=table)
    if not stages_seen:
        raise NotAvailableError("the answers have no Server-Timing", measurement)
    return measurement


def stage_table(answers: Sequence[Answer]) -> dict[str, str]:
    """The median of each stage over all answers, and of what the client waited for beside them."""
    if not any(answer.stages for answer in answers):
        return {}
    names = dict.fromkeys(name for answer in answers for name in answer.stages)
    table = {name: f"{statistics.median(answer.stages.get(name, 0.0) for answer in answers):.2f} ms" for name in names}
    parts = [name for name in names if name != "total"]
    rest = [answer.milliseconds - sum(answer.stages.get(name, 0.0) for name in parts) for answer in answers]
    table["outside of all stages"] = f"{statistics.median(rest):.2f} ms"
    return table


ROWS = [
    Row(
        "next-prompt-http-vit-b",
        f"next prompt on the same slice over HTTP, sam_vit_b, {SIZE}x{SIZE}x20",
        "MONAI Label's own SAM 2 task (hiera-large, CPU), which encodes on every click, in a process of its own",
        [Bar("ratio", 1 / 50, "x"), Bar("p50", 150, "ms")],
        next_prompt_http_vit_b,
    ),
    Row(
        "next-prompt-200",
        f"next prompt on the same slice over HTTP, {SIZE}x{SIZE}x200",
        "the first version of the path: the full volume, written as NRRD with gzip level 1, read back",
        [Bar("p50", 300, "ms"), Bar("answer", 1, "MB")],
        next_prompt_200,
    ),
    Row(
        "next-prompt-tiny",
        f"next prompt on the same slice over HTTP, sam_tiny, {SIZE}x{SIZE}x20",
        "the first prompt on a slice far from any other",
        [Bar("p50", 60, "ms")],
        next_prompt_tiny,
    ),
    Row(
        "neighbour",
        "click on the next slice 3 s after a click, sam_tiny: nothing is left to encode",
        "a click on a slice far from any other",
        [Bar("clicks that encoded", 0, "")],
        neighbour,
    ),
    Row(
        "profile",
        "where the milliseconds of a warm click go: medians of Server-Timing",
        "none: it informs",
        [],
        profile,
    ),
]
