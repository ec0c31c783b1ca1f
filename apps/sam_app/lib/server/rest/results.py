"""Results on disk: one folder each, named by its timestamp, whole or not there at all.

In the store's folder are::

    .lock                          held by the server that uses the store; keeps the last timestamp
    .1732288000.120000.part/       being written; removed at the next start
    .1732288000.120000.queued/     accepted and waiting or being worked on: request.json and the input
    1732288000.120000/             finished, with a manifest that says what made it, or why it failed

Every folder is filled under the name that ends in ``.part``, brought down to the disk, and renamed, so that no reader
meets half of one, and no crash leaves one. A queued request outlives the server; it goes when its result has its name.

The manifest lists every file with its size; what it does not list is not there. A finished result can be given more
files: each is written aside as well, and there when the manifest that lists it has taken the place of the one before.

Concurrency: one lock guards the table of results; no file is touched while it is held. Another one lets manifests of
finished results be replaced one after the other. Neither is taken while the other is held.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Literal, NamedTuple

from lib.base.files import atomic_write, is_full, move, restored_on_error, sync
from lib.base.locks import FolderLock
from lib.server.http.errors import NoSpaceError, UnknownResultError
from lib.server.rest.manifest import Manifest, ResultFacts, read_manifest
from lib.server.rest.pending import MANIFEST, REQUEST, PendingResult, as_json
from lib.server.rest.timestamps import RetentionClock, TimestampSource, print_timestamp

logger = logging.getLogger(__name__)

_ATTEMPTS = "attempts"
_SYNCED_AT_ONCE = 8

_NAME = re.compile(r"\d{1,12}\.\d{6}")
_QUEUED = re.compile(r"\.(\d{1,12}\.\d{6})\.queued")


class _Kept(NamedTuple):
    """A finished result: bytes of its files, and whose it is."""

    size: int
    user: str


@dataclass(frozen=True)
class StoredResult:
    """What the store has under one timestamp.

    Args:
        timestamp: Its name.
        state: ``queued`` is waiting or being worked on.
        folder: Of its files.
        manifest: What it says of itself; of a queued one: the request.
    """

    timestamp: Decimal
    state: Literal["done", "failed", "queued"]
    folder: Path
    manifest: Manifest

    @property
    def owner(self) -> str:
        """Who asked for it."""
        return self.manifest.user

    @property
    def facts(self) -> ResultFacts:
        """What was found.

        Raises:
            ValueError: If it is not done.
        """
        if self.manifest.result is None:
            raise ValueError(f"the result {print_timestamp(self.timestamp)} is {self.state}, not done")
        return self.manifest.result

    def path(self, name: str) -> Path:
        """The path of one of its files.

        Raises:
            UnknownResultError: If it has no such file.
        """
        if name not in self.manifest.files:
            raise UnknownResultError(f"the result {print_timestamp(self.timestamp)} has no {name}")
        return self.folder / name


class ResultStore:
    """The results of one server.

    Args:
        folder: Where they are; made if it is not there, readable by this user alone.
        max_age_seconds: Older results are deleted, see :class:`RetentionClock`; 0 keeps them.
        max_bytes: The oldest are deleted above this total; 0 keeps them.

    Raises:
        FolderInUseError: If another server uses the folder.
        OSError: If the folder cannot be made or written.
    """

    def __init__(self, folder: Path, *, max_age_seconds: float = 0, max_bytes: float = 0) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._manifests = threading.Lock()
        self._to_disk = ThreadPoolExecutor(_SYNCED_AT_ONCE, thread_name_prefix="results-to-disk")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._in_use = FolderLock(folder)
        for leftover in folder.glob(".*.part"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._finished = self._find_finished()
        self._retention = RetentionClock(max_age_seconds, [float(name) for name in self._finished])
        self._queued = self._find_queued()
        self._timestamps = TimestampSource(self._last_timestamp())
        self.purge()

    def close(self) -> None:
        """Let another server use the folder."""
        self._to_disk.shutdown()
        self._in_use.release()

    def _find_finished(self) -> dict[str, _Kept]:
        """Every whole result; what is damaged stays where it is and is not served."""
        found = {}
        for path in self._folder.iterdir():
            if _NAME.fullmatch(path.name):
                for leftover in path.glob(".*.part"):
                    leftover.unlink(missing_ok=True)
                try:
                    manifest = read_manifest(path, MANIFEST)
                except (OSError, ValueError) as error:
                    logger.error("The result %s is damaged and is not served: %s", path.name, error)
                else:
                    found[path.name] = _kept(manifest)
        return found

    def _find_queued(self) -> set[str]:
        """The requests that an earlier server accepted and did not finish."""
        queued = set()
        for path in self._folder.iterdir():
            match = _QUEUED.fullmatch(path.name)
            if match and match[1] in self._finished:  # it was finished when the server stopped
                shutil.rmtree(path, ignore_errors=True)
            elif match:
                try:
                    read_manifest(path, REQUEST)
                except (OSError, ValueError) as error:
                    logger.error("The accepted request %s is damaged and cannot be worked on: %s", match[1], error)
                else:
                    queued.add(match[1])
        return queued

    def _last_timestamp(self) -> Decimal:
        """Of all that this folder ever had."""
        names = [path.name.strip(".") for path in self._folder.iterdir()]
        names = [name.removesuffix(".queued") for name in names] + [self._in_use.read()]
        return max((Decimal(name) for name in names if _NAME.fullmatch(name)), default=Decimal(0))

    @contextmanager
    def new(self) -> Iterator[PendingResult]:
        """A new result, kept if it was finished or queued in the ``with`` block; gone without a trace if that raises.

        Raises:
            NoSpaceError: If the disk is full.
        """
        timestamp = self._timestamps.next()
        with self._part(timestamp) as pending:
            self._in_use.write(f"{timestamp:.6f}")
            yield pending

    @contextmanager
    def resume(self, timestamp: Decimal) -> Iterator[PendingResult]:
        """Go on with a queued request, whose files the pending result starts with. It stays queued if that raises.

        Raises:
            NoSpaceError: If the disk is full.
        """
        name = f"{timestamp:.6f}"
        queued = self._folder / f".{name}.queued"
        with self._part(timestamp) as pending:
            with open(queued / _ATTEMPTS, "ab") as attempts:
                attempts.write(b".")
                attempts.flush()
                os.fsync(attempts.fileno())
            pending.attempt = (queued / _ATTEMPTS).stat().st_size
            for file in queued.iterdir():
                if file.name != _ATTEMPTS:
                    pending.take_over(file, file.name)
            yield pending
        with self._lock:
            self._queued.discard(name)
        shutil.rmtree(queued, ignore_errors=True)

    @contextmanager
    def _part(self, timestamp: Decimal) -> Iterator[PendingResult]:
        """A folder to fill, renamed at the end to what it became."""
        name = f"{timestamp:.6f}"
        pending = PendingResult(timestamp, self._folder / f".{name}.part")
        try:
            pending.folder.mkdir(mode=0o700)
            yield pending
            if pending.becomes is None:
                raise RuntimeError("the pending result was neither finished nor queued")
            final = self._folder / (name if pending.becomes == "finished" else f".{name}.queued")
            manifest = read_manifest(pending.folder, MANIFEST if pending.becomes == "finished" else REQUEST)
            list(self._to_disk.map(sync, pending.folder.iterdir()))  # together they are one commit of the file system
            move(pending.folder, final)
        except BaseException as error:
            shutil.rmtree(pending.folder, ignore_errors=True)
            _raise_if_full(error)
            raise
        with self._lock:
            if pending.becomes == "finished":
                self._finished[name] = _kept(manifest)
            else:
                self._queued.add(name)
        self.purge()

    def add(self, result: StoredResult, name: str, content: bytes) -> StoredResult:
        """Give a finished result one more file, wholly or not at all.

        Args:
            result: That is done.
            name: A file that it does not have. Not to be added by two threads at once.
            content: Of the file.

        Returns:
            The result, its manifest listing the file.

        Raises:
            UnknownResultError: If it was deleted meanwhile.
            NoSpaceError: If the disk is full.
        """
        folder = result.folder
        try:
            with restored_on_error([folder / name]):
                with atomic_write(folder / name) as file:
                    file.write(content)
                with self._manifests:  # which is never there before what it lists
                    manifest = read_manifest(folder, MANIFEST)
                    manifest = manifest.with_files({**manifest.files, name: len(content)})
                    with atomic_write(folder / MANIFEST) as file:
                        file.write(as_json(manifest.as_dict()))
        except BaseException as error:
            if isinstance(error, (FileNotFoundError, ValueError)):  # as in find
                raise UnknownResultError(f"the result {print_timestamp(result.timestamp)} was deleted") from None
            _raise_if_full(error)
            raise
        with self._lock:
            if kept := self._finished.get(folder.name):
                self._finished[folder.name] = kept._replace(size=kept.size + len(content))
        self.purge()
        return replace(result, manifest=manifest)

    def find(self, timestamp: Decimal) -> StoredResult:
        """What there is under that timestamp.

        Raises:
            UnknownResultError: If there is nothing.
        """
        name = f"{timestamp:.6f}"
        for _ in range(2):  # what was queued at the first look can be finished at the second
            with self._lock:
                finished, queued = name in self._finished, name in self._queued
            with suppress(OSError, ValueError):  # deleted meanwhile, by this server or by hand
                if finished:
                    folder = self._folder / name
                    manifest = read_manifest(folder, MANIFEST)
                    return StoredResult(timestamp, "failed" if manifest.failure else "done", folder, manifest)
                if queued:
                    folder = self._folder / f".{name}.queued"
                    return StoredResult(timestamp, "queued", folder, read_manifest(folder, REQUEST))
        raise UnknownResultError(f"there is no result {print_timestamp(timestamp)}")

    def queued(self) -> list[Decimal]:
        """The requests that are accepted and not finished, oldest first."""
        with self._lock:
            return sorted(Decimal(name) for name in self._queued)

    def stats(self) -> dict[str, int]:
        """``results`` that are finished, ``queued`` requests, ``bytes`` of the finished ones."""
        with self._lock:
            size = sum(kept.size for kept in self._finished.values())
            return {"results": len(self._finished), "queued": len(self._queued), "bytes": size}

    def purge(self) -> None:
        """Delete results that are too old and, while all together are too large, the oldest of the user with the most.

        The newest stays. So nobody loses results to somebody who keeps more than they do.
        """
        oldest = self._retention.oldest()
        with self._lock:
            names = sorted(self._finished, key=Decimal)
            gone = [name for name in names if float(name) < oldest]
            gone += self._too_much([name for name in names if float(name) >= oldest]) if self._max_bytes else []
            for name in gone:
                self._finished.pop(name)
        for name in gone:
            self._delete(name)

    def _too_much(self, names: list[str]) -> list[str]:
        """Those of these results, oldest first, that go for their size."""
        of_user: dict[str, deque[str]] = {}
        held: Counter[str] = Counter()
        for name in names:
            of_user.setdefault(self._finished[name].user, deque()).append(name)
            held[self._finished[name].user] += self._finished[name].size
        gone: list[str] = []
        while held.total() > self._max_bytes and len(gone) < len(names) - 1:
            user = next(user for user, _ in held.most_common() if of_user[user] and of_user[user][0] != names[-1])
            gone.append(of_user[user].popleft())
            held[user] -= self._finished[gone[-1]].size
        return gone

    def _delete(self, name: str) -> None:
        """Take the result away at one stroke, then free its space."""
        aside = self._folder / f".{name}.part"
        try:
            os.rename(self._folder / name, aside)
        except FileNotFoundError:  # somebody deleted it by hand
            return
        shutil.rmtree(aside, ignore_errors=True)
        logger.info("Deleted result %s", name)


def _kept(manifest: Manifest) -> _Kept:
    return _Kept(sum(manifest.files.values()), manifest.user)


def _raise_if_full(error: BaseException) -> None:
    """Say of an error that the disk is full, if it is that.

    Raises:
        NoSpaceError: If it is.
    """
    if is_full(error):
        raise NoSpaceError("there is no space left for results") from error
