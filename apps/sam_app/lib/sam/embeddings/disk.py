"""Embeddings on disk, one file each, so that they survive eviction from memory and a restart of the server.

``<key>.embedding`` holds, little-endian::

    8 bytes     SAMEMBED
    2 bytes     version of this format
    4 bytes     length of the header
    header      JSON: key, image_size, dtype of all values, shapes of the features and of the finer levels
    values      level after level, in C order
    32 bytes    SHA-256 of all bytes before

Values are float16, or float32 if any of them exceeds float16's range. A file that differs from this format in any way
is removed. Files are written under a name that ends in ``.part`` and renamed. Files with other names in the folder are
not touched.

Own format: safetensors has no checksum of the values, so that a changed bit would silently produce a wrong mask.

Concurrency: one lock guards the table of files and is never held during file access. A separate thread writes and
removes; requests only read (and remove a damaged file), and never list the folder. Several processes may share a
folder: each observes the bound for the files it knows of, and scans the folder for the others' every minute.
"""

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
"""At most this many embeddings wait to be written; further ones are not stored on disk."""
_RESCAN_AFTER_S = 60.0
_LEFTOVER_S = 3600.0


class DamagedFileError(ValueError):
    """A file is damaged, or does not contain the embedding that its name says."""


def pack(embedding: Embedding) -> bytes:
    """Convert an embedding to the content of its file, see this module.

    Rounding to float16 has a relative error of at most 2^-11 or, below 2^-14, an absolute one of at most 2^-25.
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
    """Convert the content of a file to the embedding with this key.

    Returns:
        The embedding, with float32 levels on the device.

    Raises:
        DamagedFileError: If the content is truncated, changed, has another key or version, or is something else.
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
        tensor = torch.from_numpy(level)
        yield tensor.to(device, torch.float32, copy=True, memory_format=torch.channels_last)  # as most decoders take it
        start += count * dtype.itemsize


class EmbeddingFiles:
    """Folder of embeddings, bounded by bytes: the least recently used are removed first. For threads and processes.

    A file that cannot be read counts as absent, one that cannot be written is not stored; the first of each is logged.

    Args:
        folder: Created at the first write, private to its owner: embeddings reveal much of their images.
        max_bytes: Bound on the bytes of all files.
        lossless: Wait where many are to be written, rather than drop one.
    """

    def __init__(self, folder: Path, max_bytes: int, *, lossless: bool = False) -> None:
        self._lossless = lossless
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()  # the least recently used first
        self._counts = {"hits": 0, "evicted": 0, "lost": 0}
        self._writer = ThreadPoolExecutor(1, "embedding-files")  # the interpreter waits for it before it ends
        self._queue_slots = threading.Semaphore(QUEUE_LENGTH)
        self._logged: set[str] = set()
        self._scan()

    def get(self, key: str, device: torch.device | str) -> Embedding | None:
        """Return a key's embedding as float32 on a device, rounded by :func:`pack`; None if it is not there.

        The current clock counts the time as stage ``embedding``.

        Raises:
            TimeLimitError: If the current clock's time is up.
        """
        try:
            with open(self._path(key), "rb", buffering=0) as file, current_clock().stage("embedding"):
                content = bytearray(os.fstat(file.fileno()).st_size)
                del content[file.readinto(content) :]
                embedding = unpack(content, key, device)
                with suppress(OSError):  # the folder is read-only
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
        """Queue an embedding to be written by another thread. If the queue is full it waits or is lost."""
        self._path(embedding.key)
        if not self._queue_slots.acquire(blocking=self._lossless):
            self._count("lost")
            return
        try:
            self._writer.submit(self._write, embedding)
        except RuntimeError:  # the interpreter is ending
            self._queue_slots.release()
            self._count("lost")

    def flush(self) -> None:
        """Wait until all queued embeddings are on disk or lost."""
        self._writer.submit(int).result()

    def size(self, key: str) -> int | None:
        """Return the size in bytes of a key's file, as far as this process knows; None if it is not there."""
        with self._lock:
            return self._sizes.get(key)

    def use(self, key: str) -> int | None:
        """Count a key's file as used just now, without reading it; return its size in bytes, None without one."""
        try:
            os.utime(self._path(key))
        except FileNotFoundError:
            self._remove(key)
        except OSError:  # the folder is read-only
            pass
        with self._lock, suppress(KeyError):
            self._sizes.move_to_end(key)
        return self.size(key)

    def stats(self) -> dict[str, int]:
        """Return counts since the start: ``hits``, ``evicted`` (removed for the bound), ``lost`` (not written).

        And the present ``entries`` and ``bytes``, as far as this process knows.
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
        """Log a kind of problem the first time it occurs; for an :class:`OSError` without the path."""
        with self._lock:
            is_new = what not in self._logged
            self._logged.add(what)
        if is_new:
            logger.warning("%s: %s", what, getattr(error, "strerror", None) or error)

    def _write(self, embedding: Embedding) -> None:
        """Write an embedding's file; runs in the writer's thread."""
        try:
            if time.monotonic() - self._scanned_at > _RESCAN_AFTER_S:
                self._scan()
            content = pack(embedding)
            if len(content) > self._max_bytes:
                raise ValueError("one is larger than all may be together")
            self._make_room(embedding.key, len(content))
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with atomic_write(self._path(embedding.key), private=True, durable=False) as file:
                file.write(content)
        except Exception as error:  # the request that queued it has ended: only log
            self._count("lost")
            self._log_once("Embeddings are not kept on disk", error)
        else:
            with self._lock:
                self._sizes[embedding.key] = len(content)
                self._sizes.move_to_end(embedding.key)
        finally:
            self._queue_slots.release()

    def _make_room(self, key: str, size: int) -> None:
        """Remove the least recently used files until a new one of this size fits."""
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

    def _scan(self) -> None:
        """Scan the folder for embeddings, and remove partial files left by a crash."""
        found: list[tuple[int, str, int]] = []
        with suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                name = _NAME.fullmatch(entry.name)
                if not name and not is_leftover(entry.name):
                    continue
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if not stat.S_ISREG(status.st_mode):
                        continue
                    if name:
                        found.append((status.st_mtime_ns, name[1], status.st_size))
                    elif time.time() - status.st_mtime > _LEFTOVER_S:
                        os.unlink(entry.path)
        with self._lock:
            self._sizes = OrderedDict((key, size) for _, key, size in sorted(found))
        self._scanned_at = time.monotonic()
