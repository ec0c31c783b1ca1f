"""Description of the login in ``/openapi.json``, so that the documentation page can log in.

MONAI Label decides at import what it documents: without OpenID Connect each of its routes has a query parameter
``token``, which does nothing and would encourage people to put keys into addresses. It is removed here.
"""

from typing import Any

from fastapi import FastAPI

from lib.server.auth.gate import is_open

_SCHEMES = {"Bearer": {"type": "http", "scheme": "bearer", "description": "An API key or an OpenID Connect token"}}
_REFUSALS = {"401": "No login, or none that holds", "403": "Not with this user's roles"}


def describe_login(app: FastAPI, *, is_needed: bool) -> None:
    """Describe the login in the app's OpenAPI documents that are generated from now on."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        is_new = app.openapi_schema is None
        document = generate()
        if is_new:
            _describe(document, is_needed=is_needed)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _describe(document: dict[str, Any], *, is_needed: bool) -> None:
    if is_needed:
        document.setdefault("components", {})["securitySchemes"] = _SCHEMES
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorDetail"}}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            parameters = operation.get("parameters", [])
            operation["parameters"] = [one for one in parameters if (one["in"], one["name"]) != ("query", "token")]
            if is_needed and not is_open(path):
                operation["security"] = [{"Bearer": []}]
                for status, description in _REFUSALS.items():
                    operation["responses"].setdefault(status, {"description": description, "content": content})
