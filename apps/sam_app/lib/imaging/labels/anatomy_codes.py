"""SNOMED CT codes for the labels of segments: the Segmented Property of DICOM PS3.3 C.8.20.4.

The terms are DICOM's own: each category of context group CID 7150 has a context group of its types (PS3.16), and
pydicom's code dictionary contains them all, so no code is typed here. Aliases map other common words to them.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydicom.sr import codedict
from pydicom.sr.coding import Code

codes: Any = codedict.codes
_CATEGORIES = codes.cid7150
_ABNORMAL = _CATEGORIES.MorphologicallyAbnormalStructure
_REGION_CATEGORIES = (_CATEGORIES.AnatomicalStructure, _CATEGORIES.Tissue)

_TYPES = (
    (_CATEGORIES.BodySubstance, codes.cid7197),
    (_CATEGORIES.PhysicalObject, codes.cid7193),
    (_ABNORMAL, codes.cid7194),
    (_CATEGORIES.Tissue, codes.cid7191),
    (_CATEGORIES.AnatomicalStructure, codes.cid7192),
)
"""Each category with its types. If a term is in two groups (artery, lymph node), the later category is used."""

_NOT_SEGMENTS = frozenset(("Normal", "Organ"))
"""Terms in these groups that do not describe a segment."""

_ALIASES = {
    "adrenal gland": ("adrenal", "adrenals"),
    "small intestine": ("bowel", "small bowel"),
    "large intestine": ("large bowel",),
    "brain stem": ("brainstem",),
    "gallbladder": ("gall bladder",),
    "liver": ("hepatic",),
    "pancreas": ("pancreatic",),
    "lung": ("pulmonary",),
    "kidney": ("renal",),
    "hemorrhage": ("haemorrhage", "hematoma", "haematoma", "bleeding"),
    "left ventricle": ("heart ventricle left",),
    "right ventricle": ("heart ventricle right",),
    "left atrium": ("heart atrium left",),
    "right atrium": ("heart atrium right",),
    "inferior vena cava": ("ivc",),
    "superior vena cava": ("svc",),
    "neoplasm, secondary": ("metastasis", "metastases"),
    "edema": ("oedema",),
    "esophagus": ("oesophagus",),
    "parotid gland": ("parotid",),
    "prostate": ("prostate gland",),
    "testis": ("testes",),
    "thyroid": ("thyroid gland",),
    "neoplasm": ("tumor", "tumour", "cancer", "carcinoma"),
    "bladder": ("urinary bladder",),
    "vertebra": ("vertebrae",),
    "blood vessel": ("vessel",),
}
"""Other words for a term."""

_STOP_WORDS = frozenset(("of", "the", "and", "in"))
_SIDES = {
    "left": codes.cid244.Left,
    "l": codes.cid244.Left,
    "lt": codes.cid244.Left,
    "right": codes.cid244.Right,
    "r": codes.cid244.Right,
    "rt": codes.cid244.Right,
}


@dataclass(frozen=True)
class SegmentedProperty:
    """Codes that describe what a segment shows.

    Args:
        category: Segmented Property Category (0062,0003), from CID 7150.
        kind: Segmented Property Type (0062,000F).
        side: Left or right (CID 244) of ``region`` if that is known, else of ``kind``; None if not stated.
        region: Anatomic Region (0008,2218) in which an abnormal structure lies; None if not stated.
    """

    category: Code
    kind: Code
    side: Code | None = None
    region: Code | None = None


TISSUE = SegmentedProperty(_CATEGORIES.Tissue, codes.cid7191.Tissue)
"""Codes for a segment whose label is unknown."""


def property_for_label(label: str) -> SegmentedProperty:
    """Return the codes for a segment's label.

    Case, order of words, plural, hyphens, underscores, camel case and numbers make no difference: "Kidney L 2", "left
    kidneys" and "kidney_left" are the same. A word for an abnormal structure can be combined with its place, known
    ("liver tumour") or not.

    Args:
        label: As written by users.

    Returns:
        The codes; :data:`TISSUE` if the label is unknown.
    """
    words = _words(label)
    if named := _TERMS.get(_key(words)):
        return SegmentedProperty(*named)
    side, words = _take_side(words)
    if named := _TERMS.get(_key(words)):
        return SegmentedProperty(*named, side)
    for word in words:
        named, place = _TERMS.get(_key([word])), _TERMS.get(_key(other for other in words if other != word))
        if named and named[0] == _ABNORMAL:
            return SegmentedProperty(*named, side, place[1] if place and place[0] in _REGION_CATEGORIES else None)
    return TISSUE


def _words(text: str) -> list[str]:
    """Return the significant words in lower case and singular, without numbers."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).replace("_", " ").casefold()
    words = (re.sub(r"(?<=[^\W\d]{2})\d+$", "", word) for word in re.findall(r"\w+", spaced))
    return [_singular(word) for word in words if not word.isdigit() and word not in _STOP_WORDS]


def _singular(word: str) -> str:
    """Remove a plural ending; "pancreas" loses its last letter, too, in labels and terms alike."""
    return f"{word[:-3]}y" if word.endswith("ies") else word.removesuffix("s")


def _key(words: Iterable[str]) -> tuple[str, ...]:
    """Return a key that does not depend on the order of the words."""
    return tuple(sorted(words))


def _take_side(words: list[str]) -> tuple[Code | None, list[str]]:
    """Return the side that the words state and the other words; None and all words unless exactly one is stated."""
    stated = [word for word in words if word in _SIDES]
    return (_SIDES[stated[0]], [word for word in words if word != stated[0]]) if len(stated) == 1 else (None, words)


def _terms() -> Iterator[tuple[tuple[str, ...], tuple[Code, Code]]]:
    """Yield each term's key with its category and type."""
    for category, group in _TYPES:
        for name in group.dir():
            try:
                code = getattr(group, name)
            except AttributeError:  # raised by pydicom for a name that several codes of the group share
                continue
            if code.scheme_designator == "SCT" and name not in _NOT_SEGMENTS:
                yield _key(_words(code.meaning)), (category, code)
    yield _key(_words("lesion")), (_ABNORMAL, codes.SCT.Lesion)
    for code in (codes.SCT.AorticValve, codes.SCT.DescendingAorta, codes.SCT.PulmonaryVein):
        yield _key(_words(code.meaning)), (_CATEGORIES.AnatomicalStructure, code)


_TERMS = dict(_terms())
_TERMS |= {_key(_words(alias)): _TERMS[_key(_words(term))] for term, others in _ALIASES.items() for alias in others}
