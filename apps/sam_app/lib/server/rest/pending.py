"""A result that is being written, in a folder that is renamed when it is complete."""

import json
import shutil
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Literal

from lib.base.files import link_or_copy, sha256_of
from lib.imaging.image_cache import content_key, image_sha256
from lib.server.http.errors import UnknownResultError
from lib.server.rest.manifest import SCHEMA_VERSION, InputFile, Manifest, stored_size

INPUT = "input"
"""The image of a result: a file, or a folder with the files of a series."""

MANIFEST = "manifest.json"
REQUEST = "request.json"


class PendingResult:
    """A result that is being written.

    Args:
        timestamp: Name of the result.
        folder: Where its files are written until it is complete.
        attempt: How often it was started, including this time.
    """

    def __init__(self, timestamp: Decimal, folder: Path, attempt: int = 1) -> None:
        self.timestamp = timestamp
        self.folder = folder
        self.attempt = attempt
        self.becomes: Literal["finished", "queued"] | None = None
        self._flushed: set[Path] = set()

    def write(self, name: str, content: bytes) -> None:
        """Write one of the result's files."""
        (self.folder / name).write_bytes(content)

    def copy(self, name: str, content: BinaryIO) -> InputFile:
        """Write one of the result's files from a stream; returns its hash and size."""
        with open(self.folder / name, "w+b") as file:
            shutil.copyfileobj(content, file)
            return InputFile(bytes=file.tell(), sha256=sha256_of(file))

    def copy_image(self, image: Path) -> InputFile:
        """Write the image from a file, or a folder with the files of a series; returns its hash and size.

        Files of a series are named by their order, which is part of how it is read.

        Raises:
            FileNotFoundError: If it is not there, or no longer.
        """
        place = self.folder / INPUT
        if image.is_dir():
            place.mkdir(mode=0o700)
            for number, file in enumerate(sorted(file for file in image.iterdir() if file.is_file())):
                shutil.copyfile(file, place / f"{number:05}")
        else:
            shutil.copyfile(image, place)
        in_order = {"in_order_sha256": content_key(place)} if place.is_dir() else {}
        return InputFile(bytes=stored_size(place), sha256=image_sha256(place), **in_order)

    def take_over(self, stored: Path, name: str) -> None:
        """Link a file or a folder of another result into this one, or copy it where the file system has no links.

        Raises:
            UnknownResultError: If the other result was deleted meanwhile; then nothing is taken over.
        """
        place = self.folder / name
        try:
            if stored.is_dir():
                place.mkdir(mode=0o700)
                for file in stored.iterdir():
                    self._link(file, place / file.name)
            else:
                self._link(stored, place)
        except FileNotFoundError:
            shutil.rmtree(place, ignore_errors=True)
            raise UnknownResultError("the result to refine was deleted in the meantime") from None

    def _link(self, stored: Path, place: Path) -> None:
        if link_or_copy(stored, place):
            self._flushed.add(place)

    def to_flush(self) -> list[Path]:
        """Return what is not on the disk yet: all files and folders but links to files that are."""
        return [path for path in self.folder.rglob("*") if path not in self._flushed]

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, with the list of files: the result is done, or failed if it holds a ``failure``."""
        (self.folder / REQUEST).unlink(missing_ok=True)  # the manifest contains it
        files = {file.name: stored_size(file) for file in sorted(self.folder.iterdir())}
        self.write(MANIFEST, as_json({"schema_version": SCHEMA_VERSION, **manifest.as_dict(), "files": files}))
        self.becomes = "finished"

    def queue(self, request: Mapping[str, Any]) -> None:
        """Write the accepted request, to be processed later by :meth:`ResultStore.resume`."""
        files = {file.name: stored_size(file) for file in sorted(self.folder.iterdir())}
        self.write(REQUEST, as_json({"schema_version": SCHEMA_VERSION, **request, "files": files}))
        self.becomes = "queued"


def as_json(content: object) -> bytes:
    """Return an object as indented JSON."""
    return json.dumps(content, indent=2, ensure_ascii=False).encode()
