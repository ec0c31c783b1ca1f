from __future__ import annotations

import gzip

import pytest

from lib.imaging.formats.sniff import find_format

_ANALYZE = "Analyze 7.5 header, whose voxels are in another file; convert both to NIfTI"
_PAIR = "NIfTI header whose voxels are in another file; send both as one, .nii or .nii.gz"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\x89PNG\r\n\x1a\n....", "PNG"),
        (b"\xff\xd8\xff\xe0....", "JPEG"),
        (b"II*\x00....", "TIFF"),
        (b"MM\x00*....", "TIFF"),
        (b"BM" + bytes(12) + b"\x28\x00\x00\x00", "BMP"),
        (b"II*\x00" + bytes(124) + b"DICM", "DICOM"),
        (b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100", "DICOM"),
        (b"\x08\x00\x16\x00\x1a\x00\x00\x001.2.840", "DICOM"),
        (b"\x00\x08\x00\x05CS\x00\x0aISO_IR 100", "DICOM"),
        (b"NRRD0004\n", "NRRD"),
        (b"\x5c\x01\x00\x00" + bytes(340) + b"n+1\x00", "NIfTI"),
        (gzip.compress(b"\x5c\x01\x00\x00" + bytes(340) + b"n+1\x00"), "NIfTI"),
        (b"\x1c\x02\x00\x00n+2\x00\r\n\x1a\n", "NIfTI"),
    ],
)
def test_readable_formats(head: bytes, expected: str) -> None:
    assert find_format(head)[0] == expected


@pytest.mark.parametrize(
    ("head", "description"),
    [
        (b"", "empty file"),
        (b"GIF89a", "GIF image"),
        (b"%PDF-1.7", "PDF document"),
        (b"PK\x03\x04", "ZIP archive; unpack it and send its images"),
        (b"\x89HDF\r\n\x1a\n", "HDF5 file, e.g. MINC 2; convert it to NIfTI"),
        (b"ObjectType = Image", "MetaImage; convert it to NIfTI or NRRD"),
        (
            b"\x5c\x01\x00\x00" + bytes(344),
            "Analyze 7.5 header, whose voxels are in another file; convert both to NIfTI",
        ),
        (b'<?xml version="1.0"?><!-- by hand --><svg>', "SVG image"),
        (b"<?xml version='1.0'?><a/>", "XML document"),
        (b"\xff\xd8\xff\xf7....", "JPEG-LS image, which is supported in DICOM only"),
        (b"P5 3 2 255\n\x00\x01", "Netpbm image"),
        (bytes(257) + b"ustar", "tar archive; unpack it and send its images"),
        (gzip.compress(bytes(128) + b"DICM"), "gzip file with DICOM file (unpack it first)"),
        (gzip.compress(bytes(257) + b"ustar"), "gzip file with tar archive; unpack it and send its images"),
        (b"\x1f\x8b\xff", "gzip file with damaged content"),
        (b"RIFF\x00\x00\x00\x00WEBP", "WebP image"),
        (b"\x00\x00\x00\x18ftypheic", "HEIC image"),
        (b"Dear doctor,\nplease find", "text"),
        ("Grüße".encode(), "text"),
        (b"BM is no bitmap by itself", "text"),
        (b"\x01\x02\x03\x04\x05", "binary data of an unknown format"),
        (gzip.compress(b"something else"), "gzip file with text"),
        (
            b"\x5c\x01\x00\x00" + bytes(340) + b"ni1\x00",
            "NIfTI header whose voxels are in another file; send both as one, .nii or .nii.gz",
        ),
        (b"\x08\x00\x05\x00??\x0a\x00", "binary data of an unknown format"),
    ],
)
def test_what_is_not_read_is_named(head: bytes, description: str) -> None:
    assert find_format(head) == (None, description)
