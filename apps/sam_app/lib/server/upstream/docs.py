"""Fix: MONAI Label 0.8.5 serves API documentation that loads its scripts from a CDN, so it is blank offline.

``/docs`` shows the documentation with Swagger UI as it comes with the package ``fastapi-offline``. The files
of MONAI Label's own pages are served unchanged.
"""

from importlib.resources import files

from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.requests import Request
from starlette.routing import BaseRoute, Mount, Route

_ASSETS = "/sam/docs-assets"
_UPSTREAM_FILES = str(files("monailabel") / "endpoints" / "static")


def docs_routes() -> list[BaseRoute]:
    """Return routes for ``/docs`` and the assets that they load, ``/static`` and ``/favicon.ico``."""

    async def docs(request: Request) -> HTMLResponse:
        root, app = request.scope.get("root_path", ""), request.app
        return get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title} API",
            swagger_js_url=f"{root}{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{root}{_ASSETS}/favicon.png",
            swagger_ui_parameters={"defaultModelsExpandDepth": -1},
        )

    async def icon(_: Request) -> FileResponse:
        return FileResponse(f"{_UPSTREAM_FILES}/favicon.ico", media_type="image/x-icon")

    return [
        Mount(_ASSETS, StaticFiles(directory=str(files("fastapi_offline") / "static"))),
        Route("/docs", docs),
        Mount("/static", StaticFiles(directory=_UPSTREAM_FILES)),
        Route("/favicon.ico", icon),
    ]
