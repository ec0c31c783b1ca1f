"""OpenVINO's form of a model's networks: converted once from the checkpoint and stored in the model folder.

Layout of the model folder::

    openvino/<model>-<precision>-<key>/      encoder, decoder and others (.xml, .bin); manifest.json
    openvino/.<model>-….<random>.part/       unfinished

The key is a hash of the checkpoint's SHA-256, the versions of OpenVINO and PyTorch, and :data:`_FORMAT`. A folder is
filled under a temporary name, its networks are compared with PyTorch's, and only then it is renamed, so that no server
finds a partial one when two start in parallel or one is killed. One converts while the other waits. The manifest has
each file's SHA-256; a folder that does not match its manifest is made again. bfloat16 runs the networks of float32; its
folder has only a manifest, which says how well the masks agree.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lib.base.files import sha256_of
from lib.base.locks import locked
from lib.sam.models.registry import ModelSpec
from lib.sam.runtimes.decoder_form import decoder_forms
from lib.sam.runtimes.runtime import Networks, OtherNetwork, Precision, RuntimeUnavailableError, all_masks

logger = logging.getLogger(__name__)

FOLDER = "openvino"
ENCODER, DECODER, MANIFEST = "encoder.xml", "decoder.xml", "manifest.json"
PREPARATION = "preparation.xml"
"""What an encoder does first and always in float32, if there is such a part: its method ``prepare``."""
DECODER_MANY = "decoder_many.xml"
"""The decoder for many prompt tokens, if it has a form of its own, see :mod:`lib.sam.runtimes.decoder_form`."""

MAX_DIFFERENCE = 1e-4
"""Relative L2 distance from PyTorch's output above which a converted network is not used."""

_FORMAT = 2
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
        precision: ``float32``, ``bfloat16`` or ``int8``.
        encoding: What else the networks depend on, see :attr:`~lib.sam.models.registry.ModelSpec.encoding`.
    """

    model: str
    checkpoint_sha256: str
    precision: Precision = "float32"
    encoding: str = ""

    @classmethod
    def of(cls, spec: ModelSpec, checkpoint_sha256: str, precision: Precision = "float32") -> NetworkKey:
        """Return the key of a model's networks with these weights."""
        return cls(spec.name, checkpoint_sha256, precision, spec.encoding)

    @property
    def folder_name(self) -> str:
        """Name of the networks' folder."""
        versions = f"{openvino().__version__}|torch {torch.__version__}|{_FORMAT}"
        content = f"{self.checkpoint_sha256}|{self.encoding}|{versions}"
        digest = hashlib.sha256(content.encode()).hexdigest()
        return f"{self.model}-{self.precision}-{digest[:16]}"


def find_networks(model_folder: Path, key: NetworkKey) -> Path | None:
    """Return the folder of these networks; None if it is absent or damaged."""
    folder = model_folder / FOLDER / key.folder_name
    try:
        manifest = read_manifest(folder)
        is_intact = all(_sha256(folder / name) == sha256 for name, sha256 in manifest["files"].items())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        is_intact = False
    if not is_intact:
        logger.warning("The OpenVINO networks of %s are damaged and are made anew", key.model)
        return None
    return folder


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder of networks.

    Raises:
        OSError, ValueError: If there is none, or it is not JSON.
    """
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    return manifest


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


def convert(model_folder: Path, key: NetworkKey, networks: Networks) -> Path:
    """Return the folder of a model's float32 networks, converted from PyTorch's if it is absent.

    Args:
        model_folder: The folder of the checkpoints.
        key: Key of the networks.
        networks: PyTorch's; on the CPU, in evaluation mode.

    Raises:
        RuntimeUnavailableError: If a network cannot be converted or stored, or its output differs from PyTorch's.
    """
    return _kept_conversion(model_folder, key, lambda folder: _convert_into(folder, networks))


def convert_decoder(model_folder: Path, key: NetworkKey, networks: Networks) -> Path:
    """Return the folder of a learned mask decoder alone, converted from PyTorch's if it is absent.

    Those of other versions are removed then; servers that use them have them in memory.

    Args:
        model_folder: The folder of the checkpoints.
        key: Key of the decoder: its model is the version's title.
        networks: PyTorch's, of a SAM whose embeddings have one level; on the CPU, in evaluation mode.

    Raises:
        RuntimeUnavailableError: As :func:`convert`.
    """

    def make(folder: Path) -> dict[str, float]:
        for other in (model_folder / FOLDER).glob(f"{key.model.partition('@')[0]}@*"):
            shutil.rmtree(other, ignore_errors=True)
        with torch.no_grad():
            return _convert_decoder(folder, networks, [networks.image_pe.shape], _Comparison())

    return _kept_conversion(model_folder, key, make)


def _kept_conversion(model_folder: Path, key: NetworkKey, fill: Callable[[Path], dict[str, float]]) -> Path:
    """Return the folder of networks; if it is absent, fill it and check the differences from PyTorch's."""

    def make(folder: Path) -> dict[str, Any]:
        logger.info("Converting %s for OpenVINO: once for these weights, up to some minutes ...", key.model)
        started = time.monotonic()
        try:
            differences = fill(folder)
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


class _Comparison:
    """Random inputs, always the same, and by network the largest difference of its outputs from PyTorch's."""

    def __init__(self) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self.core = openvino().Core()
        self.differences: dict[str, float] = {}

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator)

    def compare(
        self, name: str, network: Any, inputs: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]
    ) -> None:
        outputs = network([np.ascontiguousarray(value) for value in inputs]).values()
        for ours, theirs in zip(outputs, expected, strict=True):
            difference = relative_difference(ours, theirs.numpy())
            self.differences[name] = max(self.differences.get(name, 0.0), difference)


def _convert_into(folder: Path, networks: Networks) -> dict[str, float]:
    """Write the networks; return the difference of each from PyTorch's: for an image, and for prompts of all forms."""
    made = _Comparison()
    with torch.no_grad():
        pixels = made.random(1, 3, networks.side, networks.side)
        for name, part in _parts(networks.encoder).items():
            output = part(pixels)  # before it is traced: SAM 2's keeps tables, which are then real ones
            levels = [output] if isinstance(output, torch.Tensor) else list(output)
            _save(folder / name, part, (pixels,))
            made.compare(name, compiled(made.core, folder / name), [pixels], levels)
            pixels = levels[0]
        _convert_decoder(folder, networks, [level.shape for level in levels], made)
        for name, other in networks.others.items():
            _convert_other(folder / f"{name}.xml", other)
            network = compiled(made.core, folder / f"{name}.xml")
            for values in other.examples:
                made.compare(name, network, values, [other.module(*values)])
    return made.differences


def _convert_decoder(
    folder: Path, networks: Networks, shapes: Sequence[Sequence[int]], made: _Comparison
) -> dict[str, float]:
    """Write the forms of the mask decoder for embeddings with levels of these shapes; return all differences."""
    levels = [made.random(*shape) for shape in shapes]  # not those of the test image
    _, channels, height, width = networks.image_pe.shape
    for name, form in zip((DECODER, DECODER_MANY), decoder_forms(networks.decoder, networks.image_pe), strict=True):
        if form is None:
            continue
        places = [_channels_last(level) for level in levels]
        example = places[0], made.random(1, 3, channels), made.random(1, height, width, channels), *places[1:]
        _save(folder / name, form.eval(), example, {1: {1: "tokens"}}, {2: [1, (1, height), (1, width), channels]})
        network = compiled(made.core, folder / name)
        earlier_mask, no_mask = made.random(1, channels, height, width), made.random(1, channels, 1, 1)
        for tokens, dense in ((0, earlier_mask), (3, no_mask), (40, earlier_mask)):
            sparse, everywhere = made.random(1, tokens, channels), dense.expand(-1, -1, height, width)
            inputs = [places[0], sparse, _channels_last(dense), *places[1:]]
            expected = all_masks(networks.decoder, networks.image_pe, levels, sparse, everywhere)
            made.compare(name, network, inputs, expected)
    return made.differences


def _convert_other(path: Path, other: OtherNetwork) -> None:
    """Write a network whose inputs can have any number of rows."""
    lengths = {index: {0: name} for index, name in enumerate(other.any_number) if name}
    _save(path, other.form().eval(), other.examples[0], lengths)


class _Method(nn.Module):
    """A method of a module as a module."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = getattr(self.module, self.name)(x)
        return result


def _parts(encoder: nn.Module) -> dict[str, nn.Module]:
    """Return the networks that make up an encoder, by file: one after the other."""
    if not hasattr(encoder, "prepare"):
        return {ENCODER: encoder}
    return {PREPARATION: _Method(encoder, "prepare"), ENCODER: _Method(encoder, "encode")}


def _channels_last(values: torch.Tensor) -> torch.Tensor:
    """Return ``(1, C, h, w)`` as ``(1, h, w, C)``."""
    return values.permute(0, 2, 3, 1).contiguous()


def _save(
    path: Path,
    module: nn.Module,
    example: tuple[torch.Tensor, ...],
    any_length: Mapping[int, Mapping[int, str]] | None = None,
    sizes: Mapping[int, Sequence[Any]] | None = None,
) -> None:
    """Convert a module and write it.

    Args:
        path: The file.
        module: The module.
        example: Its inputs, whose sizes are fixed but for the following.
        any_length: By input and axis, a name of its length, which can be any.
        sizes: By input, its sizes in OpenVINO's terms.
    """
    dims = {name: torch.export.Dim(name, max=8192) for axes in (any_length or {}).values() for name in axes.values()}
    dynamic = [{axis: dims[name] for axis, name in (any_length or {}).get(n, {}).items()} for n in range(len(example))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about the exporter's own code
        program = torch.export.export(module, example, dynamic_shapes=tuple(dynamic), strict=False)
        network = openvino().convert_model(program)
    shapes = {}
    for index, value in enumerate(example):
        shape = [-1 if axis in dynamic[index] else length for axis, length in enumerate(value.shape)]
        shapes[index] = openvino().PartialShape(list((sizes or {}).get(index, shape)))
    network.reshape(shapes)
    openvino().save_model(network, path, compress_to_fp16=False)


_threads: dict[str, int | bool] = {}


def limit_threads(count: int) -> None:
    """Have the networks that this process loads from now on run on this many threads, instead of on all cores.

    The threads are not bound to cores: several such processes would bind theirs to the same ones.
    """
    _threads.update({"INFERENCE_NUM_THREADS": count, "ENABLE_CPU_PINNING": False})
    torch.set_num_threads(count)


def compiled(core: Any, path: Path, precision: Precision = "float32") -> Any:
    """Compile a network for the CPU: one inference at a time with all cores, and in this precision on any CPU."""
    hint = "bf16" if precision == "bfloat16" else "f32"
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint, **_threads}
    return core.compile_model(core.read_model(path), "CPU", options)


def has_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 natively (AVX512_BF16 or AMX)."""
    return "BF16" in openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the L2 norm of the difference, as a share of that of ``theirs``."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
