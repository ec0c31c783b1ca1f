"""What is done with the server, apart from how it is sent.

An :data:`Operation` is a generator. It yields the requests to send, gets their answers, and returns what its caller
wants. So blocking and asynchronous clients share all but the lines that send.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import httpx

from sam_app_client.errors import ApiError, ConnectionFailedError, NotFinishedError
from sam_app_client.files import File

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """A request to the server.

    Args:
        method: Of HTTP.
        path: Below the server's address, with a slash at its begin.
        query: Parameters of the address.
        form: Fields of a form.
        files: Files of a form, by field; a field may come more than once.
        json: A body in JSON.
        headers: Further headers.
        also: Statuses besides 2xx that are no error.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[tuple[str, File]] = ()
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    also: Sequence[int] = ()

    def build(self, client: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """Return it as httpx has it."""
        fields = [(name, (None, text.encode(), None)) for name, text in self.form.items()]
        files = [(name, (file.name, file.content, "application/octet-stream")) for name, file in self.files]
        return client.build_request(
            self.method,
            self.path,
            params=self.query,
            files=[*fields, *files] or None,
            json=self.json,
            headers=self.headers,
        )


@dataclass(frozen=True)
class Pause:
    """Wait before the next request."""

    seconds: float


Operation: TypeAlias = Generator[Request | Pause, httpx.Response | None, T]


def ask(request: Request) -> Operation[httpx.Response]:
    """Send a request and return its answer.

    Raises:
        ApiError: If the server refuses it, or fails.
        ConnectionFailedError: If there is no answer.
    """
    answer = yield request
    assert answer is not None
    if answer.is_success or answer.status_code in request.also:
        return answer
    raise ApiError(answer.status_code, _detail(answer), seconds_until_retry(answer))


def until(
    look: Callable[[], Operation[tuple[T | None, float]]],
    *,
    within: float,
    unfinished: str,
) -> Operation[T]:
    """Look again and again until something is finished, and return it.

    Args:
        look: Returns what is finished, or None, and the seconds after which to look again.
        within: Seconds to wait at most.
        unfinished: What to say if it is not finished by then.

    Raises:
        NotFinishedError: If it is not finished in that time.
    """
    end = time.monotonic() + within
    while True:
        found, seconds = yield from look()
        if found is not None:
            return found
        left = end - time.monotonic()
        if left <= 0:
            raise NotFinishedError(unfinished)
        yield Pause(min(seconds, left))


def segment_of_path(name: str) -> str:
    """Return a name as one segment of a path, whatever it contains."""
    return quote(name, safe="")


def as_json(content: Any) -> str:
    """Return what is sent as JSON; numbers may be numpy's."""
    return json.dumps(content, default=lambda number: number.item())


def json_of(answer: httpx.Response) -> Any:
    """Return the JSON of an answer; None if it is none."""
    try:
        return answer.json()
    except ValueError:
        return None


def seconds_until_retry(answer: httpx.Response) -> float | None:
    """Return the seconds of the header ``Retry-After``; None if there is none."""
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else None


def _detail(answer: httpx.Response) -> Any:
    content = json_of(answer)
    if isinstance(content, dict) and "detail" in content:
        return content["detail"]
    return f"{answer.reason_phrase or 'no reason given'} (without a detail: the answer may be a proxy's)"


@contextmanager
def connection_errors(url: str) -> Iterator[None]:
    """Turn httpx's errors of sending into this package's.

    Raises:
        ConnectionFailedError: If there is no answer.
    """
    try:
        yield
    except httpx.TimeoutException as error:
        raise ConnectionFailedError(
            f"{url} did not answer in time ({type(error).__name__}); the client's timeout says how long it waits"
        ) from error
    except httpx.TransportError as error:
        raise ConnectionFailedError(f"{url} cannot be reached: {error}") from error


def next_step(
    operation: Operation[T], answer: httpx.Response | None, error: ConnectionFailedError | None
) -> Request | Pause:
    """Tell an operation the answer, or that there was none, and return what it does next.

    Raises:
        StopIteration: With what the operation returns.
    """
    return operation.send(answer) if error is None else operation.throw(error)
