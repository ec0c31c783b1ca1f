"""The routes of nnInteractive's protocol, below ``/nninteractive`` and, for a model, ``/nninteractive/{model}``.

Concurrency: what changes a session takes its turn, which lasts until the answer is sent, and does its work in a worker
thread. The other routes run on the event loop and wait for nothing, so that a client can say that it is there while it
waits for a mask.

Clients take 503 for a server without a free session, and show 429 as a fault. So no route but ``/claim`` answers
either: what is busy waits, and a mask that takes too long is told as far as it was found.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Header, HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from lib.base.clock import ClientDisconnectedError, current_clock
from lib.base.request_record import note
from lib.imaging.decoding.memory_budget import Reservation
from lib.sam.models.checkpoints import CheckpointError
from lib.sam.models.registry import ModelSpec
from lib.sam.volume.interactions import Lasso, Scribble
from lib.server.auth.users import CurrentUser
from lib.server.http.errors import Failure, NoLeaseLeftError, failure_of, failure_response
from lib.server.interactive.marked_image import reserve
from lib.server.interactive.request_turn import RequestTurn, held_turn
from lib.server.interactive.service import MarkingService
from lib.server.interactive.validation import validated_json
from lib.server.nninteractive.container import Packed, pack, read
from lib.server.nninteractive.messages import (
    Autozoom,
    BoxMessage,
    Capabilities,
    Claimed,
    DrawingMeta,
    ImageMeta,
    PointMessage,
    SegmentationMeta,
    TargetBuffer,
)
from lib.server.nninteractive.service import IDLE_S, LIVENESS_S, NnInteractiveService, capabilities_of
from lib.server.nninteractive.session import Answer, Session

logger = logging.getLogger(__name__)

ARRAY_PATHS = re.compile(r"/nninteractive/([^/]+/)?(set_image|add_(scribble|lasso|initial_seg)_interaction)")
"""Paths whose bodies are an array, of up to the size of an upload."""

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]
_Meta = TypeVar("_Meta", bound=BaseModel)


class _Route(APIRoute):
    """Route that answers neither 503 nor 429, but where there is no free session."""

    def get_route_handler(self) -> _Handler:
        handle = super().get_route_handler()

        async def handle_without_busy(request: Request) -> Response:
            try:
                return await handle(request)
            except NoLeaseLeftError:
                raise
            except Exception as error:
                failure = failure_of(error)
                if failure.status not in (429, 503):
                    raise
                note(reason=type(error).__name__)
                logger.error("%s: %s", type(error).__name__, error)
                return failure_response(Failure(404 if isinstance(error, CheckpointError) else 500, failure.detail))

        return handle_without_busy


_routes = APIRouter()
"""The routes, without the prefix below which they are served."""


def routers() -> list[APIRouter]:
    """Return the routes for the default model, and those for a model that the address names.

    Each has its whole path: the audit log and the metrics know a route by the path that it was made with.
    """
    made = []
    for prefix in ("/nninteractive", "/nninteractive/{model}"):
        router = APIRouter(prefix=prefix, include_in_schema=False, route_class=_Route)
        for route in _routes.routes:
            assert isinstance(route, APIRoute), "all are made in this file"
            router.add_api_route(route.path, route.endpoint, methods=list(route.methods or ()))
        made.append(router)
    return made


async def _service(request: Request) -> NnInteractiveService:
    service: NnInteractiveService = request.app.state.nninteractive
    return service


Service = Annotated[NnInteractiveService, Depends(_service)]


async def _spec(request: Request, service: Service) -> ModelSpec:
    return service.spec(request.path_params.get("model"))


Spec = Annotated[ModelSpec, Depends(_spec)]


async def _owner(user: CurrentUser, spec: Spec) -> str:
    """Return whose lease it must be: this user's, for this model."""
    return f"{spec.name} {user.username}"


Owner = Annotated[str, Depends(_owner)]
Token = Annotated[str, Header(alias="X-Lease-Token")]


async def _used_session(service: Service, owner: Owner, token: Token = "") -> Session:
    return service.leases.session(token, owner, is_use=True)


UsedSession = Annotated[Session, Depends(_used_session)]


@dataclass(eq=False)
class _ArrayBody:
    """A body that is an array, and the memory that it takes for as long as the request lasts."""

    content: bytearray
    memory: Reservation

    def read(self, service: MarkingService[Session]) -> Packed:
        """Return the array, checked but not unpacked, once there is memory for unpacking it."""
        packed = read(self.content, max_values=service.limits.max_pixels)
        self.memory.absorb(reserve(service.memory, packed.nbytes))
        return packed


async def _array_body(request: Request, service: Service, session: UsedSession) -> _ArrayBody:
    """Receive a body, once it is known that its sender has a session and that there is memory for it."""
    length = request.headers.get("content-length")
    if length is None:
        raise HTTPException(411, "say how long the body is (Content-Length)")
    body = _ArrayBody(bytearray(), reserve(service.memory, int(length)))
    try:
        async for chunk in request.stream():
            body.content += chunk
    except ClientDisconnect:
        raise ClientDisconnectedError("the client has left") from None
    return body


ArrayBody = Annotated[_ArrayBody, Depends(_array_body)]


def _meta_of(kind: type[_Meta]) -> Callable[..., Coroutine[Any, Any, _Meta]]:
    """Return a dependency that reads the header ``X-Meta``, a JSON object beside a body that is an array."""

    async def read_meta(x_meta: Annotated[str, Header()] = "{}") -> _Meta:
        return validated_json(kind, x_meta, "header", "X-Meta")

    return read_meta


_Turn = RequestTurn[Session]


async def _turn(service: Service, session: UsedSession) -> AsyncIterator[_Turn]:
    """Hold the session's turn until the response is sent; then go on with what could not be told in time."""
    async with held_turn(service, session) as turn:
        yield turn


Turn = Annotated[_Turn, Depends(_turn, scope="request")]


def _told(turn: _Turn, ask: Callable[[Session, float], Answer]) -> Response:
    """Return the response with what a session answers."""
    with turn.predicting() as session:
        answer = ask(session, turn.seconds)
    return _prediction(answer)


def _prediction(answer: Answer) -> Response:
    """Return the response that changes the client's array."""
    meta: dict[str, Any] = {"ran_prediction": answer.ran, "bbox": None}
    body = b""
    if answer.bounds is not None and answer.values is not None:
        values = answer.values
        meta |= {"bbox": answer.bounds, "dtype": values.dtype.name, "shape": values.shape}
        with current_clock().stage("write"):
            body = pack(values)
    headers = {"X-Meta": json.dumps(meta, separators=(",", ":"))}
    return Response(body, media_type="application/octet-stream", headers=headers)


@_routes.get("/healthz")
async def healthz(spec: Spec) -> dict[str, str]:
    """Say that the server is there, and has the model. Needs no login."""
    return {"status": "ok", "model": spec.name}


@_routes.post("/claim")
async def claim(service: Service, owner: Owner, spec: Spec) -> Claimed:
    """Begin a session."""
    return Claimed(
        lease_token=service.claim(owner, spec.name),
        idle_timeout_seconds=IDLE_S,
        liveness_timeout_seconds=LIVENESS_S,
        max_sessions=service.leases.limit,
    )


@_routes.get("/capabilities")
async def capabilities(user: CurrentUser, spec: Spec) -> Capabilities:
    """Return what the model can be asked for."""
    return capabilities_of(spec)


@_routes.post("/release")
async def release(service: Service, owner: Owner, token: Token = "") -> dict[str, str]:
    """End a session; also one that has ended already."""
    service.leases.release(token, owner)
    return {"status": "released"}


@_routes.post("/heartbeat")
async def heartbeat(service: Service, owner: Owner, token: Token = "") -> dict[str, float]:
    """Hear that the client is alive; return how long its session lasts without being used."""
    service.leases.session(token, owner, is_use=False)
    return {"remaining_seconds": service.leases.remaining(token, owner)}


@_routes.get("/lease_status")
async def lease_status(service: Service, owner: Owner, token: Token = "") -> dict[str, float]:
    """Return how long a session lasts without being used."""
    return {"remaining_seconds": service.leases.remaining(token, owner), "idle_timeout_seconds": IDLE_S}


@_routes.post("/set_image")
def set_image(
    body: ArrayBody, meta: Annotated[ImageMeta, Depends(_meta_of(ImageMeta))], turn: Turn
) -> dict[str, list[int]]:
    """Begin anew, with an image."""
    with turn.noted() as session:
        packed = body.read(turn.service)
        session.set_image(packed, meta.spacing)
    turn.note_model()
    return {"original_image_shape": list(packed.shape)}


@_routes.post("/set_target_buffer")
def set_target_buffer(buffer: TargetBuffer, turn: Turn) -> dict[str, str]:
    """Begin an empty mask."""
    with turn.noted() as session:
        session.set_target_buffer(buffer.shape, buffer.dtype)
    return {"status": "ok"}


@_routes.post("/set_do_autozoom")
def set_do_autozoom(autozoom: Autozoom, turn: Turn) -> dict[str, str]:
    """Have objects followed through the volume, or segmented on the slices alone where they are marked."""
    turn.session.through_volume = autozoom.do_autozoom
    return {"status": "ok"}


@_routes.post("/reset_interactions")
def reset_interactions(turn: Turn) -> dict[str, str]:
    """Forget the object; the image stays."""
    with turn.noted() as session:
        session.reset()
    return {"status": "ok"}


@_routes.post("/undo")
def undo(turn: Turn) -> Response:
    """Take back the last step."""
    return _told(turn, lambda session, seconds: session.undo(seconds=seconds))


@_routes.post("/predict")
def predict(turn: Turn) -> Response:
    """Make the mask of the prompts that were sent without one."""
    return _told(turn, lambda session, seconds: session.predict(seconds=seconds))


@_routes.post("/add_point_interaction")
def add_point_interaction(point: PointMessage, turn: Turn) -> Response:
    """Add a point on the object, or beside it."""
    return _told(
        turn,
        lambda session, seconds: session.add(point.prompt(session.shape), run=point.run_prediction, seconds=seconds),
    )


@_routes.post("/add_bbox_interaction")
def add_bbox_interaction(box: BoxMessage, turn: Turn) -> Response:
    """Add a box around the object, or beside it."""
    return _told(
        turn, lambda session, seconds: session.add(box.prompt(session.shape), run=box.run_prediction, seconds=seconds)
    )


def _add_drawing(kind: type[Scribble] | type[Lasso], body: _ArrayBody, meta: DrawingMeta, turn: _Turn) -> Response:
    def add(session: Session, seconds: float) -> Answer:
        prompt = meta.prompt(kind, body.read(turn.service), session.shape)
        return session.add(prompt, run=meta.run_prediction, seconds=seconds)

    return _told(turn, add)


@_routes.post("/add_scribble_interaction")
def add_scribble_interaction(
    body: ArrayBody, meta: Annotated[DrawingMeta, Depends(_meta_of(DrawingMeta))], turn: Turn
) -> Response:
    """Add a scribble on the object, or beside it."""
    return _add_drawing(Scribble, body, meta, turn)


@_routes.post("/add_lasso_interaction")
def add_lasso_interaction(
    body: ArrayBody, meta: Annotated[DrawingMeta, Depends(_meta_of(DrawingMeta))], turn: Turn
) -> Response:
    """Add the filled outline of the object on a slice, or of what is beside it."""
    return _add_drawing(Lasso, body, meta, turn)


@_routes.post("/add_initial_seg_interaction")
def add_initial_seg_interaction(
    body: ArrayBody, meta: Annotated[SegmentationMeta, Depends(_meta_of(SegmentationMeta))], turn: Turn
) -> Response:
    """Begin with a mask."""
    return _told(
        turn,
        lambda session, seconds: session.start_from(body.read(turn.service), run=meta.run_prediction, seconds=seconds),
    )
