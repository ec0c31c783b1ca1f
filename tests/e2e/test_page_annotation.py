"""Annotating a volume of the server on the page: objects, prompts, brush, following, saving and going on."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from playwright.sync_api import expect

from lib.imaging.palette import PALETTE
from support.phantoms import BALL_AFFINE, BALL_CENTRE, ball_volume
from support.sam_page import SamPage, read_download
from support.server_process import Server, running_server

pytestmark = [pytest.mark.server, pytest.mark.e2e]

X, Y, Z = BALL_CENTRE
COLUMNS, ROWS, FRAMES = ball_volume()[0].shape


def tube_values() -> np.ndarray:
    """A bright tube through 240 frames of noise, ``(columns, rows, frames)``."""
    values = np.random.default_rng(0).normal(40, 10, (64, 64, 240)).astype(np.int16)
    columns, rows = np.mgrid[:64, :64]
    values[(rows - 30) ** 2 + (columns - 34) ** 2 < 144] += 160
    return values


@pytest.fixture(scope="module")
def archive(tmp_path_factory, chromium) -> Iterator[Server]:
    """A server with a few volumes, of which one has its axes turned."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "studies").mkdir()
    ball = nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE)
    turned = ball.as_reoriented(nibabel.orientations.axcodes2ornt("SAL", ("LR", "PA", "IS")))
    tube = nibabel.Nifti1Image(tube_values(), BALL_AFFINE)
    for name, image in (("ball", ball), ("other", ball), ("turned", turned), ("tube", tube)):
        image.to_filename(folder / "studies" / f"{name}.nii.gz")
    with running_server(folder / "server", "models", "sam_tiny", studies=folder / "studies") as server:
        yield server


@pytest.fixture
def opened(chromium, archive) -> Iterator[SamPage]:
    """The page with the ball on it, on the frame through its middle."""
    page = SamPage(chromium, archive)
    choose_study(page, "ball")
    go_to(page, Z)
    try:
        yield page
    finally:
        page.close()
    assert page.complaints == []


def choose_study(sam_page: SamPage, name: str) -> None:
    sam_page.page.get_by_role("button", name="Images on the server").click()
    sam_page.page.get_by_role("dialog").get_by_role("button", name=name).first.click()
    expect(sam_page.page.locator("canvas#image")).to_have_attribute("aria-label", re.compile(f"^{name}, "))


def go_to(sam_page: SamPage, frame: int) -> None:
    number = sam_page.page.get_by_label("Frame number")
    number.fill(str(frame + 1))
    number.press("Enter")
    pictured = sam_page.page.locator("canvas#image")
    expect(pictured).to_have_attribute("aria-label", re.compile(f"frame {frame + 1} of"))
    expect(sam_page.page.locator("#stage")).to_have_attribute("aria-busy", "false", timeout=30_000)


def at(i: float, j: float) -> tuple[int, int]:
    """Pixel of the picture of a voxel: the ball's frames are shown as they are stored."""
    return round(i), round(j)


def shown(sam_page: SamPage, number: int = 1) -> np.ndarray:
    """``(rows, columns)`` bool: where an object is seen."""
    pixels = sam_page.canvas("mask")
    is_colour = np.abs(pixels[..., :3].astype(int) - PALETTE[number]).max(axis=2) <= 2
    return (pixels[..., 3] > 0) & is_colour


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * np.count_nonzero(one & other) / max(1, np.count_nonzero(one) + np.count_nonzero(other)))


def status(sam_page: SamPage, text: str) -> None:
    expect(sam_page.page.get_by_role("status").first).to_contain_text(text, timeout=60_000)


def brush(sam_page: SamPage, tool: str, size: int, *pixels: tuple[int, int]) -> None:
    sam_page.choose(tool)
    sam_page.page.get_by_label("Size").fill(str(size))
    sam_page.draw(*pixels)


def disc(i: float, j: float, size: float) -> np.ndarray:
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    return (columns - i) ** 2 + (rows - j) ** 2 <= (size / 2) ** 2


def test_from_the_list_to_a_label_and_on_from_there(opened, archive):
    """A box, followed through the volume, corrected with the brush, saved; later loaded and gone on with."""
    page, truth = opened.page, ball_volume()[1]
    page.get_by_label("Label", exact=True).fill("ball")
    opened.drag(*at(X - 11, Y - 11), *at(X + 11, Y + 11))
    opened.wait_until_idle("Mask of")
    page.get_by_role("button", name="Follow through the volume").click()
    status(opened, "Followed from frame")
    go_to(opened, Z + 2)
    assert dice(shown(opened), truth[:, :, Z + 2].T) > 0.8
    before = shown(opened)
    brush(opened, "Brush", 6, at(5, 5), at(9, 5))
    assert np.array_equal(shown(opened) & ~before, (disc(5, 5, 6) | shown(opened) & ~before) & ~before)
    assert shown(opened)[5, 5] and shown(opened)[5, 9]
    corrected = shown(opened)
    page.get_by_role("button", name="Save as final").click()
    status(opened, "Saved as final: ball")

    stored = nibabel.load(archive.studies / "labels" / "final" / "ball.nii.gz")
    label = np.asarray(stored.dataobj)
    assert np.allclose(stored.affine, BALL_AFFINE) and set(np.unique(label)) == {0, 1}
    assert dice(label > 0, truth) > 0.75
    assert np.array_equal(label[:, :, Z + 2].T > 0, corrected)
    info = archive.get("/datastore/label/info?label=ball&tag=final").json()
    assert [(one["name"], one["idx"]) for one in info["label_info"]] == [("ball", 1)]

    again = SamPage(opened.page.context.browser, archive)
    try:
        choose_study(again, "ball")
        go_to(again, Z + 2)
        again.page.get_by_role("button", name="Load final").click()
        status(again, "Loaded one object")
        assert np.array_equal(shown(again), corrected)
        assert again.page.get_by_label("Label", exact=True).input_value() == "ball"
        again.choose("Negative")
        again.click(*at(7, 5))
        again.wait_until_idle("Mask of")
        assert not shown(again)[5, 7] and dice(shown(again), truth[:, :, Z + 2].T) > 0.8
        (asked,) = again.requests()
        assert asked["negative_points"] == [{"x": 7.0, "y": 5.0}] and asked["image"] == "ball"
        again.page.keyboard.press("Control+z")
        again.page.keyboard.press("Control+z")
        assert not shown(again).any(), "what was there before the label was loaded"
    finally:
        again.close()
    assert again.complaints == []


def test_objects_are_apart(opened):
    page = opened.page
    brush(opened, "Brush", 11, at(20, 20), at(30, 20))
    one = shown(opened)
    page.get_by_role("button", name="Lock Object 1").click()
    page.get_by_role("button", name="Add an object").click()
    brush(opened, "Brush", 11, at(30, 20), at(40, 20))
    assert np.array_equal(shown(opened), one), "a locked object stays"
    two = shown(opened, 2)
    assert two[20, 40] and not (two & one).any()
    page.get_by_role("button", name="Lock Object 1").click()
    opened.draw(at(30, 20), at(32, 20))
    assert not shown(opened)[20, 30] and shown(opened, 2)[20, 30]
    opened.choose("Eraser")
    opened.draw(at(18, 20), at(40, 20))
    assert shown(opened)[20, 20] and not shown(opened, 2)[20, 40], "the eraser is for the chosen object"

    page.keyboard.press("Control+z")
    page.get_by_role("button", name="Hide Object 2").click()
    assert not shown(opened, 2).any() and shown(opened).any()
    page.get_by_role("button", name="Hide Object 2").click()
    page.get_by_role("button", name="Delete Object 1").click()
    assert not shown(opened).any() and page.locator("#objects li").count() == 1
    page.keyboard.press("Control+z")
    assert shown(opened).any() and page.locator("#objects li").count() == 2
    page.get_by_role("button", name="Lock Object 2").click()
    page.locator("#objects input").nth(1).check()
    opened.choose("Positive")
    opened.click(*at(5, 40))
    expect(page.get_by_role("alert")).to_contain_text("Object 2 is locked")
    assert opened.answers() == []


@pytest.mark.long
def test_prompts_of_one_object_leave_the_other(opened):
    brush(opened, "Brush", 5, at(X - 4, Y), at(X + 4, Y))
    stroke = shown(opened)
    opened.page.get_by_role("button", name="Lock Object 1").click()
    opened.page.get_by_role("button", name="Add an object").click()
    opened.choose("Box")
    opened.drag(*at(X - 11, Y - 11), *at(X + 11, Y + 11))
    opened.wait_until_idle("Mask of")
    assert np.array_equal(shown(opened), stroke)
    truth = ball_volume()[1][:, :, Z].T
    assert dice(shown(opened, 2), truth & ~stroke) > 0.8
    assert opened.prompts() == [f"Box from {X - 11}, {Y - 11} to {X + 11}, {Y + 11}"]
    opened.page.locator("#objects input").nth(0).check()
    assert opened.prompts() == [], "they are of the other object"


@pytest.mark.parametrize("tool", ["Scribble", "Lasso"])
def test_lines(opened, tool):
    angles = np.linspace(0, 2 * np.pi, 9)
    rings = {"Scribble": [(X - 5, Y), (X + 5, Y)], "Lasso": [(X + 11 * np.cos(a), Y + 11 * np.sin(a)) for a in angles]}
    opened.choose(tool)
    opened.draw(*(at(*pixel) for pixel in rings[tool]))
    opened.wait_until_idle("Mask of")
    assert dice(shown(opened), ball_volume()[1][:, :, Z].T) > 0.7
    (asked,) = opened.requests()
    (line,) = asked[f"{tool.lower()}s"]
    first = line["points"][0]
    assert (first["x"], first["y"]) == at(*rings[tool][0]) and line["positive"]
    assert opened.prompts()[0].startswith(f"{tool} from {first['x']:.0f}, {first['y']:.0f}, ")
    opened.page.keyboard.down("Shift")
    opened.draw(at(3, 3), at(9, 3), at(9, 9), at(3, 9))
    opened.page.keyboard.up("Shift")
    opened.wait_until_idle("Mask of")
    assert [one["positive"] for one in opened.requests()[-1][f"{tool.lower()}s"]] == [False]


def test_a_line_by_keys(opened):
    opened.choose("Brush")
    opened.page.get_by_label("Size").fill("3")
    opened.page.locator("#stage").focus()
    for key in ("b", *["ArrowRight"] * 4, "b"):
        opened.page.keyboard.press(key)
    column, row = COLUMNS // 2, ROWS // 2
    assert shown(opened)[row, column : column + 5].all() and np.count_nonzero(shown(opened)) < 30
    opened.page.keyboard.press("]")
    assert opened.page.get_by_label("Size").input_value() == "4"
    opened.page.keyboard.press("7")
    assert opened.page.get_by_role("radio", name="Eraser").is_checked()
    opened.page.keyboard.press("?")
    expect(opened.page.get_by_role("dialog", name="Keys on the image")).to_be_visible()


def test_work_by_hand(opened):
    page = opened.page
    ring = [(X + 9 * np.cos(a), Y + 9 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 25)]
    brush(opened, "Brush", 3, *(at(*pixel) for pixel in ring))
    assert not shown(opened)[Y, X]
    page.get_by_role("button", name="Fill holes").click()
    assert shown(opened)[Y, X]
    big = shown(opened)
    brush(opened, "Brush", 2, at(3, 3), at(4, 3))
    page.get_by_role("button", name="Largest piece").click()
    assert np.array_equal(shown(opened), big)
    brush(opened, "Brush", 1, at(X, 1), at(X, 12))
    page.get_by_role("button", name="Smooth").click()
    assert not shown(opened)[2, X] and dice(shown(opened), big) > 0.95

    go_to(opened, Z + 4)
    brush(opened, "Brush", 7, at(X, Y), at(X + 1, Y))
    small = np.count_nonzero(shown(opened))
    page.get_by_role("button", name="Fill frames between").click()
    status(opened, "3 frames were filled")
    go_to(opened, Z + 2)
    assert small < np.count_nonzero(shown(opened)) < np.count_nonzero(big) and shown(opened)[Y, X]
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_label("Frame number")).to_have_value(str(Z + 5))
    go_to(opened, Z + 2)
    assert not shown(opened).any()


def test_undo_goes_to_where_it_was(opened):
    brush(opened, "Brush", 5, at(10, 10), at(12, 10))
    go_to(opened, Z + 3)
    opened.choose("Box")
    opened.drag(*at(X - 9, Y - 9), *at(X + 9, Y + 9))
    opened.wait_until_idle("Mask of")
    go_to(opened, 0)
    opened.page.get_by_role("button", name="Undo").click()
    expect(opened.page.get_by_label("Frame number")).to_have_value(str(Z + 4))
    opened.page.get_by_role("button", name="Undo").click()
    expect(opened.page.get_by_label("Frame number")).to_have_value(str(Z + 1))
    opened.wait_until_idle("No prompts yet")
    assert not shown(opened).any() and opened.page.get_by_role("button", name="Undo").is_disabled()
    for _ in range(2):
        opened.page.get_by_role("button", name="Redo").click()
    opened.wait_until_idle("Mask of")
    assert len(opened.prompts()) == 1 and len(opened.answers()) == 1


@pytest.mark.long
def test_a_change_of_the_model_or_window_keeps_masks_on_other_frames(opened):
    opened.drag(*at(X - 11, Y - 11), *at(X + 11, Y + 11))
    opened.wait_until_idle("Mask of")
    mask = shown(opened)
    go_to(opened, Z + 5)
    opened.page.get_by_label("Offer three candidates").check()
    go_to(opened, Z)
    assert np.array_equal(shown(opened), mask) and len(opened.answers()) == 1


def test_all_objects_are_found_without_prompts_beside_what_is_there(opened):
    brush(opened, "Brush", 9, at(X, Y), at(X + 2, Y))
    before = shown(opened)
    opened.page.get_by_role("button", name="Find all").click()
    status(opened, "Found")
    count = opened.page.locator("#objects li").count()
    assert count > 1 and np.array_equal(shown(opened), before)
    parts = [shown(opened, number) for number in range(2, count + 1)]
    assert all(part.any() for part in parts) and not (np.logical_or.reduce(parts) & before).any()
    around = np.logical_or.reduce([before, *parts])
    assert dice(around & disc(X, Y, 24), ball_volume()[1][:, :, Z].T & disc(X, Y, 24)) > 0.8
    opened.page.keyboard.press("Control+z")
    assert opened.page.locator("#objects li").count() == 1 and np.array_equal(shown(opened), before)


def test_following_in_a_volume_with_turned_axes(chromium, archive, tmp_path):
    """What is marked, followed and downloaded lies where the ball is, whatever the order of the axes."""
    opened = SamPage(chromium, archive)
    try:
        choose_study(opened, "turned")
        image = nibabel.load(archive.studies / "turned.nii.gz")
        truth = nibabel.Nifti1Image(ball_volume()[1].astype(np.uint8), BALL_AFFINE).as_reoriented(
            nibabel.orientations.ornt_transform(
                nibabel.orientations.io_orientation(BALL_AFFINE), nibabel.orientations.io_orientation(image.affine)
            )
        )
        voxels = np.asarray(truth.dataobj) > 0
        frame = int(np.argmax(voxels.sum(axis=(0, 1))))
        go_to(opened, frame)
        bright = opened.canvas("image")[..., 0].astype(int)
        rows, columns = np.nonzero(bright > (bright.min() + bright.max()) / 2)
        opened.drag(int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max()))
        opened.wait_until_idle("Mask of")
        opened.page.get_by_role("button", name="Follow through the volume").click()
        status(opened, "Followed from frame")
        made = nibabel.load(read_download(opened.download("labels"), tmp_path))
        assert np.allclose(made.affine, image.affine, atol=1e-4) and made.shape == image.shape
        assert dice(np.asarray(made.dataobj) > 0, voxels) > 0.75
        sides = opened.page.locator(".side-pane canvas[aria-hidden]")
        assert sides.count() == 2
        choose_study(opened, "other")
        assert opened.asked == [], "it was downloaded"
    finally:
        opened.close()
    assert opened.complaints == []


def test_following_can_be_stopped_and_needs_a_mark(opened):
    opened.page.get_by_role("button", name="Follow through the volume").click()
    expect(opened.page.get_by_role("alert")).to_contain_text("Mark the object on one of the frames first")
    brush(opened, "Brush", 9, at(X, Y), at(X + 2, Y))
    before = shown(opened)
    opened.page.route("**/infer/**", lambda route: None)
    opened.page.get_by_role("button", name="Follow through the volume").click()
    opened.page.get_by_role("button", name="Stop following").click()
    expect(opened.page.get_by_role("alert")).to_contain_text("Following was stopped")
    assert np.array_equal(shown(opened), before)
    opened.page.unroute("**/infer/**")


def test_following_tells_how_far_it_is_and_stays_within_its_frames(chromium, archive):
    opened = SamPage(chromium, archive)
    try:
        choose_study(opened, "tube")
        go_to(opened, 120)
        opened.drag(22, 18, 46, 42)
        opened.wait_until_idle("Mask of")
        opened.page.get_by_label("Follow from frame").fill("11")
        opened.page.get_by_label("to frame", exact=True).fill("230")
        opened.page.get_by_role("button", name="Follow through the volume").click()
        status(opened, "so far…")
        status(opened, "Followed from frame 11 to 230")
        undo = opened.page.get_by_role("button", name="Undo")
        go_to(opened, 229)
        assert shown(opened).any()
        go_to(opened, 230)
        assert not shown(opened).any()
        undo.click()  # all of it is one step, and undoing goes to where it was asked for
        expect(opened.page.get_by_label("Frame number")).to_have_value("121")
        go_to(opened, 119)
        assert not shown(opened).any()

        go_to(opened, 120)
        opened.page.get_by_label("Follow from frame").fill("")
        opened.page.get_by_role("button", name="Follow through the volume").click()
        status(opened, "so far…")
        opened.page.get_by_role("button", name="Stop following").click()
        status(opened, "Stopped: followed from frame")
        go_to(opened, 119)
        assert shown(opened).any(), "what was found until then stays"
        opened.page.get_by_label("to frame", exact=True).fill("12")
        opened.page.get_by_role("button", name="Follow through the volume").click()
        expect(opened.page.get_by_role("alert")).to_contain_text("Mark the object on one of the frames first")
    finally:
        opened.close()
    assert opened.complaints == []


def test_what_is_not_saved_is_not_lost_without_a_question(opened):
    brush(opened, "Brush", 5, at(10, 10), at(12, 10))
    choose_study(opened, "other")
    assert opened.asked == ["What was drawn on ball is not saved. Open another image all the same?"]
    expect(opened.page.get_by_role("button", name="Undo")).to_be_disabled()


def test_the_list_has_pictures(opened):
    opened.page.get_by_role("button", name="Images on the server").click()
    pictures = opened.page.locator("#study-list img")
    expect(pictures).to_have_count(4)
    for n in range(4):
        expect(pictures.nth(n)).to_have_js_property("complete", value=True)
    widths = [pictures.nth(n).evaluate("(image) => image.naturalWidth / image.naturalHeight") for n in range(4)]
    assert max(widths) > 1.2, "true proportions"
    opened.page.get_by_role("button", name="Close").click()


def test_the_list_finds_and_offers_the_next(opened, archive):
    page = opened.page
    page.get_by_role("button", name="Images on the server").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Find").fill("OTH")
    expect(dialog.get_by_role("status")).to_have_text("1 of 4 images")
    assert dialog.locator("#study-list strong").all_inner_texts() == ["other"]
    dialog.get_by_label("Find").fill("")
    dialog.get_by_label("Show").select_option("with a final label")
    labelled = {
        name
        for name, item in json.loads(archive.get("/datastore/?output=all").text)["objects"].items()
        if "final" in item["labels"]
    }
    assert set(dialog.locator("#study-list strong").all_inner_texts()) == labelled
    dialog.get_by_role("button", name="Next to label").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("canvas#image")).to_have_attribute("aria-label", re.compile(r"^(other|turned|ball|tube), "))


def test_measures_are_those_of_the_voxels(opened):
    brush(opened, "Brush", 9, at(X, Y), at(X + 1, Y))
    area = np.count_nonzero(shown(opened))
    text = opened.page.locator("#measures").inner_text()
    found = re.fullmatch(r"([\d,.]+) mm² here, ([\d,.]+) ml in all, mean ([-\d,.]+)", text)
    assert found, text
    square, volume, mean = (float(found[n].replace(",", "")) for n in (1, 2, 3))
    assert square == pytest.approx(area * 1.5 * 1.5, rel=0.005)
    assert volume == pytest.approx(area * 1.5 * 1.5 * 3 / 1000, rel=0.01)
    assert mean == pytest.approx(ball_volume()[0][:, :, Z].T[shown(opened)].mean(), rel=0.005)


@pytest.mark.long
def test_label_files_stay_small(opened, archive, tmp_path):
    """A picture's worth of label is not a picture's worth of bytes: it is compressed."""
    brush(opened, "Brush", 5, at(10, 10), at(12, 10))
    opened.page.get_by_role("button", name="Save draft").click()
    status(opened, "Saved as draft: Object 1")
    stored: Path = archive.studies / "labels" / "draft" / "ball.nii.gz"
    assert stored.stat().st_size < 2000
    assert archive.get("/datastore/").json()["total"] == 3


def test_work_survives_a_reload(opened):
    opened.page.get_by_label("Label", exact=True).fill("ball")
    opened.drag(*at(X - 11, Y - 11), *at(X + 11, Y + 11))
    opened.wait_until_idle("Mask of")
    mask = shown(opened)
    go_to(opened, Z + 3)
    brush(opened, "Brush", 5, at(10, 10), at(12, 10))
    stroke = shown(opened)
    opened.page.reload()
    picture = opened.page.locator("canvas#image")
    expect(picture).to_have_attribute("aria-label", re.compile(rf"^ball, .*frame {Z + 4} of"))
    assert np.array_equal(shown(opened), stroke)
    assert opened.page.get_by_label("Label", exact=True).input_value() == "ball"
    go_to(opened, Z)
    assert np.array_equal(shown(opened), mask)


def test_all_objects_as_files_of_other_formats(chromium, archive, sample, tmp_path):
    """DICOM SEG and RT Structure Set of a DICOM image that was dropped; surfaces of a volume."""
    opened = SamPage(chromium, archive)
    try:
        opened.drop("ct.dcm", sample("CT_small.dcm").read_bytes())
        opened.wait_until_idle("No prompts yet")
        opened.page.get_by_label("Label", exact=True).fill("lung")
        brush(opened, "Brush", 21, (60, 60), (62, 60))
        mask = shown(opened)
        seg = pydicom.dcmread(read_download(opened.download("objects"), tmp_path))
        assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["lung"]
        assert np.array_equal(seg.pixel_array.reshape(mask.shape) > 0, mask)
        structures = pydicom.dcmread(read_download(opened.download("rtstruct"), tmp_path))
        assert [roi.ROIName for roi in structures.StructureSetROISequence] == ["lung"]
        assert opened.page.locator("[data-download=stl]").is_hidden()
        choose_study(opened, "ball")
        assert opened.page.locator("[data-download=objects]").is_hidden()
        brush(opened, "Brush", 9, at(X, Y), at(X + 1, Y))
        surfaces = read_download(opened.download("stl"), tmp_path)
        assert zipfile.ZipFile(surfaces).namelist() == ["1 Object 1.stl"]
    finally:
        opened.close()
    assert opened.complaints == []


def test_of_several_series_one_is_chosen(chromium, archive, sample, tmp_path):
    opened = SamPage(chromium, archive)
    try:
        opened.drop_paths(sample("CT_small.dcm"), sample("MR_small.dcm"))
        dialog = opened.page.get_by_role("dialog", name="Which of these series?")
        dialog.get_by_role("button", name="None").click()
        expect(opened.page.get_by_role("alert")).to_have_text("Nothing was opened, as no series was chosen.")
        opened.page.get_by_role("button", name="Try again").click()
        dialog.get_by_role("button", name="MR").click()
        opened.wait_until_idle("64 × 64 pixels")
        opened.expect_complaints(409, 409)
    finally:
        opened.close()
    assert opened.complaints == []


def test_the_pointer_shows_what_a_click_would_mark(opened):
    """And the click marks it; once there is a mask, nothing is shown beside it."""
    opened.page.mouse.move(*opened.place(X + 3, Y))
    hint = opened.page.locator("canvas#hint")
    for step in range(200):
        opened.page.mouse.move(*opened.place(X + step % 2, Y))
        opened.page.wait_for_timeout(150)
        if opened.canvas("hint").any():
            break
    shape = opened.canvas("hint")[..., 3] > 0
    assert shape.any() and hint.is_visible() and not opened.requests(), "nothing was stored for it"
    opened.click(X, Y)
    opened.wait_until_idle("Mask of")
    mask = shown(opened)
    rows, columns = np.nonzero(shape)
    found = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx(
        (found[0].min(), found[0].max(), found[1].min(), found[1].max()), abs=1
    )
    opened.page.mouse.move(*opened.place(X + 2, Y + 1))
    opened.page.wait_for_timeout(600)
    assert not opened.canvas("hint").any()
