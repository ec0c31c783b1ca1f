"""Encoding ahead of the user: the slices on which the next click is likely, while nobody waits for anything.

After a click these are the neighbours, nearest first, those in the direction of travel before those behind; when a
series is opened, its middle slice and then outwards. A user has one list at a time: a click elsewhere, or on another
image, replaces it. How the device is shared with clicks is said in :mod:`lib.sam.device_queue`.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from lib.imaging.image import MedicalImage, Window
from lib.sam.device_queue import MAX_OWNERS, lower_priority
from lib.sam.engine import Engine
from lib.transforms.request import AUTO
from lib.transforms.window import requested_window, windowed_frame

logger = logging.getLogger(__name__)

DEFAULT_SLICES = 16


def nearest_first(k: int, count: int, most: int, direction: int = 0) -> list[int]:
    """The slices around one, in the order in which a user is likely to need them.

    Args:
        k: Where the user is; not in the answer.
        count: Slices of the volume.
        most: Of the answer.
        direction: 1 or -1 for a user who goes up or down: two slices ahead for each behind. 0 for both sides alike.
    """

    def steps(other: int) -> tuple[int, bool]:
        distance = other - k
        behind = distance * direction < 0
        return abs(distance) * (2 if behind else 1), behind or distance < 0

    return sorted((other for other in range(count) if other != k), key=steps)[:most]


@dataclass(frozen=True)
class _Place:
    """Where a user clicked last, and which way they came there."""

    image: weakref.ref[MedicalImage]
    k: int
    direction: int


class Prefetcher:
    """Hands the engine what to encode before it is asked for. Thread-safe.

    An image that the server no longer keeps in memory is not kept for this either.

    Args:
        engine: Encodes.
        slices: At most so many are encoded for a user; 0 does nothing ahead.
    """

    def __init__(self, engine: Engine, slices: int = DEFAULT_SLICES) -> None:
        self._engine = engine
        self._slices = slices
        self._places: OrderedDict[str, _Place] = OrderedDict()
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(1, "ahead", initializer=lower_priority)
        self._is_reading = threading.Semaphore()

    def clicked(self, model: str, user: str, image: MedicalImage, k: int, asked: Window | str) -> None:
        """A user clicked on slice k, asking for a window (see :func:`~lib.transforms.window.requested_window`)."""
        if not self._slices or image.frame_count == 1:
            return
        with self._lock:
            before = self._places.pop(user, None)
            direction = 0
            if before is not None and before.image() is image:
                direction = (k > before.k) - (k < before.k) or before.direction
            self._places[user] = _Place(weakref.ref(image), k, direction)
            while len(self._places) > MAX_OWNERS:
                self._places.popitem(last=False)
        order = nearest_first(k, image.frame_count, self._slices, direction)
        self._encode(model, user, image, order, asked)

    def opened(self, model: str, user: str, read: Callable[[], MedicalImage]) -> None:
        """A user is about to see an image, which is read in the background; left out while another one is.

        Args:
            model: To encode with.
            user: For whom.
            read: Gives the image; also keeps it.
        """
        if not self._slices or not self._is_reading.acquire(blocking=False):
            return

        def read_and_encode() -> None:
            try:
                image = read()
                middle = image.frame_count // 2
                order = [middle, *nearest_first(middle, image.frame_count, self._slices - 1)]
                self._encode(model, user, image, order, AUTO)
            except Exception as error:  # whoever clicks is told
                logger.info("An image was not prepared: %s", type(error).__name__)
            finally:
                self._is_reading.release()

        self._reader.submit(read_and_encode)

    def _encode(self, model: str, user: str, image: MedicalImage, order: list[int], asked: Window | str) -> None:
        kept = weakref.ref(image)

        def frame(k: int) -> Callable[[], np.ndarray | None]:
            def windowed() -> np.ndarray | None:
                image = kept()
                return None if image is None else windowed_frame(image, k, requested_window(image, k, asked)[0])

            return windowed

        self._engine.predictor(model).prefetch_embedding(user, [frame(k) for k in order])
