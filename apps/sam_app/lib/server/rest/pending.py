"""A result that is being written, in a folder that is renamed when it is complete."""

import json
import shutil
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Literal

from lib.base.files import link_or_copy, sha256_of
from lib.server.http.errors import UnknownResultError
from lib.server.rest.manifest import SCHEMA_VERSION, InputFile, Manifest

INPUT = "input"
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

    def write(self, name: str, content: bytes) -> None:
        """Write one of the result's files."""
        (self.folder / name).write_bytes(content)

    def copy(self, name: str, content: BinaryIO) -> InputFile:
        """Write one of the result's files from a stream; returns its hash and size."""
        with open(self.folder / name, "w+b") as file:
            shutil.copyfileobj(content, file)
            return InputFile(bytes=file.tell(), sha256=sha256_of(file))

    def take_over(self, file: Path, name: str) -> None:
        """Link a file of another result into this one, or copy it where the file system has no links.

        Raises:
            UnknownResultError: If the other result was deleted meanwhile.
        """
        try:
            link_or_copy(file, self.folder / name)
        except FileNotFoundError:
            raise UnknownResultError("the result to refine was deleted in the meantime") from None

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, with the list of files: the result is done, or failed if it holds a ``failure``."""
        (self.folder / REQUEST).unlink(missing_ok=True)  # the manifest contains it
        files = {file.name: file.stat().st_size for file in sorted(self.folder.iterdir())}
        self.write(MANIFEST, as_json({"schema_version": SCHEMA_VERSION, **manifest.as_dict(), "files": files}))
        self.becomes = "finished"

    def queue(self, request: Mapping[str, Any]) -> None:
        """Write the accepted request, to be processed later by :meth:`ResultStore.resume`."""
        files = {file.name: file.stat().st_size for file in sorted(self.folder.iterdir())}
        self.write(REQUEST, as_json({"schema_version": SCHEMA_VERSION, **request, "files": files}))
        self.becomes = "queued"


def as_json(content: object) -> bytes:
    """Return an object as indented JSON."""
    return json.dumps(content, indent=2, ensure_ascii=False).encode()
