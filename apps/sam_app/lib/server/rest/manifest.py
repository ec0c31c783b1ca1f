"""The description of a stored result: ``manifest.json`` in its folder; while it is queued, the request as received.

These files are read by later releases. A release reads what earlier ones wrote, preserves unknown keys when it rewrites
a manifest, and refuses to read one with a newer :data:`SCHEMA_VERSION`.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from lib.transforms.sam_input import SAMPrompts

SCHEMA_VERSION = 1
"""Version that is written: raised when a key changes its meaning or is removed, not when one is added. Absent: 1."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Stored(_Frozen):
    model_config = ConfigDict(extra="allow")

    def as_dict(self) -> dict[str, Any]:
        """Return what is known as a dictionary for JSON, without defaults."""
        return self.model_dump(exclude_unset=True)


class InputFile(_Stored):
    """Hash and size of the image, a file or a series of files.

    Args:
        sha256: See :func:`~lib.imaging.image_cache.image_sha256`.
        bytes: Of all files together.
        in_order_sha256: Of a series, see :func:`~lib.imaging.image_cache.content_key`.
    """

    sha256: str
    bytes: int
    in_order_sha256: str | None = None

    @property
    def key(self) -> str:
        """Name of the image's content as it is read."""
        return self.in_order_sha256 or self.sha256

    @property
    def file(self) -> "InputFile":
        """What is known of its files alone."""
        return InputFile(**self.model_dump(include=set(InputFile.model_fields), exclude_none=True))


class InputFacts(InputFile):
    """Facts about the image; for a queued or failed request only those about its file are known.

    Args:
        format: File format, such as ``DICOM``.
        modality: Modality as a DICOM code.
        frames: Number of frames.
        rows: Height of a frame in pixels.
        columns: Width of a frame in pixels.
        referable: Whether DICOM objects can reference it.
    """

    format: str | None = None
    modality: str | None = None
    frames: int = 0
    rows: int = 0
    columns: int = 0
    referable: bool = False


class ResultFacts(_Stored):
    """What was segmented, and by which model: see :func:`lib.infers.facts.result_facts`."""

    model: str
    checkpoint_sha256: str
    version: str | None = None
    versions: list[str] = []
    slice: int
    slice_source: str = "middle"
    frames: int = 1
    image_notes: list[str] = []
    window: dict[str, Any] = {}
    scores: list[float]
    names: list[str] = []
    areas: list[int] = []
    candidates: int
    candidate_scores: list[list[float]] = []


class Manifest(_Stored):
    """Facts about a result or a queued request.

    Args:
        schema_version: See :data:`SCHEMA_VERSION`.
        timestamp: Name of the result; None while it is queued.
        user: Its owner.
        created: When it was requested, in ISO 8601.
        request: The request as it was sent.
        effective: What to segment, a :class:`~lib.transforms.sam_input.SAMPrompts` as JSON: includes what was
            taken from the result that was refined, and the model's own name.
        input: The image.
        result: Facts about the segmentation, if it succeeded.
        latency_ms: Time of each stage in milliseconds.
        versions: Version of this app and of the packages that were used, by name.
        failure: If it failed, a :class:`~lib.server.http.errors.Failure` as JSON.
        files: Size of each file in bytes, by name; a file that is not listed does not exist. A series is a folder, with
            the size of its files together.
    """

    schema_version: int = SCHEMA_VERSION
    timestamp: str | None = None
    user: str
    created: str | None = None
    request: dict[str, Any] = {}
    effective: dict[str, Any] = {}
    input: InputFacts
    result: ResultFacts | None = None
    latency_ms: dict[str, float] = {}
    versions: dict[str, str] = {}
    failure: dict[str, Any] | None = None
    files: dict[str, int] = {}

    @model_validator(mode="before")
    @classmethod
    def _is_of_a_known_version(cls, content: Any) -> Any:
        version = content.get("schema_version", 1) if isinstance(content, dict) else 1
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise ValueError(f"schema_version {version!r} is a newer release's; this one reads up to {SCHEMA_VERSION}")
        return content


def read_manifest(folder: Path, name: str) -> Manifest:
    """Return the manifest of a finished result, or the request of a queued one, if all its files exist.

    Raises:
        ValueError: If it is no manifest or a newer release's, or a file is missing or has another size.
        OSError: If it cannot be read.
    """
    try:
        manifest = Manifest.model_validate_json((folder / name).read_bytes())
    except ValidationError as error:  # its own text quotes the content
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join([name, *map(str, first['loc'])])}: {first['msg']}") from None
    for file, size in manifest.files.items():
        path = folder / file
        if path.parent != folder or not path.exists() or stored_size(path) != size:
            raise ValueError(f"{file} is missing or has another size")
    return manifest


def stored_size(path: Path) -> int:
    """Return the size in bytes of a file, or of all files in a folder together."""
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


class Origin(_Frozen):
    """Id and client address of the HTTP request."""

    request_id: str
    client: str | None = None


class EarlierMasks(_Frozen):
    """What is needed of the result to refine; its logits are in the folder, too."""

    effective: SAMPrompts
    checkpoint_sha256: str
    candidate: int


class ReceivedRequest(_Frozen):
    """What was requested and by whom.

    Args:
        user: Who requested it.
        created: When, in ISO 8601.
        request: The request as JSON.
        input: The image.
        effective: What to segment: includes what is taken from the result that is refined, and the model's own name.
        earlier: The masks to refine.
        origin: Of a queued request.
    """

    user: str
    created: str
    request: dict[str, Any]
    input: InputFile
    effective: SAMPrompts
    earlier: EarlierMasks | None = None
    origin: Origin | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return self.model_dump(mode="json", exclude_none=True)
