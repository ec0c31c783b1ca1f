"""Damaged files of every kind: each is read, or refused with a reason; the server does not mind."""

from __future__ import annotations

import gzip
import json
import struct
import zlib

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import strategies as st

from lib.imaging.dicom.data_sets import to_bytes
from support.fuzzing import AMOUNTS, fuzz
from support.hostile import damages

pytestmark = pytest.mark.server

POINT = json.dumps({"positive_points": [{"x": 2, "y": 2}]}).encode()


@pytest.mark.parametrize("amount", AMOUNTS)
def test_damaged_files(target, originals, amount) -> None:
    outcomes = set()

    @fuzz(amount(120), damages(sorted(originals)), st.sampled_from((None, None, None, "respond-async")))
    def send(damage, prefer) -> None:
        outcomes.add(target.segment(damage.apply(originals), POINT, prefer=prefer).status_code)

    send()
    assert {200, 422} <= outcomes <= {200, 202, 400, 413, 415, 422}


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (header, data)
    )


def nifti_header(shape: tuple[int, ...], *, packed: bool = False, **fields: float) -> bytes:
    header = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).header
    header.set_data_shape(shape)
    for name, value in fields.items():
        header[name] = value
    content = header.binaryblock + bytes(4 + 16)
    return gzip.compress(content) if packed else content


def nrrd_header(*lines: str) -> bytes:
    return (
        "\n".join(("NRRD0004", "type: short", "encoding: raw", "endian: little", *lines)).encode() + b"\n\n" + bytes(64)
    )


HUGE = {
    "PNG": png_header(2**31 - 1, 2**31 - 1),
    "PNG just above the limit": png_header(2001, 2000),
    "NIfTI": nifti_header((32767, 32767, 32767)),
    "NIfTI gzip": nifti_header((32767, 32767, 60), packed=True),
    "NIfTI frames": nifti_header((2, 2, 65)),
    "NRRD": nrrd_header("dimension: 3", "sizes: 1000000 1000000 1000000"),
    "NRRD overflow": nrrd_header("dimension: 3", "sizes: 4294967296 4294967296 4294967296"),
    "BMP": b"BM"
    + struct.pack("<IHHI", 2**31 - 1, 0, 0, 54)
    + struct.pack("<IiiHH", 40, 2**30, 2**30, 1, 24)
    + bytes(99),
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_sizes_in_headers_are_refused(target, name) -> None:
    answer = target.segment(HUGE[name], POINT)
    assert answer.status_code in (413, 422), answer.text
    assert answer.elapsed.total_seconds() < 5


@pytest.mark.parametrize("attributes", [{"Rows": 65535, "Columns": 65535}, {"NumberOfFrames": 2**31 - 1}])
@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_jp2klossless.dcm", "MR_small_RLE.dcm"])
def test_huge_sizes_in_dicom_headers_are_refused(target, sample, name, attributes) -> None:
    dataset = pydicom.dcmread(sample(name))
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    answer = target.segment(to_bytes(dataset), POINT)
    assert answer.status_code == 413, answer.text
    assert answer.elapsed.total_seconds() < 5


def test_a_gzip_bomb_is_refused(target) -> None:
    """Some 4 MB that unpack to 1 GiB."""
    packer, pieces = zlib.compressobj(1, wbits=31), []
    pieces.append(packer.compress(nifti_header((1000, 1000, 4))))
    block = bytes(2**20)
    pieces += [packer.compress(block) for _ in range(1024)]
    answer = target.segment(b"".join([*pieces, packer.flush()]), POINT)
    assert answer.status_code in (200, 413, 422)


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
def test_a_dicom_image_that_does_not_say_which_it_is(target, sample, keyword) -> None:
    dataset = pydicom.dcmread(sample("CT_small.dcm"))
    content = to_bytes(dataset)
    start = content.index(
        dataset[keyword].tag.group.to_bytes(2, "little") + dataset[keyword].tag.elem.to_bytes(2, "little"), 400
    )
    length = int.from_bytes(content[start + 6 : start + 8], "little")
    answer = target.segment(content[:start] + content[start + 8 + length :], POINT)
    assert answer.status_code == 200, answer.text


NOT_FINITE = {
    "voxels": nibabel.Nifti1Image(np.full((8, 8, 2), np.nan, np.float32), np.eye(4)).to_bytes(),
    "some voxels": nibabel.Nifti1Image(
        np.resize(np.array([np.nan, np.inf, -np.inf, 3e38, -3e38], np.float32), (8, 8, 2)), np.eye(4)
    ).to_bytes(),
    "doubles": nibabel.Nifti1Image(np.resize(np.array([1e308, -1e308]), (8, 8, 2)), np.eye(4)).to_bytes(),
    "affine": nifti_header((2, 2, 2), srow_x=np.nan),
    "spacing": nifti_header((2, 2, 2), pixdim=np.inf),
    "slope": nifti_header((2, 2, 2), scl_slope=np.inf),
    "intercept": nifti_header((2, 2, 2), scl_slope=1, scl_inter=np.nan),
    "offset": nifti_header((2, 2, 2), vox_offset=np.nan),
    "NRRD": nrrd_header("dimension: 3", "sizes: 2 2 2", "space directions: (nan,0,0) (0,inf,0) (0,0,1)"),
}


@pytest.mark.parametrize("name", NOT_FINITE)
def test_numbers_that_are_not_finite(target, name) -> None:
    assert target.segment(NOT_FINITE[name], POINT).status_code in (200, 422)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_file_names_are_never_paths(target, originals, amount) -> None:
    tricks = (
        b"../../../x",
        b"..\\..\\x",
        b"/etc/passwd",
        b"%2e%2e%2fx",
        b"x\x00.png",
        b"\xff\xfe",
        b"",
        b"CON",
        b"a" * 4000,
    )
    names = st.sampled_from(tricks) | st.binary(max_size=60).map(lambda name: name.translate(None, b'"\r\n'))

    @fuzz(amount(20), names)
    def send(name) -> None:
        assert target.segment(originals["PNG grey"], POINT, name).status_code in (200, 400, 422)

    send()
