"""The server's folder for temporary files, and temporary files that are removed at the end of a request.

The folder is private to the server's user and locked (``flock``) by the process: a folder without a lock belongs to a
server that was killed, and the next server removes it with its content. :mod:`tempfile` and ``TMPDIR`` point to the
folder, so that libraries and child processes use it as well.
"""

import atexit
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from lib.base.locks import lock

logger = logging.getLogger(__name__)

PREFIX = f"sam-app-{os.getuid()}-"
"""Start of the names of such folders; the rest is random."""

_files: ContextVar[list[str] | None] = ContextVar("scratch_files", default=None)


def use_scratch_folder() -> Path:
    """Create the process's scratch folder, make it the default for temporary files, and remove those of ended servers.

    Returns:
        The folder, mode 0700, empty. It is removed when the interpreter ends; after a signal, by the next server.

    Raises:
        OSError: If it cannot be created.
    """
    root = Path(tempfile.gettempdir())
    remove_unheld(root, PREFIX)
    until_exit = ExitStack()
    atexit.register(until_exit.close)
    folder = until_exit.enter_context(held_folder(root, PREFIX))

    def use(place: Path) -> None:
        tempfile.tempdir = os.environ["TMPDIR"] = str(place)

    use(folder)
    until_exit.callback(use, root)
    return folder


@contextmanager
def held_folder(root: Path, prefix: str) -> Iterator[Path]:
    """Create a new, private, locked folder, which is removed at the end of the ``with`` block.

    If the process is killed, the next :func:`remove_unheld` removes it.

    Args:
        root: The folder in which it is created.
        prefix: Start of its name; the rest is random.

    Raises:
        OSError: If it cannot be created or locked.
    """
    held = None
    while held is None:  # another server can remove the folder before it is locked
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
        held = _hold(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def remove_unheld(root: Path, prefix: str) -> None:
    """Remove this user's folders with this prefix that no process has locked any more."""
    for entry in os.scandir(root):
        if not entry.name.startswith(prefix):
            continue
        found = entry.stat(follow_symlinks=False)
        is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        if is_own and (held := _hold(Path(entry.path))) is not None:
            shutil.rmtree(entry.path, ignore_errors=True)
            os.close(held)
            logger.info("Removed the temporary files of a server that has ended")


@contextmanager
def scratch_files() -> Iterator[None]:
    """Remove the files that :func:`scratch_file` creates in the ``with`` block at its end, also if it raises."""
    files: list[str] = []
    token = _files.set(files)
    try:
        yield
    finally:
        _files.reset(token)
        for path in files:
            _remove(path)


def scratch_file(suffix: str = "") -> str:
    """Create a new, empty, private file and return its path.

    Args:
        suffix: Suffix of its name.

    Returns:
        Its path. It is removed at the end of the current :func:`scratch_files` block; outside of one, the caller must
        remove it.

    Raises:
        OSError: If it cannot be created.
    """
    handle, path = tempfile.mkstemp(suffix=suffix)
    os.close(handle)
    files = _files.get()
    if files is not None:
        files.append(path)
    return path


def _hold(folder: Path) -> int | None:
    """Lock a folder and return the lock's descriptor; None if another process holds it, or the folder is gone."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with suppress(FileNotFoundError):
        if lock(held, wait=False) and os.path.samestat(os.fstat(held), os.lstat(folder)):
            return held
    os.close(held)
    return None


def _remove(path: str) -> None:
    try:
        Path(path).unlink(missing_ok=True)  # usually the code that created it has removed it
    except OSError as error:
        logger.error("A temporary file could not be removed: %s", error.strerror)
