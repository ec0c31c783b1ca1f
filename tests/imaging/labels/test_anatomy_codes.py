from __future__ import annotations

import pytest
from pydicom.sr.codedict import codes

from lib.imaging.labels.anatomy_codes import _ALIASES, _TERMS, TISSUE, SegmentedProperty, property_for_label
from lib.server.options import ServerOptions

ANATOMY = ("91723000", "SCT")
ALTERED = ("49755003", "SCT")
LEFT, RIGHT = "7771000", "24028007"


def values(found: SegmentedProperty) -> tuple[str | None, ...]:
    """Return the code values of category, type, side and region."""
    return tuple(code and code.value for code in (found.category, found.kind, found.side, found.region))


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("Liver", "10200004"),
        ("spleen", "78961009"),
        ("PANCREAS", "15776009"),
        ("aorta", "15825003"),
        ("gall bladder", "28231008"),
        ("urinary_bladder", "89837001"),
        ("Oesophagus", "32849002"),
        ("inferior vena cava", "64131007"),
        ("IVC", "64131007"),
        ("ovaries", "15497006"),
        ("vertebrae", "51282000"),
        ("pulmonary vein", "122972007"),
        ("right main bronchus", "70074004"),
        ("heart ventricle left", "87878005"),
    ],
)
def test_organs_have_the_codes_of_snomed_ct(label: str, value: str) -> None:
    """The expected SNOMED CT codes are written here, independently of the dictionary that the code uses."""
    assert values(property_for_label(label)) == (ANATOMY[0], value, None, None)
    assert property_for_label(label).kind.scheme_designator == "SCT"


@pytest.mark.parametrize("label", ["Liver 2", "liver 13", "Liver2", "LIVER", "liver-1", " the liver ", "Livers"])
def test_numbers_case_and_punctuation_make_no_difference(label: str) -> None:
    assert property_for_label(label) == property_for_label("liver") != TISSUE


@pytest.mark.parametrize(
    "label",
    [
        "left kidney",
        "Kidney L",
        "L kidney",
        "kidney_left",
        "LeftKidney",
        "left-kidneys",
        "kidney (left) 2",
        "Lt Kidney",
    ],
)
def test_sides_are_modifiers(label: str) -> None:
    assert values(property_for_label(label)) == (ANATOMY[0], "64033007", LEFT, None)
    mirrored = label.replace("left", "right").replace("Left", "Right").replace("L ", "R ").replace("Lt", "Rt")
    mirrored = mirrored.replace("y L", "y R")
    assert values(property_for_label(mirrored)) == (ANATOMY[0], "64033007", RIGHT, None)


@pytest.mark.parametrize(
    ("label", "kind", "side", "region"),
    [
        ("lesion", "52988006", None, None),
        ("Lesion 3", "52988006", None, None),
        ("tumour", "108369006", None, None),
        ("cyst", "367643001", None, None),
        ("nodule", "27925004", None, None),
        ("mass", "4147007", None, None),
        ("haemorrhage", "50960005", None, None),
        ("suspicious lesion", "52988006", None, None),
        ("liver lesion", "52988006", None, "10200004"),
        ("tumor of the left kidney", "108369006", LEFT, "64033007"),
        ("nodule in right lung", "27925004", RIGHT, "39607008"),
        ("renal cyst", "367643001", None, "64033007"),
    ],
)
def test_what_is_altered_may_state_its_place(label: str, kind: str, side: str | None, region: str | None) -> None:
    assert values(property_for_label(label)) == (ALTERED[0], kind, side, region)


@pytest.mark.parametrize("label", ["region", "Object", "Object 3", "Läsion 病変", "12", "L", "", "\n", "left right"])
def test_what_is_not_known_is_tissue(label: str) -> None:
    assert property_for_label(label) == TISSUE
    assert values(TISSUE) == ("85756007", "85756007", None, None)


def test_the_labels_that_viewers_are_offered_are_known() -> None:
    assert "liver" in ServerOptions.labels
    assert [label for label in ServerOptions.labels if property_for_label(label) == TISSUE] == ["region"]


def test_every_term_is_of_a_category_and_found_by_its_own_meaning() -> None:
    groups = {7191: "Tissue", 7192: "AnatomicalStructure", 7194: "MorphologicallyAbnormalStructure"}
    for number, category in groups.items():
        group = getattr(codes, f"cid{number}")
        for name in ("Liver", "Kidney", "Heart") if number == 7192 else ("Skin", "Muscle", "Nodule", "Abscess"):
            if name in group.dir():
                code = getattr(group, name)
                found = property_for_label(code.meaning)
                assert (found.kind, found.category) == (code, getattr(codes.cid7150, category))
    for category, code in _TERMS.values():
        assert category in codes.cid7150 and code.scheme_designator == "SCT" and code.value.isdigit()
    assert len(_TERMS) > 700


def test_aliases_lead_somewhere() -> None:
    assert [alias for alias in _ALIASES if property_for_label(alias) == TISSUE] == []
