"""What a result says of itself: ``manifest.json`` in its folder, or ``request.json`` while it is queued.

These files outlive releases. A release reads what earlier ones wrote, and keeps keys that it does not know when it
writes a manifest again; what has a newer :data:`SCHEMA_VERSION` it refuses to read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

SCHEMA_VERSION = 1
"""Of what is written: one more when a key changes its meaning or goes, not when one is added. Without it, it is 1."""


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class InputFile(_Stored):
    """The content of the image file."""

    sha256: str
    bytes: int


class InputFacts(InputFile):
    """The image; of a queued or failed request nothing but its file is known.

    Args:
        format: Of the file, such as ``DICOM``.
        modality: In DICOM's words.
        frames: How many it has.
        rows: Height of a frame in pixels.
        columns: Width likewise.
        referable: Whether DICOM objects can reference it.
    """

    format: str | None = None
    modality: str | None = None
    frames: int = 0
    rows: int = 0
    columns: int = 0
    referable: bool = False


class ResultFacts(_Stored):
    """What was found, and by which model: see :func:`lib.infers.sam_2d.result_facts`."""

    model: str
    checkpoint_sha256: str
    slice: int
    slice_source: str = "middle"
    frames: int = 1
    image_notes: list[str] = []
    window: dict[str, Any] = {}
    scores: list[float]
    areas: list[int] = []
    candidates: int
    candidate_scores: list[list[float]] = []

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is known, and nothing that is assumed."""
        return self.model_dump(exclude_unset=True)


class Manifest(_Stored):
    """A result's or a queued request's facts.

    Args:
        schema_version: See :data:`SCHEMA_VERSION`.
        timestamp: Its name; not of a queued one.
        user: Whose it is.
        created: When it was asked for, in ISO 8601.
        request: As it was sent.
        effective: What to segment, a :class:`~lib.transforms.sam_input.SAMPrompts` as JSON: with what held of the
            result that was refined, and with the model's own name.
        input: The image.
        result: Of a finished one.
        latency_ms: By stage, in milliseconds.
        versions: Of this app and of the packages that made it, by name.
        failure: Of a failed one, a :class:`~lib.server.http.errors.Failure` as JSON.
        files: Bytes of each file by its name; what is not listed is not there.
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

    def with_files(self, files: dict[str, int]) -> Manifest:
        """The same, with other files."""
        return self.model_copy(update={"files": files})

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is known, and nothing that is assumed."""
        return self.model_dump(exclude_unset=True)


def read_manifest(folder: Path, name: str) -> Manifest:
    """The manifest of a finished result, or the request of a queued one, if all its files are there.

    Raises:
        ValueError: If it is no manifest, of a newer release, or a file is missing or has another size.
        OSError: If it cannot be read.
    """
    try:
        manifest = Manifest.model_validate_json((folder / name).read_bytes())
    except ValidationError as error:  # whose own text quotes the content
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join([name, *map(str, first['loc'])])}: {first['msg']}") from None
    for file, size in manifest.files.items():
        path = folder / file
        if path.parent != folder or not path.is_file() or path.stat().st_size != size:
            raise ValueError(f"{file} is missing or has another size")
    return manifest
