"""Fixes of how MONAI Label 0.8.5 stores a series that it fetched from a DICOMweb server.

- It fetches a series only once: one that was still arriving at the first click keeps the slices that it had then, and
  a click on one slice gives a mask on another. Here the copy is compared with the server, see
  :meth:`SeriesFolders.get`, and a series that has changed is fetched again, as another image.
- After an interruption it uses the fetched part as if it were the whole series; two requests at the same time write
  the same files. Here a series is fetched once, into a temporary folder, which is then renamed.
- Everyone on the machine can read what it fetched. Here only the server's user can.
"""

import hashlib
import logging
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from lib.base.scratch import held_folder, remove_unheld
from lib.dicomweb.connection import DicomWebError, DicomWebStatusError, DicomWebUnreachableError, SeriesGoneError
from lib.dicomweb.retrieve import SeriesRetrieval
from lib.dicomweb.search import ArchiveClient
from lib.imaging.image_cache import image_sha256

logger = logging.getLogger(__name__)

DEFAULT_MAX_AGE_S = 10.0
_FETCHING = ".fetching-"
_TRUSTED_SHARE_OF_AGE = 0.1
"""A copy is trusted for this share of its age, so that a series that is just arriving is compared often."""
_MAX_COMPARING_SHARE = 0.1
"""Comparing takes at most this share of the time in which a series is used."""
_RETRY_AFTER_S = 60.0
"""After the server failed to respond, a copy is trusted for this long, for clients that have worked with it."""


def token_of_instances(uids: Iterable[str]) -> str:
    """Return a token that identifies the set of a series' instances, by their SOP Instance UIDs in any order."""
    return "instances:" + hashlib.sha256("\n".join(sorted(uids)).encode()).hexdigest()


@dataclass(frozen=True)
class SeriesCopy:
    """Local copy of a series; its files never change.

    Args:
        folder: Folder of its files, one per instance.
        version: Digest that identifies the files' content.
        instances: Their SOP Instance UIDs.
        etag: The server's ``ETag`` for the same content; None if it has none.
    """

    folder: Path
    version: str
    instances: frozenset[str]
    etag: str | None = None

    @property
    def tokens(self) -> tuple[str, str]:
        """Tokens by which a client can know the copy: one of its content, and one of only its instances' UIDs."""
        return self.version, token_of_instances(self.instances)


class SeriesFolders:
    """Local copies of a DICOMweb server's series, in folders ``<series>/<version>/`` of DICOM files; thread-safe.

    The version before the last one is not deleted, for requests that are still reading it.

    Args:
        client: Client for the server.
        root: Folder of these folders.
        by_frame: MONAI Label's setting: build each instance from its metadata and its frames.
        max_age: Longest time in seconds for which a copy is trusted, that is, not compared with the server.
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
        remove_unheld(root.parent, _FETCHING)

    def find(self, series: str) -> SeriesCopy | None:
        """Return the local copy of a series without comparing it; None if it was not fetched, or was deleted."""
        copy = self._copies.get(series)
        if copy is None or not copy.folder.is_dir():
            copy = self._newest_on_disk(series)
        return copy

    def get(self, series: str, *, anew: bool = False, is_known: bool = False) -> SeriesCopy:
        """Return an up-to-date local copy of a series, fetched if need be.

        A copy that is no longer trusted is compared with the server: by the list of its instances, else by their
        number, and by its ``ETag`` if there is one. If the server provides none of these, the series is fetched again.

        Args:
            series: Its Series Instance UID.
            anew: Compare the copy whatever its age, because a client has just opened the series.
            is_known: The client has worked with this very copy, so it is returned even if the server does not respond.

        Raises:
            SeriesGoneError: If the server no longer has the series.
            DicomWebError: If the server does not send it, or does not respond.
        """
        with self._locks[series]:
            copy = self.find(series)
            if copy is not None and not anew and time.monotonic() < self._trusted_until.get(series, 0):
                return copy
            begun = time.monotonic()
            try:
                is_same = copy is not None and self._is_unchanged(series, copy)
            except SeriesGoneError:
                self._forget(series)
                raise
            except (DicomWebUnreachableError, DicomWebStatusError):
                if copy is None or not is_known:
                    raise
                logger.warning(
                    "The DICOMweb server failed to report whether a series has changed: its local copy stays in use"
                )
                self._trusted_until[series] = time.monotonic() + _RETRY_AFTER_S
                return copy
            found = copy if copy is not None and is_same else self._fetch(series)
            is_new = copy is None or copy.version != found.version
            self._copies[series] = found
            self._trust(series, found, cost=0 if is_new else time.monotonic() - begun)
            return found

    def is_known(self, series: str) -> bool:
        """Return whether a series was fetched, or its study is known from :meth:`record_study`."""
        return series in self._studies or self.find(series) is not None

    def record_study(self, series: str, study: str) -> None:
        """Record the study of a series, as seen in a response of the server; it need not be searched for then."""
        self._studies[series] = study

    def expire_all(self) -> None:
        """Have each copy compared with the server at its next use, because a client has connected."""
        self._trusted_until.clear()

    def _trust(self, series: str, copy: SeriesCopy, *, cost: float) -> None:
        """Set until when to trust a copy that has just been compared, which took ``cost`` seconds."""
        settled = (time.time() - copy.folder.stat().st_mtime) * _TRUSTED_SHARE_OF_AGE
        self._trusted_until[series] = time.monotonic() + min(self._max_age, max(settled, cost / _MAX_COMPARING_SHARE))

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

    def _is_unchanged(self, series: str, copy: SeriesCopy) -> bool:
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
        """Return the instances that the server lists; if the known study has no list, look up the study again."""
        listed = self._client.list_instances(self._study(series), series)
        if listed is None:
            listed = self._client.list_instances(self._study(series, anew=True), series)
        return listed

    def _fetch(self, series: str) -> SeriesCopy:
        listed = self._list(series) or frozenset()
        retrieval = SeriesRetrieval(self._client, self._study(series), series)
        # Not in ``root`` itself, because MONAI Label watches its contents.
        with held_folder(self._root.parent, _FETCHING) as aside:
            part = aside / "series"
            part.mkdir()
            etag = retrieval.save(part, listed, by_frame=self._by_frame)
            self._check_count(series, part, listed)
            version = image_sha256(part)[:32]
            place = self._root / series / version
            place.parent.mkdir(exist_ok=True)
            if not place.is_dir():  # it exists if another process was faster, or an old version is back
                part.rename(place)
            elif place.name != getattr(self._copies.get(series), "version", None):
                os.utime(place)  # makes it the newest again
        self._prune(series, keep=place)
        return SeriesCopy(place, version, _instances_in(place), etag)

    def _check_count(self, series: str, folder: Path, listed: frozenset[str]) -> None:
        """Raise if the server does not list instances and fewer arrived than its number of them."""
        there = sum(1 for _ in folder.iterdir())
        stated = None if listed else self._client.count_instances(series)
        if stated is not None and there < stated:
            raise DicomWebError(f"the DICOMweb server sent {there} of the {stated} instances of the series")

    def _prune(self, series: str, *, keep: Path) -> None:
        """Delete all versions except ``keep`` and the one before it."""
        before = self._copies.get(series)
        kept = {keep, before.folder if before else keep}
        for entry in (self._root / series).iterdir():
            if entry.is_dir() and entry not in kept:
                shutil.rmtree(entry, ignore_errors=True)
            elif not entry.is_dir():  # an instance stored by an earlier version of this server
                entry.unlink(missing_ok=True)

    def _forget(self, series: str) -> None:
        self._copies.pop(series, None)
        self._studies.pop(series, None)
        shutil.rmtree(self._root / series, ignore_errors=True)


def _instances_in(folder: Path) -> frozenset[str]:
    return frozenset(file.stem for file in folder.iterdir())
