"""Nothing that was acknowledged is lost while the disk is full or fails, and what is not done is refused clearly.

Clients write everything that the server acknowledges, while the disk is full, or ``fsync`` fails, time and again. After
each fault the server lists, opens everything, and what was acknowledged is there; likewise after a kill and a start.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.promises import Clients, Ledger, check_outcome, studies_of
from support.server_process import Server, running_server
from support.small_disk import mounted_disk

pytestmark = [pytest.mark.server, pytest.mark.slow]

FAILING_FSYNC = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

int fsync(int descriptor) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    const char *flag = getenv("FSYNC_FAILS_IF");
    if (flag && access(flag, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    return real(descriptor);
}
"""


@dataclass
class Disk:
    """Where the server keeps what it acknowledges, and how that fails.

    Args:
        folder: Of the disk.
        fails: It does within the ``with`` block.
        refusals: Statuses with which the server tells of it.
        variables: Of the server's environment.
    """

    folder: Path
    fails: Callable[[random.Random], AbstractContextManager[None]]
    refusals: tuple[int, ...]
    variables: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def full_disk(tmp_path) -> Iterator[Disk]:
    """A file system of its own that can be filled."""
    with mounted_disk(tmp_path / "disk", 128) as folder:

        @contextmanager
        def filled(moments: random.Random) -> Iterator[None]:
            filling = folder / ".filling"
            with filling.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(65536))
                except OSError:
                    file.truncate(max(0, file.tell() - moments.choice((0, 4096, 20_000, 100_000))))
            yield
            filling.unlink()

        yield Disk(folder, filled, (429, 507))


@pytest.fixture
def failing_disk(tmp_path) -> Disk:
    """A disk that does not take what is written."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc) for a library that has fsync fail")
    (tmp_path / "fsync.c").write_text(FAILING_FSYNC)
    library = tmp_path / "fsync.so"
    build = [compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "fsync.c"), "-ldl"]
    subprocess.run(build, check=True, capture_output=True)
    flag = tmp_path / "fails"

    @contextmanager
    def failing(_: random.Random) -> Iterator[None]:
        flag.touch()
        yield
        flag.unlink()

    (tmp_path / "disk").mkdir()
    variables = {"LD_PRELOAD": str(library), "FSYNC_FAILS_IF": str(flag)}
    return Disk(tmp_path / "disk", failing, (429, 500, 507), variables)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", ["full_disk", pytest.param("failing_disk", marks=pytest.mark.long)])
def test_what_was_acknowledged_is_there_after_each_fault(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    disk: Disk = request.getfixturevalue(kind)
    moments, ledger = random.Random(kind), Ledger(refusals=disk.refusals)
    studies, clients = studies_of(disk.folder), Clients(ledger)
    variables = {"MONAI_LABEL_SESSION_PATH": str(disk.folder / "sessions"), **disk.variables}
    conf = ("results", str(disk.folder / "store"), "max_queue", "16")

    def run(name: str) -> AbstractContextManager[Server]:
        return running_server(tmp_path / name, *conf, studies=studies, variables=variables)

    with run("before") as server:
        for _ in range(4):
            with clients.at_work(server, seconds=3):
                time.sleep(moments.uniform(0.3, 1))
                with disk.fails(moments):
                    time.sleep(moments.uniform(0.5, 1.5))
            assert not ledger.faults, ledger.faults[:5]
            ledger.check(server)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(20)
    with run("after") as server:
        ledger.check(server)
        for timestamp in ledger.accepted:
            check_outcome(server, timestamp, may_fail=True)
        assert "damaged" not in server.log.read_text(errors="replace")
    print(f"{kind}: {ledger.acknowledged} acknowledged, refused {dict(ledger.refused)}, {len(ledger.kept)} places")
    assert sum(ledger.refused[status] for status in disk.refusals[1:]) > 5, "the fault was not felt"
    assert ledger.acknowledged > 30 and ledger.results and ledger.accepted
    assert not list(disk.folder.rglob("*.part")), "what was broken off is removed"
