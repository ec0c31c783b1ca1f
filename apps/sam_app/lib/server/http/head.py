"""HEAD wherever there is GET (RFC 9110 9.1): load balancers and download tools ask so. FastAPI adds none by itself."""

from __future__ import annotations

from copy import copy

from fastapi import APIRouter
from fastapi.routing import APIRoute


def with_head(router: APIRouter) -> APIRouter:
    """Give each GET route of a router that has no HEAD one that does the same; the server sends no body.

    Args:
        router: Before it is included. Those that have it already stay as they are.
    """
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    answered = {route.path for route in routes if "HEAD" in (route.methods or ())}
    for route in routes:
        if "GET" in (route.methods or ()) and route.path not in answered:
            twin = copy(route)
            twin.methods, twin.include_in_schema = {"HEAD"}, False
            router.routes.insert(router.routes.index(route) + 1, twin)
    return router
