"""Files of kilobytes that ask for gigabytes or for minutes, by format; each is made by a function of no arguments."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Callable
from itertools import islice

import imagecodecs
import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
    SecondaryCaptureImageStorage,
)

_MEBIBYTE = 2**20


def _zeros(count: int, wbits: int) -> bytes:
    """So many zeros, compressed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    pieces = [packer.compress(bytes(min(_MEBIBYTE, count - start))) for start in range(0, count, _MEBIBYTE)]
    return b"".join(pieces) + packer.flush()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(side: int, depth: int, colour: int, samples: int, *more: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    rows = _zeros(side * (1 + side * samples * depth // 8), 15)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + b"".join(more) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")
    )


def png_grey() -> bytes:
    return _png(13_000, 8, 0, 1)


def png_that_fits() -> bytes:
    return _png(5_000, 8, 2, 3)


def png_rgba_16() -> bytes:
    return _png(7_000, 16, 6, 4)


def png_texts() -> bytes:
    text = _chunk(b"zTXt", b"a\x00\x00" + _zeros(64 * _MEBIBYTE, 15))
    profile = _chunk(b"iCCP", b"a\x00\x00" + _zeros(256 * _MEBIBYTE, 15))
    return _png(64, 8, 2, 3, profile, *[text] * 20)


def _jpeg(**options: bool) -> bytes:
    rows, columns = np.mgrid[:2000, :2000]
    buffer = io.BytesIO()
    Image.fromarray(((rows // 16 + columns // 16) % 200).astype(np.uint8)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def jpeg_scans() -> bytes:
    """Progressive, its last scan repeated."""
    content = _jpeg(progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * 2000 + b"\xff\xd9"


def jpeg_size() -> bytes:
    content = bytearray(_jpeg())
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", 13_000, 13_000)
    return bytes(content)


def bmp_rle() -> bytes:
    """Of 8 bits, run-length encoded; ends after the first pixels."""
    palette, pixels = bytes(1024), b"\x01\x00\x00\x01"
    info = struct.pack("<IiiHHIIiiII", 40, 13_000, 13_000, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + palette + pixels


def _tiff(width: int, height: int, pages: int, strip: bytes, bits: int = 8) -> bytes:
    """Deflated; all pages have the same strip."""
    content = bytearray(b"II*\x00" + struct.pack("<I", 8 + len(strip)) + strip)
    for page in range(pages):
        tags = (
            *((256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 8), (262, 3, 1), (273, 4, 8)),
            *((277, 3, 1), (278, 4, height), (279, 4, len(strip)), (339, 3, 3 if bits == 64 else 1)),
        )
        content += struct.pack("<H", len(tags))
        for tag, kind, value in tags:
            content += struct.pack("<HHII", tag, kind, 1, value)
        content += struct.pack("<I", len(content) + 4 if page + 1 < pages else 0)
    return bytes(content)


def tiff_doubles() -> bytes:
    return _tiff(10_000, 10_000, 1, _zeros(800_000_000, 15), bits=64)


def tiff_pages() -> bytes:
    return _tiff(1000, 500, 1000, _zeros(500_000, 15))


def tiff_strips() -> bytes:
    """Tags of a million strips that are all the same."""
    count = 1_000_000
    start = 8
    tags = (
        *((256, 4, 1, 1000), (257, 4, 1, count), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)),
        *((273, 4, count, start), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, count, start)),
    )
    table = struct.pack("<I", 8) * count
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\x00" + struct.pack("<I", 8 + len(table)) + table + struct.pack("<H", len(tags)) + entries + bytes(4)


def _nifti(shape: tuple[int, int, int], dtype: type) -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header["vox_offset"] = 352
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return gzip.compress(header.binaryblock + bytes(4)) + _zeros(count, 31)


def nifti_doubles() -> bytes:
    return _nifti((512, 512, 700), np.float64)


def nifti_that_fits() -> bytes:
    return _nifti((512, 512, 180), np.float64)


def nifti_flat() -> bytes:
    return _nifti((20_000, 20_000, 1), np.int16)


def nrrd_doubles() -> bytes:
    fields = ("type: double", "dimension: 3", "sizes: 512 512 700", "endian: little", "encoding: gzip")
    return "\n".join(("NRRD0004", *fields, "", "")).encode() + _zeros(512 * 512 * 700 * 8, 31)


def nrrd_text() -> bytes:
    fields = ("type: double", "dimension: 2", "sizes: 16000 16000", "encoding: ascii")
    return "\n".join(("NRRD0004", *fields, "", "")).encode() + b"0 " * 400_000


def _dicom(rows: int, columns: int, frames: int, pixels: bytes, syntax: UID, bits: int = 8) -> bytes:
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3.4"
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = rows, columns, frames
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelData = pixels
    dataset["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def dicom_jpeg_2000() -> bytes:
    """A codestream of 64 x 64 pixels that says it has more."""
    codestream = bytearray(imagecodecs.jpeg2k_encode(np.zeros((64, 64), np.uint8), codecformat="J2K", level=0))
    for place in (8, 12, 24, 28):
        codestream[place : place + 4] = struct.pack(">I", 16_000)
    return _dicom(16_000, 16_000, 1, encapsulate([bytes(codestream)]), JPEG2000Lossless)


def dicom_jpeg_lossless() -> bytes:
    codestream = bytearray(imagecodecs.ljpeg_encode(np.zeros((64, 64), np.uint16), bitspersample=16))
    at = codestream.index(b"\xff\xc3")
    codestream[at + 5 : at + 9] = struct.pack(">HH", 20_000, 20_000)
    return _dicom(20_000, 20_000, 1, encapsulate([bytes(codestream)]), JPEGLosslessSV1, 16)


def dicom_scans() -> bytes:
    return _dicom(2000, 2000, 1, encapsulate([jpeg_scans()]), JPEGBaseline8Bit)


def dicom_rle() -> bytes:
    return _dicom(20_000, 20_000, 1, encapsulate([struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00"]), RLELossless)


def dicom_frames() -> bytes:
    """As many frames as are read at most, of one fragment each of some bytes."""
    codestream = bytes(imagecodecs.jpeg2k_encode(np.zeros((512, 512), np.uint8), codecformat="J2K", level=0))
    return _dicom(512, 512, 2000, encapsulate([codestream] * 2000), JPEG2000Lossless)


def dicom_deflated() -> bytes:
    plain = _dicom(16, 16, 1, bytes(256), ExplicitVRLittleEndian)
    head = _dicom(16, 16, 1, bytes(256), DeflatedExplicitVRLittleEndian)
    start = 132 + 12 + struct.unpack("<I", head[140:144])[0]
    after_meta = plain[132 + 12 + struct.unpack("<I", plain[140:144])[0] :]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    padding = struct.pack("<HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, 1_500 * _MEBIBYTE)
    body = packer.compress(after_meta + padding)
    body += b"".join(packer.compress(bytes(_MEBIBYTE)) for _ in range(1_500)) + packer.flush()
    return head[:start] + body


def dicom_elements() -> bytes:
    """A million elements, each of some bytes."""
    plain = _dicom(16, 16, 1, bytes(256), ExplicitVRLittleEndian)
    tags = ((group, element) for group in range(0x0009, 0x00FF, 2) for element in range(0x1000, 0x10000, 4))
    elements = [struct.pack("<HH2sH", *tag, b"LO", 0) for tag in islice(tags, 1_000_000)]
    at = plain.index(struct.pack("<HH", 0x0028, 0x0002))
    return plain[:at] + b"".join(elements) + plain[at:]


BOMBS: dict[str, Callable[[], bytes]] = {
    "PNG, grey": png_grey,
    "PNG, that fits 1 GiB": png_that_fits,
    "PNG, RGBA of 16 bits": png_rgba_16,
    "PNG, texts and a profile": png_texts,
    "JPEG, scans": jpeg_scans,
    "JPEG, size": jpeg_size,
    "BMP, run-length": bmp_rle,
    "TIFF, doubles": tiff_doubles,
    "TIFF, pages": tiff_pages,
    "TIFF, strips": tiff_strips,
    "NIfTI, doubles": nifti_doubles,
    "NIfTI, that fits 1 GiB": nifti_that_fits,
    "NIfTI, one slice": nifti_flat,
    "NRRD, doubles": nrrd_doubles,
    "NRRD, text": nrrd_text,
    "DICOM, JPEG 2000": dicom_jpeg_2000,
    "DICOM, JPEG Lossless": dicom_jpeg_lossless,
    "DICOM, scans": dicom_scans,
    "DICOM, RLE": dicom_rle,
    "DICOM, frames": dicom_frames,
    "DICOM, deflated": dicom_deflated,
    "DICOM, elements": dicom_elements,
}
