"""Which of our errors a client gets as which HTTP status. Everything said to a client is in their messages."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from lib.imaging.image import ImageError, ImageTooLargeError, UnsupportedImageError
from lib.sam.checkpoints import CheckpointError
from lib.sam.prompts import PromptError
from lib.sam.registry import UnknownModelError
from lib.server.results import NoSpaceError, UnknownResultError

logger = logging.getLogger(__name__)


class BusyError(RuntimeError):
    """As many requests as allowed are being worked on."""


class UnknownImageError(LookupError):
    """The datastore has no such image."""


class UploadTooLargeError(ValueError):
    """The request's body is larger than allowed."""


STATUS: dict[type[Exception], int] = {
    PromptError: 422,
    ImageError: 422,
    UnsupportedImageError: 415,
    ImageTooLargeError: 413,
    UploadTooLargeError: 413,
    UnknownModelError: 404,
    UnknownImageError: 404,
    UnknownResultError: 404,
    BusyError: 429,
    CheckpointError: 503,
    NoSpaceError: 507,
}
_RETRY_AFTER = {429: "5", 503: "30"}


async def _answer(_: Request, error: Exception) -> JSONResponse:
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    headers = {"Retry-After": _RETRY_AFTER[status]} if status in _RETRY_AFTER else None
    if status >= 500:
        logger.error("%s", error, exc_info=error)
    return JSONResponse({"detail": str(error)}, status_code=status, headers=headers)


async def _answer_invalid_request(_: Request, error: Exception) -> JSONResponse:
    """FastAPI's own answer without the input's values: they can be anything, also what JSON cannot hold."""
    assert isinstance(error, RequestValidationError)
    detail = [{key: item[key] for key in ("type", "loc", "msg")} for item in error.errors()]
    return JSONResponse({"detail": detail}, status_code=422)


async def _answer_internal(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "the server failed; its log says why"}, status_code=500)


def add_error_handlers(app: FastAPI) -> None:
    """Answer our errors by :data:`STATUS`, and no error with more than its message."""
    for kind in STATUS:
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(RequestValidationError, _answer_invalid_request)
    app.add_exception_handler(Exception, _answer_internal)
