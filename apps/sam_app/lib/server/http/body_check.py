"""Checks of a request's body: its size and its time, not compressed, complete if multipart, a form where one is read.

The server discards the rest of a body that is too large as it arrives, so that the client can finish sending and read
the response. It does not wait for the rest of a slow body: the connection is closed after the response.
"""

import os
import re
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import anyio
from fastapi import HTTPException, Request
from pydantic import BeforeValidator, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from python_multipart.multipart import parse_options_header
from starlette._utils import get_route_path  # the path that the router matches; there is no public function
from starlette.datastructures import Headers, UploadFile
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib.base.near_names import meant

_MULTIPART = "multipart/form-data"
_FORMS = (_MULTIPART, "application/x-www-form-urlencoded")
_REPEATABLE_FIELD = "files"
"""The only name that several parts of a form may have: a session's files."""
_MAX_TEXT_BYTES = 1 << 20
"""Limit of a text field sent as a file: the same as Starlette allows for a plain one."""
_OTHER_PARTS = {
    **dict.fromkeys(("image", "img", "upload"), ("file",)),
    **dict.fromkeys(("input", "params", "prompts"), ("sam_input",)),
}
"""Parts of forms by what other servers call the same."""


_MAX_WHOLE_BYTES = 1 << 20
"""Limit of a body without parts: JSON and the fields of a small form are read into memory as a whole."""


class BodyCheck:
    """Pure ASGI middleware that checks bodies as routes read them; its errors become responses with a ``detail``.

    A compressed body (``Content-Encoding``) is refused with 415, RFC 9110 8.4. A multipart body that does not begin
    with its boundary, or ends before the closing one, is refused with 400: its last parts would silently be missing
    (RFC 2046 5.1.1).

    Args:
        app: Has a handler for ``HTTPException``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with its body checked as it is read."""
        if scope["type"] == "http":
            receive = _checked(Headers(scope=scope), receive)
        await self.app(scope, receive, send)


def _checked(headers: Headers, receive: Receive) -> Receive:
    coding = headers.get("content-encoding", "identity").strip().lower()

    async def refuse() -> Message:
        detail = f"the body is coded as {coding[:40]}, which is not read: send it as it is, without Content-Encoding"
        raise HTTPException(415, detail, headers={"Accept-Encoding": "identity"})

    if coding not in ("", "identity"):
        return refuse
    kind, options = parse_options_header(headers.get("content-type"))
    boundary = options.get(b"boundary")
    return _WholeMultipart(receive, boundary) if kind == _MULTIPART.encode() and boundary else receive


class _WholeMultipart:
    """``receive`` of one request that checks that its multipart body is complete."""

    def __init__(self, receive: Receive, boundary: bytes) -> None:
        self._receive = receive
        self._first, self._closing = b"--" + boundary, b"--" + boundary + b"--"
        self._seen = b""
        self._has_begun = self._is_closed = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not self._is_closed:
            self._check_chunk(message.get("body", b""), is_last=not message.get("more_body", False))
        return message

    def _check_chunk(self, body: bytes, *, is_last: bool) -> None:
        self._seen += body
        if not self._has_begun and (is_last or len(self._seen) > len(self._first) + 2):
            self._has_begun = True
            if self._seen and not self._seen.lstrip(b"\r\n").startswith(self._first):
                raise HTTPException(400, "the multipart body does not begin with the boundary that Content-Type names")
        if self._closing in self._seen:
            self._is_closed = True
        elif is_last:
            raise HTTPException(400, "the multipart body is truncated: its closing boundary is missing; send it again")
        if self._has_begun:
            self._seen = self._seen[-len(self._closing) :]


class BodyLimit:
    """Pure ASGI middleware that bounds bodies as routes read them; its errors become responses with a ``detail``.

    Args:
        app: Has a handler for ``HTTPException``, as FastAPI's stack has below its middleware.
        max_bytes: A body is refused with 413 as soon as its announced or its received length is larger; so is one of
            more than 1 MiB that is not ``multipart``.
        max_seconds: A body that is not complete by then is refused with 408.
        array_paths: Whole paths whose bodies are read in one part, with ``max_bytes`` as their limit.
    """

    def __init__(
        self, app: ASGIApp, *, max_bytes: int, max_seconds: float, array_paths: re.Pattern[str] | None = None
    ) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._array_paths = array_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body bounded; the limits apply only when the body is read."""
        if scope["type"] == "http":
            is_multipart = Headers(scope=scope).get("content-type", "").strip().lower().startswith("multipart/")
            is_array = self._array_paths is not None and self._array_paths.fullmatch(get_route_path(scope))
            max_bytes = self._max_bytes if is_multipart or is_array else min(self._max_bytes, _MAX_WHOLE_BYTES)
            receive = _BoundedReceive(scope, receive, max_bytes, self._max_seconds)
        await self.app(scope, receive, send)


class _BoundedReceive:
    """``receive`` of one request, with limits."""

    def __init__(self, scope: Scope, receive: Receive, max_bytes: int, max_seconds: float) -> None:
        self._receive = receive
        headers = Headers(scope=scope)
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._deadline = time.monotonic() + max_seconds
        self._received = 0
        self._complete = False
        self._announced = int(headers.get("content-length", 0))  # the server has checked that it is a number

    async def __call__(self) -> Message:
        if self._complete:  # only the disconnect can follow, at any time
            return await self._receive()
        if self._announced > self._max_bytes:
            raise self._too_large()
        try:
            with anyio.fail_after(max(0.0, self._deadline - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            detail = f"the request did not arrive completely within {self._max_seconds:g} seconds"
            raise HTTPException(408, detail, headers={"Connection": "close"}) from None
        self._received += len(message.get("body", b""))
        if self._received > self._max_bytes:
            raise self._too_large()
        self._complete = not message.get("more_body", False)
        return message

    def _too_large(self) -> HTTPException:
        limit = f"{self._max_bytes / 2**20:.3g} MiB"
        return HTTPException(413, f"the request is larger than the {limit} that are allowed")


async def form_only(request: Request) -> None:
    """Refuse a body that is not a form, which would count as an empty one. A dependency of routes that read forms.

    Raises:
        HTTPException: 415, naming the type that was found; 422 for two parts of one name, of which one would be lost.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    if has_body and kind not in _FORMS:
        found = f"of the type {kind[:60]}" if kind else "of no stated type"
        raise HTTPException(415, f"the body is {found}; this route reads a form, {_MULTIPART}")
    form = await request.form()
    twice = next((name for name in form if name != _REPEATABLE_FIELD and len(form.getlist(name)) > 1), None)
    if twice is not None:
        raise HTTPException(422, f"the form has several parts called {twice[:60]!r}, of which one is read: send one")


def form_of(*fields: str) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency like :func:`form_only` that also refuses, with 422, a part called none of these names.

    For routes in which a part that is overlooked changes what the request means.
    """

    async def check(request: Request) -> None:
        await form_only(request)
        unknown = next((name for name in await request.form() if name not in fields), None)
        if unknown is not None:
            known, likely = ", ".join(f"`{name}`" for name in fields), meant(unknown, fields, _OTHER_PARTS)
            hint = f": did you mean `{likely}`?" if likely else ""
            raise HTTPException(422, f"the form has a part called {unknown[:60]!r}; this route reads {known}{hint}")

    return check


def text_of_part(value: Any) -> Any:
    """Return the text of a form's field that was sent as a file, as browsers do with a ``Blob`` of JSON.

    Raises:
        ValueError: If it is too long or not UTF-8.
    """
    if not isinstance(value, UploadFile):
        return value
    if value.file.seek(0, os.SEEK_END) > _MAX_TEXT_BYTES:
        raise ValueError(f"this field is text of at most {_MAX_TEXT_BYTES} bytes, not a file")
    value.file.seek(0)
    try:
        return value.file.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("this field is text in UTF-8, not a file") from None


PartText = BeforeValidator(text_of_part)
"""Validator for the annotation of a form's text field: also accepts one that was sent as a file."""


class DocumentedAsObject:
    """Annotation of a form's field of JSON text: OpenAPI describes it as the object that the text is.

    By OpenAPI's rules an object in a form is sent as JSON. As text with a media type, which it would be otherwise,
    Swagger UI takes it for a file to choose, and shows no example.
    """

    @staticmethod
    def __get_pydantic_json_schema__(core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema of the object instead of that of its text."""
        text = handler(core_schema)
        return next(one["contentSchema"] for one in text.get("anyOf", [text]) if "contentSchema" in one)


FormText = Annotated[str, PartText]
