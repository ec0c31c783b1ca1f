"""The border between this package's errors and those of the libraries that parse untrusted bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lib.imaging.image import CorruptImageError, ImageError, ImageTooLargeError


@contextmanager
def corrupt_on_failure(what: str) -> Iterator[None]:
    """Turn any failure of a parser or decoder into a :class:`CorruptImageError`.

    Parsers of hostile bytes raise whatever they meet (``KeyError``, ``struct.error``, ``RecursionError``, …), so
    every ``Exception`` is caught here. The new message is ``what`` alone: a library's own text can quote the content
    (patient data) or a path. The original is chained for the log.

    Args:
        what: The message: what could not be read, e.g. "the PNG image is truncated or damaged".

    Raises:
        CorruptImageError: For any exception but those of this package.
        ImageTooLargeError: For a ``MemoryError``.
    """
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageTooLargeError("the image does not fit into this server's memory") from error
    except Exception as error:
        raise CorruptImageError(what) from error


def check_pixel_count(count: int, max_pixels: int) -> None:
    """Refuse an image by its header, before anything is decoded.

    Args:
        count: Frames x rows x columns, as the header states them.
        max_pixels: The most that is allowed.

    Raises:
        ImageTooLargeError: If ``count`` is more than ``max_pixels``.
    """
    if count > max_pixels:
        raise ImageTooLargeError(f"the image has {count} pixels; at most {max_pixels} are read")
