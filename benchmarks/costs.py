"""What an encode and a click cost on this machine, for ``scaling/costs.json``, by which ``simulate.py`` is calibrated.

A worker is measured as a process with one thread that encodes; a front, as the real server that is clicked on over
HTTP, with the processor time of all its processes. Weights but ``sam_tiny``'s are random, which makes no difference to
the time, and nothing is downloaded. Figures of models that are not measured stay in the file:

    PYTHONPATH=apps/sam_app:scripts .venv/bin/python benchmarks/costs.py --models sam_tiny,medsam2
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydicom
import torch
from pydicom.uid import UID

from bench.click_rows import NOTHING_AHEAD, clicks, open_viewer
from bench.figures import percentile
from bench.machine import machine
from bench.server import Client, Server, png
from bench.workplace import SIZE, Volume, Workplace, pictures, torso
from lib.base.clock import Clock, PreemptedError, use_clock
from lib.imaging.readers import read_image
from lib.sam.embeddings.disk import pack
from lib.sam.engine import Engine
from lib.sam.models.registry import MODELS
from lib.sam.runtimes.openvino_ir import has_bfloat16, limit_threads
from lib.sam.runtimes.runtime import Precision
from lib.workers.wire import pack_request
from phantom_series import Grid, Series
from scaling.costs import COSTS

MODELS_MEASURED = ("sam_tiny", "medsam2", "sam_vit_b")
CLIENTS, THINK_S = 4, 0.1
"""Of the closed loop of clients who click on ever new images: what the simulation is compared with."""
SERIES_SLICES = 300
_IDLE_CORES = 0.1
_TINY_REPEATS, _REPEATS = 30, 4


def precision() -> Precision:
    """That of all networks here: the fastest that needs no images of one's own."""
    return "bfloat16" if has_bfloat16() else "float32"


def engine_of(model: str, folder: Path) -> Engine:
    """An engine as a worker has it: one model on one thread, nothing cached."""
    limit_threads(1)
    return Engine([MODELS[model]], folder, device="cpu", precision=precision(), cache_bytes=0)


def convert(model: str, folder: Path) -> None:
    """Make OpenVINO's form of a model, so that what is measured afterwards has not done it."""
    engine_of(model, folder).predictor(model)


def timed(action: Callable[[], object], times: int) -> dict[str, float]:
    """Medians of ``wall`` and ``cpu`` of so many calls after a first one, in seconds."""
    found = []
    for _ in range(times + 1):
        began = time.perf_counter(), time.process_time()
        action()
        found.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    wall, cpu = zip(*found[1:], strict=True)
    return {"wall": statistics.median(wall), "cpu": statistics.median(cpu)}


def worker_costs(model: str, folder: Path) -> dict[str, Any]:
    """What a worker takes: seconds of an encode, memory, bytes; in a process of its own."""
    times = _TINY_REPEATS if MODELS[model].bundled else _REPEATS
    predictor = engine_of(model, folder).predictor(model)
    image = next(pictures(1, seed=3))
    inputs = predictor.model_input(image)
    encode = timed(lambda: predictor.runtime.encode(inputs), times)
    embedding = predictor.encode(image)
    return {
        "runtime": predictor.runtime.name,
        "encode_wall_s": encode["wall"],
        "encode_cpu_s": encode["cpu"],
        "prepare_cpu_s": timed(lambda: predictor.model_input(image), times)["cpu"],
        "image_bytes": len(pack_request(model, "", "", image)[1]),
        "embedding_bytes": sum(level.nbytes for level in embedding.levels),
        "disk_bytes": len(pack(embedding)),
        "worker_rss_bytes": psutil.Process().memory_info().rss,
        "stop_s": stops(model, folder, times),
    }


def stops(model: str, folder: Path, times: int) -> dict[str, float]:
    """How long a running encode takes to end once it is to stop for a click: median and maximum, in seconds."""
    predictor = engine_of(model, folder).predictor(model)
    inputs, random = predictor.model_input(next(pictures(1, seed=4))), np.random.default_rng(0)
    whole = timed(lambda: predictor.runtime.encode(inputs), 1)["wall"]
    found = []
    for _ in range(times):
        told = time.perf_counter() + float(random.uniform(0.1, 0.7)) * whole
        with suppress(PreemptedError):
            predictor.runtime.encode(inputs, lambda told=told: time.perf_counter() >= told)  # type: ignore[misc]
        found.append(max(0.0, time.perf_counter() - told))
    return {"median": statistics.median(found), "max": max(found)}


def closed_loop(model: str, folder: Path, seconds: float) -> dict[str, float]:
    """Clients who encode ever new images on one engine of one thread, with exponential pauses: what they wait."""
    predictor = engine_of(model, folder).predictor(model)
    image = next(pictures(1, seed=5))
    predictor.encode(image)
    waited: list[float] = []
    encodes: list[float] = []
    began = time.perf_counter()

    def client(number: int) -> None:
        random = np.random.default_rng([6, number])
        mine = image.copy()
        while time.perf_counter() < began + seconds:
            time.sleep(random.exponential(THINK_S))
            mine[:4] = random.integers(0, 256, (4, *mine.shape[1:]))  # another image for every cache
            asked = time.perf_counter()
            with use_clock(Clock()) as clock:
                predictor.encode(mine)
            waited.append(time.perf_counter() - asked)
            encodes.append(clock.stages["encode"])

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "clients": CLIENTS,
        "think_s": THINK_S,
        "encode_s": statistics.mean(encodes),
        "per_s": len(waited) / (time.perf_counter() - began),
        "p50_s": statistics.median(waited),
        "p90_s": percentile(waited, 90),
    }


def series_costs(folder: Path) -> dict[str, float]:
    """What reading a CT series of uncompressed DICOM files takes: seconds, and those of all processors."""
    Series("CT", "costs", Grid((1, SIZE, SIZE), (1.0, 0.8, 0.8), (1, 0, 0), (0, 1, 0))).write(folder)
    (first,) = folder.iterdir()
    dataset = pydicom.dcmread(first)
    first.unlink()
    for k, frame in enumerate(torso(SERIES_SLICES, seed=9)):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.{k + 1}")
        dataset.InstanceNumber, dataset.ImagePositionPatient = k + 1, [0, 0, k]
        dataset.PixelData = (frame + 1024).astype("<u2").tobytes()
        dataset.save_as(folder / f"{k}.dcm")
    size = sum(path.stat().st_size for path in folder.iterdir())
    process, found = psutil.Process(), []
    for _ in range(3):
        began, before = time.perf_counter(), cpu_seconds(process)
        read_image(folder)
        found.append((time.perf_counter() - began, cpu_seconds(process) - before))
    wall, cpu = (statistics.median(values) for values in zip(*found[1:], strict=True))
    return {"slices": SERIES_SLICES, "bytes": size, "read_wall_s": wall, "read_cpu_s": cpu}


def cpu_seconds(process: psutil.Process) -> float:
    """Processor time of a process and those that it started so far."""
    times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
    return sum(each.user + each.system for each in times)


def all_cpu_seconds() -> float:
    """Processor time of everything on this machine so far: what others take makes the times longer."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def per_request(server: Server, send: Callable[[int], Sequence[float]]) -> dict[str, float]:
    """Processor seconds of the server for each request, and the median of what a client waited.

    Args:
        server: Idle.
        send: Sends requests; returns the milliseconds of each. Called with 0 to warm up, then with 1.
    """
    send(0)
    server.wait_until_idle()
    process = psutil.Process(server.process.pid)
    before = cpu_seconds(process)
    taken = send(1)
    return {"cpu_s": (cpu_seconds(process) - before) / len(taken), "wall_s": statistics.median(taken) / 1000}


def front_costs(model: str, place: Workplace, seconds: float) -> dict[str, Any]:
    """What the server takes for a further click of a viewer, and for a further request of REST, which is kept on disk.

    ``busy`` is of clients without a pause: the most clicks a second of one front, and how many cores it used for them;
    ``paced`` of clients with pauses. ``others_cores`` is what other programs took
    meanwhile: if it is not near 0, processor times are some percent too long, and what was waited is of no use.
    """
    volume = place.volume("costs", 20)
    content = png(next(pictures(1, seed=7)))
    count = 40 if MODELS[model].bundled else 20
    with place.server(model, conf=[*NOTHING_AHEAD, "precision", precision()]) as server, server.client() as client:
        open_viewer(client)

        def click(seed: int) -> list[float]:
            return [answer.milliseconds for answer in clicks(client, model, volume, 10, count, seed)]

        def segment(seed: int) -> list[float]:
            points = [{"x": 200 + 2 * number + seed, "y": 220} for number in range(count)]
            asked = [{"model": model, "positive_points": [point]} for point in points]
            return [client.segment(content, one).milliseconds for one in asked]

        found: dict[str, Any] = {"click": per_request(server, click), "rest": per_request(server, segment)}
        found["busy"] = clicked_at_once(server, model, volume, seconds, 0)
        found["paced"] = clicked_at_once(server, model, volume, seconds, THINK_S)
        found["front_rss_bytes"] = server.resident_bytes()
    return found


def clicked_at_once(server: Server, model: str, volume: Volume, seconds: float, think_s: float) -> dict[str, float]:
    """Clients who click on one encoded slice for so long, with exponential pauses of this mean."""
    process, end = psutil.Process(server.process.pid), time.perf_counter() + seconds

    def user(number: int) -> list[float]:
        taken, random = [], np.random.default_rng([8, number])
        with Client(server.url) as client:
            answers = clicks(client, model, volume, 10, 1_000_000, seed=number)
            while time.perf_counter() < end:
                time.sleep(random.exponential(think_s))
                taken.append(next(answers).milliseconds)
        return taken

    began, before, mine, all_before = time.perf_counter(), cpu_seconds(process), time.process_time(), all_cpu_seconds()
    with ThreadPoolExecutor(CLIENTS) as pool:
        taken = [value for one in pool.map(user, range(CLIENTS)) for value in one]
    elapsed, cpu = time.perf_counter() - began, cpu_seconds(process) - before
    others = all_cpu_seconds() - all_before - cpu - (time.process_time() - mine)
    return {
        "clients": CLIENTS,
        "think_s": think_s,
        "per_s": len(taken) / elapsed,
        "cores": cpu / elapsed,
        "others_cores": max(0.0, others / elapsed),
        "cpu_s": cpu / len(taken),
        "p50_s": statistics.median(taken) / 1000,
        "p99_s": percentile(taken, 99) / 1000,
    }


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do it in a process of its own, so that threads and memory are its alone."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def measured(model: str, place: Workplace, seconds: float) -> dict[str, Any]:
    """All figures of a model, and whether the machine was ``idle`` otherwise."""
    folder = place.model_folder(model)
    alone(convert, model, folder)
    found = {"random_weights": not MODELS[model].bundled, **alone(worker_costs, model, folder)}
    if MODELS[model].bundled:
        found["closed_loop"] = alone(closed_loop, model, folder, seconds)
    front = front_costs(model, place, seconds)
    return {"idle": front["busy"]["others_cores"] < _IDLE_CORES, **found, "front": front}


def rounded(value: Any) -> Any:
    """The same with four digits of each fraction, as more of them mean nothing."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="What an encode and a click cost on this machine, per model.")
    parser.add_argument("--models", default=",".join(MODELS_MEASURED), help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=12, help="of each closed loop (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=COSTS, help="default: %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    before = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    kept = before.get("models", {})
    facts = {key: machine()[key] for key in ("cpu", "cores", "isa")}
    with tempfile.TemporaryDirectory(prefix="costs-") as folder:
        place = Workplace(Path(folder))
        series = rounded(alone(series_costs, Path(folder) / "series"))
        print("series", json.dumps(series, indent=2), flush=True)
        for model in filter(None, arguments.models.split(",")):
            figures = rounded(measured(model, place, arguments.seconds))
            kept[model] = {"date": datetime.now(UTC).date().isoformat(), **figures}
            print(model, json.dumps(kept[model], indent=2), flush=True)
            # After each, as the large models take minutes.
            write(arguments.json, {"machine": facts, "series": series, "models": kept})
        write(arguments.json, {"machine": facts, "series": series, "models": kept})


def write(path: Path, facts: dict[str, Any]) -> None:
    """Write the figures."""
    path.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
