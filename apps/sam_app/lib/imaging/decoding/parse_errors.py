"""Conversion of parsers' exceptions to this package's errors, and size limits for untrusted images."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from lib.imaging.image import CorruptImageError, ImageError, ImageTooLargeError

_SERVER_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)


@contextmanager
def corrupt_on_failure(what: str) -> Iterator[None]:
    """Turn any failure of a parser or decoder into a :class:`CorruptImageError`.

    Parsers of hostile bytes can raise anything (``KeyError``, ``struct.error``, ``RecursionError``, …), so every
    ``Exception`` is caught here. The new message is ``what`` alone, because a library's own text can quote the content
    (patient data) or a path. The original exception is chained for the log.

    Args:
        what: The message: what could not be read, e.g. "the PNG image is truncated or damaged".

    Raises:
        CorruptImageError: For any exception except those of this package.
        ImageTooLargeError: For a ``MemoryError``.
        OSError: If the disk is full or too many files are open, which is not the image's fault.
    """
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageTooLargeError("the image does not fit into this server's memory") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _SERVER_ERRNOS:
            raise
        raise CorruptImageError(what) from error
