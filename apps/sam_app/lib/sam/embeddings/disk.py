"""Embeddings on disk, one file each, so that an image stays encoded when the memory is needed or the process ends.

``<key>.embedding`` holds, little-endian::

    8 bytes     SAMEMBED
    2 bytes     version of this format
    4 bytes     length of the header
    header      JSON: key, image_size, dtype of all values, shapes of the features and of the finer levels
    values      of one level after the other, in C order
    32 bytes    SHA-256 of all before

Values are float16, or float32 where one of them is beyond float16's range. A file is used whole or, if anything about
it is not as above, removed. It is written under a name that ends in ``.part`` and renamed. What has another name in the
folder is left alone.

Own format: safetensors has no checksum of the values, and a changed bit would be a wrong mask without a word.

Concurrency: one lock guards the table of files and is never held while one is touched. A thread of its own writes and
removes; requests only read, and never list the folder. Several processes may share a folder: each keeps to the bound
by what it knows of it, and looks at what the others did every minute.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import stat
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.base.clock import current_clock
from lib.base.files import atomic_write, is_leftover
from lib.sam.embeddings.cache import Embedding

logger = logging.getLogger(__name__)

_MAGIC = b"SAMEMBED"
_VERSION = 1
_START = struct.Struct("<8sHI")
_DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
_DIGEST_BYTES = hashlib.sha256().digest_size
_FLOAT16_MAX = torch.finfo(torch.float16).max

_NAME = re.compile(r"([0-9a-f]{64})\.embedding")

QUEUE_LENGTH = 16
"""Embeddings that may wait to be written; one more is not kept on disk."""
_RESCAN_AFTER_S = 60.0
_LEFTOVER_S = 3600.0


class DamagedFileError(ValueError):
    """A file is not the embedding that its name says."""


def pack(embedding: Embedding) -> bytes:
    """An embedding as the content of its file, see this module.

    Rounding to float16 changes a value by at most 2^-11 of it or, below 2^-14, by at most 2^-25.
    """
    levels = [embedding.features, *embedding.finer]
    dtype = "float16" if all(float(level.abs().max()) <= _FLOAT16_MAX for level in levels) else "float32"
    header = {
        "key": embedding.key,
        "image_size": list(embedding.image_size),
        "dtype": dtype,
        "shapes": [list(level.shape) for level in levels],
    }
    head = json.dumps(header).encode()
    values = [level.to(getattr(torch, dtype)).cpu().numpy().astype(_DTYPES[dtype]).tobytes() for level in levels]
    content = b"".join([_START.pack(_MAGIC, _VERSION, len(head)), head, *values])
    return content + hashlib.sha256(content).digest()


def unpack(content: bytearray, key: str, device: torch.device | str) -> Embedding:
    """The embedding with that key, from the content of its file.

    Returns:
        Its levels float32 on the device.

    Raises:
        DamagedFileError: If it is truncated, changed, of another key, of another version, or something else.
    """
    body = memoryview(content)[:-_DIGEST_BYTES]
    if hashlib.sha256(body).digest() != content[-_DIGEST_BYTES:]:
        raise DamagedFileError("its checksum is wrong")
    try:
        magic, version, length = _START.unpack_from(body)
        if (magic, version) != (_MAGIC, _VERSION):
            raise DamagedFileError("it is of another format")
        header = json.loads(bytes(body[_START.size : _START.size + length]))
        if header["key"] != key:
            raise DamagedFileError("it is another image's")
        height, width = header["image_size"]
        features, *finer = _levels(body[_START.size + length :], header["dtype"], header["shapes"], device)
    except (struct.error, KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(str(error)) from error
    return Embedding(features, image_size=(height, width), key=key, finer=tuple(finer))


def _levels(
    values: memoryview, dtype_name: str, shapes: list[list[int]], device: torch.device | str
) -> Iterator[torch.Tensor]:
    dtype = _DTYPES[dtype_name]
    if sum(math.prod(shape) for shape in shapes) * dtype.itemsize != len(values):
        raise DamagedFileError("its values are not as many as its header says")
    start = 0
    for shape in shapes:
        count = math.prod(shape)
        level = np.frombuffer(values, dtype, count, start).reshape(shape)
        yield torch.from_numpy(level).to(device, torch.float32, copy=True)
        start += count * dtype.itemsize


class EmbeddingFiles:
    """A folder of embeddings, up to a number of bytes: the least recently used go first. For threads and processes.

    What cannot be read is as if it were not there, what cannot be written is not kept; each is logged the first time.

    Args:
        folder: Made at the first writing, for its owner alone. Embeddings tell much of the images they are of.
        max_bytes: Bound on the bytes of all files.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()  # the least recently used first
        self._counts = {"hits": 0, "evicted": 0, "lost": 0}
        self._writer = ThreadPoolExecutor(1, "embedding-files")  # the interpreter waits for it at its end
        self._room = threading.Semaphore(QUEUE_LENGTH)
        self._told: set[str] = set()
        self._look()

    def get(self, key: str, device: torch.device | str) -> Embedding | None:
        """The embedding of that key as float32 on that device, as :func:`pack` rounded it; None if it is not there.

        The current clock has the time as ``embedding``.

        Raises:
            TimeLimitError: If the current clock's time is up.
        """
        try:
            with open(self._path(key), "rb", buffering=0) as file, current_clock().stage("embedding"):
                content = bytearray(os.fstat(file.fileno()).st_size)
                del content[file.readinto(content) :]
                embedding = unpack(content, key, device)
                with suppress(OSError):  # of a folder that is read only
                    os.utime(file.fileno())
        except FileNotFoundError:
            return None
        except OSError as error:
            self._log_once("Embeddings on disk cannot be read", error)
            return None
        except DamagedFileError as error:
            logger.warning("An embedding on disk is damaged and was removed: %s", error)
            self._remove(key)
            return None
        with self._lock:
            self._counts["hits"] += 1
            self._sizes[key] = len(content)
            self._sizes.move_to_end(key)
        return embedding

    def put(self, embedding: Embedding) -> None:
        """Have an embedding written soon, by another thread; it is lost if too many wait for that already."""
        self._path(embedding.key)
        if not self._room.acquire(blocking=False):
            self._count("lost")
            return
        try:
            self._writer.submit(self._write, embedding)
        except RuntimeError:  # the interpreter is ending
            self._room.release()
            self._count("lost")

    def flush(self) -> None:
        """Wait until all that was put is on disk or lost."""
        self._writer.submit(int).result()

    def size(self, key: str) -> int | None:
        """Bytes of the file of that key, as far as this process knows; None if it is not there."""
        with self._lock:
            return self._sizes.get(key)

    def stats(self) -> dict[str, int]:
        """Counts since the start: ``hits``, ``evicted`` (removed for the bound), ``lost`` (not written).

        And, as far as this process knows, now: ``entries``, ``bytes``.
        """
        with self._lock:
            return {**self._counts, "entries": len(self._sizes), "bytes": sum(self._sizes.values())}

    def _path(self, key: str) -> Path:
        name = f"{key}.embedding"
        if not _NAME.fullmatch(name):
            raise ValueError("an embedding's key must be 64 hexadecimal digits")
        return self._folder / name

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def _log_once(self, what: str, error: Exception) -> None:
        """Logs it, unless it was before; of an :class:`OSError` without the path."""
        with self._lock:
            is_new = what not in self._told
            self._told.add(what)
        if is_new:
            logger.warning("%s: %s", what, getattr(error, "strerror", None) or error)

    def _write(self, embedding: Embedding) -> None:
        """In the writer's thread."""
        try:
            if time.monotonic() - self._looked > _RESCAN_AFTER_S:
                self._look()
            content = pack(embedding)
            if len(content) > self._max_bytes:
                raise ValueError("one is larger than all may be together")
            self._make_room(embedding.key, len(content))
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_write(self._path(embedding.key), private=True, durable=False) as file:
                file.write(content)
        except Exception as error:  # a click that nobody waits for any more cannot be told
            self._count("lost")
            self._log_once("Embeddings are not kept on disk", error)
        else:
            with self._lock:
                self._sizes[embedding.key] = len(content)
                self._sizes.move_to_end(embedding.key)
        finally:
            self._room.release()

    def _make_room(self, key: str, size: int) -> None:
        """Removes the least recently used files until a new one of that size fits in."""
        with self._lock:
            others = sum(self._sizes.values()) - self._sizes.get(key, 0)
            oldest = []
            for other, bytes_ in self._sizes.items():
                if others + size <= self._max_bytes:
                    break
                if other != key:
                    oldest.append(other)
                    others -= bytes_
        for other in oldest:
            self._remove(other)
            self._count("evicted")

    def _remove(self, key: str) -> None:
        with suppress(OSError):
            self._path(key).unlink(missing_ok=True)
        with self._lock:
            self._sizes.pop(key, None)

    def _look(self) -> None:
        """Learns what is in the folder; removes what a crash left half written."""
        found: list[tuple[int, str, int]] = []
        with suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                name = _NAME.fullmatch(entry.name)
                if not name and not is_leftover(entry.name):
                    continue
                with suppress(OSError):
                    about = entry.stat(follow_symlinks=False)
                    if not stat.S_ISREG(about.st_mode):
                        continue
                    if name:
                        found.append((about.st_mtime_ns, name[1], about.st_size))
                    elif time.time() - about.st_mtime > _LEFTOVER_S:
                        os.unlink(entry.path)
        with self._lock:
            self._sizes = OrderedDict((key, size) for _, key, size in sorted(found))
        self._looked = time.monotonic()
