"""A Ray cluster of two machines and a server on a third: network namespaces of this one, joined by a bridge."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.server_process import SAM_APP, Server, running_server
from support.worker_load import Load, mask, running, segment, wait_for

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: scripts/setup --ray"),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and ip"),
]
BRIDGE, SERVER, NETWORK = "samtest0", "10.213.7.1", "10.213.7.0/24"
TOKEN = "a token of this test's, of thirty-two characters or more"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


@dataclass
class Machine:
    """A network namespace with an address, and Ray's processes in it."""

    name: str
    address: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def set_up(self) -> None:
        ip("netns", "add", self.name)
        ip("link", "add", f"{self.name}h", "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", f"{self.name}h", "master", BRIDGE, "up")
        for words in (["addr", "add", f"{self.address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
            ip("-n", self.name, *words)
        ip("-n", self.name, "link", "set", "lo", "up")

    def start(self, *words: str) -> None:
        """Run ``ray start`` in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        quick = {"period_ms": "1000", "timeout_ms": "2000", "failure_threshold": "3"}
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ["HOME"],
            "PYTHONPATH": str(SAM_APP),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            **{f"RAY_health_check_{name}": value for name, value in quick.items()},
        }
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address={self.address}"]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command, "--num-cpus=1", "--object-store-memory=134217728", *words],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Kill everything in it, at once."""
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, timeout=30)
        for pid in found.stdout.split():
            subprocess.run(["kill", "-9", pid], capture_output=True, timeout=30)
        if self.process:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)

    def set_link(self, state: str) -> None:
        """Cut its network, or join it again: ``down``, ``up``."""
        ip("link", "set", f"{self.name}h", state)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    both = [Machine(f"samtest{n}", f"10.213.7.{n}", tmp_path / f"machine-{n}") for n in (2, 3)]
    folders = [Path(f"/tmp/samtest{n}") for n in (2, 3)]
    ip("link", "add", BRIDGE, "type", "bridge")
    try:
        ip("addr", "add", f"{SERVER}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for machine in both:
            machine.set_up()
        yield both[0], both[1]
    finally:
        for machine in both:
            machine.stop()
            for words in (["link", "del", f"{machine.name}h"], ["netns", "del", machine.name]):
                subprocess.run(["ip", *words], capture_output=True, timeout=30)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, timeout=30)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def start_head(head: Machine) -> None:
    head.start("--head", "--port=6379", "--include-dashboard=false", "--temp-dir=/tmp/samtest2")


def start_other(head: Machine, other: Machine) -> None:
    other.start(f"--address={head.address}:6379", "--temp-dir=/tmp/samtest3")


def test_masks_are_right_whatever_becomes_of_the_machines(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    head, other = machines
    start_head(head)
    wait_for(lambda: is_up(head))
    start_other(head, other)
    time.sleep(10)  # until it has joined: the server counts cores when it connects
    variables = {"RAY_AUTH_TOKEN": TOKEN, "SAM_TEST_NETWORK": NETWORK}
    conf = ("models", "sam_tiny", "embeddings_max_mb", "0")
    taken: dict[str, float] = {}
    with running_server(
        tmp_path / "server", *conf, "workers", f"ray://{head.address}:10001", variables=variables
    ) as server:
        wait_for(lambda: running(server) == 2)
        load = Load(server)
        wait_for(lambda: len(load.masks) > 40)
        before = len(load.masks)
        other.set_link("down")
        cut = time.monotonic()
        wait_for(lambda: running(server) == 1, 60)
        taken["a machine is cut off: one worker is counted after"] = time.monotonic() - cut
        wait_for(lambda: len(load.masks) > before + 40)
        other.stop()
        other.set_link("up")
        start_other(head, other)
        began = time.monotonic()
        wait_for(lambda: running(server) == 2)
        taken["it is there again: two after"] = time.monotonic() - began

        head.stop()
        other.stop()  # which Ray does itself within a minute
        wait_for(lambda: running(server) == 0)
        start_head(head)
        began = time.monotonic()
        wait_for(lambda: is_up(head))
        start_other(head, other)
        wait_for(lambda: running(server) >= 1)
        taken["the head was killed and is begun again: a worker after"] = time.monotonic() - began
        done = len(load.masks)
        wait_for(lambda: len(load.masks) > done + 20)
        load.stop()
        assert not load.faults, load.faults
    print(f"{len(load.masks)} masks, {load.unavailable} answers 503; longest {load.longest:.1f} s")
    for what, seconds in taken.items():
        print(f"{what} {seconds:.1f} s")
    assert max(taken.values()) < 60
    with running_server(tmp_path / "single", *conf) as alone:
        for seed, content in load.masks.items():
            assert mask(alone, segment(alone, seed)) == content, f"image {seed}"


def is_up(head: Machine) -> bool:
    """Whether the head answers at the port that servers connect to."""
    import socket

    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((head.address, 10001)) == 0


def test_several_servers_use_the_same_workers(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    head, _ = machines
    start_head(head)
    wait_for(lambda: is_up(head))
    variables = {"RAY_AUTH_TOKEN": TOKEN, "SAM_TEST_NETWORK": NETWORK}
    conf = ("models", "sam_tiny", "workers", f"ray://{head.address}:10001", "results", str(tmp_path / "results"))
    with (
        running_server(tmp_path / "1", *conf, "front", "1", variables=variables) as first,
        running_server(tmp_path / "2", *conf, "front", "2", variables=variables) as second,
    ):
        pids = subprocess.run(["ip", "netns", "pids", head.name], capture_output=True, text=True, timeout=30).stdout
        commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids.split() if Path(f"/proc/{pid}").exists()]
        assert sum("ServeReplica:sam-encoders" in command for command in commands) == 1, "they are started once"
        answers: list[tuple[Server, int, float]] = []

        def ask(server: Server, seeds: range) -> None:
            for seed in seeds:
                answer = segment(server, seed)
                assert answer.status_code == 200, answer.text
                answers.append((server, seed, answer.json()["timestamp"]))

        threads = [threading.Thread(target=ask, args=pair) for pair in ((first, range(20)), (second, range(20, 40)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        assert len(answers) == 40
        for server, seed, timestamp in answers:
            elsewhere = second if server is first else first
            path = f"/get_segmented_image/{timestamp:.6f}?view=mask"
            assert elsewhere.get(path).content == server.get(path).content, f"image {seed}"
