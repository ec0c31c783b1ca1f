"""``GET /sam/``: one page to use the server without any other client; ``GET /``: where to go on this server.

The pages are plain files in ``static/``, served as they are. A Content-Security-Policy forbids them everything but
their own scripts and styles and requests to this server. They use the public routes alone, and name them relative to
themselves, so that they work behind a proxy that serves the app under a path.
"""

import json
from pathlib import Path

import pydicom.data
from monailabel.config import settings
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from lib.imaging.palette import PALETTE
from lib.transforms.window import PRESETS

_FOLDER = Path(__file__).with_name("static")

_OF_PYDICOM = Path(pydicom.data.__file__).with_name("test_files")
_SAMPLES = {
    "ct-head.dcm": ("Head, CT, one slice", _OF_PYDICOM / "J2K_pixelrep_mismatch.dcm"),
    "torso.nii.gz": ("Torso, synthetic CT, 24 slices", Path(__file__).with_name("samples") / "torso.nii.gz"),
    "heart.dcm": ("Heart, ultrasound, 30 frames", _OF_PYDICOM / "examples_ybr_color.dcm"),
}
"""Images to try, by the name that they get on the page: title and file."""
_MEDIA_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'self'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_routes() -> list[BaseRoute]:
    """Routes for ``/``, for ``/sam/``, the pages' files under ``/sam/page/``, and what they share with the server.

    Like the API's documentation they need no login: they hold nothing of anybody.
    """
    files = {path.name: path for path in _FOLDER.iterdir() if path.suffix in _MEDIA_TYPES}
    landing, index = files.pop("landing.html"), files.pop("index.html")

    async def start(_: Request) -> Response:
        return _file(landing)

    async def page(_: Request) -> Response:
        return _file(index)

    async def asset(request: Request) -> Response:
        path = files.get(request.path_params["name"])
        if path is None:
            raise HTTPException(404, "the page has no such file")
        return _file(path)

    async def sample(request: Request) -> Response:
        _, path = _SAMPLES.get(request.path_params["name"], ("", None))
        if path is None or not path.is_file():
            raise HTTPException(404, f"there is no such sample; there are: {', '.join(_SAMPLES)}")
        return FileResponse(path, media_type="application/octet-stream", headers=_HEADERS)

    async def constants(_: Request) -> Response:
        return Response(_constants(), media_type="application/json", headers=_HEADERS)

    return [
        Route("/", start),
        Route("/sam/", page),
        Route("/sam/page/constants.json", constants),
        Route("/sam/page/samples/{name}", sample),
        Route("/sam/page/{name}", asset),
    ]


def _file(path: Path) -> Response:
    return FileResponse(path, media_type=_MEDIA_TYPES[path.suffix], headers=_HEADERS)


def _constants() -> str:
    """What the page needs of the server: the objects' colours, windows' presets, samples, whether there is a login."""
    windows = {name: {"center": window.center, "width": window.width} for name, window in PRESETS.items()}
    asks_for_login = bool(settings.MONAI_LABEL_AUTH_ENABLE)  # also for API keys: lib.server.app sets it
    samples = {name: title for name, (title, path) in _SAMPLES.items() if path.is_file()}
    shared = {"palette": PALETTE.tolist(), "windows": windows, "samples": samples, "asksForLogin": asks_for_login}
    return json.dumps(shared)
