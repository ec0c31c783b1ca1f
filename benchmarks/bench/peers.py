"""The peers that run in processes of their own, and what they need in their folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.machine import ROOT
from bench.server import stop


class PeerError(RuntimeError):
    """A peer ended or answered something else; the message holds the end of what it printed."""


class Peer:
    """A running peer.

    Args:
        process: See :mod:`bench.peer_process`.
        log: What it prints.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log
        self._answer("ready")

    def seconds(self, request: Mapping[str, Any]) -> float:
        """How long the peer took for a request, by its own clock."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return float(self._answer("seconds"))

    def _answer(self, key: str) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            end = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
            raise PeerError(f"the peer ended; the end of what it printed:\n{end}")
        return json.loads(line)[key]


@contextmanager
def running_peer(name: str, folder: Path, variables: Mapping[str, str] | None = None) -> Iterator[Peer]:
    """A peer in a process of its own, stopped at the end.

    Args:
        name: Of :data:`bench.peer_process.PEERS`.
        folder: What the peer is given.
        variables: More environment variables.
    """
    log = folder.parent / f"{name}.log"
    paths = [str(ROOT / "benchmarks"), str(ROOT / "apps" / "sam_app")]
    environment = {**os.environ, **(variables or {}), "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "bench.peer_process", name, str(folder)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, cwd=folder.parent, env=environment
        )
    try:
        yield Peer(process, log)
    finally:
        stop(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def monailabel_sam2(folder: Path, size: str) -> Iterator[Peer]:
    """MONAI Label's SAM 2 task with random weights, ready for requests of ``/infer``.

    Args:
        folder: Made for it, and removed at the end: hiera-large takes 900 MB.
        size: ``large`` or ``tiny``; large is what MONAI Label downloads by default.
    """
    from lib.sam.models.sam2_model import build_sam2

    letter = size[0]
    config, checkpoint = f"sam2.1_hiera_{letter}.yaml", f"sam2.1_hiera_{size}.pt"
    models = folder / "model"
    models.mkdir(parents=True)
    try:
        torch.manual_seed(0)
        torch.save({"model": build_sam2(f"sam2.1_hiera_{letter}").state_dict()}, models / checkpoint)
        shutil.copyfile(_sam2_configs() / config, models / config)
        variables = {
            "MONAI_SAM_MODEL_PT": f"http://127.0.0.1:9/{checkpoint}",
            "MONAI_SAM_MODEL_CFG": f"http://127.0.0.1:9/{config}",
            "MONAI_LABEL_DATASTORE_CACHE_PATH": str(folder / "cache"),
            "TMPDIR": str(folder),
        }
        with running_peer("monailabel_sam2", models, variables) as peer:
            yield peer
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sam2_configs() -> Path:
    """Where the ``sam2`` package keeps its configurations; found without importing it."""
    from importlib.util import find_spec

    spec = find_spec("sam2")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "configs" / "sam2.1"
