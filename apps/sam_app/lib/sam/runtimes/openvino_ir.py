"""OpenVINO's form of a model's networks: converted once from the checkpoint and stored in the model folder.

Layout of the model folder::

    openvino/<model>-<precision>-<key>/      encoder.xml, encoder.bin, decoder.xml, decoder.bin, manifest.json
    openvino/.<model>-….<random>.part/       unfinished

The key is a hash of the checkpoint's SHA-256, the versions of OpenVINO and PyTorch, and :data:`_FORMAT`. A folder is
filled under a temporary name, its networks are compared with PyTorch's, and only then it is renamed, so that no server
finds a partial one when two start in parallel or one is killed. One converts while the other waits. The manifest has
each file's SHA-256; a folder that does not match its manifest is made again.
"""

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
"""Version of the conversion: increase it when this module converts the same checkpoint differently."""


def openvino() -> Any:
    """Return the ``openvino`` package, loaded without its telemetry.

    ``openvino`` also works without its dependency ``openvino_telemetry``, whose import is blocked here.

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
    """Key that identifies a model's converted networks.

    Args:
        model: The model's name.
        checkpoint_sha256: SHA-256 of its weights' file, in hexadecimal.
        precision: ``float32`` or ``int8``.
    """

    model: str
    checkpoint_sha256: str
    precision: Precision = "float32"

    @property
    def folder_name(self) -> str:
        """Name of the networks' folder."""
        versions = f"{openvino().__version__}|torch {torch.__version__}|{_FORMAT}"
        digest = hashlib.sha256(f"{self.checkpoint_sha256}|{versions}".encode()).hexdigest()
        return f"{self.model}-{self.precision}-{digest[:16]}"


def find_networks(model_folder: Path, key: NetworkKey) -> Path | None:
    """Return the folder of these networks; None if it is absent or damaged."""
    folder = model_folder / FOLDER / key.folder_name
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        is_intact = all(_sha256(folder / name) == sha256 for name, sha256 in manifest["files"].items())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        is_intact = False
    if not is_intact:
        logger.warning("The OpenVINO networks of %s are damaged and are made anew", key.model)
        return None
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return sha256_of(file)


def keep_networks(model_folder: Path, key: NetworkKey, make: Callable[[Path], dict[str, Any]]) -> Path:
    """Return the folder of these networks; if it is absent, make it and remove those of other checkpoints or versions.

    Args:
        model_folder: The folder of the checkpoints.
        key: Key of the networks.
        make: Fills a folder; returns facts for the manifest, in addition to the files' checksums.

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
            temporary = Path(tempfile.mkdtemp(prefix=f".{prefix}", suffix=".part", dir=parent))
            try:
                facts = make(temporary)
                files = {file.name: _sha256(file) for file in sorted(temporary.iterdir())}
                (temporary / MANIFEST).write_text(json.dumps({**facts, "files": files}, indent=2) + "\n")
                temporary.chmod(0o755)
                return temporary.rename(parent / key.folder_name)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise RuntimeUnavailableError(f"OpenVINO's networks cannot be kept: {error.strerror}") from error


def convert(model_folder: Path, key: NetworkKey, encoder: nn.Module, decoder: nn.Module, side: int) -> Path:
    """Return the folder of a model's float32 networks, converted from PyTorch's if it is absent.

    Args:
        model_folder: The folder of the checkpoints.
        key: Key of the networks.
        encoder: ``(1, 3, side, side)`` to ``(1, C, h, w)``; on the CPU, in evaluation mode.
        decoder: With SAM's ``predict_masks``.
        side: Side of the encoder's input in pixels.

    Raises:
        RuntimeUnavailableError: If a network cannot be converted or stored, or its output differs from PyTorch's.
    """

    def make(folder: Path) -> dict[str, Any]:
        logger.info("Converting %s for OpenVINO: once for this checkpoint, up to some minutes ...", key.model)
        started = time.monotonic()
        try:
            differences = _convert_into(folder, encoder, decoder, side)
        except OSError:
            raise
        except Exception as error:  # the converter can raise anything
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise RuntimeUnavailableError(f"OpenVINO cannot convert {key.model}: {reason}") from error
        if max(differences.values()) > MAX_DIFFERENCE or not np.isfinite(list(differences.values())).all():
            raise RuntimeUnavailableError(f"OpenVINO's {key.model} differs from PyTorch's: {differences}")
        logger.info(
            "Converted %s in %.0f s; relative difference %s", key.model, time.monotonic() - started, differences
        )
        return {"checkpoint_sha256": key.checkpoint_sha256, "relative_difference": differences}

    return keep_networks(model_folder, key, make)


class _AllMasks(nn.Module):
    """:func:`all_masks` as a module, for the converter."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, features: torch.Tensor, image_pe: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return all_masks(self.decoder, features, image_pe, sparse, dense)


def _convert_into(folder: Path, encoder: nn.Module, decoder: nn.Module, side: int) -> dict[str, float]:
    """Write both networks; return each output's difference from PyTorch's, for one image and two objects on it."""
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
        warnings.simplefilter("ignore")  # warnings about the exporter's own code
        program = torch.export.export(module, example, dynamic_shapes=dynamic, strict=False)
        network = openvino().convert_model(program)
    openvino().save_model(network, path, compress_to_fp16=False)


def compiled(core: Any, path: Path) -> Any:
    """Compile a network for the CPU: one inference at a time with all cores, and in float32 on any CPU."""
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(core.read_model(path), "CPU", options)


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the L2 norm of the difference, as a share of that of ``theirs``."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
