"""The server's image from the command line: build, check and save, with docker, podman or buildah."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("docker", "podman", "buildah")
TARGETS = ("cpu", "cuda", "ray")
STARTUP_S = 180
STOP_S = 10


class ImageError(RuntimeError):
    """It cannot be done, or the image is not as it should be; the message says why."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/image",
        description="Builds the server's image, checks it as a user would, and saves it into a file that another "
        "machine can load. See docs/docker.md.",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--engine", choices=ENGINES, help="without it the first of these that works; buildah cannot check"
    )
    common.add_argument(
        "--target",
        choices=TARGETS,
        default="cpu",
        help="the hardware; ray: cpu with Ray, for workers (default: %(default)s)",
    )
    common.add_argument("--tag", metavar="NAME", help="the image's name (default: sam-app:TARGET)")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", parents=[common], help="build it", description="Builds the image.")
    build.add_argument("--base", metavar="IMAGE", help="a Debian with Python 3.11 to 3.13 (default: Dockerfile's)")
    build.add_argument(
        "--torch-index",
        metavar="PLACE",
        help='where PyTorch for CPUs is taken from: a URL, or "" for the lock, with CUDA (default: its own index)',
    )
    build.add_argument("options", nargs="*", metavar="-- OPTION", help="further options of the engine's build")
    check = commands.add_parser(
        "check", parents=[common], help="start it and see", description="Checks the image as a user would."
    )
    check.add_argument("--max-size", type=float, metavar="GB", help="how much it may take, unpacked")
    save = commands.add_parser("save", parents=[common], help="into a file", description="Saves the image.")
    save.add_argument(
        "file", type=Path, help="e.g. sam-app-cpu.tar.zst (needs zstd), or .tar; FILE.sha256 is written beside it"
    )
    return parser


class Engine:
    """A program that builds and runs images.

    Args:
        name: One of :data:`ENGINES`.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @staticmethod
    def find(name: str | None, *, runs: bool) -> Engine:
        """The engine asked for, or the first that works.

        Args:
            name: The engine asked for.
            runs: Whether it must be able to run containers.

        Raises:
            ImageError: If there is none.
        """
        for candidate in (name,) if name else ENGINES:
            suits = shutil.which(candidate) and not (runs and candidate == "buildah")
            if suits and subprocess.run([candidate, "info"], capture_output=True, check=False).returncode == 0:
                return Engine(candidate)
        needed = "docker or podman" if runs else "docker, podman or buildah"
        raise ImageError(f"{name or needed} is not here, or does not work; Debian, Ubuntu: apt-get install podman")

    def call(self, *words: str | Path) -> None:
        """Run it, with its output on ours.

        Raises:
            ImageError: If it fails.
        """
        done = subprocess.run([self.name, *words], check=False)
        if done.returncode != 0:
            raise ImageError(f"{self.name} {words[0]} failed with {done.returncode}: see above")

    def ask(self, *words: str) -> str:
        """Run it; what it printed.

        Raises:
            ImageError: If it fails.
        """
        done = subprocess.run([self.name, *words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ImageError(f"{self.name} {' '.join(words[:2])} failed: {done.stderr.strip()[-2000:]}")
        return done.stdout.strip()

    def image(self, tag: str) -> dict[str, Any]:
        """What it knows of an image.

        Raises:
            ImageError: If there is no such image.
        """
        found: dict[str, Any] = json.loads(self.ask("image", "inspect", tag))[0]
        return found


def health_check_of(image: dict[str, Any]) -> list[str]:
    """The command of an image's HEALTHCHECK; empty if it has none."""
    found = image.get("Healthcheck") or image["Config"].get("Healthcheck") or {}
    return list(found.get("Test", ()))[1:]


def build(engine: Engine, arguments: argparse.Namespace, tag: str) -> None:
    """Build the image, and print its size."""
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct") or 0)
    values = {
        "SOURCE_DATE_EPOCH": str(epoch),
        "VERSION": re.search(r'VERSION = "(.*)"', (ROOT / "apps/sam_app/lib/version.py").read_text())[1],  # type: ignore[index]
        "REVISION": _git("rev-parse", "HEAD") or "unknown",
        "CREATED": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if arguments.base:
        values["BASE"] = arguments.base
    if arguments.torch_index is not None:
        values["TORCH_INDEX"] = arguments.torch_index
    words = ["build", "--target", arguments.target, "--tag", tag, "--file", str(ROOT / "Dockerfile")]
    for name, value in values.items():
        words += ["--build-arg", f"{name}={value}"]
    if engine.name != "docker":
        # Only docker's format has a HEALTHCHECK; docker itself takes the time from SOURCE_DATE_EPOCH.
        words += ["--format", "docker", "--timestamp", str(epoch)]
    started = time.monotonic()
    engine.call(*words, *arguments.options, str(ROOT))
    print(f"Built {tag} with {engine.name} in {time.monotonic() - started:.0f} s")


def _git(*words: str) -> str:
    """What git prints; nothing if this is no clone."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)  # noqa: S607
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


class Container:
    """A container of the image, started as a hospital would: without network, rights, or a root that can be written.

    Args:
        engine: What runs it.
        tag: The image.
    """

    def __init__(self, engine: Engine, tag: str) -> None:
        self._engine = engine
        self.name = f"sam-app-check-{uuid.uuid4().hex[:8]}"
        self._volume = f"{self.name}-data"
        self._confined = [
            "--network",
            "none",
            "--read-only",
            "--cap-drop",
            "ALL",
            "--security-opt",
            "no-new-privileges",
        ]
        self._confined += ["--tmpfs", "/tmp", "--volume", f"{self._volume}:/data"]  # noqa: S108 - the container's
        self._tag = tag

    def __enter__(self) -> Container:
        self._engine.ask("volume", "create", self._volume)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([self._engine.name, "rm", "--force", "--volumes", self.name], capture_output=True, check=False)
        subprocess.run([self._engine.name, "volume", "rm", "--force", self._volume], capture_output=True, check=False)

    def run_once(self, *words: str) -> str:
        """Run a command of the image to its end; what it printed."""
        return self._engine.ask("run", "--rm", *self._confined, self._tag, *words)

    def fill_studies(self) -> None:
        """Put a few real images into the studies."""
        python = ["--entrypoint", "/opt/sam-app/.venv/bin/python", self._tag]
        self._engine.ask("run", "--rm", *self._confined, *python, "scripts/sample_studies.py", "/data/studies")

    def as_root(self, command: str) -> str:
        """Run a shell command as root in the unchanged image; what it printed."""
        shell = ["--user", "0", "--network", "none", "--entrypoint", "/bin/sh"]
        return self._engine.ask("run", "--rm", *shell, self._tag, "-c", command)

    def start(self) -> float:
        """Start the server and wait for the image's own health check; the seconds that took.

        Raises:
            ImageError: If it does not become healthy.
        """
        started = time.monotonic()
        self._engine.ask("run", "--detach", "--name", self.name, *self._confined, self._tag)
        check = health_check_of(self._engine.image(self._tag))
        while time.monotonic() - started < STARTUP_S:
            if self._exec(check, None).returncode == 0:
                return time.monotonic() - started
            if self._engine.ask("inspect", "--format", "{{.State.Running}}", self.name) != "true":
                break
            time.sleep(0.2)
        raise ImageError(f"the server did not become healthy:\n{self.log()}")

    def probe(self) -> bool:
        """Ask the server all that a client would; whether all was right. Prints what came."""
        python = [
            "env",
            "PYTHONPATH=/opt/sam-app/scripts:/opt/sam-app/apps/sam_app",
            "/opt/sam-app/.venv/bin/python",
            "-",
        ]
        done = self._exec(python, (ROOT / "scripts" / "image_probe.py").read_bytes())
        print(done.stdout.decode(), end="")
        if done.returncode != 0:
            print(done.stderr.decode()[-3000:])
        return done.returncode == 0

    def log(self) -> str:
        """The end of what the server printed."""
        done = subprocess.run(
            [self._engine.name, "logs", self.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.stdout[-6000:]

    def stop(self) -> tuple[float, int]:
        """Stop it by its signal; the seconds that took and the exit status."""
        started = time.monotonic()
        self._engine.ask("stop", "--time", str(STOP_S + 10), self.name)
        seconds = time.monotonic() - started
        return seconds, int(self._engine.ask("inspect", "--format", "{{.State.ExitCode}}", self.name))

    def _exec(self, words: Sequence[str], text: bytes | None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [self._engine.name, "exec", *(["--interactive"] if text else []), self.name, *words],
            input=text,
            capture_output=True,
            check=False,
        )


class Findings:
    """What was found; prints each, and counts those that are not right."""

    def __init__(self) -> None:
        self.failed = 0

    def add(self, holds: bool, text: str) -> None:
        """Note one."""
        self.failed += not holds
        print(f"  {'ok    ' if holds else 'FAILED'}  {text}", flush=True)


def check(engine: Engine, arguments: argparse.Namespace, tag: str) -> None:
    """Start the image as a user would and see that all works.

    Raises:
        ImageError: If anything is not as it should be.
    """
    print(f"Checking {tag} with {engine.name}")
    findings = Findings()
    _check_configuration(engine.image(tag), findings)
    with ExitStack() as stack:
        container = stack.enter_context(Container(engine, tag))
        _check_files(container, arguments.max_size, findings)
        container.run_once("scripts/keys", "--file", "/data/keys/api_keys.json", "add", "someone")
        findings.add(True, "scripts/keys runs in it")
        container.fill_studies()
        seconds = container.start()
        findings.add(True, f"healthy after {seconds:.1f} s, without network, as non-root, with a read-only root")
        findings.add("Converting" not in container.log(), "the bundled model was not converted at the start")
        findings.failed += not container.probe()
        seconds, status = container.stop()
        findings.add(seconds < STOP_S and status in (0, 143), f"stopped in {seconds:.1f} s, exit status {status}")
    if findings.failed:
        raise ImageError(f"{tag} is not as it should be: see above")
    print(f"{tag} is as it should be")


def _check_configuration(image: dict[str, Any], findings: Findings) -> None:
    config = image["Config"]
    findings.add(config["User"] == "10001:10001", f"its user is {config['User']}")
    findings.add(config["Entrypoint"][0].endswith("tini"), f"it starts with {config['Entrypoint']}")
    findings.add(bool(health_check_of(image)), f"its HEALTHCHECK is {' '.join(health_check_of(image))}")
    findings.add(list(config["Volumes"]) == ["/data"], f"its volume is {', '.join(config['Volumes'])}")
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    named = {"title", "version", "revision", "created", "licenses"}
    findings.add(named <= labels.keys(), f"it is labelled {labels.get('version')} of {labels.get('revision', '')[:12]}")


def _check_files(container: Container, max_size: float | None, findings: Findings) -> None:
    size = int(container.as_root("du -sxB1 / | cut -f 1"))
    nvidia = "/opt/sam-app/.venv/lib/python3*/site-packages/nvidia"
    of_cuda = sum(map(int, container.as_root(f"du -scB1 {nvidia} 2>/dev/null | tail -n 1 | cut -f 1").split()))
    limit = max_size * 1e9 if max_size else None
    findings.add(
        limit is None or size <= limit, f"{size / 1e9:.2f} GB unpacked, of which NVIDIA's libraries {of_cuda / 1e9:.2f}"
    )
    writable = container.as_root("find / -xdev ! -type l ! -perm -1000 -perm /022")
    findings.add(not writable, f"files that a group or everybody may write: {writable or 'none'}")
    privileged = container.as_root("find / -xdev -type f -perm /6000")
    findings.add(not privileged, f"files that run with their owner's rights: {privileged or 'none'}")
    tools = container.as_root("for tool in pip gcc git curl wget; do command -v $tool; done; true")
    findings.add(not tools, f"tools that a server does not need: {tools or 'none'}")


def save(engine: Engine, file: Path, tag: str) -> None:
    """Write the image into a file, and its checksum beside it.

    Raises:
        ImageError: If it cannot be written.
    """
    started = time.monotonic()
    partial = file.with_name(f".{file.name}.part")
    words = [engine.name, "save", tag]
    if engine.name == "podman":
        words[2:2] = ["--format", "docker-archive"]
    elif engine.name == "buildah":
        words = ["buildah", "push", tag, f"docker-archive:/dev/stdout:{tag}"]
    packer = ["zstd", "-q", "-T0"] if file.suffix == ".zst" else ["cat"]
    if not shutil.which(packer[0]):
        raise ImageError("zstd is not here: apt-get install zstd, or save into a .tar")
    try:
        with partial.open("wb") as output, subprocess.Popen(words, stdout=subprocess.PIPE) as engine_process:
            packed = subprocess.run(packer, stdin=engine_process.stdout, stdout=output, check=False)
        if engine_process.returncode or packed.returncode:
            raise ImageError(f"{tag} could not be saved: see above")
        partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)
    with file.open("rb") as saved:
        digest = hashlib.file_digest(saved, "sha256").hexdigest()
    file.with_name(f"{file.name}.sha256").write_text(f"{digest}  {file.name}\n")
    print(f"{file}: {file.stat().st_size / 1e9:.2f} GB in {time.monotonic() - started:.0f} s, SHA-256 {digest}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    arguments = make_parser().parse_args(argv)
    tag = arguments.tag or f"sam-app:{arguments.target}"
    try:
        engine = Engine.find(arguments.engine, runs=arguments.command == "check")
        if arguments.command == "build":
            build(engine, arguments, tag)
        elif arguments.command == "check":
            check(engine, arguments, tag)
        else:
            save(engine, arguments.file, tag)
    except (ImageError, OSError) as error:
        print(f"scripts/image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
