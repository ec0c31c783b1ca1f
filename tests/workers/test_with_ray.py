"""Workers of a real Ray Serve on this machine: some minutes, only with ``-m long``, where Ray is installed."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from lib.base.clock import Clock, TimeLimitError, use_clock
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.sam.prompts import Prompts
from lib.sam.runtimes.remote import EncodeOrder, RemoteEncoder, WorkersUnavailableError
from lib.workers import wire
from lib.workers.place import WorkersPlace
from lib.workers.ray_workers import RayWorkers
from support.sam2_checkpoint import write_sam2_checkpoint
from support.server_process import running_server
from support.worker_load import NAME, Load, mask, noise, running, segment, wait_for

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: scripts/setup --ray"),
]
SPECS = [MODELS["sam_tiny"], MODELS["medsam2"]]
KILLS = 20


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``sam_tiny``, and a SAM 2 of random weights."""
    folder = tmp_path_factory.mktemp("model")
    shutil.copy(MODEL_FOLDER / MODELS["sam_tiny"].checkpoint, folder)
    write_sam2_checkpoint(folder, MODELS["medsam2"])
    return folder


@pytest.fixture(scope="module")
def single(model_folder: Path) -> Engine:
    """An engine that encodes in this process."""
    return Engine(SPECS, model_folder, device="cpu")


@pytest.fixture(scope="module")
def workers(model_folder: Path, single: Engine) -> Iterator[RayWorkers]:
    for spec in SPECS:
        single.predictor(spec.name)  # converts its networks, for the workers, too
    began = RayWorkers(WorkersPlace(here=(2, 2)), SPECS, model_folder)
    yield began
    began.close()
    assert not replicas(psutil.Process())


@pytest.fixture
def engine(workers: RayWorkers, model_folder: Path) -> Engine:
    """An engine that has workers encode."""
    return Engine(SPECS, model_folder, device="cpu", workers=workers)


@pytest.mark.parametrize("model", ["sam_tiny", "medsam2"])
def test_masks_are_those_of_a_single_process_bit_for_bit(engine: Engine, single: Engine, model: str) -> None:
    for seed, size in enumerate([(512, 512), (200, 240), (37, 900), (512, 512)]):
        image = noise(seed, *size)
        ours, theirs = (one.predictor(model).encode(image) for one in (engine, single))
        assert ours.key == theirs.key
        for mine, its in zip(ours.levels, theirs.levels, strict=True):
            assert torch.equal(mine, its) and mine.stride() == its.stride()
        prompts = [Prompts(points=np.array([[size[1] / 2, size[0] / 2]]), labels=np.array([1]))]
        mine, its = (
            one.predictor(model).decode(embedding, prompts, multimask=True)[0]
            for one, embedding in ((engine, ours), (single, theirs))
        )
        assert np.array_equal(mine.masks, its.masks) and np.array_equal(mine.low_res_logits, its.low_res_logits)
        assert np.array_equal(mine.scores, its.scores)


def test_what_is_cached_needs_no_worker(engine: Engine, workers: RayWorkers) -> None:
    predictor, image = engine.predictor("sam_tiny"), noise(10)
    predictor.encode(image)
    done = workers.stats()["done"]
    assert predictor.encode(image) is predictor.encode(image)
    assert workers.stats()["done"] == done


def test_another_version_and_other_weights_are_refused(
    workers: RayWorkers, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = engine.predictor("sam_tiny")
    other = RemoteEncoder(workers, "sam_tiny", "0" * 64, predictor.runtime.key)
    with pytest.raises(WorkersUnavailableError, match="a worker has other weights of sam_tiny"):
        other.encode(noise(11))
    monkeypatch.setattr(wire, "VERSION", "9.9.9")
    with pytest.raises(WorkersUnavailableError, match=r"a worker runs version .* and this server 9\.9\.9"):
        predictor.encode(noise(12))


def test_both_workers_encode_at_once(workers: RayWorkers, engine: Engine) -> None:
    predictor = engine.predictor("medsam2")
    order = EncodeOrder("medsam2", predictor.checkpoint_sha256, predictor.runtime.key, noise(13))
    pending = [workers.begin(order) for _ in range(2)]
    used = {worker.pid: worker.cpu_times().user for worker in replicas(psutil.Process())}
    for one in pending:
        wait_for(lambda one=one: one.result(0.05) is not None)
    more = [worker.cpu_times().user - used[worker.pid] for worker in replicas(psutil.Process())]
    assert len(more) == 2 and min(more) > 0.25 * max(more), f"both have worked: {more}"


def test_a_click_goes_before_work_ahead_which_gives_way_and_is_done_later(engine: Engine) -> None:
    predictor, encoded = engine.predictor("medsam2"), []

    def ahead(seed: int) -> Callable[[], np.ndarray]:
        def image() -> np.ndarray:
            encoded.append(f"ahead {seed}")
            return noise(seed)

        return image

    predictor.prefetch_embedding("ann", [ahead(seed) for seed in range(20, 24)])
    wait_for(lambda: len(encoded) >= 2)
    with ThreadPoolExecutor(4) as pool:
        clicks = [pool.submit(predictor.encode, noise(seed)) for seed in range(30, 34)]
        for click in clicks:
            click.add_done_callback(lambda _: encoded.append("click"))
            click.result(120)
    wait_for(lambda: engine.encodes.stats()["ahead"] == 0)
    assert encoded[2:4] == ["click", "click"], f"both workers were busy with what is ahead, and gave way: {encoded}"
    assert len(encoded) > 4 + 4, f"what gave way was begun anew: {encoded}"
    stored = engine.cache.stats()["misses"]
    for seed in range(20, 24):
        predictor.encode(noise(seed))
    assert engine.cache.stats()["misses"] == stored, "all of it was done in the end"


def test_a_time_limit_ends_an_encode_and_frees_its_worker(engine: Engine, workers: RayWorkers) -> None:
    predictor = engine.predictor("medsam2")
    for seed in range(40, 44):
        with use_clock(Clock(0.05)), pytest.raises(TimeLimitError):
            predictor.encode(noise(seed))
    assert predictor.encode(noise(44)).features.shape[0] == 1


def replicas(server: psutil.Process) -> list[psutil.Process]:
    """The workers' processes."""
    found = []
    for child in server.children(recursive=True):
        try:
            if "ServeReplica:sam-encoders" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def folders_of_ray(server: psutil.Process) -> set[Path]:
    """Where the Ray of a server has its files."""
    words = [word for child in server.children(recursive=True) for word in child.cmdline()]
    return {Path(word.partition("=")[2]) for word in words if word.startswith("--session_dir=")}


def test_workers_that_are_killed_cost_no_wrong_mask_and_no_error_but_503(tmp_path: Path) -> None:
    conf = ("models", "sam_tiny", "workers", "ray:2", "embeddings_max_mb", "0")
    moments, recoveries = random.Random(1), []
    with running_server(tmp_path / "workers", *conf) as server:
        process = psutil.Process(server.process.pid)
        wait_for(lambda: running(server) == 2)
        load = Load(server)
        for kill in range(KILLS):
            time.sleep(moments.uniform(0.2, 2))
            victims = replicas(process)
            victim = moments.choice(victims)
            victim.kill()
            if kill == KILLS - 1:  # all of them
                for other in victims:
                    other.kill()
            began = time.monotonic()
            wait_for(lambda gone=victim: gone not in replicas(process) and len(replicas(process)) == 2)
            wait_for(lambda: running(server) == 2)
            recoveries.append(time.monotonic() - began)
        done = len(load.masks)
        wait_for(lambda: len(load.masks) > done + 5)
        load.stop()
        assert not load.faults, load.faults
        text = server.get("/metrics").text
        repeats = next(line for line in text.splitlines() if line.startswith("sam_worker_repeats_total"))
        logs = [path for folder in folders_of_ray(process) for path in folder.rglob("logs/**/*") if path.is_file()]
        assert len(logs) > 5
        for path in [*logs, server.log]:
            content = path.read_text(errors="replace")
            assert NAME not in content and "DOE" not in content, path
        assert "OUTBOUND REFUSED" not in server.log.read_text(errors="replace")
        children = process.children(recursive=True)
    print(
        f"{KILLS} kills: {len(load.masks)} masks, {load.unavailable} answers 503, {repeats}, "
        f"two workers again after {np.median(recoveries):.1f} s (at most {max(recoveries):.1f})"
    )
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, "nothing of Ray outlives the server"
    with running_server(tmp_path / "single", *conf[:2], *conf[4:]) as server:
        for seed, content in load.masks.items():
            assert mask(server, segment(server, seed)) == content, f"image {seed}"


def test_nothing_of_ray_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    conf = ("models", "sam_tiny", "workers", "ray:1")
    with running_server(tmp_path / "server", *conf) as server:
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert len(replicas(psutil.Process(server.process.pid))) == 1
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(10)
    _, alive = psutil.wait_procs(children, timeout=240)
    assert not alive, [process.cmdline() for process in alive]


@pytest.mark.parametrize("part", ["gcs_server", "raylet", "lib.workers.deployer"])
def test_a_server_outlives_its_ray_and_starts_it_again(tmp_path: Path, part: str) -> None:
    conf = ("models", "sam_tiny", "workers", "ray:1", "embeddings_max_mb", "0")
    with running_server(tmp_path / "server", *conf) as server:
        known = segment(server, 1)
        assert known.status_code == 200
        process = psutil.Process(server.process.pid)
        victims = [child for child in process.children(recursive=True) if part in " ".join(child.cmdline())]
        assert victims
        new = iter(range(2, 100_000))
        victims[0].kill()
        began = time.monotonic()
        wait_for(lambda: segment(server, next(new)).status_code == 503)
        noticed = time.monotonic() - began
        assert segment(server, 1).status_code == 200, "what was encoded before needs no worker"
        wait_for(lambda: time.sleep(0.5) or segment(server, next(new)).status_code == 200)  # as clients that wait
        again = time.monotonic() - began
        print(f"{part} killed: images are encoded for {noticed:.1f} s more, and again after {again:.1f} s")
        assert len(replicas(process)) == 1
        assert mask(server, segment(server, 1)) == mask(server, known)
