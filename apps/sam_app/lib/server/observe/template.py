"""Route templates and methods of requests, for logs and metrics in place of paths.

A path can contain what must not be logged (an image's id that is a file's name) and has unlimited different values.
"""

from collections.abc import Sequence

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute
from starlette.types import Scope

UNMATCHED = "unmatched"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def known_method(method: str) -> str:
    """Return the HTTP method; ``other`` for one that no route has, which could be any word chosen by a client."""
    return method if method in _METHODS else "other"


class RouteTemplates:
    """Lookup of route templates, such as ``/infer/{model}``.

    Args:
        routes: The app's routes, in the order in which it tries them.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._patterns = [(context.path_regex, str(context.path)) for context in iter_route_contexts(routes)]

    def of(self, scope: Scope, path: str) -> str:
        """Return the template of a request's route; :data:`UNMATCHED` if no route matches.

        Args:
            scope: The ASGI scope, in which FastAPI has stored the route, if one of its routes handled the request.
            path: The path to match, used if the scope has no route: for Starlette's routes and mounts, and if a
                middleware responded before routing.
        """
        noted = getattr(scope.get("route"), "path", None)
        if noted:
            return str(noted)
        return next((template for pattern, template in self._patterns if pattern.match(path)), UNMATCHED)
