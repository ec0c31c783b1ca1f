"""Prefetch the embeddings of slices on which the next click is likely, while no request waits for the device.

After a click these are the neighbouring slices, nearest first, and those in the direction of scrolling before those
behind; when a series is opened, its middle slice and then outwards. A user has one list at a time: a click elsewhere,
or on another image, replaces it. :mod:`lib.sam.device_queue` describes how the device is shared with clicks.
"""

import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from cachetools import FIFOCache

from lib.imaging.image import MedicalImage, Window
from lib.sam.device_queue import MAX_OWNERS, lower_priority
from lib.sam.engine import Engine
from lib.transforms.request import AUTO
from lib.transforms.window import choose_window, windowed_frame

logger = logging.getLogger(__name__)

DEFAULT_SLICES = 16


def nearest_first(k: int, count: int, most: int, direction: int = 0) -> list[int]:
    """Return the slices around one, in the order in which a user is likely to need them.

    Args:
        k: The user's present slice; not included.
        count: Number of slices in the volume.
        most: Maximum number of slices to return.
        direction: 1 or -1 for a user who scrolls up or down: two slices ahead for each behind. 0: both sides alike.
    """

    def steps(other: int) -> tuple[int, bool]:
        distance = other - k
        behind = distance * direction < 0
        return abs(distance) * (2 if behind else 1), behind or distance < 0

    return sorted((other for other in range(count) if other != k), key=steps)[:most]


@dataclass(frozen=True)
class _Place:
    """A user's last click, and the direction of scrolling to it."""

    image: weakref.ref[MedicalImage]
    k: int
    direction: int


@dataclass(frozen=True)
class _Windowed:
    """What the model sees of slice k, once it is called; None if the image is gone."""

    image: weakref.ref[MedicalImage]
    k: int
    asked: Window | str

    def __call__(self) -> np.ndarray | None:
        image = self.image()
        return None if image is None else windowed_frame(image, self.k, choose_window(image, self.k, self.asked)[0])


class Prefetcher:
    """Prefetcher of embeddings. Thread-safe.

    It holds images by weak references, so that it does not keep them in memory.

    Args:
        engine: Encodes.
        slices: At most this many slices are prefetched for a user; 0 switches prefetching off.
    """

    def __init__(self, engine: Engine, slices: int = DEFAULT_SLICES) -> None:
        self._engine = engine
        self._slices = slices
        self._places: FIFOCache[str, _Place] = FIFOCache(MAX_OWNERS)
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(1, "ahead", initializer=lower_priority)
        self._is_reading = threading.Semaphore()

    def clicked(self, model: str, user: str, image: MedicalImage, k: int, asked: Window | str) -> None:
        """Prefetch around slice k after a click; ``asked`` as of :func:`~lib.transforms.window.choose_window`."""
        if not self._slices or image.frame_count == 1:
            return
        with self._lock:
            before = self._places.get(user)
            direction = 0
            if before is not None and before.image() is image:
                direction = (k > before.k) - (k < before.k) or before.direction
            self._places[user] = _Place(weakref.ref(image), k, direction)
        order = nearest_first(k, image.frame_count, self._slices, direction)
        self._encode(model, user, image, order, asked)

    def looked_at(self, model: str, user: str, image: MedicalImage, k: int, asked: Window | str) -> None:
        """Encode slice k, over which a user moves the pointer; ``asked`` as of :meth:`clicked`."""
        if self._slices:
            self._encode(model, user, image, [k], asked)

    def opened(self, model: str, user: str, read: Callable[[], MedicalImage]) -> None:
        """Read an image that a user opens, in the background, and prefetch its slices; not while another is read."""
        if not self._slices or not self._is_reading.acquire(blocking=False):
            return

        def read_and_encode() -> None:
            try:
                image = read()
                middle = image.frame_count // 2
                order = [middle, *nearest_first(middle, image.frame_count, self._slices - 1)]
                self._encode(model, user, image, order, AUTO)
            except Exception as error:  # a click on it reports the error
                logger.info("An image was not prepared: %s", type(error).__name__)
            finally:
                self._is_reading.release()

        self._reader.submit(read_and_encode)

    def _encode(self, model: str, user: str, image: MedicalImage, order: list[int], asked: Window | str) -> None:
        reference = weakref.ref(image)
        self._engine.predictor(model).prefetch_embedding(user, [_Windowed(reference, k, asked) for k in order])
