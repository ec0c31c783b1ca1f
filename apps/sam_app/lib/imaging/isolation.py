"""Native readers of untrusted bytes in processes of their own: what aborts, hangs or grows there costs one call.

Decoders written in C end their process on what they do not expect, and take what memory a header asks for. So they run
in a few worker processes that are started once and stay warm:

    frame = isolated(decode_frame, syntax, stream, header, memory=256 * 2**20, seconds=20)

A worker does one call at a time, within bounds of memory (``RLIMIT_AS``) and time. One that ends or overstays is
replaced; a call whose worker ended is tried again, twice, since a worker can also be ended from outside. Arguments go
through a socket; results come back through a piece of shared memory that each worker has.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import pickle
import queue
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lib.imaging.image import CorruptImageError, ImageError, ImageTooLargeError

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_APP_FOLDER = str(Path(__file__).resolve().parents[2])
"""Where the worker finds this package: MONAI Label has the folder on the path only while it loads the app."""
_WORKER = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from lib.imaging.isolation import work
work(*sys.argv[2:])
"""
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
_NUMBER = struct.Struct("<Q")
_OVERHEAD_BYTES = 256 * 2**20
"""Address space that a call may take beside what it asked for: libraries that are loaded, the result's copy."""
_MOST_STARTS, _START_SECONDS = 20, 120.0
_KEPT_BYTES = 16 * 2**20
"""Shared memory that a worker keeps between two calls: pages that are there already are much faster to write."""


class WorkerEndedError(RuntimeError):
    """A worker ended in the middle of a call."""


def isolated(function: Callable[..., Result], *args: Any, memory: int, seconds: float) -> Result:
    """Call a function in a worker process.

    Args:
        function: Of a module, so that the worker can import it.
        args: Its arguments, picklable.
        memory: Bytes that it may take.
        seconds: Wall time that it may take.

    Returns:
        What it returned; arrays are the caller's own.

    Raises:
        Exception: What the function raised.
        CorruptImageError: The worker ended, each time: by an abort or a fault inside a native library.
        ImageTooLargeError: The call took longer than ``seconds``.
    """
    if _is_worker:
        return function(*args)
    request = pickle.dumps((function, args, memory), protocol=5)
    for last in (False, False, True):
        worker = _pool.take()
        try:
            succeeded, value = worker.ask(request, seconds)
        except TimeoutError:
            _pool.replace(worker)
            raise ImageTooLargeError(f"the image takes longer than {seconds:g} s to decode") from None
        except WorkerEndedError as error:
            _pool.replace(worker)
            logger.warning("A worker process that decodes images %s", error)
            if last:
                raise CorruptImageError(
                    "the image's content ends its decoder: it is damaged, or made to do so"
                ) from None
        except BaseException:  # in whatever state the worker is
            _pool.replace(worker)
            raise
        else:
            _pool.give_back(worker)
            break
    if succeeded:
        return value
    raise value


class _Worker:
    """The server's end of a worker process."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        self._results = os.memfd_create("results")
        self._has_started = False
        self._scratch = tempfile.mkdtemp(prefix="decoder-")
        with theirs:
            passed = [theirs.fileno(), self._results]
            self.process = subprocess.Popen(
                [sys.executable, "-c", _WORKER, json.dumps([_APP_FOLDER, *sys.path]), *map(str, passed)],
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD, "TMPDIR": self._scratch},
            )

    def is_ready(self) -> bool:
        """Whether it can be asked; waits until it has started, and is False if it has ended."""
        if not self._has_started:
            self._channel.settimeout(_START_SECONDS)
            with contextlib.suppress(OSError):
                self._has_started = bool(self._channel.recv(1))
        return self._has_started and self.process.poll() is None

    def ask(self, request: bytes, seconds: float) -> tuple[bool, Any]:
        """Have a call made; whether it returned or raised, and what.

        Raises:
            TimeoutError: After ``seconds``.
            WorkerEndedError: If the worker ends before it has answered.
        """
        self._channel.settimeout(seconds)
        try:
            self._channel.sendall(_NUMBER.pack(len(request)) + request)
            is_there = bool(self._channel.recv(1))
        except TimeoutError:
            raise
        except OSError:
            is_there = False
        if not is_there:
            raise WorkerEndedError(f"was ended by {self._end()}")
        answer: tuple[bool, Any] = _load(self._results)
        return answer

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._channel.close()
        os.close(self._results)
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _end(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.process.wait(1)
            return signal.Signals(-code).name if code < 0 else f"itself (exit status {code})"
        return "closing its channel"


class _Pool:
    """Workers by turns; started at the first call, one more than there are cores."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: queue.Queue[_Worker] = queue.Queue()
        self._all: set[_Worker] = set()

    def start(self) -> None:
        """Start the workers, unless they run already; they are ready some tenths of a second later."""
        with self._lock:
            if not self._all:
                for _ in range((os.cpu_count() or 1) + 1):
                    self._add()

    def take(self) -> _Worker:
        """A worker that does nothing; waits for one."""
        self.start()
        for _ in range(_MOST_STARTS):
            worker = self._idle.get()
            if worker.is_ready():
                return worker
            self.replace(worker)  # ended from outside, before it had anything to do
        raise WorkerEndedError("no process that decodes images can be started")

    def give_back(self, worker: _Worker) -> None:
        """It did its work."""
        self._idle.put(worker)

    def replace(self, worker: _Worker) -> None:
        """Start another one in its place."""
        worker.stop()
        with self._lock:
            self._all.discard(worker)
            self._add()

    def stop(self) -> None:
        """End all workers."""
        with self._lock:
            while self._all:
                self._all.pop().stop()

    def _add(self) -> None:
        worker = _Worker()
        self._all.add(worker)
        self._idle.put(worker)


def start_workers() -> None:
    """Start the workers ahead of the first call."""
    _pool.start()


def work(channel_number: str, results_number: str) -> None:
    """A worker's life: one call after the other, until the server's end of the channel is closed."""
    global _is_worker
    _is_worker = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C on the terminal is the server's
    from lib.imaging import frame_decoders, nifti_place, readers  # noqa: F401  (before the first call needs them)

    results = int(results_number)
    with socket.socket(fileno=int(channel_number)) as channel, channel.makefile("rb") as requests:
        channel.sendall(b"!")
        while length := requests.read(_NUMBER.size):
            request = requests.read(_NUMBER.unpack(length)[0])
            try:
                function, args, memory = pickle.loads(request)
                _limit_memory(memory)
                _dump((True, function(*args)), results)
            except Exception as error:
                _dump((False, _as_it_travels(error)), results)
            channel.sendall(b"!")


def _limit_memory(more: int) -> None:
    """Bound the address space to what is taken now, and ``more``."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (taken + more + _OVERHEAD_BYTES, hard))


def _as_it_travels(error: Exception) -> Exception:
    """An exception that can be pickled and made anew: our own, the system's; others by their words."""
    if isinstance(error, (ImageError, MemoryError, OSError)):
        travelling = type(error)(*error.args)
        if error.__cause__ is not None:
            travelling.add_note(f"caused by {type(error.__cause__).__name__}: {error.__cause__}")
        return travelling
    return RuntimeError(f"{type(error).__name__}: {error}")


def _dump(value: object, results: int) -> None:
    """Write a value into shared memory: lengths, pickle, and the arrays' own bytes, which are not copied before."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts: list[bytes | memoryview] = [body, *(buffer.raw() for buffer in buffers)]
    numbers = (len(buffers), *map(len, parts))
    if os.fstat(results).st_size > _KEPT_BYTES:
        os.ftruncate(results, _KEPT_BYTES)
    os.lseek(results, 0, os.SEEK_SET)
    with open(results, "wb", closefd=False) as file:
        for part in (struct.pack(f"<{len(numbers)}Q", *numbers), *parts):
            file.write(part)


def _load(results: int) -> Any:
    """Read what :func:`_dump` wrote."""
    os.lseek(results, 0, os.SEEK_SET)
    with open(results, "rb", closefd=False) as file:
        count = _NUMBER.unpack(file.read(_NUMBER.size))[0]
        lengths = struct.unpack(f"<{count + 1}Q", file.read(_NUMBER.size * (count + 1)))
        parts = [bytearray(length) for length in lengths]
        for part in parts:
            file.readinto(part)
    body, *buffers = parts
    return pickle.loads(body, buffers=buffers)


_is_worker = False
_pool = _Pool()
atexit.register(_pool.stop)
