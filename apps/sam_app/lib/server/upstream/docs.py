"""Mend: MONAI Label 0.8.5 serves API documentation that loads its scripts from a CDN, so it is blank offline.

``/`` and ``/docs`` show the documentation with Swagger UI as it comes with the package ``fastapi-offline``.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.requests import Request
from starlette.routing import BaseRoute, Mount, Route

_ASSETS = "/sam/docs-assets"


def docs_routes(app: FastAPI) -> list[BaseRoute]:
    """Routes for ``/``, ``/docs`` and the assets that they load."""

    async def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        return get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title} API",
            swagger_js_url=f"{root}{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{root}{_ASSETS}/favicon.png",
            swagger_ui_parameters={"defaultModelsExpandDepth": -1},
        )

    assets = Mount(_ASSETS, StaticFiles(directory=str(files("fastapi_offline") / "static")))
    return [assets, Route("/", docs), Route("/docs", docs)]
