"""Checkpoints: where they are, whether they are the right ones, how they get there and into a module."""

from __future__ import annotations

import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lib.base.files import move
from lib.sam.models import download
from lib.sam.models.checksums import ChecksumFile, ChecksumRecord, Digests, FileStamp
from lib.sam.models.registry import MODELS, ModelSpec

MODEL_FOLDER = Path(__file__).resolve().parents[3] / "model"
"""The app's own model folder."""

State = Literal["missing", "unverified", "verified", "mismatch"]
Shapes = dict[str, tuple[int, ...]]

_FOLDER_NAME = "apps/sam_app/model"
_NAMED_AT_MOST = 4


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or not the model's; the message says what to do and names no server path."""


class CheckpointStore:
    """A folder of checkpoints, and ``checksums.json`` with what is known of them.

    A file is right if it has the publisher's MD5 sum, where there is one, and the SHA-256 with which it was first
    verified. A bundled checkpoint comes and changes with the app itself: its SHA-256 is recorded, not held against it.

    Args:
        folder: The model folder.
    """

    def __init__(self, folder: Path = MODEL_FOLDER) -> None:
        self.folder = folder
        self._checksums = ChecksumFile(folder / "checksums.json")

    def path(self, spec: ModelSpec) -> Path:
        """Where the model's checkpoint is, or would be."""
        return self.folder / spec.checkpoint

    def require(self, spec: ModelSpec) -> Path:
        """Where the model's checkpoint is.

        Raises:
            CheckpointError: If it is not there; the message says how to get it.
        """
        path = self.path(spec)
        if path.is_file():
            return path
        if spec.bundled:
            cure = "it belongs to the app: fetch the app again"
        elif spec.url:
            cure = f"run `scripts/weights download {spec.name}` or copy {spec.checkpoint} into {_FOLDER_NAME}"
        else:
            cure = f"get {spec.checkpoint} from its publisher and copy it into {_FOLDER_NAME}"
        raise CheckpointError(f"{spec.name} has no checkpoint: {cure}")

    def state(self, spec: ModelSpec) -> State:
        """What is known of the model's file without reading it.

        ``mismatch`` is a file that was found wrong, or whose size is not that of the file that was verified.
        """
        path = self.path(spec)
        if not path.is_file():
            return "missing"
        record, stamp = self._checksums.get(spec.checkpoint), FileStamp.of(path)
        if stamp == record.verified:
            return "verified"
        if stamp == record.rejected:
            return "mismatch"
        resized = record.verified is not None and stamp.size != record.verified.size
        return "mismatch" if resized and not spec.bundled else "unverified"

    def known(self, spec: ModelSpec) -> Digests | None:
        """The checksums with which the model's file was last found right, or None if it never was."""
        return self._checksums.get(spec.checkpoint).digests

    def verify(self, spec: ModelSpec) -> Digests:
        """Reads the whole file and checks it; records its SHA-256 if it is the first time.

        Raises:
            CheckpointError: If it is missing, damaged or not the model's.
        """
        path = self.require(spec)
        stamp = FileStamp.of(path)
        try:
            digests = self._check(path, spec)
        except CheckpointError:
            record = self._checksums.get(spec.checkpoint)
            self._checksums.put(spec.checkpoint, ChecksumRecord(record.digests, record.verified, rejected=stamp))
            raise
        self._checksums.put(spec.checkpoint, ChecksumRecord(digests, verified=stamp))
        return digests

    def verified(self, spec: ModelSpec) -> Digests:
        """The checksums of the model's file, which is read only if it has changed since it was last verified.

        Raises:
            CheckpointError: If it is missing, damaged or not the model's.
        """
        path = self.require(spec)
        record = self._checksums.get(spec.checkpoint)
        if record.digests is not None and record.verified == FileStamp.of(path):
            return record.digests
        return self.verify(spec)

    def load_state_dict(self, spec: ModelSpec) -> dict[str, Tensor]:
        """The model's tensors by name, on the CPU, from a verified file; nothing in it is executed.

        Raises:
            CheckpointError: If the file is missing, damaged or not the model's.
        """
        self.verified(spec)
        return _read_tensors(self.path(spec))

    def load_into(self, module: nn.Module, spec: ModelSpec) -> str:
        """Gives the module the model's weights, all of them and no others.

        Returns:
            The checkpoint's SHA-256.

        Raises:
            CheckpointError: If the file is missing, damaged, or does not fit the module.
        """
        sha256 = self.verified(spec).sha256
        tensors = _read_tensors(self.path(spec))
        misfit = _misfit(_shapes(tensors), _shapes(module.state_dict()))
        if misfit:
            raise CheckpointError(f"{spec.checkpoint} does not fit {spec.name}: {misfit}")
        module.load_state_dict(tensors, strict=True)
        return sha256

    def add(self, file: Path, spec: ModelSpec | None = None, *, replace: bool = False) -> ModelSpec:
        """Copies a checkpoint into the folder, under the name of the model that it belongs to.

        Args:
            file: The checkpoint, anywhere.
            spec: The model; None to find it by the file's checksum, or by its name and tensors.
            replace: Whether it may take the place of another file that was verified.

        Returns:
            The model it was added for.

        Raises:
            CheckpointError: If the file fits no model, or not this one; the message says why.
        """
        if not file.is_file():
            raise CheckpointError(f"there is no file {file}")
        if spec is None:
            spec = _spec_of(file)
        if Path(spec.checkpoint).suffix != file.suffix:
            raise CheckpointError(f"{spec.name} takes a {Path(spec.checkpoint).suffix} file, {file.name} is none")
        if self.path(spec).exists() and self.path(spec).samefile(file):
            self.verify(spec)
            return spec
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".add-") as folder:
                aside = Path(folder) / spec.checkpoint
                shutil.copyfile(file, aside)
                self._place(aside, spec, replace=replace)
        except OSError as error:
            raise CheckpointError(f"{file.name} cannot be copied into the model folder: {error.strerror}") from error
        return spec

    def download(self, spec: ModelSpec, *, progress: bool = True) -> Digests:
        """Fetches the model's checkpoint from its publisher, going on from where an earlier call was cut off.

        Args:
            spec: The model.
            progress: Whether to show a bar on stderr.

        Raises:
            CheckpointError: If it cannot be downloaded, or is not what the publisher says; nothing is in place then.
        """
        if self.state(spec) in ("verified", "unverified"):
            return self.verified(spec)
        if spec.url is None:
            raise CheckpointError(
                f"{spec.name} cannot be downloaded from here: get {spec.checkpoint} from its publisher and run "
                f"`scripts/weights add {spec.checkpoint}`"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{spec.checkpoint}.part"
        try:
            download.fetch(spec.url, part, progress=progress)
        except download.DownloadError as error:
            raise CheckpointError(f"{spec.name} was not downloaded: {error}") from error
        try:
            return self._place(part, spec)
        finally:
            download.discard(part)

    def _check(self, path: Path, spec: ModelSpec, *, replace: bool = False) -> Digests:
        """The file's checksums, if they are right and its tensors fit."""
        digests, known = Digests.of(path), self.known(spec)
        if spec.md5 and digests.md5 != spec.md5:
            raise CheckpointError(
                f"the file for {spec.name} is damaged or another one: its MD5 sum is {digests.md5}, "
                f"the publisher's is {spec.md5}. Remove it and run `scripts/weights download {spec.name}`"
            )
        if known and digests.sha256 != known.sha256 and not (spec.bundled or replace):
            raise CheckpointError(
                f"{spec.checkpoint} has changed: its SHA-256 is {digests.sha256}, when first verified it was "
                f"{known.sha256}. If that is meant, run `scripts/weights add --model {spec.name} --replace FILE`"
            )
        if known is None or digests != known:
            misfit = _misfit(_shapes(_read_tensors(path)), _expected_shapes(spec))
            if misfit:
                raise CheckpointError(f"{spec.checkpoint} does not fit {spec.name}: {misfit}")
        return digests

    def _place(self, aside: Path, spec: ModelSpec, *, replace: bool = False) -> Digests:
        """Checks a file of the folder and renames it to the model's."""
        digests = self._check(aside, spec, replace=replace)
        move(aside, self.path(spec))
        self._checksums.put(spec.checkpoint, ChecksumRecord(digests, verified=FileStamp.of(self.path(spec))))
        return digests


def _spec_of(file: Path) -> ModelSpec:
    """The model that a file belongs to: by the publisher's checksum, else by its name; its tensors must fit."""
    shapes = _shapes(_read_tensors(file))
    misfits = {spec.name: _misfit(shapes, _expected_shapes(spec)) for spec in MODELS.values()}
    fitting = [MODELS[name] for name, misfit in misfits.items() if not misfit]
    if not fitting:
        reasons = "; ".join(f"{name}: {misfit}" for name, misfit in misfits.items())
        raise CheckpointError(f"{file.name} fits none of the models. {reasons}")
    if any(spec.md5 for spec in fitting):
        md5 = Digests.of(file).md5
        for spec in fitting:
            if spec.md5 == md5:
                return spec
    for spec in fitting:
        if spec.md5 is None and spec.checkpoint == file.name:
            return spec
    raise CheckpointError(
        f"{file.name} has the tensors of {' and '.join(spec.name for spec in fitting)}, but no published checksum "
        "and another name: say which it is with --model"
    )


def _expected_shapes(spec: ModelSpec) -> Shapes:
    with torch.device("meta"):
        return _shapes(spec.build().state_dict())


def _shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _misfit(found: Shapes, expected: Shapes) -> str:
    """What keeps one from being the other, in a few words; empty if nothing does."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    reshaped = [
        f"{name} is {_times(found[name])} instead of {_times(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    parts = (("missing ", missing), ("unexpected ", unexpected), ("", reshaped))
    return ", ".join(title + _first(names) for title, names in parts if names)


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "one number"


def _first(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")


_SPEAKING = (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError)
"""The errors of reading a checkpoint whose messages say what is wrong."""


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pth or .pt file that holds nothing but a dictionary of tensors.

    SAM 2's files have that dictionary under the key ``model``.
    """
    name = path.name.removesuffix(".part")
    try:
        if name.endswith(".safetensors"):
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:
        # On bytes that are no pickle torch's unpickler fails in any way: KeyError, IndexError, ...
        reason = str(error).strip().splitlines()[0] if isinstance(error, _SPEAKING) and str(error).strip() else ""
        raise CheckpointError(f"{name} is not a readable checkpoint: {reason or 'its content is another'}") from error
    if isinstance(content, dict) and list(content) == ["model"] and isinstance(content["model"], dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in content.items()
    ):
        raise CheckpointError(f"{name} does not hold weights alone (tensors by name), as a checkpoint here must")
    return dict(content)
