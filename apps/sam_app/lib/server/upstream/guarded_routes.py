"""Upstream's own routes behind checks.

Fix: MONAI Label 0.8.5 passes what clients send to its datastore and sessions unchecked, returns paths of the server,
and works on the event loop, so that no other request is served meanwhile. A guarded route has the signature, the role
and the function of upstream's; its arguments are checked before and its result is cleaned after, in a worker thread.

Requests that write run one at a time, as on the event loop: upstream's datastore does not support two at once.
"""

import asyncio
import inspect
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from threading import Lock
from typing import Annotated, Any

import fastapi
from fastapi import APIRouter, Depends, HTTPException
from fastapi.params import Form
from fastapi.responses import FileResponse
from fastapi.routing import APIRoute
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException

from lib.server.http.body_check import FormText, form_only
from lib.studies.displayed_images import note_viewer

writing = Lock()


class UpstreamError(RuntimeError):
    """MONAI Label differs from what this app needs; the message says in what."""


@dataclass(frozen=True)
class Guard:
    """Checks around one of upstream's routes.

    Args:
        checks: By argument, a function that returns the value to use, or raises the error for the client.
        together: The same for all arguments at once, after ``checks``.
        clean: Removes from the result what no client may see.
    """

    checks: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    together: Callable[[dict[str, Any]], dict[str, Any]] = lambda arguments: arguments
    clean: Callable[[Any], Any] = lambda result: result


def guarded_router(upstream: Iterable[APIRouter], guards: Mapping[str, Guard]) -> APIRouter:
    """Return a router with those of upstream's routes that have a guard.

    Args:
        upstream: MONAI Label's routers.
        guards: By method and path, ``"GET /datastore/image"``.

    Raises:
        UpstreamError: If upstream has no such route, or its function no such argument, as in another version.
    """
    routes = {
        f"{method} {route.path}": route
        for one in upstream
        for route in one.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    router = APIRouter(dependencies=[Depends(note_viewer)])
    for name, guard in guards.items():
        if name not in routes:
            raise UpstreamError(f"MONAI Label has no route {name}")
        route = routes[name]
        defaults = (one.default for one in inspect.signature(route.endpoint).parameters.values())
        router.add_api_route(
            route.path,
            _guarded(route.endpoint, guard, writes=not name.startswith(("GET", "HEAD"))),
            methods=[name.split()[0]],
            summary=route.summary,
            tags=route.tags,
            responses=route.responses,
            deprecated=route.deprecated,
            dependencies=[Depends(form_only)] if any(isinstance(default, Form) for default in defaults) else None,
            include_in_schema=route.include_in_schema,
        )
    return router


def _with_texts_as_parts(signature: inspect.Signature) -> inspect.Signature:
    """Return a signature whose form's text fields also accept a part with a file name."""

    def taking_parts(parameter: inspect.Parameter) -> inspect.Parameter:
        form = parameter.default
        if not isinstance(form, Form) or parameter.annotation is not str:
            return parameter
        return parameter.replace(annotation=Annotated[FormText, fastapi.Form()], default=form.default)

    return signature.replace(parameters=[taking_parts(one) for one in signature.parameters.values()])


def _guarded(endpoint: Callable[..., Any], guard: Guard, *, writes: bool) -> Callable[..., Any]:
    signature = inspect.signature(endpoint)
    unknown = guard.checks.keys() - signature.parameters.keys()
    if unknown:
        raise UpstreamError(f"MONAI Label's {endpoint.__name__} has no argument {', '.join(sorted(unknown))}")

    def call(**arguments: Any) -> Any:
        with writing if writes else nullcontext():
            for name, check in guard.checks.items():
                arguments[name] = check(arguments[name])
            arguments = guard.together(arguments)
            try:
                result = asyncio.run(endpoint(**arguments))
            except (ImageNotFoundException, LabelNotFoundException) as error:
                raise HTTPException(404, error.msg) from None
            except FileNotFoundError:  # deleted after it was looked up
                raise HTTPException(404, "the file no longer exists") from None
        return guard.clean(result)

    call.__name__ = endpoint.__name__
    call.__doc__ = endpoint.__doc__
    call.__signature__ = _with_texts_as_parts(signature)  # type: ignore[attr-defined]
    return call


def held(response: FileResponse) -> FileResponse:
    """Open the file of a response now; Starlette opens it only after it has sent the headers.

    Raises:
        HTTPException: 404 if the file no longer exists.
    """
    try:
        descriptor = os.open(response.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise HTTPException(404, "the file no longer exists") from None
    weakref.finalize(response, os.close, descriptor)
    response.path = f"/dev/fd/{descriptor}"
    return response
