"""What can go wrong between client and server."""

from __future__ import annotations

from typing import Any


class SamAppError(Exception):
    """Base of all errors of this package, except those of arguments, which are ``ValueError`` and ``TypeError``."""


class ConnectionFailedError(SamAppError):
    """No answer: the server cannot be reached, or took longer than the client's ``timeout``."""


class VersionMismatchError(SamAppError):
    """The server is of a version that this client does not fit, or something else; the message says what to do."""


class NotFinishedError(SamAppError, TimeoutError):
    """Something that is worked on was not finished in the time that it was waited for."""


class ApiError(SamAppError):
    """The server refused a request, or failed.

    Attributes:
        status: HTTP status, such as 422.
        detail: What was wrong and what would be right, as the server says it: text, or a list of what is wrong with
            each value.
        retry_after: Seconds after which the same request may succeed; None if the server does not say.
    """

    def __init__(self, status: int, detail: Any, retry_after: float | None = None) -> None:
        super().__init__(f"{status}: {_in_words(detail)}")
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


def _in_words(detail: Any) -> str:
    """Return a detail as one line: of a list of faults, where each is and what it is."""
    if not isinstance(detail, list):
        return str(detail)
    faults = [fault if isinstance(fault, dict) else {"msg": fault} for fault in detail]
    return "; ".join(f"{'.'.join(map(str, fault.get('loc', ())))}: {fault.get('msg')}".lstrip(": ") for fault in faults)
