"""Mends of what MONAI Label 0.8.5 makes of a series that it fetched from a DICOMweb server.

- It never asks again: a series that was still arriving at its first click keeps the slices that it had then, and a
  click on one of them gives a mask on another. Here the copy is compared with the server, see
  :meth:`SeriesFolders.get`, and what is no longer the same is fetched anew, as another image.
- Where fetching was interrupted, it takes the part of the series that it has for the whole from then on; two requests
  at the same time write the same files. Here a series is fetched once, aside, and renamed into place.
- What it fetched is for everyone on the machine to read. Here for the server's user alone.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from lib.dicomweb.connection import (
    DicomWebError,
    DicomWebStatusError,
    DicomWebUnreachableError,
    SeriesGoneError,
)
from lib.dicomweb.retrieve import SeriesRetrieval
from lib.dicomweb.search import ArchiveClient
from lib.imaging.digest import image_sha256

logger = logging.getLogger(__name__)

DEFAULT_MAX_AGE_S = 10.0
_SETTLING = 0.1
"""A copy is trusted for this share of the time for which it has been as it is: what arrives now is looked at often."""
_COST = 0.1
"""Comparing takes at most this share of the time in which a series is used."""
_UNANSWERED_S = 60.0
"""For so long a server that did not answer is not asked again by those who know the copy."""


def token_of_instances(uids: Iterable[str]) -> str:
    """Names the instances that a series consists of.

    Args:
        uids: Their SOP Instance UIDs, in any order.
    """
    return "instances:" + hashlib.sha256("\n".join(sorted(uids)).encode()).hexdigest()


@dataclass(frozen=True)
class SeriesCopy:
    """A series as it was fetched; its files never change.

    Args:
        folder: Of its files, one an instance.
        version: Names their content.
        instances: Their SOP Instance UIDs.
        etag: The server's name for the same, if it has one.
    """

    folder: Path
    version: str
    instances: frozenset[str]
    etag: str | None = None

    @property
    def tokens(self) -> tuple[str, str]:
        """The names by which a client can know it: of its content, and of its instances alone."""
        return self.version, token_of_instances(self.instances)


class SeriesFolders:
    """Series of a DICOMweb server as folders of DICOM files, ``<series>/<version>/``; may be used by several threads.

    The version before the last stays, for requests that are still reading it.

    Args:
        client: Knows the server.
        root: Where the folders are.
        by_frame: As MONAI Label's setting: make each instance of its metadata and its frames.
        max_age: Seconds for which a copy is trusted at most.
    """

    def __init__(
        self, client: ArchiveClient, root: Path, *, by_frame: bool = False, max_age: float = DEFAULT_MAX_AGE_S
    ) -> None:
        self._client = client
        self._root = root
        self._by_frame = by_frame
        self._max_age = max_age
        self._copies: dict[str, SeriesCopy] = {}
        self._studies: dict[str, str] = {}
        self._trusted_until: dict[str, float] = {}
        self._locks: defaultdict[str, Lock] = defaultdict(Lock)
        os.chmod(root, 0o700)

    def find(self, series: str) -> SeriesCopy | None:
        """The copy of a series, as it is here; None if it was not fetched, or is gone."""
        copy = self._copies.get(series)
        if copy is None or not copy.folder.is_dir():
            copy = self._newest_on_disk(series)
        return copy

    def get(self, series: str, *, anew: bool = False, is_known: bool = False) -> SeriesCopy:
        """The series as the server has it, fetched if need be.

        The copy is compared with the server if it is no longer trusted: by the list of its instances, else by their
        number, and by its ``ETag`` where there is one. Of a server that has none of them it is fetched again.

        Args:
            series: Its Series Instance UID.
            anew: Compare it whatever its age: somebody has just opened the series.
            is_known: Whoever asks has worked with this very copy, so that it is theirs if the server does not answer.

        Raises:
            SeriesGoneError: If the server does not have it any more.
            DicomWebError: If the server does not hand it out, or does not answer.
        """
        with self._locks[series]:
            copy = self.find(series)
            if copy is not None and not anew and time.monotonic() < self._trusted_until.get(series, 0):
                return copy
            begun = time.monotonic()
            try:
                is_same = copy is not None and self._is_as_it_was(series, copy)
            except SeriesGoneError:
                self._forget(series)
                raise
            except (DicomWebUnreachableError, DicomWebStatusError):
                if copy is None or not is_known:
                    raise
                logger.warning(
                    "The DICOMweb server does not say if a series has changed; who knows its copy goes on with it"
                )
                self._trusted_until[series] = time.monotonic() + _UNANSWERED_S
                return copy
            found = copy if copy is not None and is_same else self._fetch(series)
            is_new = copy is None or copy.version != found.version
            self._copies[series] = found
            self._trust(series, found, cost=0 if is_new else time.monotonic() - begun)
            return found

    def is_known(self, series: str) -> bool:
        """Whether it was fetched, or the server answered for it under :meth:`learn_study`."""
        return series in self._studies or self.find(series) is not None

    def learn_study(self, series: str, study: str) -> None:
        """The server has just answered for a series in that study: it need not be searched for."""
        self._studies[series] = study

    def expect_changes(self) -> None:
        """Compare each copy with the server when it is next asked for: somebody has connected."""
        self._trusted_until.clear()

    def _trust(self, series: str, copy: SeriesCopy, *, cost: float) -> None:
        """A copy has just been compared, which took ``cost`` seconds."""
        settled = (time.time() - copy.folder.stat().st_mtime) * _SETTLING
        self._trusted_until[series] = time.monotonic() + min(self._max_age, max(settled, cost / _COST))

    def _newest_on_disk(self, series: str) -> SeriesCopy | None:
        versions = [entry for entry in self._versions(series) if any(entry.iterdir())]
        if not versions:
            return None
        newest = max(versions, key=lambda folder: folder.stat().st_mtime)
        return SeriesCopy(newest, newest.name, _instances_in(newest))

    def _versions(self, series: str) -> list[Path]:
        folder = self._root / series
        return [entry for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []

    def _study(self, series: str, *, anew: bool = False) -> str:
        if anew or series not in self._studies:
            self._studies[series] = self._client.study_of(series)
        return self._studies[series]

    def _is_as_it_was(self, series: str, copy: SeriesCopy) -> bool:
        listed = self._list(series)
        if listed is None:
            count = self._client.count_instances(series)
            is_same = count == len(copy.instances) if count is not None else copy.etag is not None
        else:
            is_same = listed == copy.instances
        if is_same and copy.etag:
            is_same = SeriesRetrieval(self._client, self._study(series), series).has_etag(copy.etag)
        return is_same

    def _list(self, series: str) -> frozenset[str] | None:
        """The instances that the server lists; asked in the study in which it has the series now."""
        listed = self._client.list_instances(self._study(series), series)
        if listed is None:
            listed = self._client.list_instances(self._study(series, anew=True), series)
        return listed

    def _fetch(self, series: str) -> SeriesCopy:
        listed = self._list(series) or frozenset()
        retrieval = SeriesRetrieval(self._client, self._study(series), series)
        # Beside the folder, as MONAI Label watches what is in it.
        with tempfile.TemporaryDirectory(dir=self._root.parent, prefix=".fetching-") as aside:
            part = Path(aside, "series")
            part.mkdir()
            etag = retrieval.save(part, listed, by_frame=self._by_frame)
            self._check_count(series, part, listed)
            version = image_sha256(part)[:32]
            place = self._root / series / version
            place.parent.mkdir(exist_ok=True)
            if not place.is_dir():  # as when another process was faster
                part.rename(place)
            elif place.name != getattr(self._copies.get(series), "version", None):
                os.utime(place)  # it is the newest again
        self._prune(series, keep=place)
        return SeriesCopy(place, version, _instances_in(place), etag)

    def _check_count(self, series: str, folder: Path, listed: frozenset[str]) -> None:
        """Where the server has no list to go by, its number of instances must be there."""
        there = sum(1 for _ in folder.iterdir())
        stated = None if listed else self._client.count_instances(series)
        if stated is not None and there < stated:
            raise DicomWebError(f"the DICOMweb server sent {there} of the {stated} instances of the series")

    def _prune(self, series: str, *, keep: Path) -> None:
        """Delete what is older than the version before the one to keep."""
        before = self._copies.get(series)
        kept = {keep, before.folder if before else keep}
        for entry in (self._root / series).iterdir():
            if entry.is_dir() and entry not in kept:
                shutil.rmtree(entry, ignore_errors=True)
            elif not entry.is_dir():  # where an earlier version of this server kept the instances themselves
                entry.unlink(missing_ok=True)

    def _forget(self, series: str) -> None:
        self._copies.pop(series, None)
        self._studies.pop(series, None)
        shutil.rmtree(self._root / series, ignore_errors=True)


def _instances_in(folder: Path) -> frozenset[str]:
    return frozenset(file.stem for file in folder.iterdir())
