"""Detection of a file's format from its content; the file name is never used."""

import string
import zlib

from pydicom.valuerep import VR

HEAD_LENGTH = 4096
"""Number of bytes from a file's start that :func:`find_format` needs."""

READABLE = ("PNG", "JPEG", "TIFF", "BMP", "DICOM", "NIfTI", "NRRD")
"""The supported formats, with the names that ``MedicalImage.file_format`` uses."""

_RASTER_SIGNATURES: dict[str, bytes | tuple[bytes, ...]] = {
    "PNG": b"\x89PNG\r\n\x1a\n",
    "JPEG": b"\xff\xd8\xff",
    "TIFF": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
}

_JPEG_LS = b"\xff\xd8\xff\xf7"

_UNREADABLE_SIGNATURES: dict[str, bytes | tuple[bytes, ...]] = {
    "GIF image": b"GIF8",
    "PDF document": b"%PDF",
    "ZIP archive; unpack it and send its images": b"PK\x03\x04",
    "empty ZIP archive": b"PK\x05\x06",
    "7-Zip archive; unpack it and send its images": b"7z\xbc\xaf\x27\x1c",
    "RAR archive; unpack it and send its images": b"Rar!\x1a\x07",
    "bzip2 file; unpack it first": b"BZh",
    "xz file; unpack it first": b"\xfd7zXZ\x00",
    "Zstandard file; unpack it first": b"\x28\xb5\x2f\xfd",
    "JPEG-LS image, which is supported in DICOM only": _JPEG_LS,
    "JPEG 2000 image": b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    "JPEG 2000 codestream": b"\xff\x4f\xff\x51",
    "JPEG XL image": (b"\x00\x00\x00\x0cJXL \r\n\x87\n", b"\xff\x0a"),
    "JPEG XR image": b"II\xbc\x01",
    "Photoshop image": b"8BPS",
    "icon": b"\x00\x00\x01\x00",
    "OpenEXR image": b"v/1\x01",
    "QOI image": b"qoif",
    "FITS image": b"SIMPLE  =",
    "Zeiss CZI image": b"ZISRAWFILE",
    "Nikon ND2 image": b"\xda\xce\xbe\x0a",
    "OLE file, e.g. from Office or a microscope": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "HDF5 file, e.g. MINC 2; convert it to NIfTI": b"\x89HDF\r\n\x1a\n",
    "NetCDF file, e.g. MINC 1; convert it to NIfTI": (b"CDF\x01", b"CDF\x02"),
    "MetaImage; convert it to NIfTI or NRRD": (b"ObjectType", b"NDims"),
    "FreeSurfer volume (MGH); convert it to NIfTI": b"\x00\x00\x00\x01\x00\x00",
    "ECAT volume": b"MATRIX7",
    "Philips PAR header, whose voxels are in another file": b"# === DATA DESCRIPTION FILE",
    "VTK file": b"# vtk DataFile",
    "NumPy array, which has no geometry": b"\x93NUMPY",
    "MATLAB file": b"MATLAB 5.0",
    "program": (b"\x7fELF", b"MZ"),
    "Ogg media": b"OggS",
    "Matroska or WebM video": b"\x1aE\xdf\xa3",
    "SVG image": b"<svg",
    "HTML document": (b"<!DOCTYPE", b"<html"),
}
_CONTAINER_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), "HEIC image"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF image"),
    b"jp2 ": "JPEG 2000 image",
}
"""Brands in the file type box at the start of an ISO base media file; other brands are videos."""

_NIFTI_SINGLE = {b"n+1\x00": 344, b"n+2\x00": 4}
_NIFTI_PAIR = {b"ni1\x00": 344, b"ni2\x00": 4}
_VALUE_REPRESENTATIONS = frozenset(vr.value for vr in VR if len(vr.value) == 2)
_TEXT_BYTES = frozenset(string.printable.encode()) | frozenset(range(0x80, 0x100))


def find_format(head: bytes) -> tuple[str | None, str]:
    """Detect a file's format from its first bytes.

    Args:
        head: The first :data:`HEAD_LENGTH` bytes, or the whole file if it is shorter.

    Returns:
        ``(format, description)``: ``format`` is one of :data:`READABLE`, or None if the file is something else;
        ``description`` says what was found ("GIF image", "text", …).
    """
    if not head:
        return None, "empty file"
    if head[128:132] == b"DICM":  # before TIFF: a dual-personality file has a TIFF header in its preamble
        return "DICOM", "DICOM file"
    for name, signatures in _RASTER_SIGNATURES.items():
        if head.startswith(signatures) and not head.startswith(_JPEG_LS):
            return name, f"{name} image"
    if _is_bmp(head):
        return "BMP", "BMP image"
    if head.startswith(b"NRRD000"):
        return "NRRD", "NRRD image"
    start = _gunzip_start(head) if head.startswith(b"\x1f\x8b") else head
    if any(start[at : at + 4] == magic for magic, at in _NIFTI_SINGLE.items()):
        return "NIfTI", "NIfTI image"
    if any(start[at : at + 4] == magic for magic, at in _NIFTI_PAIR.items()):
        return None, "NIfTI header whose voxels are in another file; send both as one, .nii or .nii.gz"
    if _starts_with_dicom_element(head):
        return "DICOM", "DICOM file without preamble"
    return None, _describe_unreadable(head)


def _describe_unreadable(head: bytes) -> str:
    """Return a description of a file that :func:`find_format` does not support."""
    for name, signatures in _UNREADABLE_SIGNATURES.items():
        if head.startswith(signatures):
            return name
    if head.startswith(b"\x1f\x8b"):
        return f"gzip file with {_describe_packed(_gunzip_start(head))}"
    if head.startswith(b"RIFF"):
        return "WebP image" if head[8:12] == b"WEBP" else "RIFF media"
    if head[4:8] == b"ftyp":
        return _CONTAINER_BRANDS.get(head[8:12], "MP4 or QuickTime media")
    if head[257:262] == b"ustar":
        return "tar archive; unpack it and send its images"
    if head[:1] == b"P" and head[1:2] in b"1234567" and head[2:3].isspace():
        return "Netpbm image"
    if head[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c"):
        return "Analyze 7.5 header, whose voxels are in another file; convert both to NIfTI"
    return _describe_text(head) if _TEXT_BYTES.issuperset(head) else "binary data of an unknown format"


def _describe_packed(start: bytes) -> str:
    """Return a description of a gzip file's content, if it is not NIfTI, which alone is read so."""
    if not start:
        return "damaged content"
    file_format, description = find_format(start)
    return f"{description} (unpack it first)" if file_format else description


def _describe_text(head: bytes) -> str:
    """Return a description of a text file."""
    if b"<svg" in head:
        return "SVG image"
    if head.startswith(b"<?xml"):
        return "XML document"
    return "text"


def _is_bmp(head: bytes) -> bool:
    """Return whether a BMP file header is followed by an information header of a known size."""
    return head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in (12, 16, 40, 52, 56, 64, 108, 124)


def _gunzip_start(head: bytes) -> bytes:
    """Return the first bytes inside a gzip member; empty if it is damaged."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, 1024)
    except zlib.error:
        return b""


def _starts_with_dicom_element(head: bytes) -> bool:
    """Return whether the bytes look like a DICOM data set without a preamble.

    An element of group 0002 or 0008 comes first. PS3.5 section 7.1: group, element, then a VR (explicit) or a 32-bit
    length (implicit).
    """
    if len(head) < 8:
        return False
    big_endian = head[:2] in (b"\x00\x02", b"\x00\x08")
    if not big_endian and head[:2] not in (b"\x02\x00", b"\x08\x00"):
        return False
    order = "big" if big_endian else "little"
    if int.from_bytes(head[2:4], order) > 0x0120:  # type: ignore[arg-type]
        return False
    if head[4:6].decode("latin-1") in _VALUE_REPRESENTATIONS:
        return True
    length = int.from_bytes(head[4:8], order)  # type: ignore[arg-type]
    return length % 2 == 0 and length <= 256
