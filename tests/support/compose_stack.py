"""The services of deploy/compose.yaml as processes of this machine: the same commands, variables and files.

What a container would have of its own is put in place: its volumes are folders, its paths are those of the folders and
files that are mounted there, its name is an address on 127.0.0.1. Read-only roots, users and networks are not.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from orthanc import OrthancError
from orthanc import program as orthanc_program
from support.server_process import REFUSE_OUTBOUND, REPOSITORY, free_port

DEPLOY = REPOSITORY / "deploy"
_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::([-?])([^}]*))?\})")
_PORTS = {"front": 8443, "server": 8000, "archive": 8042, "keycloak": 8080}
_ITKSNAP_PORT = "8911"
_PROGRAMS = {"/opt/sam-app/.venv/bin/python": Path(sys.executable)}


def read_compose(variables: Mapping[str, str], *more: str) -> dict[str, Any]:
    """Return compose.yaml, and more files of its folder over it, with its variables filled in, as Compose does it.

    Raises:
        KeyError: If a variable that is needed is not there; with the file's reason.
    """

    def value(match: re.Match[str]) -> str:
        name, kind, text = match.groups()
        if name is None:
            return "$"
        if kind == "?" and not variables.get(name):
            raise KeyError(text)
        return variables.get(name) or (text if kind == "-" else "")

    def filled(part: Any) -> Any:
        if isinstance(part, str):
            return _VARIABLE.sub(value, part)
        if isinstance(part, list):
            return [filled(one) for one in part]
        return {key: filled(one) for key, one in part.items()} if isinstance(part, dict) else part

    content: dict[str, Any] = {}
    for name in ("compose.yaml", *more):
        content = _merged(content, filled(yaml.safe_load((DEPLOY / name).read_text())))
    return content


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return both as Compose merges files: lists are joined, but for what is run."""
    content = dict(under)
    for key, value in over.items():
        there = content.get(key)
        if key == "networks" and isinstance(there, list):
            there = dict.fromkeys(there)
        if isinstance(there, dict) and isinstance(value, dict):
            value = _merged(there, value)
        elif isinstance(there, list) and key not in ("entrypoint", "command"):
            value = [*there, *value]
        content[key] = value
    return content


def require_caddy() -> None:
    """Skip where there is no Caddy."""
    if shutil.which("caddy") is None:
        pytest.skip("caddy (Debian package caddy), the front of the stack, is not installed")


def require_orthanc() -> None:
    """Skip where there is no Orthanc."""
    try:
        orthanc_program()
    except OrthancError as error:
        pytest.skip(str(error))


@dataclass
class ComposeStack:
    """The stack in a folder of its own.

    Args:
        folder: Of its volumes and logs; made if need be.
        variables: What an operator would write to ``.env``.
    """

    folder: Path
    variables: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.secrets = self.folder / "secrets"
        self.secrets.mkdir(parents=True)
        self.compose = read_compose({"SAM_SECRETS": str(self.secrets), **self.variables})
        self.ports = {name: free_port() for name in _PORTS}
        self.itksnap_port = free_port()

    def volume(self, name: str) -> Path:
        """The folder of a named volume."""
        return self.folder / "volumes" / name

    def log(self, service: str) -> Path:
        """What a service wrote."""
        return self.folder / f"{service}.log"

    def environment(self, service: str) -> dict[str, str]:
        """Return the variables that a service has in its container, with this machine's places and addresses."""
        given = {name: self.here(service, str(text)) for name, text in self._of(service).get("environment", {}).items()}
        return {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin", **given}

    def start(self, service: str, *, programs: Mapping[str, str] | None = None, **variables: str) -> None:
        """Start a service with the entry point and command of the file.

        Args:
            service: Its name there.
            programs: Of its image, and what is called in their place.
            variables: More of them, for what its configuration lets one choose.
        """
        words = [*self._of(service).get("entrypoint", []), *self._of(service)["command"]]
        if words[0] == "/usr/bin/tini":
            words = words[words.index("--") + 1 :]
        with self.log(service).open("ab") as output:
            self.processes[service] = subprocess.Popen(
                [(programs or {}).get(word) or self.here(service, word) for word in words],
                env={**self.environment(service), **variables},
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def run(self, service: str, command: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a shell's command line as within the container of a service."""
        line = self.here(service, command)
        environment = self.environment(service)
        return subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, check=False, **more)

    def is_healthy(self, service: str) -> bool:
        """Return what the health check of the file says."""
        kind, *words = self._of(service)["healthcheck"]["test"]
        words = words if kind == "CMD-SHELL" else [shlex.quote(self.here(service, word)) for word in words]
        return self.run(service, " ".join(words), timeout=30).returncode == 0

    def stop(self, service: str) -> None:
        """Stop it as Compose does."""
        process = self.processes.pop(service)
        process.terminate()
        process.wait(30)

    def wait_until_healthy(self, service: str, seconds: float = 240) -> None:
        """Wait as the services that depend on this one do; fail with its log if it never is."""
        deadline = time.monotonic() + seconds
        while self.processes[service].poll() is None and time.monotonic() < deadline:
            if self.is_healthy(service):
                return
            time.sleep(0.5)
        pytest.fail(f"{service} did not become healthy:\n" + self.log(service).read_text(errors="replace")[-6000:])

    def _of(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = self.compose["services"][service]
        return found

    def here(self, service: str, text: str) -> str:
        """Return a text of a container with the places and addresses that stand for its own on this machine."""
        if text == _ITKSNAP_PORT:
            return str(self.itksnap_port)
        for name, port in _PORTS.items():
            text = text.replace(f"{name}:{port}", f"127.0.0.1:{self.ports[name]}")
        text = text.replace(f"127.0.0.1:{_PORTS[service]}", f"127.0.0.1:{self.ports[service]}")
        for inside, outside in {**self._mounts(service), **_PROGRAMS}.items():
            text = re.sub(rf"(?<![\w/.]){re.escape(inside)}(?![\w-])", str(outside), text)
        return text

    def _mounts(self, service: str) -> dict[str, Path]:
        found = {}
        for mount in self._of(service).get("volumes", []):
            source, inside = mount.split(":")[:2]
            found[inside] = (DEPLOY / source).resolve() if source.startswith(".") else self.volume(source)
            if not source.startswith("."):
                found[inside].mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in self._of(service).get("secrets", []):
            found[f"/run/secrets/{name}"] = Path(self.compose["secrets"][name]["file"])
        return found


@contextmanager
def compose_stack(folder: Path, **variables: str) -> Iterator[ComposeStack]:
    """The stack, with nothing started yet; what was started is stopped at the end."""
    stack = ComposeStack(folder, variables)
    try:
        yield stack
    finally:
        for service in list(stack.processes):
            stack.stop(service)


def start_front(stack: ComposeStack, **variables: str) -> None:
    """Start Caddy, on 127.0.0.1 alone; what is behind it is there already. The variables are an override's."""
    require_caddy()
    port = str(stack.ports["front"])
    stack.start("front", FRONT_ADDRESS="127.0.0.1", FRONT_PORT=port, XDG_CONFIG_HOME=str(stack.folder), **variables)
    stack.wait_until_healthy("front")


def start_archive(stack: ComposeStack) -> None:
    """Start Orthanc, with a password of its own, for this machine alone."""
    (stack.secrets / "archive_password").write_text(secrets.token_hex(32) + "\n")
    port, folder = str(stack.ports["archive"]), str(stack.volume("archive"))
    stack.start("archive", ARCHIVE_PORT=port, ARCHIVE_REMOTE_ACCESS="false", ARCHIVE_FOLDER=folder)
    stack.wait_until_healthy("archive")


def start_server(stack: ComposeStack) -> None:
    """Start the server with the arguments that the image's entry point gets; it can reach nothing but this machine."""
    hooks, entry = stack.folder / "hooks", stack.folder / "image-entry"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(REFUSE_OUTBOUND)
    places = {"results": "results", "embeddings": "embeddings", "datastore": "labels", "audit_log": "audit/audit.jsonl"}
    conf = " ".join(f"--conf {key} {stack.folder}/volumes/{name}" for key, name in places.items())
    port = stack.ports["server"]
    entry.write_text(
        f"""#!/bin/sh
        export PYTHONPATH='{hooks}:{REPOSITORY}/apps/sam_app'
        export MONAI_LABEL_SESSION_PATH={stack.volume("cache")}
        export MONAI_LABEL_DICOMWEB_CACHE_PATH={stack.volume("dicomweb")}
        exec '{sys.executable}' '{REPOSITORY}/scripts/serve.py' --host 127.0.0.1 --port {port} {conf} "$@"
        """
    )
    entry.chmod(0o700)
    stack.start("server", programs={"/opt/sam-app/scripts/image-entry": str(entry)})
    stack.wait_until_healthy("server")
