"""Valid inputs of every kind that is read, and Hypothesis strategies that damage them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK
from hypothesis import strategies as st
from PIL import Image

DICOM_SEEDS = (
    "CT_small.dcm",  # explicit little endian
    "MR_small_implicit.dcm",
    "ExplVR_BigEnd.dcm",
    "image_dfl.dcm",  # deflated
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "JPGExtended.dcm",  # 12-bit JPEG
    "rtdose.dcm",  # multi-frame
)

INTERESTING = (
    b"\x00",
    b"\xff",
    b"\x00\x00",
    b"\xff\xff",
    b"\x00\x80",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x7f\xff\xff\xff",
    b"\x00\x00\x00\x80",
    b"\x00\x00\x00\x00",
    b"\x01\x00\x00\x00",
    b"\x00\x00\xc0\x7f",  # NaN
    b"\x00\x00\x80\x7f",  # infinity
    b"\x00\x00\x00\x00\x00\x00\xf8\x7f",  # NaN of 64 bits
    b"../../../../etc/passwd",
    b"NaN",
    b"-1",
)
"""What lengths, counts and numbers are overwritten with."""


def seeds(sample: Callable[[str], Path], folder: Path) -> dict[str, bytes]:
    """A small valid file of every kind.

    Args:
        sample: Finds pydicom's own files.
        folder: For files that can only be written by path.
    """
    random = np.random.default_rng(5)
    colour = random.integers(0, 256, (24, 32, 3)).astype(np.uint8)
    grey = colour[..., 0]
    found = {
        "PNG grey": _encoded(grey, "PNG"),
        "PNG colour": _encoded(colour, "PNG"),
        "PNG 16 bit": _encoded(grey.astype(np.uint16) * 200, "PNG"),
        "PNG transparent": _encoded(np.dstack([colour, grey]), "PNG"),
        "JPEG": _encoded(colour, "JPEG"),
        "JPEG progressive": _encoded(colour, "JPEG", progressive=True),
        "TIFF": _encoded(grey.astype(np.uint16), "TIFF"),
        "TIFF LZW pages": _encoded(grey, "TIFF", compression="tiff_lzw", pages=3),
        "TIFF floats": _encoded(grey.astype(np.float32), "TIFF"),
        "BMP": _encoded(colour, "BMP"),
    }
    found.update((name, sample(name).read_bytes()) for name in DICOM_SEEDS)
    volume = random.integers(-1000, 1000, (6, 5, 4)).astype(np.int16)
    scaled = nibabel.Nifti1Image(volume.astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0]))
    for name in ("n.nii", "n.nii.gz"):
        scaled.to_filename(folder / name)
        found[f"NIfTI {name}"] = (folder / name).read_bytes()
    for name, packed in (("raw.nrrd", False), ("gzip.nrrd", True)):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume), str(folder / name), packed)
        found[f"NRRD {name}"] = (folder / name).read_bytes()
    return found


def _encoded(pixels: np.ndarray, kind: str, *, pages: int = 1, **options: Any) -> bytes:
    """A raster file."""
    buffer = io.BytesIO()
    images = [Image.fromarray(pixels)] * pages
    more = {"save_all": True, "append_images": images[1:]} if pages > 1 else {}
    images[0].save(buffer, format=kind, **more, **options)
    return buffer.getvalue()


@dataclass(frozen=True)
class Damage:
    """What is done to a seed; printed, it is short enough to be repeated by hand.

    Args:
        seed: Its name.
        changes: One after the other: what, where (places wrap around the end), how.
    """

    seed: str
    changes: tuple[tuple[Any, ...], ...]

    def apply(self, originals: Mapping[str, bytes]) -> bytes:
        """The damaged content."""
        content = originals[self.seed]
        for kind, place, *how in self.changes:
            at = place % (len(content) + 1)
            head, tail = content[:at], content[at:]
            if kind == "cut":
                content = head
            elif kind == "flip" and tail:
                content = head + bytes([tail[0] ^ how[0]]) + tail[1:]
            elif kind == "overwrite":
                content = head + how[0] + tail[len(how[0]) :]
            elif kind == "insert":
                content = head + how[0] + tail
            elif kind == "remove":
                content = head + tail[how[0] :]
            elif kind == "repeat":
                content = head + tail[: how[0]] * how[1] + tail[how[0] :]
            elif kind == "splice":
                other, start, length = originals[how[0]], *how[1:]
                content = head + other[start % len(other) :][:length] + tail
        return content


def damages(names: Sequence[str]) -> st.SearchStrategy[Damage]:
    """A strategy for up to six changes of one of the seeds: cuts, flips, lengths, spliced parts of others."""
    seed = st.sampled_from(names)
    place = st.integers(0, 600) | st.integers(0, 2**20)
    length = st.integers(1, 200)
    change = st.one_of(
        st.tuples(st.just("cut"), place),
        st.tuples(st.just("flip"), place, st.integers(1, 255)),
        st.tuples(st.just("overwrite"), place, st.sampled_from(INTERESTING)),
        st.tuples(st.just("insert"), place, st.sampled_from(INTERESTING)),
        st.tuples(st.just("remove"), place, length),
        st.tuples(st.just("repeat"), place, length, st.integers(2, 50)),
        st.tuples(st.just("splice"), place, seed, place, st.integers(1, 2000)),
    )
    return st.builds(Damage, seed, st.lists(change, min_size=1, max_size=6).map(tuple))


NUMBERS = st.one_of(
    st.sampled_from((math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 0, -0.0, -1, 2**31, 2**63, 2**64, 10**30)),
    st.floats(),
    st.integers(-100, 100),
)
ODD = st.one_of(
    NUMBERS,
    st.none(),
    st.booleans(),
    st.sampled_from(("", " ", "\x00", "../../x", "%2e%2e", "NaN", "SAM", "sam_tiny", "病変", "\\", "\n", "x" * 5000)),
    st.text(max_size=20),
    st.just([]),
    st.just({}),
    st.lists(st.integers(), max_size=3),
)
"""Values of every JSON kind, most of them where they do not belong."""

_POINT = st.one_of(st.fixed_dictionaries({"x": NUMBERS, "y": NUMBERS}), st.dictionaries(st.sampled_from("xyz"), ODD))
_SIDES = ("startX", "startY", "width", "height")
_RECTANGLE = st.one_of(
    st.fixed_dictionaries(dict.fromkeys(_SIDES, NUMBERS)),
    st.fixed_dictionaries(dict.fromkeys(_SIDES, st.integers(-5, 40))),
    st.dictionaries(st.sampled_from(_SIDES), ODD),
)
_DRAWN = st.lists(st.fixed_dictionaries({"x": NUMBERS, "y": NUMBERS}), max_size=5)
_DRAWING = st.fixed_dictionaries({"points": _DRAWN}, optional={"positive": ODD, "width": NUMBERS})
SAM_INPUTS = st.fixed_dictionaries(
    {},
    optional={
        "model": ODD,
        "rectangles": ODD | st.lists(_RECTANGLE | ODD, max_size=4),
        "positive_points": ODD | st.lists(_POINT | ODD, max_size=4),
        "negative_points": ODD | st.lists(_POINT | ODD, max_size=4),
        "scribbles": ODD | st.lists(_DRAWING | ODD, max_size=3),
        "lassos": ODD | st.lists(_DRAWING | ODD, max_size=3),
        "frame": ODD,
        "window": ODD | st.fixed_dictionaries({"center": NUMBERS, "width": NUMBERS}),
        "label": ODD,
        "multimask": ODD,
        "automatic": st.sampled_from((False, 0, "off", "x", 3, [], {})),
        "image": ODD,
        "session": ODD,
        "version": ODD,
        "refine": ODD,
        "start": ODD,
        "candidate": ODD,
        "surprise": ODD,
    },
)
"""``sam_input`` objects with the right names and mostly wrong values; none asks for automatic segmentation outright."""
