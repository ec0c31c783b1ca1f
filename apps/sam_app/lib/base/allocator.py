"""Settings of the C library's memory allocator. Without glibc these functions do nothing."""

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""From glibc's ``malloc.h``."""

_KEPT_BYTES = 8 << 20
"""An array of this size or more comes from the system and goes back to it, so that small ones between large ones do not
keep the gaps from being used again. The arrays of a click are smaller."""


def limit_arenas(count: int = 2) -> None:
    """Let all threads share a few arenas: memory that is free in one arena is not used by threads of the others.

    The arenas keep the memory of smaller arrays: from the system it would have to be fetched page by page.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, count)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 16 * _KEPT_BYTES)


def return_unused_memory() -> None:
    """Return memory that the C library holds unused to the system."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
