"""Checksums of the files in a model folder, stored there in a small JSON file."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from lib.base.files import atomic_write, sha256_of
from lib.base.locks import locked


@dataclass(frozen=True)
class FileStamp:
    """Size and time of a file, a cheap test of whether it has changed."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Return the stamp of an existing file."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Digests:
    """Checksums of one content, in hexadecimal."""

    sha256: str
    md5: str

    @classmethod
    def of(cls, path: Path) -> Digests:
        """Compute the checksums of a file's content."""
        with path.open("rb") as file:
            sha256 = sha256_of(file)
            return cls(sha256, hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest())


@dataclass(frozen=True)
class ChecksumRecord:
    """Record of one file name.

    Args:
        digests: Checksums of the verified content, or None if the file was never verified.
        verified: The file's stamp when it was last verified.
        rejected: The file's stamp when it was last found wrong.
    """

    digests: Digests | None = None
    verified: FileStamp | None = None
    rejected: FileStamp | None = None


_RECORDS = TypeAdapter(dict[str, ChecksumRecord])


class ChecksumFile:
    """Records of a folder's files, by file name.

    Safe for threads and processes. If the folder cannot be written, records are stored only in this object.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._unwritten: dict[str, ChecksumRecord] = {}

    def get(self, name: str) -> ChecksumRecord:
        """Return a file's record; an empty one if there is none."""
        with self._lock:
            return self._unwritten.get(name) or self._read().get(name) or ChecksumRecord()

    def put(self, name: str, record: ChecksumRecord) -> None:
        """Replace a file's record."""
        with self._lock:
            try:
                with locked(self._path.parent):
                    self._write({**self._read(), name: record})
            except OSError:
                self._unwritten[name] = record
            else:
                self._unwritten.pop(name, None)

    def _read(self) -> dict[str, ChecksumRecord]:
        try:
            return _RECORDS.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ValueError(f"{self._path.name} in the model folder is damaged: remove it") from error

    def _write(self, records: dict[str, ChecksumRecord]) -> None:
        with atomic_write(self._path) as file:
            file.write(_RECORDS.dump_json(dict(sorted(records.items())), indent=2) + b"\n")
