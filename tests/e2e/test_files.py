"""Files of every kind on the page: what is shown, frames, windows, and what is downloaded."""

from __future__ import annotations

import io
import json
import re

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from playwright.sync_api import Route, expect

from lib.imaging.image import Window
from lib.imaging.readers import read_image
from lib.transforms.window import PRESETS, apply_window
from support.phantoms import BALL_AFFINE, BALL_CENTRE, ball_volume
from support.sam_page import SamPage, read_download

pytestmark = [pytest.mark.server, pytest.mark.e2e]

EMPTY = "No prompts yet"
QUERIES = {
    "overlay": "get_segmented_image/{}?view=overlay",
    "mask": "get_segmented_image/{}?view=mask",
    "sc": "get_dicom_image/{}?type=sc",
    "seg": "get_dicom_image/{}?type=seg",
}


def assert_windowed(sam_page: SamPage, frame: np.ndarray, window: Window) -> None:
    """The page shows the frame as the server windows it for a model, to the last rounding."""
    assert np.abs(shown(sam_page).astype(int) - apply_window(frame, window)).max() <= 1


def shown(sam_page: SamPage) -> np.ndarray:
    """``(rows, columns)`` uint8: the image on the page, which is grey."""
    pixels = sam_page.canvas("image")
    assert np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2])
    return pixels[..., 0]


def frame_shown(sam_page: SamPage) -> str:
    """What the picture is described as, such as: frame 4 of 16."""
    described = re.search(r"frame \d+ of \d+", sam_page.page.locator("canvas#image").get_attribute("aria-label") or "")
    return described[0] if described else ""


def windowed(frame: np.ndarray, sam_page: SamPage) -> np.ndarray:
    """The frame through the window that the page names."""
    center, width = (float(sam_page.page.get_by_label(name).input_value()) for name in ("Centre", "Width"))
    return apply_window(frame.astype(float), Window(center, width, "LINEAR_EXACT")).astype(int)


def route_bytes(sam_page: SamPage, kind: str, timestamp: str) -> bytes:
    answer = sam_page.server.get("/" + QUERIES[kind].format(timestamp))
    assert answer.status_code == 200, answer.text
    return answer.content


@pytest.fixture
def with_ct(sam_page, sample) -> SamPage:
    """The page with a CT slice on it."""
    sam_page.drop("CT_small.dcm", sample("CT_small.dcm").read_bytes())
    sam_page.wait_until_idle(EMPTY)
    return sam_page


@pytest.fixture
def with_ball(sam_page, tmp_path) -> SamPage:
    """The page with a NIfTI volume on it."""
    nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_filename(tmp_path / "ball.nii.gz")
    sam_page.drop("ball.nii.gz", (tmp_path / "ball.nii.gz").read_bytes())
    sam_page.wait_until_idle(EMPTY)
    return sam_page


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_pictures(sam_page, disc, kind):
    buffer = io.BytesIO()
    Image.fromarray(disc[0]).save(buffer, kind)
    sam_page.drop(f"disc.{kind.lower()}", buffer.getvalue())
    assert sam_page.wait_until_idle(EMPTY).startswith(f"disc.{kind.lower()}: 240 × 200 pixels")
    decoded = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
    assert np.abs(sam_page.canvas("image")[..., :3].astype(int) - decoded).max() <= 1
    assert "8-bit values as they are" in sam_page.page.locator("#window-source").inner_text()


def test_dicom_is_windowed_and_segmented(with_ct, sample):
    image = read_image(sample("CT_small.dcm"))
    assert_windowed(with_ct, image.frames[0], PRESETS["abdomen"])
    assert with_ct.page.locator("#window-source").inner_text() == "The model sees: 40 / 400, CT preset abdomen"
    with_ct.drag(40, 5, 80, 55)
    with_ct.wait_until_idle("Mask of")
    mask = np.asarray(Image.open(io.BytesIO(route_bytes(with_ct, "mask", with_ct.answers()[-1]))))
    assert np.array_equal(with_ct.canvas("mask")[..., 3] > 0, mask > 0)
    assert with_ct.page.locator("canvas#image").get_attribute("aria-label") == (
        "CT_small.dcm, 128 × 128 pixels, axial, R on the left, L on the right"
    )
    assert with_ct.page.locator("canvas#mask").get_attribute("aria-label").startswith("Mask of")


def test_a_window_is_for_looking_until_the_model_shall_see_it(with_ct, sample):
    """Presets, an own window and the first one change the picture alone; on demand the same prompts are asked in it."""
    frame = read_image(sample("CT_small.dcm")).frames[0]
    with_ct.drag(40, 5, 80, 55)
    with_ct.wait_until_idle("Mask of")
    mask, asked = with_ct.canvas("mask"), len(with_ct.answers())
    preset, for_model = with_ct.page.get_by_label("Preset"), with_ct.page.get_by_role("button", name="Use this window")
    expect(for_model).to_be_disabled()

    preset.select_option("bone")
    assert_windowed(with_ct, frame, PRESETS["bone"])
    with_ct.page.get_by_label("Centre").fill("100")
    with_ct.page.get_by_label("Width").fill("900")
    with_ct.page.get_by_label("Width").press("Enter")
    assert_windowed(with_ct, frame, Window(100, 900))
    assert preset.input_value() == "custom"
    with_ct.wait_until_idle("Mask of")
    assert np.array_equal(with_ct.canvas("mask"), mask) and len(with_ct.answers()) == asked

    for_model.click()
    expect(with_ct.page.locator("#window-source")).to_contain_text("The model sees: 100 / 900, as chosen here")
    with_ct.wait_until_idle("Mask of")
    assert with_ct.facts(with_ct.answers()[-1])["window"] == {"center": 100.0, "width": 900.0, "source": "request"}
    assert with_ct.requests()[-1]["rectangles"] and with_ct.prompts() == ["Box from 40, 5 to 80, 55"]
    expect(for_model).to_be_disabled()

    preset.select_option("")
    assert_windowed(with_ct, frame, PRESETS["abdomen"])
    assert with_ct.page.get_by_label("Centre").input_value() == "40"
    asked = len(with_ct.answers())
    for_model.click()
    expect(with_ct.page.locator("#window-source")).to_have_text("The model sees: 40 / 400, CT preset abdomen")
    with_ct.wait_until_idle("Mask of")
    assert np.array_equal(with_ct.canvas("mask"), mask)
    assert len(with_ct.answers()) == asked  # it was there before


def test_a_drag_with_the_right_button_is_a_window_and_no_prompt(with_ct, sample):
    frame = read_image(sample("CT_small.dcm")).frames[0]
    with_ct.page.mouse.move(*with_ct.place(60, 60))
    with_ct.page.mouse.down(button="right")
    x, y = with_ct.place(60, 60)
    with_ct.page.mouse.move(x + 250, y + 100, steps=5)
    with_ct.page.mouse.up(button="right")
    center, width = (float(with_ct.page.get_by_label(name).input_value()) for name in ("Centre", "Width"))
    assert width == pytest.approx(400 * 2**0.5, rel=1e-3) and center > 40
    assert_windowed(with_ct, frame, Window(center, width))
    assert with_ct.prompts() == [] and not with_ct.answers()


def test_presets_in_hounsfield_units_are_for_ct_alone(sam_page, disc):
    buffer = io.BytesIO()
    Image.fromarray(disc[0][..., 0]).save(buffer, "PNG")
    sam_page.drop("grey.png", buffer.getvalue())
    sam_page.wait_until_idle(EMPTY)
    preset = sam_page.page.get_by_label("Preset")
    assert preset.is_enabled() and preset.locator("option").all_inner_texts() == ["As opened", "Custom"]


def test_frames_of_a_multi_frame_dicom(sam_page, sample):
    frames = read_image(sample("rtdose.dcm")).frames
    sam_page.drop("rtdose.dcm", sample("rtdose.dcm").read_bytes())
    sam_page.wait_until_idle(EMPTY)
    number, slider = sam_page.page.get_by_label("Frame number"), sam_page.page.get_by_role("slider", name="Frame")
    assert number.input_value() == "8" and slider.get_attribute("max") == "15"
    middle = shown(sam_page)
    number.fill("1")
    number.press("Enter")
    sam_page.wait_until_idle(EMPTY)
    assert not np.array_equal(shown(sam_page), middle)
    assert frame_shown(sam_page) == "frame 1 of 15"
    correlation = np.corrcoef(shown(sam_page).reshape(-1), frames[0].reshape(-1))[0, 1]
    assert correlation > 0.95  # that frame, windowed
    number.fill("99")
    number.press("Enter")
    sam_page.wait_until_idle(EMPTY)
    assert number.input_value() == "15" == slider.input_value()


def test_each_frame_of_a_volume_keeps_its_prompts(with_ball):
    i, j, k = BALL_CENTRE
    slider = with_ball.page.get_by_role("slider", name="Frame")
    assert slider.input_value() == "9"
    slider.press("Home")
    with_ball.wait_until_idle(EMPTY)
    assert slider.input_value() == "1" and frame_shown(with_ball) == "frame 1 of 16"
    with_ball.page.locator("#stage").hover()
    for _ in range(k):
        with_ball.page.mouse.wheel(0, 100)
    with_ball.wait_until_idle(EMPTY)
    assert slider.input_value() == str(k + 1)

    with_ball.drag(i - 11, j - 11, i + 11, j + 11)
    with_ball.wait_until_idle("Mask of")
    facts = with_ball.facts(with_ball.answers()[-1])
    assert facts["slice"] == k
    truth = ball_volume()[1][:, :, k].T
    mask = with_ball.canvas("mask")[..., 3] > 0
    assert 2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth)) > 0.85

    with_ball.page.locator("#stage").press("PageDown")
    with_ball.wait_until_idle(EMPTY)
    assert with_ball.prompts() == [] and not with_ball.canvas("mask").any()
    with_ball.page.locator("#stage").press("PageUp")
    with_ball.wait_until_idle("Mask of")
    assert len(with_ball.prompts()) == 1 and np.array_equal(with_ball.canvas("mask")[..., 3] > 0, mask)


def test_browsing_shows_the_frame_that_was_wanted_last_and_stores_nothing(with_ball):
    number = with_ball.page.get_by_label("Frame number")
    stored = set(with_ball.server.results.rglob("*"))
    for frame in (2, 5, 11, 4):
        number.fill(str(frame))
        number.press("Enter")
    with_ball.wait_until_idle(EMPTY)
    assert number.input_value() == "4"
    assert frame_shown(with_ball) == "frame 4 of 16"
    assert set(with_ball.server.results.rglob("*")) == stored and not with_ball.answers()


def test_a_slice_that_comes_late_does_not_hide_a_newer_one(sam_page, tmp_path):
    nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_filename(tmp_path / "ball.nii.gz")
    held: list[Route] = []
    sam_page.page.route("**/slices/axial/0?*", lambda route: held.append(route))
    sam_page.drop_paths(tmp_path / "ball.nii.gz")
    sam_page.wait_until_idle(EMPTY)
    number = sam_page.page.get_by_label("Frame number")
    number.fill("1")
    number.press("Enter")
    expect(sam_page.page.locator("#stage")).to_have_class(re.compile("stale"))
    number.fill("8")
    number.press("Enter")
    sam_page.wait_until_idle(EMPTY)
    newest = shown(sam_page)
    with sam_page.page.expect_response("**/slices/axial/0?*"):
        held[0].continue_()
    sam_page.page.wait_for_timeout(200)
    assert np.array_equal(shown(sam_page), newest) and frame_shown(sam_page) == "frame 8 of 16"
    assert np.abs(newest.astype(int) - windowed(ball_volume()[0][:, :, 7].T, sam_page)).max() <= 1


def test_no_prompt_is_set_on_a_picture_that_is_no_longer_wanted(with_ball):
    """Between the choice of a frame and its picture the old one is still seen, but what is meant is not meant there."""
    classes = with_ball.page.locator("#stage").evaluate("""(stage) => {
        for (const key of ["PageDown", "Enter"]) stage.dispatchEvent(new KeyboardEvent("keydown", { key }));
        return stage.className;
    }""")
    assert "stale" in classes
    with_ball.wait_until_idle("ball.nii.gz")
    assert "stale" not in with_ball.page.locator("#stage").get_attribute("class")
    assert with_ball.prompts() == [] and not with_ball.answers()


def test_another_file_begins_anew(with_ct, disc):
    with_ct.page.get_by_label("Preset").select_option("bone")
    with_ct.click(64, 60)
    buffer = io.BytesIO()
    Image.fromarray(disc[0]).save(buffer, "PNG")
    with_ct.drop("disc.png", buffer.getvalue())
    with_ct.wait_until_idle("disc.png")
    assert np.array_equal(with_ct.canvas("image")[..., :3], disc[0])
    assert not with_ct.canvas("mask").any() and with_ct.prompts() == []
    assert with_ct.page.get_by_label("Preset").input_value() == ""


@pytest.mark.parametrize("kind", ["overlay", "mask", "sc", "seg"])
def test_downloads_are_the_routes_own_files(with_ct, tmp_path, kind):
    with_ct.drag(40, 5, 80, 55)
    with_ct.wait_until_idle("Mask of")
    path = read_download(with_ct.download(kind), tmp_path)
    assert path.name.startswith("CT_small-")
    timestamp = with_ct.answers()[-1]
    assert path.read_bytes() == route_bytes(with_ct, kind, timestamp)
    if path.suffix == ".png":
        with Image.open(path) as picture:
            assert picture.size == (128, 128)
        return
    source = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
    made = pydicom.dcmread(path)
    assert made.StudyInstanceUID == source.StudyInstanceUID and made.PatientID == source.PatientID
    name = {"sc": "Secondary Capture Image Storage", "seg": "Segmentation Storage"}[kind]
    assert made.SOPClassUID.name == name


def test_the_label_names_the_segment_also_when_it_comes_last(with_ct, tmp_path):
    with_ct.drag(40, 5, 80, 55)
    with_ct.wait_until_idle("Mask of")
    before = with_ct.canvas("mask")
    with_ct.page.get_by_label("Label").fill("Vertebra")
    seg = pydicom.dcmread(read_download(with_ct.download("seg"), tmp_path))
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["Vertebra"]
    assert np.array_equal(seg.pixel_array.reshape(before.shape[:2]), before[..., 3] > 0)
    with_ct.click(60, 30)
    with_ct.wait_until_idle("Mask of")
    assert with_ct.requests()[-1]["label"] == "Vertebra"


@pytest.mark.parametrize(
    ("title", "size"),
    [("Head, CT", "512 × 512"), ("Torso, synthetic CT", "128 × 128"), ("Heart, ultrasound", "320 × 240")],
)
def test_samples_to_try(sam_page, title, size):
    """They come with the server: nothing is asked for elsewhere."""
    sam_page.page.get_by_role("button", name=f"Try: {title}").click()
    sam_page.wait_until_idle(f"{size} pixels. No prompts yet")
    assert sam_page.canvas("image")[..., :3].std() > 10
    expect(sam_page.page.locator("#samples")).to_be_hidden()


def test_a_chosen_candidate_is_what_is_downloaded(with_ct, tmp_path):
    with_ct.page.get_by_label("Offer three candidates").check()
    with_ct.click(64, 30)
    with_ct.wait_until_idle("ask")
    with_ct.page.locator("#candidates").get_by_role("radio").nth(1).check()
    with_ct.wait_until_idle("ask")
    with_ct.page.get_by_label("Label").fill("Second")
    mask = with_ct.canvas("mask")[..., 3] > 0
    with Image.open(read_download(with_ct.download("mask"), tmp_path)) as picture:
        assert np.array_equal(np.asarray(picture) > 0, mask)
    seg = pydicom.dcmread(read_download(with_ct.download("seg"), tmp_path))
    assert seg.SegmentSequence[0].SegmentLabel == "Second"
    assert np.array_equal(seg.pixel_array.reshape(mask.shape), mask)


def test_there_is_nothing_to_download_without_a_mask(with_ct):
    buttons = with_ct.page.locator("[data-download]:visible")
    kinds = [button.get_attribute("data-download") for button in buttons.all()]
    assert kinds == ["labels", "objects", "rtstruct", "overlay", "mask", "sc", "seg"], "a slice has no surface"
    assert all(button.is_disabled() for button in buttons.all())
    with_ct.click(64, 60)
    for button in buttons.all():
        expect(button).to_be_enabled()


def test_models_are_those_that_the_server_has(sam_page):
    health = json.loads(sam_page.server.get("/health_check/").content)
    options = sam_page.page.get_by_label("Model").locator("option")
    assert options.all_inner_texts() == [name for name, state in health["models"].items() if state != "no checkpoint"]
    assert sam_page.page.get_by_label("Model").input_value() == health["default_model"]
    facts = sam_page.page.locator("#model-facts")
    assert facts.inner_text() == "Takes points and rectangles. Licence: MIT."
