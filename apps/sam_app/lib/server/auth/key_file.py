"""The file of the API keys, and the keys that hold at this moment.

The file is JSON: ``{"keys": [{"name": …, "roles": […], "created": …, "expires": …, "sha256": …}]}``. It must belong to
its owner alone, is only ever replaced as a whole, and a key that is taken out of it ends with the next request.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lib.base.file_lock import locked
from lib.base.files import replacing
from lib.server.auth.api_keys import ApiKey, KeyFileError, digest

logger = logging.getLogger(__name__)


class KeyFile:
    """Reads and changes the file. Safe for several processes."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    def read(self) -> tuple[ApiKey, ...]:
        """The keys, in the file's order.

        Raises:
            KeyFileError: If the file is not there, is not its owner's alone, or holds something else.
        """
        try:
            with self.path.open(encoding="utf-8") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if mode & 0o077:
                    raise KeyFileError(
                        f"{self.path} can be used by others than its owner (mode {mode:04o}): chmod 600 {self.path}"
                    )
                keys = tuple(ApiKey.from_json(entry) for entry in json.load(file)["keys"])
        except FileNotFoundError:
            raise KeyFileError(f"there is no {self.path}: scripts/keys --file {self.path} add NAME") from None
        except OSError as error:
            raise KeyFileError(f"{self.path} cannot be read: {error.strerror}") from None
        except KeyFileError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise KeyFileError(f"{self.path} is no file of API keys as scripts/keys writes it") from None
        names = [key.name for key in keys]
        if len(set(names)) < len(names):
            raise KeyFileError(f"{self.path} names a key twice")
        return keys

    def add(self, key: ApiKey) -> None:
        """Put one more key in; makes the file if it is not there.

        Raises:
            KeyFileError: If there is one of that name, or the file cannot be read or written.
        """
        with self._changing() as keys:
            if any(known.name == key.name for known in keys):
                raise KeyFileError(f"there is a key {key.name!r} already: remove it or choose another name")
            keys.append(key)

    def remove(self, name: str) -> None:
        """Take a key out.

        Raises:
            KeyFileError: If there is none of that name, or the file cannot be read or written.
        """
        with self._changing() as keys:
            left = [key for key in keys if key.name != name]
            if len(left) == len(keys):
                raise KeyFileError(f"there is no key {name!r}")
            keys[:] = left

    @contextmanager
    def _changing(self) -> Iterator[list[ApiKey]]:
        """The keys to change; they are written at the end, unless something is raised."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path.parent):
                keys = list(self.read()) if self.path.exists() else []
                yield keys
                self._write(keys)
        except OSError as error:
            raise KeyFileError(f"{self.path} cannot be written: {error.strerror}") from None

    def _write(self, keys: Sequence[ApiKey]) -> None:
        text = json.dumps({"keys": [key.as_json() for key in keys]}, indent=2) + "\n"
        with replacing(self.path, private=True) as file:
            file.write(text.encode())
            if os.geteuid() == 0 and self.path.exists():  # the server may run as another user than root
                owner = self.path.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)


class KeyRing:
    """The keys that hold now: the file is read again whenever it has changed.

    A file that can no longer be read leaves no key valid, until it is right again. Used on the event loop alone, so it
    has no lock; an unchanged file costs one ``stat``.

    Raises:
        KeyFileError: If the file cannot be used to begin with.
    """

    def __init__(self, file: KeyFile) -> None:
        self._file = file
        self._stamp = self._stamp_now()
        self._keys = file.read()

    def find(self, key: str) -> ApiKey | None:
        """The entry of a key, also if it has expired; None if there is none.

        Every entry is compared, each in constant time, so that the time taken says nothing about which one it is.
        """
        self._refresh()
        sought = digest(key)
        matches = [entry for entry in self._keys if hmac.compare_digest(entry.sha256, sought)]
        return matches[0] if matches else None

    def _refresh(self) -> None:
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        self._stamp, self._keys = stamp, ()
        try:
            self._keys = self._file.read()
        except KeyFileError as error:
            logger.error("No API key holds until this is mended: %s", error)
        else:
            logger.info("API keys: %s", ", ".join(key.name for key in self._keys) or "none")

    def _stamp_now(self) -> tuple[int, ...] | None:
        """What changes with the file's content, place or mode; None if there is no file."""
        try:
            status = self._file.path.stat()
        except OSError:
            return None
        return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
