"""Which content of an image each client has before its eyes.

A viewer names a slice by its number alone. If slices have come or gone since it read the image, or its file was
replaced, that number is another slice: the mask would lie elsewhere without a word. So the server remembers what each
client saw, and refuses what was meant for something else.

What a client saw is what it was last handed out: the image, or the metadata by which a viewer reads it. A client that
has read the image elsewhere has seen what was there at its first request.
"""

from __future__ import annotations

from collections import OrderedDict
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Lock

from fastapi import Request

from lib.base.client_key import browser_key
from lib.base.request_record import current_record
from lib.imaging.image import ImageChangedError

_MOST = 8192
_MOST_NAME = 200


@dataclass(frozen=True)
class Viewer:
    """A client, as far as it can be told from others.

    Args:
        place: Its browser or, without the cookie of one, its address; with the user's name.
        name: The ``client_id`` by which it calls itself; a client may give it with some of its requests only.
    """

    place: str
    name: str = ""


_current: ContextVar[Viewer] = ContextVar("viewer", default=Viewer(""))  # noqa: B039 (it is frozen)


async def note_viewer(request: Request) -> None:
    """As a route's dependency: makes whoever asks the current viewer."""
    record = current_record()
    user = (record and record.user) or ""
    place = browser_key(request) or (request.client.host if request.client else "")
    _current.set(Viewer(f"{user}|{place}"))


def current_viewer(name: object = "") -> Viewer:
    """Whoever sent the request that is worked on; of no place outside of any.

    Args:
        name: The ``client_id`` that came with it.
    """
    return Viewer(_current.get().place, name[:_MOST_NAME] if isinstance(name, str) else "")


@dataclass(frozen=True)
class _Sight:
    token: str
    was_handed_out: bool
    at: int


class SeenImages:
    """What each client saw of each image, the last few thousand sights; thread-safe.

    Content is named by tokens that the caller chooses; the same content may have several.
    """

    def __init__(self) -> None:
        self._sights: OrderedDict[tuple[str, str, str], _Sight] = OrderedDict()
        self._count = 0
        self._lock = Lock()

    def known(self, viewer: Viewer, image: str) -> str | None:
        """The token of what the client saw; None if it is new to the image."""
        with self._lock:
            sight = self._last(viewer, image)
            return sight.token if sight else None

    def handed_out(self, viewer: Viewer, image: str, token: str) -> None:
        """The client was given the image with that content; so were all of its place if it does not say which it is."""
        with self._lock:
            self._remember(viewer, image, token, was_handed_out=True)

    def meant(self, viewer: Viewer, image: str, *tokens: str) -> None:
        """The client means the image with the content that has these tokens.

        A client that reads the image here is refused until it has read it anew. Of one that does not, the server cannot
        know when it has: it is refused once.

        Raises:
            ImageChangedError: If it saw another content.
        """
        with self._lock:
            last = self._last(viewer, image)
            is_it = last is None or last.token in tokens
            was_handed_out = last is not None and last.was_handed_out
            if is_it or not was_handed_out:
                self._remember(viewer, image, tokens[0], was_handed_out=was_handed_out)
        if not is_it:
            raise ImageChangedError(
                "the image has changed since it was opened (slices have come, gone or been replaced): load it again, "
                "then repeat this"
            )

    def _last(self, viewer: Viewer, image: str) -> _Sight | None:
        """The client's own sight, or a later one of its place."""
        mine = self._sights.get((viewer.place, viewer.name, image))
        shared = self._sights.get((viewer.place, "", image))
        found = [sight for sight in (mine, shared if shared and shared.was_handed_out else None) if sight]
        return max(found, key=lambda sight: sight.at, default=None)

    def _remember(self, viewer: Viewer, image: str, token: str, *, was_handed_out: bool) -> None:
        key = (viewer.place, viewer.name, image)
        self._count += 1
        self._sights[key] = _Sight(token, was_handed_out, self._count)
        self._sights.move_to_end(key)
        if len(self._sights) > _MOST:
            self._sights.popitem(last=False)


seen_images = SeenImages()
"""Of this server."""
