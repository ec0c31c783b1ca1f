"""Readers of untrusted bytes in processes of their own: what aborts, hangs or grows there costs one call.

Decoders written in C end their process on what they do not expect, and take what memory a header asks for; parsers
written in Python keep the other threads of their process waiting. So they run in a few worker processes that are
started once and stay warm:

    image = isolated(read_file, path, memory=64 * 2**20, seconds=10)

A worker does one call at a time, within bounds of memory (``RLIMIT_AS``) and time. What a call needs beyond these it
says itself, by :func:`claim`, once it has read a header; it gets it from the budget that all calls share
(:mod:`lib.imaging.decoding.memory_budget`), or ends and is made again when there is room. A worker that ends or
overstays is replaced; a call whose worker ended is tried again, twice, since a worker can also be ended from outside.
Arguments go through a socket; results come back through a piece of shared memory that each worker has.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import io
import json
import logging
import math
import os
import pickle
import queue
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydicom import FileDataset

from lib.base.clock import LOOK_S, current_clock
from lib.imaging.decoding.memory_budget import budget, working_bytes
from lib.imaging.image import CorruptImageError, ImageError, ImageTooLargeError, MedicalImage

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_APP_FOLDER = str(Path(__file__).resolve().parents[3])
"""Where the worker finds this package: MONAI Label has the folder on the path only while it loads the app."""
_WORKER = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C on the terminal is the server's
sys.path[:] = json.loads(sys.argv[1])
from lib.imaging.decoding.isolation import work
import lib.imaging.readers  # before the first call needs it
work(*sys.argv[2:])
"""
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
_NUMBER = struct.Struct("<Q")
_CLAIM = struct.Struct("<Qd")
_DONE, _CLAIMED, _GRANTED, _REFUSED = b"!", b"?", b"+", b"-"
_OVERHEAD_BYTES = 256 * 2**20
"""Address space that a call may take beside what it asked for: libraries that are loaded, the result's copy."""
_MOST_STARTS, _START_SECONDS, _MOST_ENDS = 20, 120.0, 3
_SECONDS_A_PIXEL = 1e-6
"""A busy core takes some 0.1 s for a megapixel; the slowest decoders three times as long."""
_KEPT_BYTES = 16 * 2**20
"""Shared memory that a worker keeps between two calls: pages that are there already are much faster to write."""
_MOST_OBJECTS_BYTES = 64 * 2**20
"""Of a result beside its arrays: headers, whose objects take several times as much where they are read."""


class WorkerEndedError(RuntimeError):
    """A worker ended in the middle of a call."""


class _NotGrantedError(ImageError):
    """In a worker: a claim was refused, and the call ends."""


def isolated(function: Callable[..., Result], *args: Any, memory: int, seconds: float) -> Result:
    """Call a function in a worker process.

    Args:
        function: Of a module, so that the worker can import it.
        args: Its arguments, picklable.
        memory: Bytes that it may take, beside what it claims.
        seconds: Wall time that it may take, likewise; at most what the current clock allows.

    Returns:
        What it returned; arrays are the caller's own. An image's bytes stay reserved as long as somebody holds it.

    Raises:
        Exception: What the function raised.
        CorruptImageError: The worker ended, each time: by an abort or a fault inside a native library.
        ImageTooLargeError: The call takes longer than it may, or needs more memory than is ever allowed.
        MemoryBusyError: It needs memory that others have, and was not freed in time.
        TimeLimitError: The current clock's time is up, or its client has left.
    """
    if _is_worker:
        return function(*args)
    account = _Account(memory)
    try:
        succeeded, value = _call(pickle.dumps((function, args, memory), protocol=5), seconds, account)
        if isinstance(value, MedicalImage):
            account.keep_for(value)
    finally:
        account.close()
    if not succeeded:
        raise value
    result: Result = value
    return result


def claim(memory: int, pixels: int = 0) -> None:
    """Say what a call needs, by an image's header, before it takes it; outside of a worker nothing is asked for.

    Args:
        memory: Bytes at its peak, those of the result counted three times: in the worker, on the way, and in the
            server.
        pixels: To be decoded, for which it gets more time.

    Raises:
        ImageError: If it is not granted; to be passed on.
    """
    if _claims is not None:
        _claims.claim(memory, pixels * _SECONDS_A_PIXEL)


def lend(memory: int) -> None:
    """Say what is needed once the call has returned; until then it counts towards what the call itself claims.

    Args:
        memory: Bytes.

    Raises:
        ImageError: As :func:`claim`.
    """
    if _claims is not None:
        _claims.lend(memory)


def _call(request: bytes, seconds: float, account: _Account) -> tuple[bool, Any]:
    """Whether a call returned or raised, and what; see :func:`isolated`."""
    ended = 0
    while True:
        account.begin()
        worker = _pool.take()
        try:
            outcome = worker.ask(request, seconds, account.grant)
        except TimeoutError:
            _pool.replace(worker)
            current_clock().check()
            raise ImageTooLargeError("the image takes longer to decode than an image of its size may") from None
        except WorkerEndedError as error:
            _pool.replace(worker)
            ended += 1
            logger.warning("A worker process that decodes images %s", error)
            if ended == _MOST_ENDS:
                raise CorruptImageError(
                    "the image's content ends its decoder: it is damaged, or made to do so"
                ) from None
        except BaseException:  # in whatever state the worker is
            _pool.replace(worker)
            raise
        else:
            _pool.give_back(worker)
            if account.is_granted:
                return outcome


class _Account:
    """What a call has of the budget. If a claim cannot be granted at once, the call is begun again with all of it."""

    def __init__(self, size: int) -> None:
        self._first = self._claimed = size
        self._reserved = budget.reserve(size)

    @property
    def is_granted(self) -> bool:
        """Whether all that was claimed is reserved."""
        return self._claimed <= self._reserved.size

    def begin(self) -> None:
        """Have what the attempt before claimed, if that was refused; nobody else's worker is kept waiting for it."""
        if not self.is_granted:
            self._reserved.release()
            self._reserved = budget.reserve(self._claimed)
        self._claimed = self._first

    def grant(self, more: int) -> bool:
        """Whether a call may take so many bytes more."""
        self._claimed += more
        missing = self._claimed - self._reserved.size
        if missing > 0 and self._claimed <= budget.total:
            added = budget.try_reserve(missing)
            if added is not None:
                self._reserved.absorb(added)
        return self.is_granted

    def keep_for(self, image: MedicalImage) -> None:
        """Have an image's own bytes, and those of working on it, stay reserved."""
        budget.keep(image, self._reserved.split(image.frames.nbytes + working_bytes(image.frame_size)))

    def close(self) -> None:
        """The call is over."""
        self._reserved.release()


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

    def ask(self, request: bytes, seconds: float, grant: Callable[[int], bool]) -> tuple[bool, Any]:
        """Have a call made; whether it returned or raised, and what.

        Args:
            request: The call.
            seconds: It may take.
            grant: Whether it may have so many bytes more.

        Raises:
            TimeoutError: After that time, and what was claimed.
            WorkerEndedError: If the worker ends before it has answered.
        """
        last = time.monotonic() + current_clock().remaining
        deadline = time.monotonic() + seconds
        try:
            self._channel.settimeout(seconds)
            self._channel.sendall(_NUMBER.pack(len(request)) + request)
            while (message := self._receive(1, min(deadline, last))) == _CLAIMED:
                memory, more = _CLAIM.unpack(self._receive(_CLAIM.size, min(deadline, last)))
                deadline += more
                self._channel.sendall(_GRANTED if grant(memory) else _REFUSED)
        except TimeoutError:
            raise
        except OSError:
            message = b""
        if message != _DONE:
            raise WorkerEndedError(f"was ended by {self._end()}")
        answer: tuple[bool, Any] = _load(self._results)
        return answer

    def _receive(self, count: int, deadline: float) -> bytes:
        """So many bytes of the worker's answer.

        Raises:
            TimeoutError: If they do not come before the deadline, or the client leaves.
        """
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)

        def happens(seconds: float) -> bool:
            left = min(seconds, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError
            return bool(poll.poll(math.ceil(left * 1000)))

        if not current_clock().waits_for(happens):
            raise TimeoutError
        return self._channel.recv(count, socket.MSG_WAITALL)

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
            worker = self._next()
            if worker.is_ready():
                return worker
            self.replace(worker)  # ended from outside, before it had anything to do
        raise WorkerEndedError("no process that decodes images can be started")

    def _next(self) -> _Worker:
        while True:
            current_clock().check()
            with contextlib.suppress(queue.Empty):
                return self._idle.get(timeout=LOOK_S)

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
    global _claims, _is_worker
    _is_worker = True
    results = int(results_number)
    with socket.socket(fileno=int(channel_number)) as channel, channel.makefile("rb") as requests:
        _claims = _Claims(channel, requests)
        channel.sendall(_DONE)
        while length := requests.read(_NUMBER.size):
            request = requests.read(_NUMBER.unpack(length)[0])
            try:
                function, args, memory = pickle.loads(request)  # noqa: S301 - of the server
                _claims.begin(memory)
                _dump((True, function(*args)), results)
            except Exception as error:
                _dump((False, _as_it_travels(error)), results)
            channel.sendall(_DONE)
            _claims.end()


class _Claims:
    """A worker's bounds: the address space that was taken when a call began, what it may take, and what it claims."""

    def __init__(self, channel: socket.socket, requests: BinaryIO) -> None:
        self._channel = channel
        self._requests = requests
        self._most = self._claimed = self._lent = 0

    def begin(self, memory: int) -> None:
        """A call may take so many bytes."""
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        self._most, self._claimed, self._lent = taken + _OVERHEAD_BYTES, 0, 0
        self._allow(memory)

    def claim(self, memory: int, seconds: float) -> None:
        """See :func:`claim`."""
        covered = min(memory, self._lent)
        self._lent -= covered
        self._ask(memory - covered, seconds)
        self._claimed += memory
        self._allow(memory)

    def lend(self, memory: int) -> None:
        """See :func:`lend`."""
        self._ask(memory, 0.0)
        self._lent += memory

    def _ask(self, memory: int, seconds: float) -> None:
        self._channel.sendall(_CLAIMED + _CLAIM.pack(memory, seconds))
        if self._requests.read(1) != _GRANTED:
            raise _NotGrantedError("the memory was not granted")

    def end(self) -> None:
        """Give back to the system what the C library holds free."""
        if self._claimed > _KEPT_BYTES:
            ctypes.CDLL(None).malloc_trim(0)

    def _allow(self, memory: int) -> None:
        self._most += memory
        resource.setrlimit(resource.RLIMIT_AS, (self._most, resource.getrlimit(resource.RLIMIT_AS)[1]))


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
    objects = io.BytesIO()
    _Pickler(objects, protocol=5, buffer_callback=buffers.append).dump(value)
    if objects.tell() > _MOST_OBJECTS_BYTES:
        raise ImageTooLargeError("the image's header is larger than the headers that are read")
    body = objects.getvalue()
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
    if sum(lengths) > _KEPT_BYTES:
        os.ftruncate(results, _KEPT_BYTES)
    body, *buffers = parts
    return pickle.loads(body, buffers=buffers)  # noqa: S301 - of a worker


class _Pickler(pickle.Pickler):
    """Pickles each header by itself, so that other threads get their turn between two of many when they are read."""

    def reducer_override(self, value: Any) -> Any:
        return (_header, (pickle.dumps(value, protocol=5),)) if type(value) is FileDataset else NotImplemented


def _header(pickled: bytes) -> Any:
    return pickle.loads(pickled)  # noqa: S301 - of a worker


_is_worker = False
_claims: _Claims | None = None
_pool = _Pool()
atexit.register(_pool.stop)
