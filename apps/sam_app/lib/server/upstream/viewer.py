"""Fixes of how MONAI Label 0.8.5 serves OHIF.

- It returns OHIF's start page for every file in a subfolder of OHIF's: it replaces ``/`` in a path by ``os.pathsep``,
  which is ``:``, instead of ``os.sep``, which would have let a path leave OHIF's folder. Here Starlette joins the path,
  and stays within.
- OHIF's plugin expects MONAI Label on port 8000 without TLS, wherever OHIF was loaded from. Here the server's address
  is set in the cookie in which the plugin stores what its user enters.
- OHIF's start page takes a font from Google. Here a Content-Security-Policy has the browser load fonts, styles and
  scripts from this server alone, so that nobody outside learns who views images, and when.
- After an error its plugin's button *Run* does nothing any more, and nothing can be undone or stored; what OHIF exports
  can lie on the wrong slices. Here its start page, as it is served, loads ``static/ohif_panel.js`` of ours, too, which
  says what it adds. OHIF's files are not changed.
- Without a DICOMweb server it shows an empty list of studies. Here the page says what to do.
"""

import stat
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from monailabel.config import settings
from monailabel.endpoints import ohif
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import get_mime_type
from starlette.staticfiles import StaticFiles

from lib.base.client_key import set_client_cookie
from lib.dicomweb.datastore import DicomWebStore

router = APIRouter(include_in_schema=False)

_POLICY = "; ".join(
    (
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",  # WebAssembly decoders, in workers made of blobs
        "style-src 'self' 'unsafe-inline'",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "frame-ancestors 'self'",
    )
)

_FILES = StaticFiles(directory=Path(ohif.__file__).resolve().parent / "static" / "ohif")

_OURS = Path(__file__).with_name("static")
_PANEL = "ohif_panel.js"
_NO_ARCHIVE = _OURS / "ohif_without_archive.html"
_LOADS_PANEL = f'<script type="module" src="/ohif/{_PANEL}"></script></head>'
"""OHIF is built to be served under ``/ohif/`` and names its own files likewise."""


@router.get("/ohif/{path:path}")
def viewer(
    request: Request, path: str, user: Annotated[User, Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]
) -> Response:
    """Return one of OHIF's files; its start page for other paths, as those are addresses within the viewer."""
    file = _OURS / _PANEL if path == _PANEL else Path(_find(path) or _START_PAGE)
    if file.suffix != ".html":
        headers = {"Cache-Control": "no-cache"} if file.parent == _OURS else None  # its name stays, OHIF's do not
        return FileResponse(file, media_type=get_mime_type(str(file)), headers=headers)
    has_archive = isinstance(app_instance().datastore(), DicomWebStore)
    response = HTMLResponse(_with_panel(file.read_text("utf-8")) if has_archive else _NO_ARCHIVE.read_text("utf-8"))
    set_client_cookie(request, response)
    _set_server_cookie(request, response)
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["Content-Security-Policy"] = _POLICY
    return response


def _with_panel(page: str) -> str:
    """Return OHIF's page, which loads the script for its panel, too; unchanged if it has no head."""
    return page.replace("</head>", _LOADS_PANEL, 1)


def _set_server_cookie(request: Request, page: Response) -> None:
    """Set the server's address in the plugin's cookie, whose path is the page's, up to its last part."""
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
    except (OSError, ValueError):  # the name is too long, or has a null character
        return None
    return file if found and stat.S_ISREG(found.st_mode) else None


_START_PAGE = _find("index.html") or ""
assert _START_PAGE, "MONAI Label comes with OHIF"
