"""The routes of ITK-SNAP's protocol, versions 1 and 2, below ``/itksnap``; it asks for them at the root of a port.

Concurrency: what changes a session takes its turn, which lasts until the answer is sent, and does its work in a worker
thread. The other routes run on the event loop and wait for nothing.

ITK-SNAP takes every answer 200 for one that has all that was asked for, and reads past its end if it has not. Much of
what changes something is asked for by GET: so there is no HEAD here, and foreign web pages are refused, see
:data:`CHANGING_PATHS`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from lib.base.clock import ClientDisconnectedError, current_clock
from lib.sam.volume.interactions import Interaction, Lasso, Scribble
from lib.server.auth.users import CurrentUser
from lib.server.http.body_check import form_of, text_of_part
from lib.server.http.errors import LeaseGoneError
from lib.server.interactive.request_turn import RequestTurn, held_turn
from lib.server.interactive.validation import validated_json
from lib.server.itksnap.arrays import deflated
from lib.server.itksnap.messages import Metadata, Models, point_at
from lib.server.itksnap.service import ItkSnapService
from lib.server.itksnap.session import Session

PREFIX = "/itksnap"
CHANGING_PATHS = re.compile(rf"{PREFIX}/(?!status$).*")
"""Paths by which a GET may change something."""
SPOKEN_VERSION = "0.1.6"
"""Of the protocol. ITK-SNAP reads its parts as numbers, and wants at least 0.1.2."""

router = APIRouter(prefix=PREFIX, include_in_schema=False)

_check_form = form_of("file", "metadata")


async def _service(request: Request) -> ItkSnapService:
    service: ItkSnapService = request.app.state.itksnap
    return service


Service = Annotated[ItkSnapService, Depends(_service)]
SessionId = Annotated[str, Path(alias="session")]


async def _session(service: Service, user: CurrentUser, session_id: SessionId) -> Session:
    try:
        return service.leases.session(session_id, user.username, is_use=True)
    except LeaseGoneError:
        detail = "there is no such session, or no longer: choose the server again in ITK-SNAP's preferences"
        raise HTTPException(404, detail) from None


UsedSession = Annotated[Session, Depends(_session)]


@dataclass(frozen=True, eq=False)
class _Sent:
    """An array that has arrived, not inflated, and what it is."""

    file: BinaryIO
    metadata: Metadata


async def _sent(request: Request, session: UsedSession) -> AsyncIterator[_Sent]:
    """Receive an array, once it is known that its sender has a session."""
    try:
        async with request.form(max_files=2, max_fields=2) as form:
            await _check_form(request)
            file, metadata = form.get("file"), form.get("metadata")
            if not isinstance(file, UploadFile) or metadata is None:
                raise HTTPException(422, "the form must have a file called `file`, and `metadata`")
            try:
                text = text_of_part(metadata)
            except ValueError as error:
                raise HTTPException(422, f"`metadata`: {error}") from None
            yield _Sent(file.file, validated_json(Metadata, text, "body", "metadata"))
    except ClientDisconnect:
        raise ClientDisconnectedError("the client has left") from None


Sent = Annotated[_Sent, Depends(_sent)]

_Turn = RequestTurn[Session]


async def _turn(service: Service, session: UsedSession) -> AsyncIterator[_Turn]:
    """Hold the session's turn until the response is sent; then go on with what could not be told in time."""
    async with held_turn(service, session) as turn:
        yield turn


Turn = Annotated[_Turn, Depends(_turn, scope="request")]


def _mask_of(session: Session, turn: _Turn, prompt: Interaction) -> Response:
    """Return the response with the whole mask, after one more prompt."""
    mask = session.add(prompt, seconds=turn.seconds)
    with current_clock().stage("write"):
        text = base64.b64encode(deflated(mask))
        return Response(b'{"status":"success","result":"' + text + b'"}', media_type="application/json")


def _add_point(turn: _Turn, place: Sequence[int], foreground: bool) -> Response:
    with turn.predicting() as session:
        return _mask_of(session, turn, point_at(place, session.shape, foreground))


def _add_drawing(turn: _Turn, kind: type[Scribble] | type[Lasso], sent: _Sent, foreground: bool) -> Response:
    with turn.predicting() as session:
        return _mask_of(session, turn, session.drawing(kind, sent.file, sent.metadata, foreground))


@router.get("/status")
async def status() -> dict[str, str]:
    """Say that the server is there, and what it speaks. Needs no login."""
    return {"status": "ok", "version": SPOKEN_VERSION}


@router.get("/v2/models")
async def models(service: Service, user: CurrentUser) -> Models:
    """Return the models and what they can be asked for."""
    return Models(models=service.models())


@router.get("/start_session")
async def start_session(service: Service, user: CurrentUser) -> dict[str, str]:
    """Begin a session with the default model."""
    return {"session_id": service.start_session(user.username, None)}


@router.get("/v2/start_session/{model}")
async def start_session_v2(service: Service, user: CurrentUser, model: str) -> dict[str, str]:
    """Begin a session."""
    return {"session_id": service.start_session(user.username, model)}


@router.post("/upload_raw/{session}")
@router.post("/v2/upload_raw/{session}")
def upload_raw(sent: Sent, turn: Turn) -> dict[str, str]:
    """Begin anew, with an image."""
    with turn.noted() as session:
        session.set_image(sent.file, sent.metadata)
    turn.note_model()
    return {"status": "success"}


@router.get("/process_point_interaction/{session}")
def process_point(turn: Turn, x: int, y: int, z: int, foreground: bool = False) -> Response:
    """Add a point on the object, or beside it."""
    return _add_point(turn, (x, y, z), foreground)


@router.get("/v2/process_point_interaction/{session}")
def process_point_v2(
    turn: Turn, point: Annotated[list[int], Query(min_length=2, max_length=3)], foreground: bool = False
) -> Response:
    """Add a point on the object, or beside it."""
    return _add_point(turn, point, foreground)


@router.post("/process_scribble_interaction/{session}")
def process_scribble(sent: Sent, turn: Turn, foreground: bool = False) -> Response:
    """Add a scribble on the object, or beside it."""
    return _add_drawing(turn, Scribble, sent, foreground)


@router.post("/process_lasso_interaction/{session}")
def process_lasso(sent: Sent, turn: Turn, foreground: bool = False) -> Response:
    """Add the filled outline of the object on a slice, or of what is beside it."""
    return _add_drawing(turn, Lasso, sent, foreground)


@router.get("/reset_interactions/{session}")
@router.get("/v2/reset_interactions/{session}")
def reset_interactions(turn: Turn) -> dict[str, str]:
    """Forget the object; the image stays."""
    with turn.noted() as session:
        session.reset()
    return {"status": "success"}


@router.get("/end_session/{session}")
@router.get("/v2/end_session/{session}")
async def end_session(service: Service, user: CurrentUser, session_id: SessionId) -> dict[str, str]:
    """End a session; also one that has ended already."""
    service.leases.release(session_id, user.username)
    return {"status": "success"}
