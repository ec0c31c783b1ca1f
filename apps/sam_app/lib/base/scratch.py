"""The server's one folder for temporary files, and files of a request that are gone when the request has ended.

The folder is private to the server's user and held by a lock (``flock``) of the process: a folder that nobody holds is
that of a server which was killed, and the next server removes it with all that is in it. :mod:`tempfile` and ``TMPDIR``
point to the folder, so that libraries and child processes use it as well.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from lib.base.locks import lock

logger = logging.getLogger(__name__)

PREFIX = f"sam-app-{os.getuid()}-"
"""How the names of such folders begin; the rest is random."""

_files: ContextVar[list[str] | None] = ContextVar("scratch_files", default=None)


def use_scratch_folder() -> Path:
    """Make the process's scratch folder, have everything use it, and remove those of servers that are no more.

    Returns:
        The folder, mode 0700, empty. It is removed when the interpreter ends; after a signal, by the next server.

    Raises:
        OSError: If it cannot be made.
    """
    root = Path(tempfile.gettempdir())
    remove_unheld(root, PREFIX)
    folder, held = _make(root, PREFIX)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)

    def remove() -> None:
        tempfile.tempdir = os.environ["TMPDIR"] = str(root)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)

    atexit.register(remove)
    return folder


@contextmanager
def held_folder(root: Path, prefix: str) -> Iterator[Path]:
    """A new, private folder, which is removed at the end of the ``with`` block.

    That of a process which is killed meanwhile is removed by the next :func:`remove_unheld`.

    Args:
        root: The folder that it is made in.
        prefix: Of its name; the rest is random.

    Raises:
        OSError: If it cannot be made or locked.
    """
    folder, held = _make(root, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def remove_unheld(root: Path, prefix: str) -> None:
    """Remove this user's folders of such names that no process holds any more."""
    for leftover in _own_folders(root, prefix):
        _remove_unless_held(leftover)


@contextmanager
def scratch_files() -> Iterator[None]:
    """What :func:`scratch_file` makes within the ``with`` block is removed at its end, however that comes."""
    files: list[str] = []
    token = _files.set(files)
    try:
        yield
    finally:
        _files.reset(token)
        for path in files:
            _remove(path)


def scratch_file(suffix: str = "") -> str:
    """A new, empty, private file.

    Args:
        suffix: Of its name.

    Returns:
        Its path. It is removed at the end of the current :func:`scratch_files`; outside of any, by the caller.

    Raises:
        OSError: If it cannot be made.
    """
    handle, path = tempfile.mkstemp(suffix=suffix)
    os.close(handle)
    files = _files.get()
    if files is not None:
        files.append(path)
    return path


def _make(root: Path, prefix: str) -> tuple[Path, int]:
    """A new folder and the descriptor that holds it; anew if another server took it for a leftover in between."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
        held = _hold(folder)
        if held is not None:
            return folder, held


def _hold(folder: Path) -> int | None:
    """Lock a folder for this process; None if another holds it, or if it is gone by now."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with suppress(FileNotFoundError):
        if lock(held, wait=False) and os.path.samestat(os.fstat(held), os.lstat(folder)):
            return held
    os.close(held)
    return None


def _own_folders(root: Path, prefix: str) -> Iterator[Path]:
    """Folders that servers of this user made; not what another user gave such a name."""
    for entry in os.scandir(root):
        if entry.name.startswith(prefix):
            found = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
                yield Path(entry.path)


def _remove_unless_held(folder: Path) -> None:
    held = _hold(folder)
    if held is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)
        logger.info("Removed the temporary files of a server that has ended")


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:  # as is usual: whoever made it has removed it
        pass
    except OSError as error:
        logger.error("A temporary file could not be removed: %s", error.strerror)
