"""How many parts a form may have, and how much of them is kept in memory."""

from __future__ import annotations

from starlette import requests
from starlette.formparsers import MultiPartException, MultiPartParser

MAX_PARTS = 16
"""Text fields, and files, of a form: no route has as many, but for a session's files."""
MAX_SESSION_FILES = 1000
"""Files of a session; each that is larger than what is kept in memory is an open file meanwhile."""

_FIRST_BYTES, _NEXT_BYTES = 1 << 20, 1 << 14


class SpoolingParser(MultiPartParser):
    """Keeps the first files of a form in memory up to 1 MiB each, as Starlette does, of those after them 16 KiB."""

    def on_headers_finished(self) -> None:
        """A part's content follows."""
        self.spool_max_size = _FIRST_BYTES if self._current_files < MAX_PARTS else _NEXT_BYTES
        super().on_headers_finished()


def spool_forms() -> None:
    """Have all forms of this process read by :class:`SpoolingParser`."""
    requests.MultiPartParser = SpoolingParser  # type: ignore[misc]  # there is no other way to name one


def is_too_much(error: BaseException | None) -> bool:
    """Whether a form was refused for the number of its parts or the size of one, and not for its format."""
    return isinstance(error, MultiPartException) and error.message.startswith(("Too many", "Part exceeded", "Field"))
