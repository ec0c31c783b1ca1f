"""The template of the route that answers a request: what logs and metrics say instead of the path. And the method.

A path can hold what must not be logged (an image's id that is a file's name) and takes any number of values.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute
from starlette.types import Scope

UNMATCHED = "unmatched"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def known_method(method: str) -> str:
    """HTTP's method; ``other`` for one that no route has, which could be any word that a client chose."""
    return method if method in _METHODS else "other"


class RouteTemplates:
    """Finds templates, such as ``/infer/{model}``.

    Args:
        routes: Of the app, in the order in which it looks at them.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._patterns = [(context.path_regex, str(context.path)) for context in iter_route_contexts(routes)]

    def of(self, scope: Scope, path: str) -> str:
        """The template; :data:`UNMATCHED` if no route fits.

        Args:
            scope: A FastAPI route that has taken the request is noted here.
            path: What the routes are matched with. It tells where FastAPI noted nothing: for Starlette's routes and
                mounts, and where a middleware answered before any route could.
        """
        noted = getattr(scope.get("route"), "path", None)
        if noted:
            return str(noted)
        return next((template for pattern, template in self._patterns if pattern.match(path)), UNMATCHED)
