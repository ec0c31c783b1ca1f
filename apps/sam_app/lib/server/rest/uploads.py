"""What every upload must be, whichever route it comes to."""

from __future__ import annotations

import os

from fastapi import UploadFile

from lib.imaging.image import UnsupportedImageError


def not_empty(file: UploadFile) -> UploadFile:
    """A file that has content.

    Raises:
        UnsupportedImageError: If it has none.
    """
    size = file.file.seek(0, os.SEEK_END)
    file.file.seek(0)
    if not size:
        raise UnsupportedImageError("the file that was sent is empty: send the file's content")
    return file
