"""Reading and writing of DICOM data sets as PS3.10 files."""

import io
import os
import zlib
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom import Dataset, filereader, uid
from pydicom.config import IGNORE, settings

from lib.base.files import atomic_write
from lib.imaging.decoding.isolation import claim
from lib.imaging.decoding.parse_errors import corrupt_on_failure
from lib.imaging.image import CorruptImageError, ImageTooLargeError, UnsupportedImageError

# Read values that the standard does not allow, and copy them unchanged into derived objects: archives are full of them.
# pydicom's warnings would quote patient data.
settings.reading_validation_mode = settings.writing_validation_mode = IGNORE

_DAMAGED = "the DICOM file is truncated or damaged"
_MAX_INFLATED_BYTES = 2 * 1024**3
_COPIES_WHEN_INFLATED = 4
"""Copies of the inflated data: zlib's growing buffer, the stream and the pixel data."""
_CHUNK = 1024 * 1024
_PIXEL_DATA = 0x7FE00010
_SEQUENCE_DELIMITER = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"


def read_dataset(source: bytes | BinaryIO, *, stop_before_pixels: bool = False) -> Dataset:
    """Read a DICOM file, with or without preamble.

    Args:
        source: The file's bytes, or the open file at its start.
        stop_before_pixels: Do not read Pixel Data.

    Returns:
        The data set. ``file_meta`` has a Transfer Syntax UID, detected from the encoding if the file states none. Root
        elements that cannot be decoded are removed, unless they describe the pixels (group 0028).

    Raises:
        UnsupportedImageError: Compressed pixels without a stated transfer syntax.
        CorruptImageError: Not a DICOM data set, or damaged.
        ImageTooLargeError: A deflated data set that inflates to more than 2 GiB.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    with corrupt_on_failure(_DAMAGED):
        meta = _read_meta(stream)
        if meta is not None and not str(meta.get("TransferSyntaxUID") or "").strip():
            stream = io.BytesIO(stream.read())  # pydicom would read an empty syntax as explicit VR, little endian
        else:
            stream.seek(0)
            meta = None
        dataset = _parse(stream, stop_before_pixels)
        dataset.filename = ""  # headers are passed on; the file's path must not be
        if meta is not None or not hasattr(dataset, "file_meta"):
            dataset.file_meta = pydicom.dataset.FileMetaDataset(meta or {})
        if not dataset.file_meta.get("TransferSyntaxUID"):
            if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:  # compressed: PS3.5 A.4
                raise UnsupportedImageError(
                    "the DICOM file does not state its transfer syntax (0002,0010), needed for its compressed pixels"
                )
            implicit, little = dataset.original_encoding
            explicit = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
            dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
        _drop_undecodable(dataset)
    if not dataset:
        raise CorruptImageError(_DAMAGED)
    return dataset


def to_bytes(dataset: Dataset) -> bytes:
    """Encode a data set as a file: preamble, File Meta Information, data set (PS3.10 section 7).

    Args:
        dataset: Must have SOP Class UID, SOP Instance UID and ``file_meta.TransferSyntaxUID``. Its File Meta
            Information is completed in place.

    Returns:
        The file's bytes.
    """
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def write(dataset: Dataset, path: str | os.PathLike[str]) -> None:
    """Write a data set to a file atomically, without syncing it to the disk.

    Args:
        dataset: As for :func:`to_bytes`.
        path: The file; an existing one is replaced.
    """
    with atomic_write(Path(path), durable=False) as file:
        file.write(to_bytes(dataset))


def _parse(stream: BinaryIO, stop_before_pixels: bool) -> Dataset:
    """Parse a file, of which only the delimiter at the end of compressed pixel data (PS3.5 A.4) may be missing."""
    dataset: Dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=stop_before_pixels)
    if dataset:
        return dataset
    stream.seek(0)  # pydicom returned nothing because the file ends too early
    completed = pydicom.dcmread(io.BytesIO(stream.read() + _SEQUENCE_DELIMITER), force=True)
    is_complete = completed and max(completed.keys()) == _PIXEL_DATA and completed["PixelData"].is_undefined_length
    return completed if is_complete else dataset


def _read_meta(stream: BinaryIO) -> Dataset | None:
    """Read the File Meta Information and leave the stream after it; return None if there is no preamble.

    A deflated data set is inflated in pieces only to check that it stays within the limit.
    """
    stream.seek(0)
    if stream.read(132)[128:] != b"DICM":
        return None
    meta = filereader.read_dataset(
        stream, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, vr, length: tag.group != 2
    )
    if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
        inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not inflater.eof and (chunk := inflater.unconsumed_tail or stream.read(_CHUNK)):
            total += len(inflater.decompress(chunk, _CHUNK))
            if total > _MAX_INFLATED_BYTES:
                raise ImageTooLargeError("the deflated DICOM file inflates to more than 2 GiB")
        claim(_COPIES_WHEN_INFLATED * total)
    return meta


def _drop_undecodable(dataset: Dataset) -> None:
    """Decode each root element once and remove those that cannot be decoded, except those that describe pixels."""
    for tag in [tag for tag in dataset.keys() if tag.group != 0x0028]:  # noqa: SIM118 (a Dataset iterates elements)
        try:
            dataset[tag]
        except Exception:  # any exception; without this element the rest can still be used
            del dataset[tag]
