"""Results on disk: one folder each, named by its timestamp, which appears atomically.

In the store's folder are::

    .lock                          held by the server that uses the store; stores the last timestamp
    .1732288000.120000.part/       being written; removed at the next start
    .1732288000.120000.queued/     accepted and waiting or being processed: request.json and the input
    1732288000.120000/             finished, with a manifest that says how it was made, or why it failed

Every folder is filled under the name that ends in ``.part``, synced to disk, and renamed, so that no reader sees an
incomplete one, and no crash leaves one. A queued request survives the server; it is removed once its result is renamed.

The manifest lists every file with its size; a file that it does not list does not exist. Files can be added to a
finished result: each is written aside as well, and exists once the manifest that lists it has replaced the one before.

Several servers can share a folder: each has one of its own in it, ``front-0`` to ``front-99``, where only it makes and
deletes results, and finds those of the others. Their timestamps differ in the last two digits.

Concurrency: one lock guards the table of results; no file is touched while it is held. Another one serializes the
replacing of manifests of finished results, together with a lock of the result's folder, as another server may add files
to it. Neither is taken while the other is held.
"""

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
from lib.base.locks import FolderLock, locked
from lib.server.http.errors import NoSpaceError, UnknownResultError
from lib.server.options import MAX_FRONTS
from lib.server.rest.manifest import Manifest, ResultFacts, read_manifest
from lib.server.rest.pending import INPUT, MANIFEST, REQUEST, PendingResult, as_json
from lib.server.rest.timestamps import RetentionClock, TimestampSource, print_timestamp

logger = logging.getLogger(__name__)

_ATTEMPTS = "attempts"
_SYNCED_AT_ONCE = 8

_NAME = re.compile(r"\d{1,12}\.\d{6}")
_QUEUED = re.compile(r"\.(\d{1,12}\.\d{6})\.queued")


class _StoredImage(NamedTuple):
    """The image's file, or first file, on the disk (device, inode), and bytes of all; results share it by links."""

    place: tuple[int, int]
    size: int


class _FinishedResult(NamedTuple):
    """A finished result.

    Args:
        size: Of its own files in bytes, without the image.
        user: Its owner.
        image: Its image's content; empty without one.
        stored_image: Where that is; None without one.
    """

    size: int
    user: str
    image: str
    stored_image: _StoredImage | None


@dataclass(frozen=True)
class StoredResult:
    """What is stored under one timestamp.

    Args:
        timestamp: Name of the result.
        state: ``queued`` if it is waiting or being processed.
        folder: Folder of its files.
        manifest: Its manifest; the request while it is queued.
    """

    timestamp: Decimal
    state: Literal["done", "failed", "queued"]
    folder: Path
    manifest: Manifest

    @property
    def facts(self) -> ResultFacts:
        """What was segmented.

        Raises:
            ValueError: If it is not done.
        """
        if self.manifest.result is None:
            raise ValueError(f"the result {print_timestamp(self.timestamp)} is {self.state}, not done")
        return self.manifest.result

    def path(self, name: str) -> Path:
        """Return the path of one of its files.

        Raises:
            UnknownResultError: If it has no such file.
        """
        if name not in self.manifest.files:
            raise UnknownResultError(f"the result {print_timestamp(self.timestamp)} has no {name}")
        return self.folder / name


class ResultStore:
    """Store of the results of one server.

    Args:
        folder: Where they are stored; created if missing, readable by this user alone.
        max_age_seconds: Older results are deleted, see :class:`RetentionClock`; 0 for never.
        max_bytes: The oldest are deleted above this total; 0 for no limit.
        front: Number of this server among several that share the folder, below
            :data:`~lib.server.options.MAX_FRONTS`; None for the only one.

    Raises:
        FolderInUseError: If another server uses the folder.
        OSError: If the folder cannot be made or written.
    """

    def __init__(
        self, folder: Path, *, max_age_seconds: float = 0, max_bytes: float = 0, front: int | None = None
    ) -> None:
        self._shared = None if front is None else folder
        self._folder = folder = folder if front is None else folder / f"front-{front}"
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._manifests = threading.Lock()
        self._to_disk = ThreadPoolExecutor(_SYNCED_AT_ONCE, thread_name_prefix="results-to-disk")
        for path in filter(None, [self._shared, folder]):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._in_use = FolderLock(folder)
        for leftover in folder.glob(".*.part"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._finished = self._find_finished()
        self._retention = RetentionClock(max_age_seconds, [float(name) for name in self._finished])
        self._queued = self._find_queued()
        self._timestamps = TimestampSource(self._last_timestamp(), front)
        self.purge()

    def close(self) -> None:
        """Release the folder for another server."""
        self._to_disk.shutdown()
        self._in_use.release()

    def _find_finished(self) -> dict[str, _FinishedResult]:
        """Return every complete result; a damaged one stays on disk but is not served."""
        found = {}
        for path in self._folder.iterdir():
            if _NAME.fullmatch(path.name):
                for leftover in path.glob(".*.part"):
                    leftover.unlink(missing_ok=True)
                try:
                    found[path.name] = _entry_of(path, read_manifest(path, MANIFEST))
                except (OSError, ValueError) as error:
                    logger.error("The result %s is damaged and is not served: %s", path.name, error)
        return found

    def _find_queued(self) -> set[str]:
        """Return the requests that an earlier server accepted and did not finish."""
        queued = set()
        for path in self._folder.iterdir():
            match = _QUEUED.fullmatch(path.name)
            if match and match[1] in self._finished:  # it was already finished when the server stopped
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
        """Return the last timestamp that was ever used in this folder."""
        names = [path.name.strip(".") for path in self._folder.iterdir()]
        names = [name.removesuffix(".queued") for name in names] + [self._in_use.read()]
        return max((Decimal(name) for name in names if _NAME.fullmatch(name)), default=Decimal(0))

    @contextmanager
    def new(self) -> Iterator[PendingResult]:
        """Create a result, stored if the ``with`` block finishes or queues it, removed completely if the block raises.

        Raises:
            NoSpaceError: If the disk is full.
        """
        timestamp = self._timestamps.next()
        with self._part(timestamp) as pending:
            self._in_use.write(f"{timestamp:.6f}")
            yield pending

    @contextmanager
    def resume(self, timestamp: Decimal) -> Iterator[PendingResult]:
        """Continue a queued request with its files in the pending result; stays queued if the ``with`` block raises.

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
        """Create a folder to fill; renames it at the end according to what the result became."""
        name = f"{timestamp:.6f}"
        pending = PendingResult(timestamp, self._folder / f".{name}.part")
        try:
            pending.folder.mkdir(mode=0o700)
            yield pending
            if pending.becomes is None:
                raise RuntimeError("the pending result was neither finished nor queued")
            final = self._folder / (name if pending.becomes == "finished" else f".{name}.queued")
            manifest = read_manifest(pending.folder, MANIFEST if pending.becomes == "finished" else REQUEST)
            list(self._to_disk.map(sync, pending.to_flush()))  # at once: the file system commits them together
            entry = _entry_of(pending.folder, manifest)
            move(pending.folder, final)
        except BaseException as error:
            shutil.rmtree(pending.folder, ignore_errors=True)
            _raise_if_full(error)
            raise
        with self._lock:
            if pending.becomes == "finished":
                self._finished[name] = entry
            else:
                self._queued.add(name)
        self.purge()

    def add(self, result: StoredResult, name: str, content: bytes) -> StoredResult:
        """Add a file to a finished result atomically.

        Args:
            result: A result that is done.
            name: A file that it does not have yet; two threads must not add the same one at once.
            content: Content of the file.

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
                with self._manifests, locked(folder):  # replaced only when the file exists that it lists
                    manifest = read_manifest(folder, MANIFEST)
                    manifest = manifest.model_copy(update={"files": {**manifest.files, name: len(content)}})
                    with atomic_write(folder / MANIFEST) as file:
                        file.write(as_json(manifest.as_dict()))
        except BaseException as error:
            if isinstance(error, (FileNotFoundError, ValueError)):  # as in find
                raise UnknownResultError(f"the result {print_timestamp(result.timestamp)} was deleted") from None
            _raise_if_full(error)
            raise
        with self._lock:
            if entry := self._finished.get(folder.name):
                self._finished[folder.name] = entry._replace(size=entry.size + len(content))
        self.purge()
        return replace(result, manifest=manifest)

    def find(self, timestamp: Decimal) -> StoredResult:
        """Return the result or queued request with this timestamp.

        Raises:
            UnknownResultError: If there is none.
        """
        name = f"{timestamp:.6f}"
        for _ in range(2):  # a request that is queued at the first check can be finished at the second
            with self._lock:
                finished, queued = name in self._finished, name in self._queued
            with suppress(OSError, ValueError):  # deleted meanwhile, by this server or by hand
                if finished:
                    return _finished_in(self._folder, timestamp)
                if queued:
                    return _queued_in(self._folder, timestamp)
        return self._find_elsewhere(timestamp)

    def _find_elsewhere(self, timestamp: Decimal) -> StoredResult:
        """Return the result or queued request of another server that shares the folder; errors as of :meth:`find`."""
        if self._shared is not None:
            other = self._shared / f"front-{int(timestamp.scaleb(6)) % MAX_FRONTS}"
            for read in (_finished_in, _queued_in) * 2:  # likewise
                with suppress(OSError, ValueError):
                    return read(other, timestamp)
        raise UnknownResultError(f"there is no result {print_timestamp(timestamp)}")

    def with_image(self, key: str) -> StoredResult | None:
        """Return a finished result whose image has this content (``InputFile.key``); None if there is none."""
        with self._lock:
            found = (name for name, entry in reversed(self._finished.items()) if entry.image == key)
            name = next(found, None)
        with suppress(UnknownResultError):
            return None if name is None else self.find(Decimal(name))
        return None

    def queued(self) -> list[Decimal]:
        """Return the requests that are accepted and not finished, oldest first."""
        with self._lock:
            return sorted(Decimal(name) for name in self._queued)

    def stats(self) -> dict[str, int]:
        """Return the counts of finished ``results`` and ``queued`` requests, and the results' ``bytes`` on disk."""
        with self._lock:
            entries = list(self._finished.values())
            queued = len(self._queued)
        images = {entry.stored_image for entry in entries if entry.stored_image is not None}
        size = sum(entry.size for entry in entries) + sum(image.size for image in images)
        return {"results": len(entries), "queued": queued, "bytes": size}

    def purge(self) -> None:
        """Delete results that are too old and, while the total is too large, the oldest of the user who stores most.

        The newest stays. So nobody loses results to a user who stores more than they do.
        """
        oldest = self._retention.oldest()
        with self._lock:
            names = sorted(self._finished, key=Decimal)
            gone = [name for name in names if float(name) < oldest]
            gone += self._over_size([name for name in names if float(name) >= oldest]) if self._max_bytes else []
            for name in gone:
                self._finished.pop(name)
        for name in gone:
            self._delete(name)

    def _over_size(self, names: list[str]) -> list[str]:
        """Return which of these results, oldest first, are to be deleted because the total is too large.

        An image that several results of a user share counts once, and goes with the last of them.
        """
        of_user: dict[str, deque[str]] = {}
        held: Counter[str] = Counter()
        sharing: Counter[tuple[str, _StoredImage]] = Counter()
        for name in names:
            entry = self._finished[name]
            of_user.setdefault(entry.user, deque()).append(name)
            held[entry.user] += entry.size
            if entry.stored_image is not None:
                held[entry.user] += 0 if sharing[entry.user, entry.stored_image] else entry.stored_image.size
                sharing[entry.user, entry.stored_image] += 1
        gone: list[str] = []
        while held.total() > self._max_bytes and len(gone) < len(names) - 1:
            user = next(user for user, _ in held.most_common() if of_user[user] and of_user[user][0] != names[-1])
            gone.append(of_user[user].popleft())
            entry = self._finished[gone[-1]]
            held[user] -= entry.size
            if entry.stored_image is not None:
                sharing[user, entry.stored_image] -= 1
                held[user] -= 0 if sharing[user, entry.stored_image] else entry.stored_image.size
        return gone

    def _delete(self, name: str) -> None:
        """Remove a result atomically, then free its space."""
        aside = self._folder / f".{name}.part"
        try:
            os.rename(self._folder / name, aside)
        except FileNotFoundError:  # somebody deleted it by hand
            return
        shutil.rmtree(aside, ignore_errors=True)
        logger.info("Deleted result %s", name)


def _finished_in(store: Path, timestamp: Decimal) -> StoredResult:
    """Return a finished result in a store's folder; errors as of :func:`~lib.server.rest.manifest.read_manifest`."""
    folder = store / f"{timestamp:.6f}"
    manifest = read_manifest(folder, MANIFEST)
    return StoredResult(timestamp, "failed" if manifest.failure else "done", folder, manifest)


def _queued_in(store: Path, timestamp: Decimal) -> StoredResult:
    """Return a queued request in a store's folder; errors likewise."""
    folder = store / f".{timestamp:.6f}.queued"
    return StoredResult(timestamp, "queued", folder, read_manifest(folder, REQUEST))


def _entry_of(folder: Path, manifest: Manifest) -> _FinishedResult:
    """Return what is known of a result whose files are in a folder.

    Raises:
        OSError: If its image is not there.
    """
    size = sum(size for file, size in manifest.files.items() if file != INPUT)
    if INPUT not in manifest.files:
        return _FinishedResult(size, manifest.user, "", None)
    path = folder / INPUT
    status = (min(path.iterdir(), default=path) if path.is_dir() else path).stat()
    stored = _StoredImage((status.st_dev, status.st_ino), manifest.files[INPUT])
    return _FinishedResult(size, manifest.user, manifest.input.key, stored)


def _raise_if_full(error: BaseException) -> None:
    """Raise :class:`NoSpaceError` instead of an error that means that the disk is full."""
    if is_full(error):
        raise NoSpaceError("there is no space left for results") from error
