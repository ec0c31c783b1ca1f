import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_voi_lut

from lib.imaging.image import MedicalImage, Window
from lib.sam.clock import Clock, use_clock
from lib.sam.prompts import PromptError
from lib.transforms.window import PRESETS, WindowFramed, apply_window, choose_window


def ct(**kwargs) -> MedicalImage:
    values = np.linspace(-1024, 3000, 2 * 40 * 50).reshape(2, 40, 50).astype(np.int16)
    return MedicalImage(frames=values, **kwargs)


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
    image = ct(modality="CT", windows=(Window(40, 300), Window(300, 1500)))
    assert choose_window(image, Window(1, 2), "lung")[1].source == "request"
    window, applied = choose_window(image, None, "lung")
    assert (window, applied.source) == (PRESETS["lung"], "preset lung")
    window, applied = choose_window(image)
    assert (window, applied.source) == (Window(40, 300), "image")


def test_ct_without_a_window_gets_soft_tissue():
    assert choose_window(ct(modality="CT"))[1].source == "CT preset abdomen"


def test_a_volume_with_hounsfield_units_is_known_by_its_values():
    rng = np.random.default_rng(0)
    values = np.where(rng.random((4, 50, 50)) < 0.5, rng.normal(-1000, 5, (4, 50, 50)), rng.normal(50, 60, (4, 50, 50)))
    assert choose_window(MedicalImage(frames=values, is_geometric=True))[1].source == "CT preset abdomen"
    assert choose_window(MedicalImage(frames=values + 1024, is_geometric=True))[1].source == "percentiles"
    assert choose_window(MedicalImage(frames=values))[1].source == "percentiles"


def test_percentiles_are_of_all_slices_and_leave_padding_out():
    frames = np.zeros((2, 100, 100), np.int16)
    frames[0], frames[1] = 100, 900
    frames[:, :, :20] = -2000
    window, applied = choose_window(MedicalImage(frames=frames, modality="MR", padding=(-2000, -2000)))
    assert applied.source == "percentiles"
    assert window is not None and (window.center, window.width) == (500, 800)
    window, _ = choose_window(MedicalImage(frames=frames, modality="MR"))
    assert window is not None and window.center - window.width / 2 == -2000


def test_a_uniform_image_is_windowed_without_a_fault():
    frames = np.full((1, 8, 8), 7, np.uint16)
    data = WindowFramed()({"image": MedicalImage(frames=frames), "slice": 0})
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
    first = choose_window(image)
    of_first = len(looked)
    assert first[1].source == source and of_first > 0
    assert choose_window(image) == first and len(looked) == of_first
    choose_window(MedicalImage(frames=values, is_geometric=True))
    assert len(looked) == 2 * of_first, "another image got the window of this one"


def test_windowing_is_a_stage_of_its_own():
    with use_clock(Clock()) as clock:
        WindowFramed()({"image": ct(), "slice": 0})
    assert clock.stages["window"] > 0


def test_8_bit_and_colour_stay_as_they_are():
    grey = np.random.default_rng(0).integers(0, 256, (1, 5, 6), dtype=np.uint8)
    data = WindowFramed()({"image": MedicalImage(frames=grey), "slice": 0, "window": ["auto", "lung"]})
    assert np.array_equal(data["frame"], np.repeat(grey[0][..., None], 3, axis=2))
    assert data["window"].source == "8-bit"
    colour = np.random.default_rng(0).integers(0, 256, (1, 5, 6, 3), dtype=np.uint8)
    data = WindowFramed()({"image": MedicalImage(frames=colour), "slice": 0, "window": "lung"})
    assert np.array_equal(data["frame"], colour[0])


def test_inverted_images_are_shown_bright_where_values_are_low():
    image = ct(modality="CT", inverted=True)
    plain = WindowFramed()({"image": ct(modality="CT"), "slice": 0})["frame"]
    assert np.array_equal(WindowFramed()({"image": image, "slice": 0})["frame"], 255 - plain)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("padding", [(-2000, -2000), (3000, 4000)])
def test_padding_is_black(padding, inverted):
    frames = np.array([[[40, -2000, 3000, 3500, 4000, 2999]]], np.int16)
    image = MedicalImage(frames=frames, modality="CT", padding=padding, inverted=inverted)
    frame = WindowFramed()({"image": image, "slice": 0, "window": Window(0, 10000)})["frame"]
    padded = (frames[0] >= padding[0]) & (frames[0] <= padding[1])
    assert padded.any() and np.array_equal(frame[..., 0] == 0, padded)


def test_values_below_zero_are_not_lost():
    """Lung and fat differ below 0 HU; a picture clipped to 0..255 would show both black."""
    frames = np.array([[[-100, -60, 40]]], np.int16)
    frame = WindowFramed()({"image": MedicalImage(frames=frames, modality="CT"), "slice": 0})["frame"]
    assert 0 < frame[0, 0, 0] < frame[0, 1, 0] < frame[0, 2, 0] < 255


def test_unknown_presets_and_frames_are_refused():
    with pytest.raises(PromptError, match="there is no window 'spleen'; it can be auto, abdomen, lung"):
        WindowFramed()({"image": ct(), "slice": 0, "window": "spleen"})
    with pytest.raises(PromptError, match="there is no frame 2; the image has frames 0 to 1"):
        WindowFramed()({"image": ct(), "slice": 2})
