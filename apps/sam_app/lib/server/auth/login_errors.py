"""Errors for requests that are refused, and the response to them. No message quotes a key or a token."""

import logging
from collections.abc import Collection
from typing import ClassVar

from fastapi.responses import JSONResponse
from starlette.types import Scope

from lib.base.request_record import note

logger = logging.getLogger(__name__)


class AuthError(Exception):
    """A request is refused."""

    status: ClassVar[int] = 401


class NoLoginError(AuthError):
    """The request has no login."""


class InvalidLoginError(AuthError):
    """The key, token or password is not valid."""


class ForeignPageError(AuthError):
    """A browser sent the request for a web page that may not use this server, or not with the user's login."""

    status = 403


class ForeignHostError(AuthError):
    """The request's ``Host`` is not a name of this server."""

    status = 421


class ProviderError(AuthError):
    """The OpenID Connect provider, which is needed to check the login, does not respond as expected."""

    status = 503


def refuse(error: AuthError, scope: Scope, challenges: Collection[str] = ()) -> JSONResponse:
    """Log that a request is refused, and return the response to it.

    Args:
        error: The reason.
        scope: The request's ASGI scope.
        challenges: Values of ``WWW-Authenticate`` if the status is 401.
    """
    client = scope["client"][0] if scope.get("client") else "an unknown address"
    logger.warning("Refused a request from %s: %s", client, error)
    note(reason=type(error).__name__)
    answer = JSONResponse({"detail": str(error)}, status_code=error.status)
    if error.status == 401:
        for challenge in challenges:
            answer.headers.append("WWW-Authenticate", challenge)
    elif error.status == 503:
        answer.headers["Retry-After"] = "5"
    return answer
