"""Workers that answer by HTTP: real ones, in a server of their own, without Ray."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from lib.base.clock import PreemptedError
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.sam.predictor import Predictor
from lib.sam.runtimes.remote import EncodeOrder, WorkersUnavailableError
from lib.workers import encoder_replica, http_workers, wire
from lib.workers.encoder_replica import EncoderReplica
from lib.workers.http_workers import HttpWorkers
from lib.workers.place import WorkersPlace
from lib.workers.ray_workers import WorkersStartError, workers_at

TOKEN = "secret"
SPECS = [MODELS["sam_tiny"]]
COUNTS = {"running": 1, "wanted": 1, "least": 1, "most": 1, "elsewhere": 0}


class Place:
    """An HTTP server of one worker that a test can break.

    Args:
        replica: The worker.
        port: Where; 0: anywhere.
    """

    def __init__(self, replica: EncoderReplica, port: int = 0) -> None:
        self.replica = replica
        self.told: dict[str, int] = dict(COUNTS)
        self.asked = 0
        self.instead: Callable[[], Response] | None = None
        self.ended = threading.Event()
        app = Starlette(
            routes=[Route(wire.PATH, self._encode, methods=["POST"]), Route(wire.STATUS_PATH, self._status)]
        )
        config = uvicorn.Config(app, "127.0.0.1", port, log_level="error", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._socket = config.bind_socket()
        self.port = self._socket.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        wait_for(lambda: self._server.started)

    async def _encode(self, request: Request) -> Response:
        self.asked += 1
        if self.instead is not None:
            return self.instead()
        answer = asyncio.ensure_future(self.replica.answer(request))
        while not answer.done():  # as Ray Serve does, whose proxy cancels what nobody waits for
            await asyncio.wait([answer], timeout=0.02)
            if await request.is_disconnected():
                answer.cancel()
                await asyncio.wait([answer])
                self.ended.set()
                return PlainTextResponse("", 499)
        return await answer

    async def _status(self, request: Request) -> Response:
        if not wire.is_authorized(request.headers, TOKEN):
            return PlainTextResponse("the token is wrong", 401)
        return JSONResponse(self.told)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()


def wait_for(condition: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def local() -> Predictor:
    return Engine(SPECS, MODEL_FOLDER, device="cpu").predictor("sam_tiny")


@pytest.fixture(scope="module")
def replica() -> EncoderReplica:
    patch = pytest.MonkeyPatch()
    patch.setattr(encoder_replica, "limit_threads", lambda count: None)
    made = EncoderReplica(SPECS, None, None, 1, TOKEN)
    patch.undo()
    return made


@pytest.fixture
def place(replica: EncoderReplica) -> Iterator[Place]:
    with_replica = Place(replica)
    yield with_replica
    with_replica.close()


@pytest.fixture
def workers(place: Place, monkeypatch: pytest.MonkeyPatch) -> HttpWorkers:
    monkeypatch.setattr(http_workers, "_LOOK_EVERY_S", 0.05)
    made = HttpWorkers(TOKEN, [place.address])
    made.watch()
    return made


@pytest.fixture
def order(local: Predictor, disc) -> EncodeOrder:
    return EncodeOrder("sam_tiny", local.checkpoint_sha256, local.runtime.key, disc[0])


def test_an_embedding_comes_back_bit_for_bit_over_one_connection(workers, place, order, local, disc):
    expected = local.runtime.encode(local.model_input(disc[0]))
    for _ in range(3):
        (level,) = workers.encode(order)
        assert torch.equal(level, expected[0]) and level.stride() == expected[0].stride()
    assert sum(map(len, workers._idle.values())) == 1
    assert place.asked == 3
    assert (workers.running, workers.wanted, workers.capacity) == (1, 1, 1)


def test_where_more_are_started_while_images_wait_more_are_given_away_than_run(workers, place):
    place.told = {"running": 2, "wanted": 3, "least": 1, "most": 5, "elsewhere": 4}
    wait_for(lambda: workers.capacity == 5)
    assert (workers.running, workers.wanted, workers.elsewhere) == (2, 3, 4)
    place.told = {**place.told, "running": 0}
    wait_for(lambda: workers.running == 0)
    assert workers.capacity == 0


def test_a_connection_that_the_other_side_has_closed_is_not_used(workers, place, order, replica):
    workers.encode(order)
    place.close()
    wait_for(lambda: workers.running == 0)
    again = Place(replica, place.port)
    try:
        wait_for(lambda: workers.running == 1)
        workers.encode(order)
        assert workers.stats()["repeated"] == 0
    finally:
        again.close()


def test_when_nothing_answers_any_more_whoever_waits_is_told(workers, place, order):
    place.close()
    wait_for(lambda: workers.running == 0)
    with pytest.raises(WorkersUnavailableError, match="none of the 1 workers that encode images is there"):
        workers.encode(order)


@pytest.mark.parametrize("status", [500, 503])
def test_when_a_worker_dies_another_one_is_asked_once(workers, place, order, status):
    place.instead = lambda: PlainTextResponse("Internal Server Error", status)
    with pytest.raises(WorkersUnavailableError, match="2 workers ended while they encoded the image"):
        workers.encode(order)
    assert place.asked == 2
    assert workers.stats()["repeated"] == 2


def test_an_answer_that_breaks_off_is_asked_for_again(workers, place, order, local, disc):
    whole = wire.pack_levels([np.zeros((1, 2, 2, 2), np.float32)])

    def broken() -> Response:
        place.instead = None
        return Response(whole[1][:-4], headers={**whole[0], "Content-Length": str(len(whole[1]))})

    place.instead = broken
    (level,) = workers.encode(order)
    assert torch.equal(level, local.runtime.encode(local.model_input(disc[0]))[0])
    assert place.asked == 2


def test_an_embedding_that_is_too_short_is_no_mask(workers, place, order):
    headers, body = wire.pack_levels([np.zeros((1, 2, 2, 2), np.float32)])
    place.instead = lambda: Response(body[:-4], headers=headers)
    with pytest.raises(ValueError, match="incomplete embedding"):
        workers.encode(order)


def test_a_refusal_is_told_and_so_is_a_failed_encode(workers, place, order):
    place.instead = lambda: PlainTextResponse("has other weights", 409)
    with pytest.raises(WorkersUnavailableError, match="a worker has other weights"):
        workers.encode(order)
    place.instead = lambda: PlainTextResponse("failed at the image: MemoryError", 422)
    with pytest.raises(RuntimeError, match="a worker failed at the image: MemoryError"):
        workers.encode(order)
    assert place.asked == 2


def test_an_encode_that_must_stop_stops_in_the_worker(workers, place, order, replica, monkeypatch):
    begun = threading.Event()

    def encode(inputs: torch.Tensor, should_stop) -> None:
        begun.set()
        wait_for(should_stop)
        raise PreemptedError

    monkeypatch.setattr(replica._engine.published("sam_tiny").runtime, "encode", encode)
    with pytest.raises(PreemptedError):
        workers.encode(order, begun.is_set)
    assert place.ended.wait(10)
    monkeypatch.undo()
    workers.encode(order)


def test_a_machine_that_falls_silent_costs_one_more_try(place, order, replica, monkeypatch):
    """Its connections stay open, and nothing comes: as if its network were cut."""
    monkeypatch.setattr(http_workers, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(http_workers, "_LOOK_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        workers = HttpWorkers(TOKEN, [address, place.address])
        workers.watch()
        workers._answering[address] = time.monotonic()  # until a moment ago it did
        workers._turn = 1
        assert len(workers.encode(order)) == 1
    assert workers.stats()["repeated"] == 1
    assert place.asked == 1


def test_another_token_is_refused_and_logged(place, order, caplog):
    workers = HttpWorkers("other", [place.address])
    workers._look()
    assert "Workers answer 401: the token is wrong" in caplog.text
    assert workers.running == 0


def test_workers_that_somebody_else_started_need_a_token(place, monkeypatch):
    monkeypatch.delenv(wire.TOKEN_VARIABLE, raising=False)
    where = WorkersPlace.parse(place.address)
    with pytest.raises(WorkersStartError, match="the workers' token is missing: set SAM_WORKERS_TOKEN to theirs"):
        workers_at(where, SPECS, MODEL_FOLDER)
    monkeypatch.setenv(wire.TOKEN_VARIABLE, TOKEN)
    assert workers_at(where, SPECS, MODEL_FOLDER).running == 1
