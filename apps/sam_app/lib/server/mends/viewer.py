"""Mend: MONAI Label 0.8.5 answers every file in a subfolder of OHIF's with its start page.

It replaces ``/`` in a path by ``os.pathsep``, which is ``:``, where ``os.sep`` was meant; that would have let a path
leave OHIF's folder. Here the join is Starlette's, which stays within.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints import ohif
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.utils.others.generic import get_mime_type
from starlette.staticfiles import StaticFiles

from lib.server.client_key import give_cookie

router = APIRouter(include_in_schema=False)

_FILES = StaticFiles(directory=Path(ohif.__file__).resolve().parent / "static" / "ohif")


@router.get("/ohif/{path:path}")
def viewer(
    request: Request, path: str, user: Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]
) -> FileResponse:
    """One of OHIF's files; its start page for everything else, as those are addresses within the viewer."""
    file = _find(path) or _find("index.html")
    assert file, "MONAI Label comes with OHIF"
    answer = FileResponse(file, media_type=get_mime_type(file))
    if file.endswith(".html"):
        give_cookie(request, answer)
    return answer


def _find(path: str) -> str | None:
    try:
        file, found = _FILES.lookup_path(path)
    except (OSError, ValueError):  # too long a name, or one with a null character
        return None
    return file if found and stat.S_ISREG(found.st_mode) else None
