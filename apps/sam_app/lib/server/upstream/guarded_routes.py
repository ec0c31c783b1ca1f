"""Upstream's own routes behind checks.

Mend: MONAI Label 0.8.5 hands what clients send to its datastore and sessions unchecked, answers with paths of the
server, and does its work on the event loop, so that nothing else is answered meanwhile. A guarded route has the
signature, the role and the function of upstream's; its arguments are checked before and its answer is cleaned after,
in a worker thread.

Requests that write take turns, as they did on the event loop: upstream's datastore does not expect two at once.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from threading import Lock
from typing import Annotated, Any

import fastapi
from fastapi import APIRouter, Depends, HTTPException
from fastapi.params import Form
from fastapi.routing import APIRoute
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException

from lib.server.http.body_check import FormText, form_only
from lib.studies.displayed_images import note_viewer

writing = Lock()


class UpstreamError(RuntimeError):
    """MONAI Label is not as it has to be; the message says what is not."""


@dataclass(frozen=True)
class Guard:
    """What stands around one of upstream's routes.

    Args:
        checks: By argument: answers the value to go on with, or raises what the client is told.
        together: Likewise for all arguments, after ``checks``.
        clean: Takes out of the answer what no client may see.
    """

    checks: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    together: Callable[[dict[str, Any]], dict[str, Any]] = lambda arguments: arguments
    clean: Callable[[Any], Any] = lambda answer: answer


def guarded_router(upstream: Iterable[APIRouter], guards: Mapping[str, Guard]) -> APIRouter:
    """Those routes of upstream's that have a guard.

    Args:
        upstream: MONAI Label's routers.
        guards: By method and path, ``"GET /datastore/image"``.

    Raises:
        UpstreamError: If upstream has no such route, or its function no such argument: then it is another version.
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
        router.add_api_route(
            route.path,
            _guarded(route.endpoint, guard, writes=not name.startswith(("GET", "HEAD"))),
            methods=[name.split()[0]],
            summary=route.summary,
            tags=route.tags,
            responses=route.responses,
            deprecated=route.deprecated,
            dependencies=[Depends(form_only)] if _reads_form(route.endpoint) else None,
            include_in_schema=route.include_in_schema,
        )
    return router


def _reads_form(endpoint: Callable[..., Any]) -> bool:
    return any(isinstance(one.default, Form) for one in inspect.signature(endpoint).parameters.values())


def _with_texts_as_parts(signature: inspect.Signature) -> inspect.Signature:
    """The text fields of a form take a part with a file's name as well."""

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
                answer = asyncio.run(endpoint(**arguments))
            except (ImageNotFoundException, LabelNotFoundException) as error:
                raise HTTPException(404, error.msg) from None
            except FileNotFoundError:  # of an image or a label that has just been looked up
                raise HTTPException(404, "the file is gone") from None
        return guard.clean(answer)

    call.__name__ = endpoint.__name__
    call.__doc__ = endpoint.__doc__
    call.__signature__ = _with_texts_as_parts(signature)  # type: ignore[attr-defined]
    return call
