"""Record of the image content that is displayed by each client.

A viewer names a slice only by its number. If slices were added or removed since it read the image, or its file was
replaced, the number refers to another slice, and the mask would silently be in the wrong place. So the server records
what each client saw, and refuses requests that refer to other content.

A client saw what the server last sent to it: the image, or the metadata by which a viewer reads it. A client that
reads the image elsewhere is assumed to have seen the content at the time of its first request.
"""

import itertools
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Lock

from cachetools import FIFOCache
from fastapi import Request

from lib.base.client_key import browser_key
from lib.base.request_record import current_record
from lib.imaging.image import ImageChangedError

_MAX_SIGHTS = 8192
_MAX_NAME_LENGTH = 200


@dataclass(frozen=True)
class Viewer:
    """Identity of a client, as far as it can be distinguished from others.

    Args:
        place: The user's name with the browser's cookie or, without one, the client's address.
        name: The ``client_id`` that the client sends; a client may send it with only some of its requests.
    """

    place: str
    name: str = ""


_current: ContextVar[Viewer] = ContextVar("viewer", default=Viewer(""))  # noqa: B039 (it is frozen)


async def note_viewer(request: Request) -> None:
    """Set the client of the request as the current viewer; for use as a route's dependency."""
    record = current_record()
    user = (record and record.user) or ""
    place = browser_key(request) or (request.client.host if request.client else "")
    _current.set(Viewer(f"{user}|{place}"))


def current_viewer(name: object = "") -> Viewer:
    """Return the client that sent the current request; outside of requests one with an empty ``place``.

    Args:
        name: The ``client_id`` in the request.
    """
    return Viewer(_current.get().place, name[:_MAX_NAME_LENGTH] if isinstance(name, str) else "")


@dataclass(frozen=True)
class _Sight:
    token: str
    was_handed_out: bool
    at: int


class DisplayedImages:
    """Table of the content that each client saw of each image, limited to the latest few thousand; thread-safe.

    Content is identified by tokens that the caller chooses; the same content may have several.
    """

    def __init__(self) -> None:
        self._sights: FIFOCache[tuple[str, str, str], _Sight] = FIFOCache(_MAX_SIGHTS)
        self._turns = itertools.count()
        self._lock = Lock()

    def known(self, viewer: Viewer, image: str) -> str | None:
        """Return the token of the content that the client saw; None if it has not used the image."""
        with self._lock:
            sight = self._last(viewer, image)
            return sight.token if sight else None

    def record_sent(self, viewer: Viewer, image: str, token: str) -> None:
        """Record that the image with this content was sent to a client; without a name to all clients of its place."""
        with self._lock:
            self._remember(viewer, image, token, was_handed_out=True)

    def check_displayed(self, viewer: Viewer, image: str, *tokens: str) -> None:
        """Check that the content with these tokens is what the client saw, for a request that refers to the image.

        A client that reads the image from this server is refused until it has read it again. For one that reads it
        elsewhere the server cannot know when it does: it is refused once.

        Raises:
            ImageChangedError: If the client saw other content.
        """
        with self._lock:
            last = self._last(viewer, image)
            is_same = last is None or last.token in tokens
            was_handed_out = last is not None and last.was_handed_out
            if is_same or not was_handed_out:
                self._remember(viewer, image, tokens[0], was_handed_out=was_handed_out)
        if not is_same:
            raise ImageChangedError(
                "the image has changed since it was opened (slices were added, removed or replaced): load it again, "
                "then repeat this"
            )

    def _last(self, viewer: Viewer, image: str) -> _Sight | None:
        """Return the client's own record, or a later one that is shared by its place; None if there is none."""
        mine = self._sights.get((viewer.place, viewer.name, image))
        shared = self._sights.get((viewer.place, "", image))
        found = [sight for sight in (mine, shared if shared and shared.was_handed_out else None) if sight]
        return max(found, key=lambda sight: sight.at, default=None)

    def _remember(self, viewer: Viewer, image: str, token: str, *, was_handed_out: bool) -> None:
        self._sights[viewer.place, viewer.name, image] = _Sight(token, was_handed_out, next(self._turns))


displayed_images = DisplayedImages()
"""The table of this server."""
