"""Mends of how MONAI Label 0.8.5 serves OHIF.

- It answers every file in a subfolder of OHIF's with OHIF's start page: it replaces ``/`` in a path by ``os.pathsep``,
  which is ``:``, where ``os.sep`` was meant; that would have let a path leave OHIF's folder. Here the join is
  Starlette's, which stays within.
- OHIF's plugin looks for MONAI Label on port 8000 and without TLS, wherever OHIF came from. Here it is told the server
  that it came from, in the cookie in which it remembers what its user enters.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.endpoints import ohif
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.utils.others.generic import get_mime_type
from starlette.staticfiles import StaticFiles

from lib.base.client_key import set_client_cookie

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
        set_client_cookie(request, answer)
        _tell_server(request, answer)
        answer.headers["Cache-Control"] = "private, no-cache"
    return answer


def _tell_server(request: Request, page: FileResponse) -> None:
    """The cookie's path is that which the plugin's own gets: the page's, up to its last part."""
    server = f"{str(request.base_url).rstrip('/')}{settings.MONAI_LABEL_API_STR}/"
    page.set_cookie(
        "MONAILABEL_SERVER_URL",
        quote(server, safe=""),
        path=f"{settings.MONAI_LABEL_API_STR}/ohif",
        secure=request.url.scheme == "https",
        samesite="lax",
    )


def _find(path: str) -> str | None:
    try:
        file, found = _FILES.lookup_path(path)
    except (OSError, ValueError):  # too long a name, or one with a null character
        return None
    return file if found and stat.S_ISREG(found.st_mode) else None
