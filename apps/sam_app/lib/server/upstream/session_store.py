"""Fixes of how MONAI Label 0.8.5 stores sessions: images that a client sent for its own use, for an hour.

- Everybody who has a session's id can use it, and ids can be guessed (UUID 1: time and network address). Here it has an
  owner, and its id is random.
- Every user of the machine can read the folders. Here they are private.
- An image is in the same folder as the session's description, and can have its name. Here it has a folder of its own.
- The description is rewritten in place at each use. Here it is replaced, at most once a minute.
- Expired sessions are not removed after a restart; a session whose description cannot be read ends the thread that
  removes them, for good.
"""

import json
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from monailabel.utils.sessions import SessionInfo, Sessions

from lib.base.files import atomic_write, move, sync

logger = logging.getLogger(__name__)

SESSION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
DESCRIPTION = "meta.info"
_IMAGE = "image"
_PART = ".part"
_WRITE_INTERVAL_S = 60


class OwnedSession(SessionInfo):
    """MONAI Label's session with its owner, from the description in its file."""

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__(description)
        self.owner: str = description.get("owner") or ""

    @property
    def expires(self) -> float:
        """Return when it is removed unless it is used before, in seconds since the epoch."""
        return self.last_access_ts + self.expiry


class SessionStore(Sessions):
    """Store of the sessions of one server. Thread-safe.

    Args:
        folder: Where they are stored, one folder each; empty for MONAI Label's default.
        expiry: Seconds from its last use until a session is removed; its client can request less.
        removed: Called after a session was removed.
    """

    def __init__(self, folder: str, expiry: int, removed: Callable[[], None] = lambda: None) -> None:
        super().__init__(folder, expiry)
        self._removed = removed
        self._folder = Path(self.store_path)
        self._lock = Lock()

    def __bool__(self) -> bool:
        """Return True, as upstream cleans up only a store that is true, and a new one is an empty dictionary."""
        return True

    def add(
        self,
        files: Iterable[tuple[str, BinaryIO]],
        expiry: int,
        owner: str,
        settle: Callable[[Path], None] = lambda folder: None,
    ) -> OwnedSession:
        """Store a new session and return it.

        Args:
            files: Name and content of one image, or of the files of a series. The names are plain and differ.
            expiry: Seconds; the server's own value if this is 0, negative or larger.
            owner: The user who owns it.
            settle: Called with the folder of the files before they are a session's; may change what is in it.

        Raises:
            OSError: If it cannot be written; then its files are removed.
            Exception: Whatever ``settle`` raises; likewise.
        """
        session_id = str(uuid.uuid4())
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        final = self._folder / session_id
        with _new_folder(self._folder / f".{session_id}{_PART}") as aside:
            for name, content in files:
                _write(aside / _IMAGE / name, content)
            settle(aside / _IMAGE)
            names = os.listdir(aside / _IMAGE)
            for name in names:
                sync(aside / _IMAGE / name)
            sync(aside / _IMAGE)
            image = final / _IMAGE / names[0] if len(names) == 1 else final / _IMAGE
            now = int(time.time())
            session = OwnedSession(
                {
                    "name": session_id,
                    "path": str(final),
                    "image": str(image),
                    "meta": {},
                    "create_ts": now,
                    "last_access_ts": now,
                    "expiry": min(expiry, self.expiry) if expiry > 0 else self.expiry,
                    "owner": owner,
                }
            )
            _describe(aside, session)
            move(aside, final)
        with self._lock:
            self[session_id] = session
        logger.info("New session of %d files", len(names))
        return session

    def get_session(self, session_id: str, update_ts: bool = True, fetch_cache: bool = True) -> OwnedSession | None:
        """Return a session; None if there is none, or it is expired.

        Args:
            session_id: Its id.
            update_ts: Whether this is a use, which restarts its expiry time.
            fetch_cache: Not used; part of upstream's signature.
        """
        if not SESSION_ID.fullmatch(session_id):
            return None
        with self._lock:
            session = self.get(session_id) or self._read(session_id)
            if session is None or session.expires < time.time() or not os.path.exists(session.image):
                self.pop(session_id, None)
                return None
            self[session_id] = session
            now = int(time.time())
            is_due = update_ts and now - session.last_access_ts >= _WRITE_INTERVAL_S
            if update_ts:
                session.last_access_ts = now
        if is_due:
            with suppress(OSError):  # a full disk: only after a restart it expires earlier
                _describe(self._folder / session_id, session)
        return session

    def remove_session(self, session_id: str) -> None:
        """Remove a session atomically, if there is one."""
        with self._lock:
            self.pop(session_id, None)
        if SESSION_ID.fullmatch(session_id):
            aside = self._folder / f".{session_id}{_PART}"
            with suppress(FileNotFoundError):
                os.rename(self._folder / session_id, aside)
            shutil.rmtree(aside, ignore_errors=True)
            self._removed()

    def remove_expired(self) -> int:
        """Remove expired, damaged and half-written sessions; returns how many."""
        count = 0
        for path in self._folder.glob("*"):
            session_id = path.name.removeprefix(".").removesuffix(_PART)
            if SESSION_ID.fullmatch(session_id) and self._is_expired(path, session_id):
                self.remove_session(session_id)
                count += 1
        return count

    def _is_expired(self, path: Path, session_id: str) -> bool:
        """Return whether an entry is expired; one that cannot be read expires as late as a session."""
        if path.name == session_id:
            with self._lock:
                session = self.get(session_id) or self._read(session_id)
            if session is not None:
                return session.expires < time.time()
        try:
            return path.stat().st_mtime + self.expiry < time.time()
        except OSError:
            return False

    def _read(self, session_id: str) -> OwnedSession | None:
        """Return a session from its description; None if that cannot be read or names an image outside its folder."""
        folder = self._folder / session_id
        try:
            description = json.loads((folder / DESCRIPTION).read_bytes())
            session = OwnedSession(description)
            session.last_access_ts, session.expiry = int(session.last_access_ts), int(session.expiry)
            is_own = Path(session.image).is_relative_to(folder) and ".." not in Path(session.image).parts
        except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return None
        return session if is_own and isinstance(session.owner, str) else None


@contextmanager
def _new_folder(aside: Path) -> Iterator[Path]:
    """Create a private folder with an image folder in it, to be renamed; removes it if the ``with`` block raises."""
    try:
        (aside / _IMAGE).mkdir(mode=0o700, parents=True)
        aside.chmod(0o700)
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _write(path: Path, content: BinaryIO) -> None:
    with open(path, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        shutil.copyfileobj(content, file)


def _describe(folder: Path, session: OwnedSession) -> None:
    with atomic_write(folder / DESCRIPTION, private=True) as file:
        file.write(json.dumps(vars(session)).encode())
