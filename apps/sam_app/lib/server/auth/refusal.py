"""The response to a request that is refused."""

from __future__ import annotations

import logging
from collections.abc import Collection

from fastapi.responses import JSONResponse
from starlette.types import Scope

from lib.base.request_record import note
from lib.server.auth.login_errors import AuthError

logger = logging.getLogger(__name__)


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
