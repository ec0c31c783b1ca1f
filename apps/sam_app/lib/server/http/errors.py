"""Mapping of errors to HTTP status codes. What a client reads is the message of the error."""

import errno
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from lib.base.clock import ClientDisconnectedError, TimeLimitError
from lib.base.files import is_full
from lib.base.request_record import note
from lib.dicomweb.connection import DicomWebError, DicomWebUnreachableError, SeriesGoneError
from lib.imaging.decoding.memory_budget import MemoryBusyError
from lib.imaging.image import ImageChangedError, ImageError, ImageGoneError, ImageTooLargeError, UnsupportedImageError
from lib.learning.job import TrainingRequestError
from lib.sam.models.checkpoints import CheckpointError
from lib.sam.models.registry import UnknownModelError
from lib.sam.models.versions import VersionError
from lib.sam.prompts import PromptError
from lib.sam.runtimes.remote import WorkersUnavailableError
from lib.sam.runtimes.runtime import RuntimeUnavailableError
from lib.server.admission import BusyError
from lib.server.http.forms import is_too_much

logger = logging.getLogger(__name__)

_MAX_MESSAGE_LENGTH = 1000
"""Characters of a message, and of each part of FastAPI's messages."""

_MAX_INVALID_VALUES = 20


class UnknownImageError(LookupError):
    """The datastore has no such image."""


class TooManyAttemptsError(RuntimeError):
    """An accepted request was tried too often."""


class UnknownResultError(LookupError):
    """There is no such result."""


class NotFinishedError(RuntimeError):
    """The requested result is not finished yet."""


class RefineError(ValueError):
    """There is nothing to refine; the message says why."""


class NoSpaceError(OSError):
    """The results' disk is full."""


class ContainerError(ValueError):
    """An array that a client sent is damaged, or not of the form that it must have."""


class InteractionError(ValueError):
    """An interaction cannot be meant: there is no image yet, it has no volume, or it has another shape."""


class LeaseGoneError(LookupError):
    """There is no such lease, or no longer."""


class NoLeaseLeftError(RuntimeError):
    """There are as many leases as allowed, or no memory for another."""


class ErrorDetail(BaseModel):
    """What was wrong, and what would be right."""

    detail: str | list[dict[str, object]]


@dataclass(frozen=True)
class Failure:
    """Why something failed, worded for clients.

    Args:
        status: HTTP status.
        detail: What was wrong and what would be right.
    """

    status: int
    detail: str


STATUS: dict[type[Exception], int] = {
    PromptError: 422,
    ImageError: 422,
    RefineError: 422,
    UnsupportedImageError: 415,
    ImageTooLargeError: 413,
    ImageChangedError: 409,
    ImageGoneError: 404,
    NotFinishedError: 409,
    UnknownModelError: 404,
    VersionError: 404,
    TrainingRequestError: 422,
    UnknownImageError: 404,
    UnknownResultError: 404,
    ContainerError: 400,
    InteractionError: 400,
    LeaseGoneError: 410,
    NoLeaseLeftError: 503,
    BusyError: 429,
    MemoryBusyError: 503,
    TooManyAttemptsError: 500,
    DicomWebError: 502,
    DicomWebUnreachableError: 503,
    SeriesGoneError: 404,
    CheckpointError: 503,
    RuntimeUnavailableError: 503,
    WorkersUnavailableError: 503,
    TimeLimitError: 503,
    ClientDisconnectedError: 499,  # only for the audit log: nobody receives it
    NoSpaceError: 507,
}
RETRY_AFTER = {409: "2", 429: "5", 503: "30"}
"""Values of the header ``Retry-After`` by status, in seconds."""


def failure_of(error: BaseException) -> Failure:
    """Return what a client may know about an error; for one not in :data:`STATUS` only that there was one."""
    kind = next((kind for kind in type(error).__mro__ if kind in STATUS), None)
    if kind is not NoSpaceError and (is_full(error) or is_full(error.__cause__)):
        return Failure(507, "there is no space left on the server")
    if isinstance(error, OSError) and error.errno in (errno.EIO, errno.EROFS):
        return Failure(500, "the server's disk failed; its log says more")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return Failure(503, "the server has as many files and connections open as it may; try again later")
    if kind is not None:
        return Failure(STATUS[kind], _short(str(error)))
    return Failure(500, "the server failed; its log says why")


async def error_response(_: Request, error: Exception) -> Response:
    """Return the HTTP response for an error, see :func:`failure_of`; logs it if it is the server's."""
    failure = failure_of(error)
    note(reason=type(error).__name__)
    if failure.status >= 500 and type(error) in STATUS:
        logger.error("%s: %s", type(error).__name__, error)
    elif failure.status >= 500:
        logger.error("A request failed", exc_info=error)
    return failure_response(failure, retry=not isinstance(error, ImageChangedError))


def failure_response(failure: Failure, *, retry: bool = True) -> JSONResponse:
    """Return the HTTP response for a failure.

    Args:
        failure: What to return.
        retry: Whether the same request can succeed later; if so, ``Retry-After`` is set as in :data:`RETRY_AFTER`.
    """
    headers = {"Retry-After": RETRY_AFTER[failure.status]} if retry and failure.status in RETRY_AFTER else None
    return JSONResponse({"detail": failure.detail}, status_code=failure.status, headers=headers)


async def _invalid_request_response(_: Request, error: Exception) -> JSONResponse:
    """Return FastAPI's own response without the input's values, which JSON may be unable to represent.

    Only the first faults are listed.
    """
    assert isinstance(error, RequestValidationError)
    detail = [
        {
            "type": item["type"],
            "loc": [_short(part) if isinstance(part, str) else part for part in item["loc"]],
            "msg": _short(item["msg"]),
        }
        for item in error.errors()[:_MAX_INVALID_VALUES]
    ]
    return JSONResponse({"detail": detail}, status_code=422)


async def _http_error_response(request: Request, error: Exception) -> Response:
    """Return FastAPI's own response, except where it returns 400 for a body that is too large or a full disk."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, OSError):
        return await error_response(request, error.__cause__)
    if is_too_much(error.__context__):
        error = HTTPException(413, f"the form is larger than allowed: {error.detail}")
    if isinstance(error.detail, str):
        error = HTTPException(error.status_code, _short(error.detail), error.headers)
    return await http_exception_handler(request, error)


def _short(text: str) -> str:
    """Cut the middle out of a long message: it can quote what a client sent, and its end says what to do."""
    half = _MAX_MESSAGE_LENGTH // 2
    return text if len(text) <= _MAX_MESSAGE_LENGTH else f"{text[:half]} ... {text[-half:]}"


ERROR_HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    **dict.fromkeys((*STATUS, OSError), error_response),
    RequestValidationError: _invalid_request_response,
    HTTPException: _http_error_response,
}
"""Handlers for FastAPI. Outside of the routes, :func:`error_response` also handles unexpected errors."""
