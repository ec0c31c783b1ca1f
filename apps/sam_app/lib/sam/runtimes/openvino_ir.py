"""OpenVINO's form of a model's networks: made once from the checkpoint, kept beside it, found again by what made it.

In the model folder is::

    openvino/<model>-<precision>-<key>/      encoder.xml, encoder.bin, decoder.xml, decoder.bin, manifest.json
    openvino/.<model>-….<random>.part/       being made

The key is that of the checkpoint's SHA-256, the versions of OpenVINO and PyTorch, and :data:`_FORMAT`. A folder is
filled aside, the networks in it are compared with PyTorch's, and only then it gets its name; so that two servers that
start at once, or one that is killed, never meet half of one. One converts while the other waits. Each file's SHA-256 is
in the manifest, and a folder that does not have what its manifest says is made anew.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lib.base.files import sha256_of
from lib.base.locks import locked
from lib.sam.runtimes.runtime import Precision, RuntimeUnavailableError, all_masks

logger = logging.getLogger(__name__)

FOLDER = "openvino"
ENCODER, DECODER, MANIFEST = "encoder.xml", "decoder.xml", "manifest.json"

MAX_DIFFERENCE = 1e-4
"""Relative L2 distance from PyTorch's output above which a converted network is not used."""

_FORMAT = 1
"""Changes when this module makes another network of the same checkpoint."""


def openvino() -> Any:
    """The package, without the part of it that reports its use to its makers.

    ``openvino_telemetry`` is a dependency that ``openvino`` works without: here it cannot be imported.

    Raises:
        RuntimeUnavailableError: If OpenVINO is not installed or cannot be loaded.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise RuntimeUnavailableError(f"OpenVINO cannot be loaded: {error}") from error


@dataclass(frozen=True)
class NetworkKey:
    """Which networks are meant.

    Args:
        model: The model's name.
        checkpoint_sha256: Of its weights, in hexadecimal.
        precision: ``float32`` or ``int8``.
    """

    model: str
    checkpoint_sha256: str
    precision: Precision = "float32"

    @property
    def folder_name(self) -> str:
        """Of the folder that holds them."""
        versions = f"{openvino().__version__}|torch {torch.__version__}|{_FORMAT}"
        digest = hashlib.sha256(f"{self.checkpoint_sha256}|{versions}".encode()).hexdigest()
        return f"{self.model}-{self.precision}-{digest[:16]}"


def find_networks(model_folder: Path, key: NetworkKey) -> Path | None:
    """The folder with these networks, whole and unchanged; None if there is none."""
    folder = model_folder / FOLDER / key.folder_name
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        whole = all(_sha256(folder / name) == sha256 for name, sha256 in manifest["files"].items())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        whole = False
    if not whole:
        logger.warning("The OpenVINO networks of %s are damaged and are made anew", key.model)
        return None
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return sha256_of(file)


def keep_networks(model_folder: Path, key: NetworkKey, make: Callable[[Path], dict[str, Any]]) -> Path:
    """The folder with these networks, made if it is not there; those of the model's other checkpoints or versions go.

    Args:
        model_folder: Where the checkpoints are.
        key: Names the networks.
        make: Fills a folder; answers what to write into the manifest beside the files' sums.

    Raises:
        RuntimeUnavailableError: If the folder cannot be written, or what ``make`` raises.
    """
    try:
        parent = model_folder / FOLDER
        parent.mkdir(exist_ok=True)
        with locked(parent):
            found = find_networks(model_folder, key)
            if found is not None:
                return found
            prefix = f"{key.model}-{key.precision}-"
            for other in [*parent.glob(f"{prefix}*"), *parent.glob(f".{prefix}*.part")]:
                shutil.rmtree(other, ignore_errors=True)
            aside = Path(tempfile.mkdtemp(prefix=f".{prefix}", suffix=".part", dir=parent))
            try:
                facts = make(aside)
                files = {file.name: _sha256(file) for file in sorted(aside.iterdir())}
                (aside / MANIFEST).write_text(json.dumps({**facts, "files": files}, indent=2) + "\n")
                aside.chmod(0o755)
                return aside.rename(parent / key.folder_name)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise RuntimeUnavailableError(f"OpenVINO's networks cannot be kept: {error.strerror}") from error


def convert(model_folder: Path, key: NetworkKey, encoder: nn.Module, decoder: nn.Module, side: int) -> Path:
    """The folder with a model's float32 networks, converted from PyTorch's if it is not there.

    Args:
        model_folder: Where the checkpoints are.
        key: Names them.
        encoder: ``(1, 3, side, side)`` to ``(1, C, h, w)``; on the CPU, in evaluation mode.
        decoder: With SAM's ``predict_masks``.
        side: Of the encoder's input in pixels.

    Raises:
        RuntimeUnavailableError: If it cannot be converted, differs from PyTorch's, or cannot be kept.
    """

    def make(folder: Path) -> dict[str, Any]:
        logger.info("Converting %s for OpenVINO: once for this checkpoint, up to some minutes ...", key.model)
        started = time.monotonic()
        try:
            differences = _convert_into(folder, encoder, decoder, side)
        except OSError:
            raise
        except Exception as error:  # whatever the converter stumbles over
            raise RuntimeUnavailableError(f"OpenVINO cannot convert {key.model}: {_first_line(error)}") from error
        if max(differences.values()) > MAX_DIFFERENCE or not np.isfinite(list(differences.values())).all():
            raise RuntimeUnavailableError(f"OpenVINO's {key.model} differs from PyTorch's: {differences}")
        logger.info(
            "Converted %s in %.0f s; relative difference %s", key.model, time.monotonic() - started, differences
        )
        return {"checkpoint_sha256": key.checkpoint_sha256, "relative_difference": differences}

    return keep_networks(model_folder, key, make)


class _AllMasks(nn.Module):
    """:func:`all_masks` as a module, to be converted."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, features: torch.Tensor, image_pe: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return all_masks(self.decoder, features, image_pe, sparse, dense)


def _convert_into(folder: Path, encoder: nn.Module, decoder: nn.Module, side: int) -> dict[str, float]:
    """Write both networks; answers how far each is from PyTorch's, for one image and for two objects on it."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    with torch.no_grad():
        pixels = random(1, 3, side, side)
        features = encoder(pixels)
        channels, *size = features.shape[1:]
        _save(folder / ENCODER, encoder, (pixels,), dynamic=None)
        image_pe, sparse, dense = random(1, channels, *size), random(2, 3, channels), random(2, channels, *size)
        objects, tokens = torch.export.Dim("objects", max=1024), torch.export.Dim("tokens", max=8192)
        shapes = (None, None, {0: objects, 1: tokens}, {0: objects})
        _save(folder / DECODER, _AllMasks(decoder), (features, image_pe, sparse, dense), dynamic=shapes)
        masks, scores = all_masks(decoder, features, image_pe, sparse, dense)
    core = openvino().Core()
    [converted] = compiled(core, folder / ENCODER)([pixels.numpy()]).values()
    decoded = compiled(core, folder / DECODER)([x.numpy() for x in (features, image_pe, sparse, dense)]).values()
    our_masks, our_scores = decoded
    pairs = {"encoder": (converted, features), "masks": (our_masks, masks), "scores": (our_scores, scores)}
    return {name: relative_difference(ours, theirs.numpy()) for name, (ours, theirs) in pairs.items()}


def _save(path: Path, module: nn.Module, example: tuple[torch.Tensor, ...], dynamic: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own code
        program = torch.export.export(module, example, dynamic_shapes=dynamic, strict=False)
        network = openvino().convert_model(program)
    openvino().save_model(network, path, compress_to_fp16=False)


def compiled(core: Any, path: Path) -> Any:
    """A network ready to run on the CPU: one piece of work at a time with all cores, and in float32 on any CPU."""
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(core.read_model(path), "CPU", options)


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """L2 norm of the difference, as a share of ``theirs``."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
