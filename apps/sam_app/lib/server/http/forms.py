"""Limits of the number of parts of a form, and of how much of them is held in memory; the check of uploaded files."""

import os

from fastapi import UploadFile
from starlette import requests
from starlette.formparsers import MultiPartException, MultiPartParser

from lib.imaging.image import UnsupportedImageError

MAX_PARTS = 16
"""Maximum of text fields, and of files, of a form: no route has as many, except for a session's files."""
MAX_SESSION_FILES = 1000
"""Maximum files of a session; each that exceeds the limit in memory is an open file meanwhile."""

_FIRST_BYTES, _NEXT_BYTES = 1 << 20, 1 << 14


class SpoolingParser(MultiPartParser):
    """Parser that holds a form's first files in memory up to 1 MiB each, as Starlette does, later ones up to 16 KiB."""

    def on_headers_finished(self) -> None:
        """Set the limit in memory for the part whose content follows."""
        self.spool_max_size = _FIRST_BYTES if self._current_files < MAX_PARTS else _NEXT_BYTES
        super().on_headers_finished()


def spool_forms() -> None:
    """Make :class:`SpoolingParser` the parser of all forms of this process."""
    requests.MultiPartParser = SpoolingParser  # type: ignore[misc]  # there is no other way to name one


def is_too_much(error: BaseException | None) -> bool:
    """Return whether a form was refused for the number or size of its parts, and not for its format."""
    return isinstance(error, MultiPartException) and error.message.startswith(("Too many", "Part exceeded", "Field"))


def not_empty(file: UploadFile) -> UploadFile:
    """Return the file; raise :class:`UnsupportedImageError` if it is empty."""
    size = file.file.seek(0, os.SEEK_END)
    file.file.seek(0)
    if not size:
        raise UnsupportedImageError("the file that was sent is empty: send the file's content")
    return file
