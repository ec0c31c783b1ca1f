"""Settings of the C library's memory allocator. Without glibc these functions do nothing."""

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8
"""From glibc's ``malloc.h``."""


def limit_arenas(count: int = 2) -> None:
    """Let all threads share a few arenas: memory that is free in one arena is not used by threads of the others."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, count)


def return_unused_memory() -> None:
    """Return memory that the C library holds unused to the system."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
