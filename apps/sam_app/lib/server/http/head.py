"""HEAD for every GET route (RFC 9110 9.1), as load balancers and download tools use it. FastAPI does not add it."""

from copy import copy

from fastapi import APIRouter
from fastapi.routing import APIRoute


def with_head(router: APIRouter) -> APIRouter:
    """Add a HEAD route, which does the same, for each GET route without one; the server sends no body.

    Args:
        router: A router that is not included yet.
    """
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    paths_with_head = {route.path for route in routes if "HEAD" in (route.methods or ())}
    for route in routes:
        if "GET" in (route.methods or ()) and route.path not in paths_with_head:
            twin = copy(route)
            twin.methods, twin.include_in_schema = {"HEAD"}, False
            router.routes.insert(router.routes.index(route) + 1, twin)
    return router
