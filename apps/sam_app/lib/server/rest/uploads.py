"""Check of uploads that all routes share."""

from __future__ import annotations

import os

from fastapi import UploadFile

from lib.imaging.image import UnsupportedImageError


def not_empty(file: UploadFile) -> UploadFile:
    """Return the file unless it is empty.

    Raises:
        UnsupportedImageError: If it is empty.
    """
    size = file.file.seek(0, os.SEEK_END)
    file.file.seek(0)
    if not size:
        raise UnsupportedImageError("the file that was sent is empty: send the file's content")
    return file
