from collections.abc import Hashable
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_voi_lut

from lib.base.clock import Clock, use_clock
from lib.imaging.image import Display, MedicalImage, Window
from lib.sam.prompts import PromptError
from lib.transforms.request import AUTO
from lib.transforms.window import PRESETS, WindowFramed, apply_window, choose_window, volume_pictures, windowed_frame
from support.segment_requests import data_with


def ct(**kwargs) -> MedicalImage:
    values = np.linspace(-1024, 3000, 2 * 40 * 50).reshape(2, 40, 50).astype(np.int16)
    return MedicalImage(frames=values, **kwargs)


def framed(image: MedicalImage, k: int, window: Window | str = AUTO) -> dict[Hashable, Any]:
    return WindowFramed()({**data_with(image, window=window), "slice": k})


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # the peer's, far from the centre
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (-600, 1500), (40.5, 1), (300, 1)])
def test_the_functions_are_pydicoms(function, center, width):
    """The peer is pydicom's apply_voi_lut, independent code for PS3.3 C.11.2.1.2, scaled to 8 bits."""
    values = np.arange(-1100, 1100, 3, dtype=np.int16)
    dataset = pydicom.Dataset()
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsStored, dataset.PixelRepresentation = 16, 1
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = center, width, function
    peer = (apply_voi_lut(values.astype(float), dataset) + 2**15) / (2**16 - 1) * 255
    ours = apply_window(values, Window(center, width, function))
    assert ours.dtype == np.uint8
    assert np.abs(ours - peer).max() <= 0.51


def test_the_request_comes_first_then_the_preset_then_the_image():
    image = ct(modality="CT", displays=(Display((Window(40, 300), Window(300, 1500))),))
    assert choose_window(image, 0, Window(1, 2))[1].source == "request"
    window, applied = choose_window(image, 0, "lung")
    assert (window, applied.source) == (PRESETS["lung"], "preset lung")
    window, applied = choose_window(image, 0)
    assert (window, applied.source) == (Window(40, 300), "image")


def test_ct_without_a_window_gets_soft_tissue():
    assert choose_window(ct(modality="CT"), 0)[1].source == "CT preset abdomen"


def test_a_volume_with_hounsfield_units_is_known_by_its_values():
    rng = np.random.default_rng(0)
    values = np.where(rng.random((4, 50, 50)) < 0.5, rng.normal(-1000, 5, (4, 50, 50)), rng.normal(50, 60, (4, 50, 50)))
    assert choose_window(MedicalImage(frames=values, is_geometric=True), 0)[1].source == "CT preset abdomen"
    assert choose_window(MedicalImage(frames=values + 1024, is_geometric=True), 0)[1].source == "percentiles"
    assert choose_window(MedicalImage(frames=values), 0)[1].source == "percentiles"


def test_percentiles_are_of_all_slices_and_leave_padding_out():
    frames = np.zeros((2, 100, 100), np.int16)
    frames[0], frames[1] = 100, 900
    frames[:, :, :20] = -2000
    padded = (Display(padding=(-2000, -2000)),)
    window, applied = choose_window(MedicalImage(frames=frames, modality="MR", displays=padded), 0)
    assert applied.source == "percentiles"
    assert window is not None and (window.center, window.width) == (500, 800)
    window, _ = choose_window(MedicalImage(frames=frames, modality="MR"), 0)
    assert window is not None and window.center - window.width / 2 == -2000
    frames[:, :, :20] = -30000  # what is so far from all others is padding, too
    window, _ = choose_window(MedicalImage(frames=frames, modality="MR"), 0)
    assert window is not None and window.center - window.width / 2 == 100 - 800 / 4


def test_a_uniform_image_is_windowed_without_a_fault():
    frames = np.full((1, 8, 8), 7, np.uint16)
    data = framed(MedicalImage(frames=frames), 0)
    assert data["frame"].shape == (8, 8, 3)


@pytest.mark.parametrize("source", ["percentiles", "CT preset abdomen"])
def test_an_images_values_are_looked_through_once(source, monkeypatch):
    looked: list[int] = []
    percentile = np.percentile

    def counted(*args):
        looked.append(1)
        return percentile(*args)

    monkeypatch.setattr(np, "percentile", counted)
    low = -1024 if source.startswith("CT") else 0
    values = np.linspace(low, low + 2000, 2 * 40 * 50).reshape(2, 40, 50)
    image = MedicalImage(frames=values, is_geometric=True)
    first = choose_window(image, 0)
    of_first = len(looked)
    assert first[1].source == source and of_first > 0
    assert choose_window(image, 0) == first and len(looked) == of_first
    choose_window(MedicalImage(frames=values, is_geometric=True), 0)
    assert len(looked) == 2 * of_first, "another image got the window of this one"


def test_windowing_is_a_stage_of_its_own():
    with use_clock(Clock()) as clock:
        framed(ct(), 0)
    assert clock.stages["window"] > 0


def test_8_bit_and_colour_stay_as_they_are():
    grey = np.random.default_rng(0).integers(0, 256, (1, 5, 6), dtype=np.uint8)
    data = framed(MedicalImage(frames=grey), 0, "auto")
    assert np.array_equal(data["frame"], np.repeat(grey[0][..., None], 3, axis=2))
    assert data["window"].source == "8-bit"
    colour = np.random.default_rng(0).integers(0, 256, (1, 5, 6, 3), dtype=np.uint8)
    data = framed(MedicalImage(frames=colour), 0, "lung")
    assert np.array_equal(data["frame"], colour[0])


def test_inverted_images_are_shown_bright_where_values_are_low():
    image = ct(modality="CT", inverted=True)
    plain = framed(ct(modality="CT"), 0)["frame"]
    assert np.array_equal(framed(image, 0)["frame"], 255 - plain)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("padding", [(-2000, -2000), (3000, 4000)])
def test_padding_is_black(padding, inverted):
    frames = np.array([[[40, -2000, 3000, 3500, 4000, 2999]]], np.int16)
    image = MedicalImage(frames=frames, modality="CT", displays=(Display(padding=padding),), inverted=inverted)
    frame = framed(image, 0, Window(0, 10000))["frame"]
    padded = (frames[0] >= padding[0]) & (frames[0] <= padding[1])
    assert padded.any() and np.array_equal(frame[..., 0] == 0, padded)


def test_values_below_zero_are_not_lost():
    """Lung and fat differ below 0 HU; a picture clipped to 0..255 would show both black."""
    frames = np.array([[[-100, -60, 40]]], np.int16)
    frame = framed(MedicalImage(frames=frames, modality="CT"), 0)["frame"]
    assert 0 < frame[0, 0, 0] < frame[0, 1, 0] < frame[0, 2, 0] < 255


def test_unknown_presets_and_frames_are_refused():
    with pytest.raises(PromptError, match="there is no window 'spleen'; it can be auto, abdomen, lung"):
        framed(ct(), 0, "spleen")
    with pytest.raises(PromptError, match="there is no frame 2; the image has frames 0 to 1"):
        framed(ct(), 2)


Y, X = np.mgrid[:128, :160]
DISC = (X - 100) ** 2 + (Y - 45) ** 2 <= 400
BODY = (X - 80) ** 2 + (Y - 64) ** 2 < 3000
NOISE = np.random.default_rng(1).normal(0, 0.015, DISC.shape)
SHARE = np.clip(np.where(DISC, 0.85, np.where(BODY, 0.3, 0.05)) + NOISE, 0, 1)


def shown(image: MedicalImage, k: int = 0, asked: str = "auto") -> tuple[np.ndarray, str]:
    """A frame as it is shown, grey, and the source of its window; air, body and disc can be told apart."""
    window, applied = choose_window(image, k, asked)
    grey = windowed_frame(image, k, window)[..., 0].astype(int)
    air, body, disc = (np.median(grey[where]) for where in (~DISC & ~BODY, BODY & ~DISC, DISC))
    assert disc > body + 40 and body > air, (air, body, disc, applied)
    return grey, applied.source


@pytest.mark.parametrize(
    ("frames", "facts", "source"),
    [
        ((SHARE * 1100 - 1000).astype(np.int16), {"modality": "CT", "is_hounsfield": True}, "CT preset abdomen"),
        ((SHARE * 1100 - 1000).astype(np.int16), {"modality": "CT"}, "CT preset abdomen"),
        ((SHARE * 1100 - 1000).astype(np.int16), {"modality": "CT", "is_hounsfield": False}, "percentiles"),
        ((SHARE * 1100).astype(np.int16), {"modality": "CT"}, "percentiles"),
        ((SHARE * 60000).astype(np.uint16), {"modality": "CT", "is_hounsfield": True}, "percentiles"),
        ((SHARE * 60000).astype(np.uint16), {"modality": "CT"}, "percentiles"),
        ((SHARE * 60000 - 30000).astype(np.int16), {"modality": "CT"}, "percentiles"),
        ((SHARE * 1100 - 1000).astype(np.int16), {"modality": "MR"}, "percentiles"),
    ],
)
def test_hounsfield_presets_are_for_hounsfield_units(frames, facts, source):
    image = MedicalImage(frames=frames[None], **facts)
    _, applied = choose_window(image, 0)
    assert applied.source == source
    if source == "percentiles":
        shown(image)


def test_a_preset_is_passed_over_where_values_are_no_hounsfield_units():
    image = MedicalImage(frames=(SHARE * 4000).astype(np.int16)[None], modality="MR")
    assert shown(image, asked="lung")[1] == "percentiles (preset lung: no Hounsfield units)"
    image = MedicalImage(frames=(SHARE * 60000).astype(np.uint16)[None], modality="CT")
    assert shown(image, asked="lung")[1] == "percentiles (preset lung: no Hounsfield units)"
    image = MedicalImage(frames=(SHARE * 4000 + 3000).astype(np.int16)[None])
    assert shown(image, asked="lung")[1] == "percentiles (preset lung: shows nothing)"
    bone = MedicalImage(frames=(SHARE * 900 + 100).astype(np.int16)[None], modality="CT", is_hounsfield=True)
    assert shown(bone, asked="bone")[1] == "preset bone", "a CT of bone alone is one, too"


@pytest.mark.parametrize(
    "window", [Window(2, 1), Window(1, 2), Window(60000, 100), Window(-5000, 10), Window(20, 40), Window(0, 1e9)]
)
@pytest.mark.parametrize("inverted", [False, True])
def test_a_window_that_shows_nothing_gives_way(window, inverted):
    frames = (SHARE * 4000).astype(np.int16)[None]
    image = MedicalImage(frames=frames, modality="MR", displays=(Display((window,)),), inverted=inverted)
    picked, applied = choose_window(image, 0)
    assert applied.source == "percentiles (image: shows nothing)"
    shown(MedicalImage(frames=frames, displays=(Display((picked,)),)))


def test_the_files_next_window_comes_before_percentiles():
    windows = (Window(2, 1), Window(2000, 4000))
    image = MedicalImage(frames=(SHARE * 4000).astype(np.int16)[None], displays=(Display(windows),))
    picked, applied = choose_window(image, 0)
    assert (picked, applied.source) == (windows[1], "image (image: shows nothing)")


def test_a_file_without_a_possible_window_is_said():
    image = MedicalImage(frames=(SHARE * 4000).astype(np.int16)[None], displays=(Display(is_invalid=True),))
    assert shown(image)[1] == "percentiles (image: not valid)"


def test_what_was_asked_for_in_numbers_holds():
    image = MedicalImage(frames=(SHARE * 4000).astype(np.int16)[None])
    assert choose_window(image, 0, Window(60000, 10))[1].source == "request"


@pytest.mark.parametrize(
    "frames",
    [
        (SHARE * 3.9).astype(np.uint8),
        (SHARE * 15).astype(np.uint8),
        (SHARE * 6 + 249).astype(np.uint8),
        np.repeat((SHARE * 15).astype(np.uint8)[..., None], 3, axis=2),
        (SHARE * 4095).astype(np.uint16),
        (SHARE * 1000 + 2**30).astype(np.int32),
        (SHARE * 1e-12).astype(np.float32),
        (SHARE * 1e30).astype(np.float32),
        SHARE * 1e-300,
        SHARE * 1e300,
        -1 + SHARE,
        np.where(BODY, SHARE * 1000, -32768).astype(np.int16),
    ],
    ids=lambda frames: f"{frames.dtype} to {frames.max():.3g}",
)
def test_the_depth_of_the_container_is_not_the_range_of_the_values(frames):
    shown(MedicalImage(frames=frames[None]))


@pytest.mark.parametrize("mask", [DISC.astype(np.uint8), np.repeat(DISC.astype(np.uint8)[..., None], 3, axis=2)])
def test_a_mask_of_0_and_1_is_seen(mask):
    image = MedicalImage(frames=mask[None])
    window, applied = choose_window(image, 0)
    assert applied.source == "percentiles (8-bit: shows nothing)"
    assert np.array_equal(windowed_frame(image, 0, window)[..., 0], np.where(DISC, 255, 0))


def test_a_frame_of_another_scale_gets_percentiles_of_its_own():
    frames = np.stack([SHARE * 40, SHARE * 3000]).astype(np.int16)
    image = MedicalImage(frames=frames)
    assert shown(image, 0)[1] == "frame percentiles (percentiles: shows nothing)"
    assert shown(image, 1)[1] == "percentiles"


def test_an_empty_slice_stays_black_in_the_volumes_window():
    air = np.random.default_rng(2).normal(-1000, 8, DISC.shape)
    air[100:110, 30:130] = -880  # the table
    body = np.where(DISC, 120, np.where(BODY, 0, -1000)) + 600 * NOISE
    image = MedicalImage(frames=np.stack([air, body]).astype(np.int16), modality="CT", is_hounsfield=True)
    assert choose_window(image, 0)[1].source == "CT preset abdomen"
    noise = np.stack([np.abs(np.random.default_rng(2).normal(0, 8, DISC.shape)), SHARE * 3000]).astype(np.int16)
    assert choose_window(MedicalImage(frames=noise, displays=(Display((Window(1500, 3000),)),)), 0)[1].source == "image"


def test_padding_that_would_be_everything_is_none():
    image = MedicalImage(frames=(SHARE * 4000).astype(np.int16)[None], displays=(Display(padding=(-1e9, 1e9)),))
    assert shown(image)[1] == "percentiles"


def test_each_frame_has_its_own_window():
    scales = [40, 200, 3000, 3000]
    displays = tuple(Display((Window(scale / 2, scale),)) for scale in scales)
    image = MedicalImage(frames=np.stack([SHARE * scale for scale in scales]).astype(np.int16), displays=displays)
    for k, scale in enumerate(scales):
        data = framed(image, k, "auto")
        assert (data["window"].width, data["window"].source) == (scale, "image")


def test_the_slices_of_a_volume_are_compared_in_one_window_where_that_shows_them():
    displays = tuple(Display((Window(scale / 2, scale),)) for scale in (3000, 3600, 40))
    frames = np.stack([SHARE * 3000, SHARE * 3000, SHARE * 40]).astype(np.int16)
    image = MedicalImage(frames=frames, displays=displays)
    picture, applied = volume_pictures(image, 0)
    assert applied.width == 3000
    assert np.array_equal(picture(1), picture(0)), "a window of its own would show the same values darker"
    assert np.array_equal(picture(2), windowed_frame(image, 2, Window(20, 40)))
    picture, applied = volume_pictures(image, 0, Window(100, 10))
    assert applied.source == "request"
    assert np.array_equal(picture(2), windowed_frame(image, 2, Window(100, 10)))


def test_a_window_asked_for_is_exact_for_values_that_are_no_whole_numbers():
    frames = np.array([[[0.0, 0.5, 1.0, 1.5, 2.0]]], np.float32)
    window, _ = choose_window(MedicalImage(frames=frames), 0, Window(1, 2))
    np.testing.assert_allclose(apply_window(frames[0], window)[0], [0, 64, 128, 191, 255], atol=1)
    assert choose_window(MedicalImage(frames=frames.astype(np.int16)), 0, Window(1, 2))[0] == Window(1, 2)


def test_whole_numbers_that_float32_does_not_hold_are_windowed_exactly():
    values = np.array([[2**30, 2**30 + 1, 2**30 + 2]], np.int32)
    np.testing.assert_array_equal(apply_window(values, Window(2**30 + 1, 2, "LINEAR_EXACT"))[0], [0, 128, 255])
