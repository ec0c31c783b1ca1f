"""Reading of untrusted bytes in worker processes, so that a crash, a hang or memory growth affects one call only.

Decoders written in C can crash on unexpected data and allocate as much memory as a header states; parsers written in
Python block the other threads of their process. So they run in a few worker processes that are started once and reused:

    image = isolated(read_file, path, memory=64 * 2**20, seconds=10)

A worker runs one call at a time, with limits on memory (``RLIMIT_AS``) and time. Once a call has read a header, it
requests what it needs beyond these limits with :func:`claim`, from the budget that all calls share
(:mod:`lib.imaging.decoding.memory_budget`). If the memory is not free, the call ends and is repeated when it is. A
worker that dies or exceeds its time is replaced; a call whose worker died is tried again, twice, because a worker can
also be killed from outside. Arguments are sent through a socket; results return through each worker's shared memory.
"""

import atexit
import contextlib
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
from typing import Any, BinaryIO, TypeVar, cast

from lib.base.allocator import return_unused_memory
from lib.base.clock import POLL_S, current_clock
from lib.imaging.decoding.memory_budget import CallMemory
from lib.imaging.decoding.shared_results import MAX_KEPT_BYTES, read_result, write_result
from lib.imaging.image import CorruptImageError, ImageError, ImageTooLargeError, MedicalImage

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_APP_FOLDER = str(Path(__file__).resolve().parents[3])
"""Where the worker finds this package: MONAI Label has the folder in ``sys.path`` only while it loads the app."""
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
"""Address space for a call in addition to what it requests: loaded libraries, a copy of the result."""
_MAX_STARTS, _START_SECONDS, _MAX_ENDS = 20, 120.0, 3
_SECONDS_PER_PIXEL = 1e-6
"""Limit. A busy core needs about 0.1 s per megapixel, with the slowest decoders three times as long."""


class WorkerEndedError(RuntimeError):
    """Raised when a worker process ends during a call."""


class _NotGrantedError(ImageError):
    """Raised in a worker when a claim is refused; it ends the call."""


def isolated(function: Callable[..., Result], *args: Any, memory: int, seconds: float) -> Result:
    """Call a function in a worker process and return its result.

    Args:
        function: A module-level function, so that the worker can import it.
        args: Its arguments, picklable.
        memory: Bytes that it may use, in addition to what it claims.
        seconds: Wall time that it may use, likewise; at most what the current clock allows.

    Returns:
        Its result, with arrays of its own. An image's bytes stay reserved as long as the image is referenced.

    Raises:
        Exception: Whatever the function raises.
        CorruptImageError: The worker died in each attempt, by an abort or a fault inside a native library.
        ImageTooLargeError: The call exceeds its time, or needs more memory than the whole budget.
        MemoryBusyError: The memory is in use by other calls and was not freed in time.
        TimeLimitError: The current clock's time has run out, or its client has disconnected.
    """
    if _is_worker:
        return function(*args)
    account = CallMemory(memory)
    try:
        succeeded, value = _call(pickle.dumps((function, args, memory), protocol=5), seconds, account)
        if isinstance(value, MedicalImage):
            account.keep_for(value)
    finally:
        account.close()
    if not succeeded:
        raise value
    return cast(Result, value)


def claim(memory: int, pixels: int = 0) -> None:
    """Request what a call needs according to an image's header, before it is used.

    Does nothing outside of a worker.

    Args:
        memory: Bytes at its peak, counting the result three times: in the worker, in transfer, and in the server.
        pixels: Number of pixels to decode, for additional time.

    Raises:
        ImageError: If it is not granted; do not catch it.
    """
    if _claims is not None:
        _claims.claim(memory, pixels * _SECONDS_PER_PIXEL)


def claim_for_caller(memory: int) -> None:
    """Request bytes as :func:`claim` does, for work that follows the call, whose own claims may use them until then."""
    if _claims is not None:
        _claims.claim_for_caller(memory)


def _call(request: bytes, seconds: float, account: CallMemory) -> tuple[bool, Any]:
    """Run a call in a worker; return whether it succeeded, and its result or exception."""
    ended = 0
    while True:
        account.begin()
        worker = _pool.take()
        try:
            outcome = worker.ask(request, seconds, account.grant)
        except TimeoutError:
            _pool.replace(worker)
            current_clock().check()
            raise ImageTooLargeError("the image takes longer to decode than allowed for its size") from None
        except WorkerEndedError as error:
            _pool.replace(worker)
            ended += 1
            logger.warning("A worker process that decodes images %s", error)
            if ended == _MAX_ENDS:
                raise CorruptImageError(
                    "the image's content crashes its decoder: it is damaged, or crafted to do so"
                ) from None
        except BaseException:  # the worker's state is unknown
            _pool.replace(worker)
            raise
        else:
            _pool.give_back(worker)
            if account.is_granted:
                return outcome


class _Worker:
    """Server side of a worker process."""

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
        """Wait until it has started; return False if it has ended."""
        if not self._has_started:
            self._channel.settimeout(_START_SECONDS)
            with contextlib.suppress(OSError):
                self._has_started = bool(self._channel.recv(1))
        return self._has_started and self.process.poll() is None

    def ask(self, request: bytes, seconds: float, grant: Callable[[int], bool]) -> tuple[bool, Any]:
        """Run a call; return whether it succeeded, and its result or exception.

        Args:
            request: The pickled call.
            seconds: Time that it may use.
            grant: Says whether it may use this many more bytes.

        Raises:
            TimeoutError: After that time plus the claimed time.
            WorkerEndedError: If the worker ends before it has returned a result.
        """
        clock_deadline = time.monotonic() + current_clock().remaining
        deadline = time.monotonic() + seconds
        try:
            self._channel.settimeout(seconds)
            self._channel.sendall(_NUMBER.pack(len(request)) + request)
            while (message := self._receive(1, min(deadline, clock_deadline))) == _CLAIMED:
                memory, more = _CLAIM.unpack(self._receive(_CLAIM.size, min(deadline, clock_deadline)))
                deadline += more
                self._channel.sendall(_GRANTED if grant(memory) else _REFUSED)
        except TimeoutError:
            raise
        except OSError:
            message = b""
        if message != _DONE:
            raise WorkerEndedError(f"was ended by {self._end()}")
        return cast(tuple[bool, Any], read_result(self._results))

    def _receive(self, count: int, deadline: float) -> bytes:
        """Receive this many bytes from the worker.

        Raises:
            TimeoutError: If they do not arrive before the deadline, or the client disconnects.
        """
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)

        def happens(seconds: float) -> bool:
            left = min(seconds, deadline - time.monotonic())
            if left <= 0:
                raise TimeoutError
            return bool(poll.poll(math.ceil(left * 1000)))

        if not current_clock().wait_until(happens):
            raise TimeoutError
        return self._channel.recv(count, socket.MSG_WAITALL)

    def stop(self) -> None:
        """Kill the process, even if it is busy."""
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
    """Worker processes used in turn; started at the first call, one more than there are cores."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: queue.Queue[_Worker] = queue.Queue()
        self._all: set[_Worker] = set()

    def start(self, count: int | None = None) -> None:
        """Start the workers that are not running, up to a number of them; they are ready some tenths of a second later.

        Args:
            count: None: all.
        """
        with self._lock:
            while len(self._all) < (count or (os.cpu_count() or 1) + 1):
                self._add()

    def take(self) -> _Worker:
        """Return an idle worker; waits for one."""
        self.start()
        for _ in range(_MAX_STARTS):
            worker = self._next()
            if worker.is_ready():
                return worker
            self.replace(worker)  # it was killed from outside while idle
        raise WorkerEndedError("no process that decodes images can be started")

    def _next(self) -> _Worker:
        while True:
            current_clock().check()
            with contextlib.suppress(queue.Empty):
                return self._idle.get(timeout=POLL_S)

    def give_back(self, worker: _Worker) -> None:
        """Return a worker to the pool after a call."""
        self._idle.put(worker)

    def replace(self, worker: _Worker) -> None:
        """Stop a worker and start another one in its place."""
        worker.stop()
        with self._lock:
            self._all.discard(worker)
            self._add()

    def stop(self) -> None:
        """Stop all workers."""
        with self._lock:
            while self._all:
                self._all.pop().stop()

    def _add(self) -> None:
        worker = _Worker()
        self._all.add(worker)
        self._idle.put(worker)


def start_workers(count: int | None = None) -> None:
    """Start the worker processes before the first call needs them.

    Args:
        count: How many there are to be; None: all.
    """
    _pool.start(count)


def work(channel_number: str, results_number: str) -> None:
    """Run one call after the other in a worker, until the server closes its end of the channel."""
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
                write_result((True, function(*args)), results)
            except Exception as error:
                write_result((False, _picklable(error)), results)
            channel.sendall(_DONE)
            _claims.end()


class _Claims:
    """Limits of a worker: address space at the start of a call, plus what the call may use and claims."""

    def __init__(self, channel: socket.socket, requests: BinaryIO) -> None:
        self._channel = channel
        self._requests = requests
        self._limit = self._claimed = self._lent = 0

    def begin(self, memory: int) -> None:
        """Start a call that may use this many bytes."""
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        self._limit, self._claimed, self._lent = taken + _OVERHEAD_BYTES, 0, 0
        self._allow(memory)

    def claim(self, memory: int, seconds: float) -> None:
        """See :func:`claim`."""
        covered = min(memory, self._lent)
        self._lent -= covered
        self._ask(memory - covered, seconds)
        self._claimed += memory
        self._allow(memory)

    def claim_for_caller(self, memory: int) -> None:
        """See :func:`claim_for_caller`."""
        self._ask(memory, 0.0)
        self._lent += memory

    def _ask(self, memory: int, seconds: float) -> None:
        self._channel.sendall(_CLAIMED + _CLAIM.pack(memory, seconds))
        if self._requests.read(1) != _GRANTED:
            raise _NotGrantedError("the memory was not granted")

    def end(self) -> None:
        """Return memory that the C library holds unused to the system."""
        if self._claimed > MAX_KEPT_BYTES:
            return_unused_memory()

    def _allow(self, memory: int) -> None:
        self._limit += memory
        resource.setrlimit(resource.RLIMIT_AS, (self._limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _picklable(error: Exception) -> Exception:
    """Return an exception that can be pickled: our own and the system's; for others a ``RuntimeError``."""
    if isinstance(error, (ImageError, MemoryError, OSError)):
        copy = type(error)(*error.args)
        if error.__cause__ is not None:
            copy.add_note(f"caused by {type(error.__cause__).__name__}: {error.__cause__}")
        return copy
    return RuntimeError(f"{type(error).__name__}: {error}")


_is_worker = False
_claims: _Claims | None = None
_pool = _Pool()
atexit.register(_pool.stop)
