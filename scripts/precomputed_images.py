"""What ``scripts/precompute`` has done, beside the embeddings, so that a later call does not read it again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lib.base.files import atomic_write

JOURNAL = "precomputed.jsonl"
"""Its name, in the folder of the embeddings."""


@dataclass(frozen=True)
class Done:
    """One image, all of whose slices were encoded by one model in one window.

    Args:
        what: See :func:`name_of`.
        state: Of the image at that time: another one means that it has changed.
        bytes: Of its embeddings' files together.
        keys: Of its embeddings, each once.
    """

    what: str
    state: str
    bytes: int
    keys: list[str]


def name_of(studies: str, image: str, encoding_key: str, window: str) -> str:
    """Return what names an image of some studies with a model and a window, 64 hexadecimal digits.

    It is a checksum, as names of files can be those of patients.
    """
    return hashlib.sha256(
        "\0".join((studies, image, encoding_key, window)).encode("utf-8", "surrogateescape")
    ).hexdigest()


class Journal:
    """The images that are done: a line of JSON for each, which is appended when it is done.

    Of several lines for the same the last one counts. Damaged ones are left out, also a last one that was not written
    to its end, and those of which an embedding is gone. When these are more than the others, the file is written anew.

    Args:
        folder: Of the embeddings; need not be there.
        is_there: Returns whether there is an embedding with a key.
    """

    def __init__(self, folder: Path, is_there: Callable[[str], object]) -> None:
        self._path = folder / JOURNAL
        self._lines: dict[str, bytes] = {}
        self._is_torn = False
        count = 0
        with suppress(OSError), open(self._path, "rb") as file:
            for line in file:
                count += 1
                self._is_torn = not line.endswith(b"\n")
                done = _parsed(line)
                if done is not None:
                    self._lines.pop(done.what, None)
                    if all(map(is_there, done.keys)):
                        self._lines[done.what] = line
        if count > 2 * len(self._lines):
            with suppress(OSError), atomic_write(self._path, private=True, durable=False) as new:
                new.writelines(self._lines.values())
                self._is_torn = False

    def find(self, what: str) -> Done | None:
        """Return what was done by this name; None if nothing was."""
        line = self._lines.get(what)
        return None if line is None else _parsed(line)

    def add(self, done: Done) -> None:
        """Add what was done, for good also if the process is killed.

        Raises:
            OSError: If it cannot be written.
        """
        line = json.dumps(asdict(done), separators=(",", ":")).encode() + b"\n"
        with open(self._path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(b"\n" + line if self._is_torn else line)
        self._is_torn = False
        self._lines[done.what] = line


def _parsed(line: bytes) -> Done | None:
    try:
        found = json.loads(line)
        keys = [str(key) for key in found["keys"]]
        return Done(str(found["what"]), str(found["state"]), int(found["bytes"]), keys)
    except (ValueError, TypeError, KeyError):
        return None
