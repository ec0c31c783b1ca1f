"""Unpacking of an image, or of the files of a DICOM series, from a ZIP archive."""

import os
import re
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from lib.imaging.decoding.isolation import isolated
from lib.imaging.formats.sniff import HEAD_LENGTH, find_format
from lib.imaging.image import CorruptImageError, ImageTooLargeError, UnsupportedImageError

_MEMORY, _SECONDS = 256 * 2**20, 120.0
"""For the list of an archive's members, and the time to unpack it."""
_CHUNK = 1 << 20
_ENCRYPTED = 1
"""Flag of a member."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Others may ask for any amount of memory."""
_MACOS, _INDEX = "__MACOSX", "DICOMDIR"


def is_zip(head: bytes) -> bool:
    """Return whether a file that begins so is a ZIP archive, perhaps an empty one."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def unpack_image(archive: Path, folder: Path, *, max_bytes: int, max_files: int) -> None:
    """Unpack the one file of an archive or, of several, those that are DICOM.

    They are numbered in the order of their paths, which are not used otherwise. ``DICOMDIR`` and hidden files are left
    out.

    Args:
        archive: The archive.
        folder: Where to write the files; it has none.
        max_bytes: Limit of what is unpacked.
        max_files: Limit of the files.

    Raises:
        UnsupportedImageError: If it has no image, is encrypted, or compressed by another method than deflate.
        CorruptImageError: If it is damaged.
        ImageTooLargeError: If it exceeds a limit; also if the list of its files alone takes too much memory.
        OSError: If a file cannot be written.
    """
    isolated(_unpack, str(archive), str(folder), max_bytes, max_files, memory=_MEMORY, seconds=_SECONDS)


def _unpack(archive: str, folder: str, max_bytes: int, max_files: int) -> None:
    """Unpack an archive; runs in a worker process, perhaps once more after one that ended."""
    try:
        with zipfile.ZipFile(archive) as packed:
            _write_members(packed, folder, max_bytes, max_files)
        return
    except MemoryError:
        pass  # what takes the memory is free only after this block
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, (UnsupportedImageError, ImageTooLargeError)):
            raise
        raise CorruptImageError("the ZIP archive is truncated or damaged") from error
    raise ImageTooLargeError("the ZIP archive has too many files")


def _write_members(packed: zipfile.ZipFile, folder: str, max_bytes: int, max_files: int) -> None:
    members = sorted(filter(_may_be_image, packed.infolist()), key=lambda member: member.filename)
    left, count = max_bytes, 0
    for member in members:
        if member.flag_bits & _ENCRYPTED or member.compress_type not in _METHODS:
            raise UnsupportedImageError("the ZIP archive is encrypted, or compressed by another method than deflate")
        with packed.open(member) as content:
            chunk = content.read(HEAD_LENGTH)
            if len(members) > 1 and find_format(chunk)[0] != "DICOM":
                continue
            count += 1
            if count > max_files:
                raise ImageTooLargeError(f"the ZIP archive has more than {max_files} images")
            with open(Path(folder, f"{count:05}{_suffix(member)}"), "wb", opener=_private) as file:
                while chunk:
                    left -= len(chunk)
                    if left < 0:
                        raise ImageTooLargeError(f"what the ZIP archive has is larger than {max_bytes / 2**20:.3g} MiB")
                    file.write(chunk)
                    chunk = content.read(_CHUNK)
    if not count:
        found = f"{len(members)} files, none of which is DICOM" if members else "no file"
        raise UnsupportedImageError(f"the ZIP archive has {found}: send one image, or the files of a DICOM series")


def _may_be_image(member: zipfile.ZipInfo) -> bool:
    parts = PurePosixPath(member.filename.replace("\\", "/")).parts
    if member.is_dir() or not member.file_size or not parts:
        return False
    return not parts[-1].startswith(".") and parts[-1].upper() != _INDEX and _MACOS not in parts


def _suffix(member: zipfile.ZipInfo) -> str:
    """Return at most two plain suffixes of a member's name."""
    found = re.search(r"(\.[A-Za-z0-9]{1,8}){0,2}$", member.filename)
    return found.group() if found else ""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
