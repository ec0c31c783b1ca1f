"""File responses that can be sent to the end even if the file is deleted or replaced meanwhile."""

from __future__ import annotations

import os
import weakref

from fastapi import HTTPException
from fastapi.responses import FileResponse


def held(response: FileResponse) -> FileResponse:
    """Open the file of a response now; Starlette opens it only after it has sent the headers.

    Raises:
        HTTPException: 404 if the file no longer exists.
    """
    try:
        descriptor = os.open(response.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise HTTPException(404, "the file is gone") from None
    weakref.finalize(response, os.close, descriptor)
    response.path = f"/dev/fd/{descriptor}"
    return response
