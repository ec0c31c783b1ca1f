"""Which format a file has, by its content; its name is never asked."""

from __future__ import annotations

import string
import zlib

from pydicom.valuerep import VR

HEAD_LENGTH = 4096
"""How many bytes of a file's start :func:`find_format` wants."""

READABLE = ("PNG", "JPEG", "TIFF", "BMP", "DICOM", "NIfTI", "NRRD")
"""The formats that are read, by the names that ``MedicalImage.file_format`` uses."""

_RASTER_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
)

_JPEG_LS = b"\xff\xd8\xff\xf7"

_UNREADABLE_SIGNATURES = (
    (b"GIF8", "GIF image"),
    (b"%PDF", "PDF document"),
    (b"PK\x03\x04", "ZIP archive, of which the images have to be unpacked"),
    (b"PK\x05\x06", "empty ZIP archive"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip archive, of which the images have to be unpacked"),
    (b"Rar!\x1a\x07", "RAR archive, of which the images have to be unpacked"),
    (b"BZh", "bzip2 file, which has to be unpacked"),
    (b"\xfd7zXZ\x00", "xz file, which has to be unpacked"),
    (b"\x28\xb5\x2f\xfd", "Zstandard file, which has to be unpacked"),
    (_JPEG_LS, "JPEG-LS image, which is read in DICOM only"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "JPEG 2000 codestream"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL image"),
    (b"\xff\x0a", "JPEG XL image"),
    (b"II\xbc\x01", "JPEG XR image"),
    (b"8BPS", "Photoshop image"),
    (b"\x00\x00\x01\x00", "icon"),
    (b"v/1\x01", "OpenEXR image"),
    (b"qoif", "QOI image"),
    (b"SIMPLE  =", "FITS image"),
    (b"ZISRAWFILE", "Zeiss CZI image"),
    (b"\xda\xce\xbe\x0a", "Nikon ND2 image"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "OLE file, as Office and some microscopes write it"),
    (b"\x89HDF\r\n\x1a\n", "HDF5 file, as MINC 2 is; NIfTI can be made of that"),
    (b"CDF\x01", "NetCDF file, as MINC 1 is; NIfTI can be made of that"),
    (b"CDF\x02", "NetCDF file, as MINC 1 is; NIfTI can be made of that"),
    (b"ObjectType", "MetaImage, of which NIfTI or NRRD can be made"),
    (b"NDims", "MetaImage, of which NIfTI or NRRD can be made"),
    (b"\x00\x00\x00\x01\x00\x00", "FreeSurfer volume (MGH), of which NIfTI can be made"),
    (b"MATRIX7", "ECAT volume"),
    (b"# === DATA DESCRIPTION FILE", "Philips PAR header, whose voxels are in another file"),
    (b"# vtk DataFile", "VTK file"),
    (b"\x93NUMPY", "NumPy array, which says nothing of its place"),
    (b"MATLAB 5.0", "MATLAB file"),
    (b"\x7fELF", "program"),
    (b"MZ", "program"),
    (b"OggS", "Ogg media"),
    (b"\x1aE\xdf\xa3", "Matroska or WebM video"),
    (b"<svg", "SVG image"),
    (b"<!DOCTYPE", "HTML document"),
    (b"<html", "HTML document"),
)
_CONTAINER_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), "HEIC image"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF image"),
    b"jp2 ": "JPEG 2000 image",
}
"""Of the file type box that begins an ISO base media file; other brands are of films."""

_NIFTI_SINGLE = {b"n+1\x00": 344, b"n+2\x00": 4}
_NIFTI_PAIR = {b"ni1\x00": 344, b"ni2\x00": 4}
_VALUE_REPRESENTATIONS = frozenset(vr.value for vr in VR if len(vr.value) == 2)
_TEXT_BYTES = frozenset(string.printable.encode()) | frozenset(range(0x80, 0x100))


def find_format(head: bytes) -> tuple[str | None, str]:
    """Recognise a file by its first bytes.

    Args:
        head: The first :data:`HEAD_LENGTH` bytes, or the whole file if it is shorter.

    Returns:
        ``(format, description)``: ``format`` is one of :data:`READABLE`, or None when the file is something else;
        ``description`` says in words what was found ("GIF image", "text", …).
    """
    if not head:
        return None, "empty file"
    if head[128:132] == b"DICM":  # before TIFF: a dual-personality file has a TIFF header in its preamble
        return "DICOM", "DICOM file"
    for signature, name in _RASTER_SIGNATURES:
        if head.startswith(signature) and not head.startswith(_JPEG_LS):
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
    """Name what :func:`find_format` cannot read."""
    for signature, name in _UNREADABLE_SIGNATURES:
        if head.startswith(signature):
            return name
    if head.startswith(b"\x1f\x8b"):
        return f"gzip file with {_describe_packed(_gunzip_start(head))}"
    if head.startswith(b"RIFF"):
        return "WebP image" if head[8:12] == b"WEBP" else "RIFF media"
    if head[4:8] == b"ftyp":
        return _CONTAINER_BRANDS.get(head[8:12], "MP4 or QuickTime media")
    if head[257:262] == b"ustar":
        return "tar archive, of which the images have to be unpacked"
    if head[:1] == b"P" and head[1:2] in b"1234567" and head[2:3].isspace():
        return "Netpbm image"
    if head[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c"):
        return "Analyze 7.5 header, whose voxels are in another file; NIfTI can be made of both"
    return _describe_text(head) if _TEXT_BYTES.issuperset(head) else "binary data of an unknown format"


def _describe_packed(start: bytes) -> str:
    """What a gzip file begins with, where that is not NIfTI, the one format that is read so."""
    if not start:
        return "damaged content"
    file_format, description = find_format(start)
    return f"{description} (it has to be unpacked)" if file_format else description


def _describe_text(head: bytes) -> str:
    """What a text is."""
    if b"<svg" in head:
        return "SVG image"
    if head.startswith(b"<?xml"):
        return "XML document"
    return "text"


def _is_bmp(head: bytes) -> bool:
    """Whether a BMP file header is followed by an information header of a known size."""
    return head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in (12, 16, 40, 52, 56, 64, 108, 124)


def _gunzip_start(head: bytes) -> bytes:
    """The first bytes inside a gzip member, empty if it is damaged."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, 1024)
    except zlib.error:
        return b""


def _starts_with_dicom_element(head: bytes) -> bool:
    """Whether the bytes look like a data set without a preamble: an element of group 0002 or 0008 comes first.

    PS3.5 section 7.1: group, element, then a VR (explicit) or a 32-bit length (implicit).
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
