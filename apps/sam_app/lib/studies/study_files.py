"""Check of the files in a folder of studies: which are images, and why the others are not.

Every entry of the folder is an image or is excluded with a reason. A scan looks at a file's kind, size and first bytes;
other faults, such as a truncated end, are found by reading the file: :meth:`StudyFiles.check`. The result for a file
is valid until its identity (inode, size, modification time) changes.
"""

import os
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from monailabel.config import settings

from lib.base.files import is_leftover
from lib.imaging.formats.nifti import has_stated_length
from lib.imaging.formats.sniff import HEAD_LENGTH, find_format
from lib.imaging.image import ImageError
from lib.studies.storable import is_text

INDEX = "datastore_v2.json"
LABELS = "labels"
LOCK = ".lock"


def _is_own(name: str) -> bool:
    """Return whether a name is that of a file or folder in which the datastore itself stores something."""
    return name in (LABELS, LOCK) or name.startswith(INDEX) or is_leftover(name)


MACOS = "metadata of macOS (._*)"
HIDDEN = "hidden"
NOT_UTF8 = "a name that is not UTF-8"
FOLDER = "a folder"
DANGLING = "a dangling link"
SPECIAL = "not a regular file"
EMPTY = "empty"
OTHER_NAME = "not named like an image"

_DICOM = ".dcm"
_EXTRA_SUFFIXES = (".jpeg", ".tiff", ".bmp")


def image_suffixes() -> tuple[str, ...]:
    """Return the suffixes of images' names: MONAI Label's setting and, unless the operator set it, some more."""
    patterns = settings.MONAI_LABEL_DATASTORE_FILE_EXT
    more = () if "MONAI_LABEL_DATASTORE_FILE_EXT" in settings.model_fields_set else _EXTRA_SUFFIXES
    return (*dict.fromkeys((*(pattern.lstrip("*") for pattern in patterns), _DICOM, *more)),)


def split_name(name: str, suffixes: Sequence[str]) -> tuple[str, str]:
    """Split a file name into its stem and its image suffix as written there; the suffix is empty if it has none.

    Args:
        name: Name of a file, without its folder.
        suffixes: With their dots; the longest one that matches counts, ignoring case.
    """
    lower = name.lower()
    length = max((len(suffix) for suffix in suffixes if lower.endswith(suffix.lower())), default=0)
    return (name[:-length], name[-length:]) if 0 < length < len(name) else (name, "")


class Depth(IntEnum):
    """How much of a file was checked: its first bytes, also its length if the format allows, or all of it."""

    START = 0
    LENGTH = 1
    ALL = 2


Identity = tuple[int, int, int]
"""Inode, size in bytes and modification time in nanoseconds."""

_GONE: Identity = (-1, -1, -1)
"""Identity of a file that is not there; no file has it, so that nothing is remembered of it."""


@dataclass(frozen=True)
class _Found:
    """Result of a check of a file's content.

    Args:
        identity: Identity of the file when it was checked.
        reason: Why it is not an image; None if no fault was found.
        depth: How much of it was checked.
    """

    identity: Identity
    reason: str | None
    depth: Depth


class StudyFiles:
    """The files of one folder, with the results of their checks. Thread-safe.

    Args:
        folder: The folder; it is not written to.
        suffixes: Suffixes of images' names.
    """

    def __init__(self, folder: Path, suffixes: Sequence[str]) -> None:
        self.folder = folder
        self.suffixes = tuple(suffixes)
        self._found: dict[str, _Found] = {}
        self._changing = threading.Lock()

    def scan(self) -> tuple[list[str], dict[str, str]]:
        """Check every entry of the folder by its kind, name and first bytes.

        Returns:
            The names of the images, sorted; and the reasons for the other entries, by name. A name that is not UTF-8 is
            escaped.

        Raises:
            OSError: If the folder cannot be listed.
        """
        images: list[str] = []
        left_out: dict[str, str] = {}
        names = sorted(name for name in os.listdir(self.folder) if not _is_own(name))
        for name in names:
            reason = self._reason(name)
            if reason is None:
                images.append(name)
            else:
                left_out[os.fsencode(name).decode("utf-8", "backslashreplace")] = reason
        with self._changing:
            for gone in self._found.keys() - set(names):
                del self._found[gone]
        return images, left_out

    def to_check(self) -> list[str]:
        """Return the names of the files that the last scan accepted as images only by their first bytes."""
        found = list(self._found.items())
        return [name for name, one in found if one.reason is None and one.depth == Depth.START]

    def refused(self) -> dict[str, Identity | None]:
        """Return the present identity of each file that is excluded because of its content, by name."""
        return {name: self._identity(name) for name, one in list(self._found.items()) if one.reason is not None}

    def check(self, name: str, depth: Depth, read: Callable[[Path], object]) -> str | None:
        """Check a file to the given depth, unless that was done since it last changed.

        Args:
            name: Name of the file.
            depth: How much of it to check.
            read: Reads it, or raises :class:`ImageError` or ``OSError``.

        Returns:
            Why it cannot be opened; None if it can.
        """
        identity = self._identity(name) or _GONE
        found = self._found.get(name)
        if found and found.identity == identity and (found.depth >= depth or found.reason is not None):
            return found.reason
        path = self.folder / name
        reason = None
        try:
            if depth == Depth.ALL or not has_stated_length(path):
                depth = Depth.ALL
                read(path)
        except ImageError as error:
            reason = str(error)
        except FileNotFoundError as error:  # gone, and it may be back before it is looked at again
            reason, identity = _open_failure(error), _GONE
        except OSError as error:
            reason = _open_failure(error)
        self._record(name, _Found(identity, reason, depth))
        return reason

    def is_refused(self, name: str) -> bool:
        """Return whether the file with this name, as it is now, was checked and cannot be opened."""
        found = self._found.get(name)
        return found is not None and found.reason is not None and found.identity == self._identity(name)

    def _record(self, name: str, result: _Found) -> None:
        """Store a result if it is of the file as it is now, and no other thread's of the same file is deeper.

        Results of the file as it was before are removed.
        """
        with self._changing:
            current = self._identity(name)
            known = self._found.get(name)
            if known is not None and known.identity != current:
                del self._found[name]
                known = None
            if result.identity == current and (known is None or known.depth < result.depth):
                self._found[name] = result

    def _identity(self, name: str) -> Identity | None:
        try:
            return _identity_of(os.stat(self.folder / name))
        except OSError:
            return None

    def _reason(self, name: str) -> str | None:
        """Return why an entry is not an image; None if it may be one."""
        if not is_text(name):  # Python decodes each byte that is not UTF-8 as a lone surrogate
            return NOT_UTF8
        path = self.folder / name
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return DANGLING
        except OSError as error:
            return _open_failure(error)
        if stat.S_ISDIR(status.st_mode):
            return FOLDER
        return self._reason_by_name(name) or self._reason_by_content(name, status)

    def _reason_by_name(self, name: str) -> str | None:
        if name.startswith("."):
            return MACOS if name.startswith("._") else HIDDEN
        return None if split_name(name, self.suffixes)[1] else OTHER_NAME

    def _reason_by_content(self, name: str, status: os.stat_result) -> str | None:
        if not stat.S_ISREG(status.st_mode):
            return SPECIAL
        identity = _identity_of(status)
        found = self._found.get(name)
        if found is not None and found.identity == identity:
            return found.reason
        reason = self._reason_by_first_bytes(self.folder / name)
        self._record(name, _Found(identity, reason, Depth.START))
        return reason

    def _reason_by_first_bytes(self, path: Path) -> str | None:
        try:
            with open(path, "rb") as file:
                head = file.read(HEAD_LENGTH)
        except OSError as error:
            return _open_failure(error)
        if not head:
            return EMPTY
        file_format, description = find_format(head)
        return None if file_format else f"found: {description}"


def _identity_of(status: os.stat_result) -> Identity:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _open_failure(error: OSError) -> str:
    return f"cannot be opened ({error.strerror or type(error).__name__})"
