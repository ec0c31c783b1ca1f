"""Volumes with their axes in any order and direction: where things are seen, and that a click means the same voxel."""

from __future__ import annotations

import re
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from support.sam_page import SamPage

pytestmark = [pytest.mark.server, pytest.mark.e2e]

ORIENTATIONS = ["".join(ends) for axes in permutations(("LR", "PA", "IS")) for ends in product(*axes)]
"""All 48, as codes of the sides to which i, j and k rise."""

WORLD = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}
SIZE = (30, 26, 22)
"""Voxels towards right, front and head."""
SPACING = (1.1, 0.7, 2.3)
LANDMARK = np.array([-7.3, 41.9, 118.4])
"""mm in RAS+, the centre of the one bright voxel; no two of its distances from the sides are alike."""
_LANDMARK_AT = (8, 19, 14)

PLANES = {
    "axial": (["R", "L", "A", "P"], (0, 1)),
    "coronal": (["R", "L", "S", "I"], (0, 2)),
    "sagittal": (["A", "P", "S", "I"], (1, 2)),
}
"""The letters of each plane, and the axes of RAS+ to the right and down."""

_PLACE = re.compile(
    r"x (\d+), y (\d+), frame (\d+) · ([LR]) ([\d.]+)  ([PA]) ([\d.]+)  ([IS]) ([\d.]+) mm · ([-\d,.]+)"
)


def write_volume(path: Path, codes: str) -> tuple[int, int, int]:
    """Write one and the same body with these axes; answers the landmark's voxel."""
    body = np.random.default_rng(4).integers(0, 200, SIZE).astype(np.int16)
    body[_LANDMARK_AT] = 900
    affine = np.diag([*SPACING, 1])
    affine[:3, 3] = LANDMARK - np.array(_LANDMARK_AT) * SPACING
    straight = nibabel.Nifti1Image(body, affine)
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(affine), nibabel.orientations.axcodes2ornt(codes)
    )
    image = straight.as_reoriented(turn)
    assert "".join(nibabel.aff2axcodes(image.affine)) == codes
    image.to_filename(path)
    i, j, k = np.argwhere(image.get_fdata() == 900)[0]
    return int(i), int(j), int(k)


def open_volume(sam_page: SamPage, path: Path) -> None:
    """Open it, and look through a window in which the landmark alone is white."""
    sam_page.page.locator("#file").set_input_files(path)
    sam_page.wait_until_idle(f"{path.name}: ")
    for label, number in (("Centre", "500"), ("Width", "800")):
        sam_page.page.get_by_label(label, exact=True).fill(number)
    sam_page.page.get_by_label("Width", exact=True).press("Enter")


def place_read(sam_page: SamPage) -> tuple[list[int], np.ndarray, float]:
    """The voxel, the place in mm (RAS+) and the value that the page names."""
    found = _PLACE.fullmatch(sam_page.page.locator("#position").inner_text())
    assert found, sam_page.page.locator("#position").inner_text()
    x, y, frame = (int(found[n]) for n in (1, 2, 3))
    place = [float(found[n + 1]) * WORLD[found[n]][1] for n in (4, 6, 8)]
    return [x, y, frame - 1], np.array(place), float(found[10].replace(",", ""))


@pytest.mark.parametrize(
    "orientations", [ORIENTATIONS[::6], pytest.param(ORIENTATIONS, marks=pytest.mark.long)], ids=["some", "all"]
)
def test_a_landmark_in_any_orientation(sam_page, tmp_path, orientations):
    """It is seen on the side where it lies in the body, at its distance in mm, and a click on it means its voxel."""
    page, errors = sam_page.page, []
    for codes in orientations:
        path = tmp_path / f"{codes}.nii.gz"
        voxel = write_volume(path, codes)
        open_volume(sam_page, path)
        number = page.get_by_label("Frame number")
        number.fill(str(voxel[2] + 1))
        number.press("Enter")
        sam_page.wait_until_idle(f"{path.name}: ")

        picture = sam_page.canvas("image")[..., 0]
        (row,), (column,) = np.nonzero(picture == picture.max())
        plane = next(name for name, (_, axes) in PLANES.items() if WORLD[codes[2]][0] not in axes)
        letters, axes = PLANES[plane]
        assert page.locator("#main-pane .side").all_inner_texts() == letters
        box = page.locator("#stage").bounding_box()
        assert box is not None
        mm = [SIZE[axis] * SPACING[axis] for axis in axes]
        assert box["width"] / box["height"] == pytest.approx(mm[0] / mm[1], rel=0.01), codes
        for at, axis, towards in ((column, axes[0], letters[1]), (row, axes[1], letters[3])):
            expected = _LANDMARK_AT[axis] if WORLD[towards][1] > 0 else SIZE[axis] - 1 - _LANDMARK_AT[axis]
            assert at == expected, (codes, plane, axis)

        page.mouse.move(*sam_page.place(column, row))
        named, place, value = place_read(sam_page)
        assert named == list(voxel) and value == 900
        errors.append(float(np.linalg.norm(place - LANDMARK)))
        page.mouse.down()
        page.mouse.up()
        assert sam_page.prompts() == [f"Positive point at {voxel[0]}, {voxel[1]}"]
        page.locator("#marks g.positive .disc").wait_for()
        marked = page.locator("#marks g.positive .disc").bounding_box()
        assert marked is not None
        centre = marked["x"] + marked["width"] / 2, marked["y"] + marked["height"] / 2
        assert np.allclose(centre, sam_page.place(column, row), atol=1)
    print(f"{len(errors)} orientations, the landmark is off by at most {max(errors):.3f} mm")
    assert len(errors) == len(orientations) and max(errors) < 0.1, errors


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SAL"])
def test_what_is_asked_and_answered_lies_on_the_landmark(sam_page, tmp_path, codes):
    """The server gets the voxel's column, row and frame, and the mask is drawn where the server has it."""
    path = tmp_path / f"{codes}.nii.gz"
    i, j, k = write_volume(path, codes)
    open_volume(sam_page, path)
    number = sam_page.page.get_by_label("Frame number")
    number.fill(str(k + 1))
    number.press("Enter")
    sam_page.wait_until_idle(f"{path.name}: ")
    picture = sam_page.canvas("image")[..., 0]
    (row,), (column,) = np.nonzero(picture == picture.max())
    sam_page.drag(column - 3, row - 4, column + 2, row + 5)
    sam_page.wait_until_idle("ask")
    asked = sam_page.requests()[-1]
    (rectangle,) = asked["rectangles"]
    corners = {(rectangle["startX"], rectangle["startY"])}
    corners.add((rectangle["startX"] + rectangle["width"], rectangle["startY"] + rectangle["height"]))
    assert asked["frame"] == k and all(abs(x - i) <= 5 and abs(y - j) <= 5 for x, y in corners)
    columns, rows = (abs(x - other) for x, other in zip(*corners, strict=True))
    across_is_i = WORLD[codes[0]][0] == PLANES[_plane(codes)][1][0]
    assert (columns, rows) == ((5, 9) if across_is_i else (9, 5))

    answer = sam_page.server.get(f"/get_segmented_image/{sam_page.answers()[-1]}?view=mask")
    (folder := tmp_path / "mask.png").write_bytes(answer.content)
    stored = _labels(folder) > 0
    drawn = sam_page.canvas("mask")[..., 3] > 0
    turned = stored if across_is_i else stored.T
    if WORLD[codes[0 if across_is_i else 1]] not in _rising(codes):
        turned = turned[:, ::-1]
    if WORLD[codes[1 if across_is_i else 0]] not in _rising(codes):
        turned = turned[::-1]
    assert stored.any() and np.array_equal(drawn, turned)


def _plane(codes: str) -> str:
    return next(name for name, (_, axes) in PLANES.items() if WORLD[codes[2]][0] not in axes)


def _rising(codes: str) -> set[tuple[int, int]]:
    """The directions to the right and down on the pictures of this volume's frames."""
    letters, _ = PLANES[_plane(codes)]
    return {WORLD[letters[1]], WORLD[letters[3]]}


def _labels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_the_planes_share_one_point(sam_page, tmp_path):
    """A click on another plane goes to the frame and the pixel of its voxel, and so do wheel and keys."""
    path = tmp_path / "PIR.nii.gz"  # its frames are sagittal
    i, j, k = write_volume(path, "PIR")
    open_volume(sam_page, path)
    page, number = sam_page.page, sam_page.page.get_by_label("Frame number")
    axial, coronal = page.locator(".side-pane").all()
    assert [pane.get_attribute("aria-label") for pane in (axial, coronal)] == ["Axial plane", "Coronal plane"]
    assert axial.locator(".side").all_inner_texts() == PLANES["axial"][0]
    assert coronal.locator(".side").all_inner_texts() == PLANES["coronal"][0]

    def slice_of(pane, index: int) -> None:
        expect(pane.get_by_role("img")).to_have_attribute("aria-label", re.compile(rf"slice {index + 1} of"))

    seen = coronal.locator(".stage").bounding_box()
    assert seen is not None
    across, down = SIZE[0] - 1 - _LANDMARK_AT[0], SIZE[2] - 1 - _LANDMARK_AT[2]
    page.mouse.click(
        seen["x"] + (across + 0.5) * seen["width"] / SIZE[0], seen["y"] + (down + 0.5) * seen["height"] / SIZE[2]
    )
    expect(number).to_have_value(str(k + 1))
    slice_of(axial, j)
    slice_of(coronal, SIZE[1] // 2)
    for step in range(abs(i - SIZE[1] // 2)):
        page.mouse.wheel(0, 100 if i > SIZE[1] // 2 else -100)
        slice_of(coronal, SIZE[1] // 2 + (step + 1) * (1 if i > SIZE[1] // 2 else -1))
    page.locator("#stage").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    named, place, value = place_read(sam_page)
    assert named == [i, j, k] and value == 900 and np.linalg.norm(place - LANDMARK) < 0.1

    axial.focus()
    page.keyboard.press("PageDown")
    slice_of(axial, j + 1)
    page.keyboard.press("ArrowLeft")  # to the patient's right, where the frames come from or go to
    expect(number).to_have_value(str(k + 2))
    assert not sam_page.answers()
