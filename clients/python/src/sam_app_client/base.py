"""What blocking and asynchronous clients share, and how an operation becomes a method of either."""

from __future__ import annotations

import functools
import inspect
import uuid
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from sam_app_client.errors import VersionMismatchError
from sam_app_client.exchange import Operation, Request, json_of
from sam_app_client.results import SegmentedImage
from sam_app_client.version import VERSION, fits

S = TypeVar("S")
P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R", bound=SegmentedImage)

TIMEOUT_S = 330.0
"""How long an answer is waited for: a little longer than the server's own limit, ``max_seconds``."""


class BaseClient(Generic[R]):
    """A client, apart from what sends.

    Args:
        url: The server's address: ``http://127.0.0.1:8000``.
        key: A key of the server's, where it asks for one.
    """

    _result_type: type[R]

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url.rstrip("/")
        self.client_id = uuid.uuid4().hex
        """By which the server tells this client's prompts in volumes from those of others."""
        self._headers = {"User-Agent": f"sam-app-client/{VERSION}"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self._default_model: str | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _after_handshake(self, operation: Operation[T]) -> Operation[T]:
        """Before the first operation of a client look whether the server fits."""
        if self._default_model is None:
            self._default_model = yield from _check_server(self.url)
        return (yield from operation)


def _check_server(url: str) -> Operation[str]:
    """Look whether the server is one that this client fits, and return its default model.

    Raises:
        VersionMismatchError: If it is not.
    """
    answer = yield Request("GET", "/health_check/")
    assert answer is not None
    health = json_of(answer)
    version = health.get("version") if isinstance(health, dict) else None
    if not isinstance(version, str):
        raise VersionMismatchError(
            f"{url} answers, but not as a SAM app does (status {answer.status_code} for /health_check/): is the "
            "address right, with its path if the server is behind a proxy?"
        )
    if not fits(version):
        raise VersionMismatchError(
            f"the server at {url} is version {version}, and this sam-app-client {VERSION} does not fit it: install "
            f"the client of the server's version, from clients/python of its repository"
        )
    return str(health["default_model"])


def blocking(operation: Callable[Concatenate[S, P], Operation[T]]) -> Callable[Concatenate[S, P], T]:
    """Return an operation as a method that returns when it is done."""

    @functools.wraps(operation)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        done: T = self._run(operation(self, *args, **kwargs))
        return done

    return _as_method(call)


def awaitable(
    operation: Callable[Concatenate[S, P], Operation[T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Return an operation as a method to await."""

    @functools.wraps(operation)
    async def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        done: T = await self._run(operation(self, *args, **kwargs))
        return done

    return _as_method(call)


def _as_method(call: S) -> S:
    """Have ``help()`` show the signature of a method, without the generator that is behind it."""
    signature = inspect.signature(call)  # type: ignore[arg-type]
    first, *others = signature.parameters.values()
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[first.replace(name="self", annotation=first.empty), *others],
        return_annotation=signature.empty,
    )
    return call
