"""The file of the API keys, and the keys that are valid at present.

The file is JSON: ``{"keys": [{"name": …, "roles": […], "created": …, "expires": …, "sha256": …}]}``. Only its owner may
have access to it, it is replaced atomically, and a key that is removed from it is refused from the next request on.
"""

import hmac
import json
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lib.base.files import atomic_write
from lib.base.locks import locked
from lib.server.auth.api_keys import ApiKey, KeyFileError, digest

logger = logging.getLogger(__name__)


class KeyFile:
    """Reader and writer of the file. Safe for use by several processes."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    def read(self) -> tuple[ApiKey, ...]:
        """Return the keys, in the file's order.

        Raises:
            KeyFileError: If the file does not exist, others than its owner have access, or its content is not valid.
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
            raise KeyFileError(f"{self.path} is not a file of API keys as written by scripts/keys") from None
        names = [key.name for key in keys]
        if len(set(names)) < len(names):
            raise KeyFileError(f"{self.path} names a key twice")
        return keys

    def add(self, key: ApiKey) -> None:
        """Add a key; creates the file if need be.

        Raises:
            KeyFileError: If there is a key with this name, or the file cannot be read or written.
        """
        with self._changing() as keys:
            if any(known.name == key.name for known in keys):
                raise KeyFileError(f"there is a key {key.name!r} already: remove it or choose another name")
            keys.append(key)

    def remove(self, name: str) -> None:
        """Remove a key.

        Raises:
            KeyFileError: If there is no key with this name, or the file cannot be read or written.
        """
        with self._changing() as keys:
            left = [key for key in keys if key.name != name]
            if len(left) == len(keys):
                raise KeyFileError(f"there is no key {name!r}")
            keys[:] = left

    @contextmanager
    def _changing(self) -> Iterator[list[ApiKey]]:
        """Yield the list of keys to change; it is written at the end of the block, unless the block raises."""
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
        with atomic_write(self.path, private=True) as file:
            file.write(text.encode())
            if os.geteuid() == 0 and self.path.exists():  # the server may run as another user than root
                owner = self.path.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)


class KeyRing:
    """The keys that are valid at present: the file is read again whenever it has changed.

    While the file cannot be read, no key is valid. Has no lock, because it is used only on the event loop; an unchanged
    file costs one ``stat``.

    Raises:
        KeyFileError: If the file cannot be used at the start.
    """

    def __init__(self, file: KeyFile) -> None:
        self._file = file
        self._stamp = self._stamp_now()
        self._keys = file.read()

    def find(self, key: str) -> ApiKey | None:
        """Return the entry of a key, even if it has expired; None if there is no such key.

        Every entry is compared, each in constant time, so that the time taken does not reveal which one matches.
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
            logger.error("No API key is accepted until this is fixed: %s", error)
        else:
            logger.info("API keys: %s", ", ".join(key.name for key in self._keys) or "none")

    def _stamp_now(self) -> tuple[int, ...] | None:
        """Return values that change with the file's content, location or mode; None if there is no file."""
        try:
            status = self._file.path.stat()
        except OSError:
            return None
        return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
