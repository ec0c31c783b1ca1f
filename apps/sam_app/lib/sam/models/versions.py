"""Versions of what was learned, in a folder beside the checkpoints.

Layout::

    learned/<name>/<number>/weights.safetensors, manifest.json, curve.png
    learned/<name>/served.json          {"version": 3, "before": [null, 1]}; without it none is served
    learned/<name>/.<number>.….part     unfinished

``<name>`` is a model's, or ``auto_<label>``. A version's folder is filled under a temporary name and renamed, and never
changed; ``served.json`` is replaced in one step. So whatever is killed and when, what is served is a whole version or
none. Several servers may share the folder: each looks at ``served.json`` before an answer, and the writers of one name
take turns by a lock on its folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.base.files import atomic_write, sha256_of, sync
from lib.base.locks import locked
from lib.sam.models.overlay import Overlay, OverlayError, read_overlay

FOLDER = "learned"
WEIGHTS, MANIFEST, CURVE, SERVED = "weights.safetensors", "manifest.json", "curve.png", "served.json"

AUTO = "auto_"
"""How the names of what finds a label by itself begin."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,80}")
_MOST_OF_LABEL = 60
_REMEMBERED = 20
"""Earlier versions to which a rollback can return, one after the other."""

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


Stamp = tuple[int, int] | None
"""Changes whenever another version is served."""


def auto_name(label: str) -> str:
    """Return the name of what finds a label by itself: ``auto_left_kidney``.

    Characters that a name cannot have become ``_``; those beyond ASCII also leave a trace, so that labels in other
    alphabets have names of their own.
    """
    plain = re.sub(r"[^A-Za-z0-9.-]+", "_", label.strip())[:_MOST_OF_LABEL]
    trace = "" if label.isascii() else "_" + hashlib.sha256(label.encode()).hexdigest()[:6]
    return AUTO + plain + trace


class VersionError(ValueError):
    """There is no such version, or it cannot be used; the message says which there are, and names no path."""


@dataclass(frozen=True)
class Version:
    """One version.

    Args:
        name: Of the model, or ``auto_<label>``.
        number: From 1.
        manifest: What it was made of, and how good it is.
    """

    name: str
    number: int
    manifest: Mapping[str, Any]

    @property
    def title(self) -> str:
        """How it is called in results: ``sam_tiny@3``."""
        return f"{self.name}@{self.number}"


class VersionStore:
    """The versions in a model folder.

    Args:
        model_folder: The folder of the checkpoints.
    """

    def __init__(self, model_folder: Path) -> None:
        self._folder = model_folder / FOLDER

    def names(self) -> list[str]:
        """Return the names that have versions."""
        if not self._folder.is_dir():
            return []
        return sorted(path.name for path in self._folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name))

    def versions(self, name: str) -> list[Version]:
        """Return the versions of a name, the oldest first; those whose manifest is damaged are left out."""
        found = []
        for number in self._numbers(name):
            try:
                found.append(self.get(name, number))
            except VersionError:
                continue
        return found

    def get(self, name: str, number: int) -> Version:
        """Return a version.

        Raises:
            VersionError: If there is none.
        """
        path = self._place(name) / str(number) / MANIFEST
        try:
            manifest = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise VersionError(f"there is no version {name}@{number}; {self._known(name)}") from None
        except (OSError, ValueError):
            raise VersionError(f"the manifest of {name}@{number} cannot be read") from None
        return Version(name, number, manifest)

    def served(self, name: str) -> int | None:
        """Return the number of the version that is served; None if none is.

        Raises:
            VersionError: If that cannot be read.
        """
        return self._history(name)[-1]

    def _history(self, name: str) -> list[int | None]:
        """Return what was served one after the other; None is the model as it is published."""
        path = self._place(name) / SERVED
        try:
            state = json.loads(path.read_bytes())
            return [None if number is None else int(number) for number in (*state["before"], state["version"])]
        except FileNotFoundError:
            return [None]
        except (OSError, ValueError, KeyError, TypeError):
            raise VersionError(f"{SERVED} of {name} cannot be read: choose a version with `scripts/models`") from None

    def overlay(self, version: Version) -> Overlay:
        """Return the weights of a version.

        Raises:
            VersionError: If they are missing, damaged or not those of its manifest.
        """
        path = self._place(version.name) / str(version.number) / WEIGHTS
        try:
            with path.open("rb") as file:
                is_whole = sha256_of(file) == version.manifest.get("sha256")
            if not is_whole:
                raise VersionError(f"the weights of {version.title} are damaged")
            return read_overlay(path)
        except OSError as error:
            raise VersionError(f"the weights of {version.title} cannot be read: {error.strerror}") from None
        except OverlayError as error:
            raise VersionError(f"{version.title} cannot be used: {error}") from None

    def add(self, name: str, overlay: Overlay, manifest: Mapping[str, Any], curve: bytes | None = None) -> Version:
        """Store a new version; it is not served yet.

        Args:
            name: Of the model, or ``auto_<label>``.
            overlay: The weights.
            manifest: What it was made of; the number, the parent and the weights' SHA-256 are added.
            curve: A PNG of the training.

        Raises:
            OSError: If it cannot be written; then nothing has changed.
        """
        place = self._place(name)
        place.mkdir(parents=True, exist_ok=True)
        with locked(place):
            for leftover in place.glob(".*.part"):
                shutil.rmtree(leftover, ignore_errors=True)
            number = max(self._numbers(name), default=0) + 1
            temporary = Path(tempfile.mkdtemp(prefix=f".{number}.", suffix=".part", dir=place))
            try:
                weights = overlay.to_bytes({"format": "pt", "version": f"{name}@{number}"})
                _write(temporary / WEIGHTS, weights)
                if curve:
                    _write(temporary / CURVE, curve)
                with (temporary / WEIGHTS).open("rb") as file:
                    facts = {**manifest, "version": number, "parent": self.served(name), "sha256": sha256_of(file)}
                _write(temporary / MANIFEST, (json.dumps(facts, indent=2) + "\n").encode())
                temporary.chmod(0o755)
                sync(temporary)
                temporary.rename(place / str(number))
                sync(place)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return Version(name, number, facts)

    def promote(self, name: str, number: int) -> Version:
        """Serve a version from now on, in every server that uses this folder.

        Raises:
            VersionError: If there is none, or its weights are damaged.
        """
        version = self.get(name, number)
        self.overlay(version)
        with locked(self._place(name)):
            try:
                history = self._history(name)
            except VersionError:  # damaged: this cures it
                history = [None]
            if history[-1] != number:
                self._serve(name, [*history[-_REMEMBERED:], number])
        return version

    def rollback(self, name: str) -> Version | None:
        """Serve what was served before the present version; returns None for the model as it is published.

        Raises:
            VersionError: If no version is served.
        """
        served = self.served(name)
        if served is None:
            raise VersionError(f"no version of {name} is served; {self._known(name)}")
        with locked(self._place(name)):
            history = self._history(name)[:-1] or [None]
            earlier = None if history[-1] is None else self.get(name, history[-1])
            if earlier:
                self.overlay(earlier)
            self._serve(name, history)
        return earlier

    def _serve(self, name: str, history: Sequence[int | None]) -> None:
        *before, number = history
        with atomic_write(self._place(name) / SERVED) as file:
            file.write(json.dumps({"version": number, "before": before}).encode())

    def stamp(self, name: str) -> Stamp:
        """Return what changes whenever another version is served; costs one look at the file."""
        try:
            found = (self._place(name) / SERVED).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    def _place(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise VersionError("a name has letters, digits, _, . and - only")
        return self._folder / name

    def _numbers(self, name: str) -> list[int]:
        place = self._place(name)
        if not place.is_dir():
            return []
        return sorted(int(path.name) for path in place.iterdir() if _NUMBER.fullmatch(path.name))

    def _known(self, name: str) -> str:
        numbers = self._numbers(name)
        return f"there are {', '.join(map(str, numbers))}" if numbers else "nothing was learned for it yet"


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
    sync(path)
