from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi_lut
from pydicom.uid import generate_uid

from lib.imaging.image import Display, MedicalImage, VoiTable, Window
from lib.imaging.readers import read_image
from lib.transforms.window import apply_window


def item(**attributes) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def table(entries: np.ndarray, first: int, bits: int = 16, *, vr: str = "US", count: int | None = None) -> Dataset:
    """Return an item of VOI LUT Sequence."""
    made = Dataset()
    made.add_new("LUTDescriptor", vr, [len(entries) if count is None else count, first, bits])
    made.add_new("LUTData", "OW", entries.astype("<u2" if bits > 8 else np.uint8).tobytes())
    return made


def shown(image: MedicalImage, k: int = 0) -> np.ndarray:
    """Return frame ``k`` after the first transform of its source."""
    return apply_window(image.frames[k], image.display(k).transforms[0])


RAMP = np.linspace(0, 4095, 315).astype(np.uint16).reshape(7, 45)
CURVE = np.rint(65535 * (np.arange(4096) / 4095) ** 2)


def test_windows_keep_their_order_and_impossible_ones_go(make_ct, save, gradient) -> None:
    dataset = make_ct(gradient, WindowCenter=[40, 0, 300], WindowWidth=[300, 0, 1500])
    assert read_image(save(dataset)).displays == (Display((Window(40, 300), Window(300, 1500))),)
    assert read_image(save(make_ct(gradient))).displays == (Display(),)


@pytest.mark.parametrize("width", [0, -400, "nan"])
def test_a_source_with_nothing_but_impossible_windows_is_told_from_one_with_none(
    make_ct, save, gradient, width
) -> None:
    dataset = make_ct(gradient, WindowCenter=40)
    dataset.add_new("WindowWidth", "LO", str(width))
    assert read_image(save(dataset)).displays == (Display(is_invalid=True),)


@pytest.mark.parametrize(
    ("function", "width", "meant"),
    [
        (None, 0.25, Window(0.5, 0.25, "LINEAR_EXACT")),
        ("LINEAR", 0.25, Window(0.5, 0.25, "LINEAR_EXACT")),
        ("LINEAR_EXACT", 0.25, Window(0.5, 0.25, "LINEAR_EXACT")),
        ("SIGMOID", 0.25, Window(0.5, 0.25, "SIGMOID")),
        ("sigmoid ", 4, Window(0.5, 4, "SIGMOID")),
        ("LINEAR", 1, Window(0.5, 1, "LINEAR")),
    ],
)
def test_a_width_below_1_is_exact(make_ct, save, gradient, function, width, meant) -> None:
    attributes = {"VOILUTFunction": function} if function else {}
    image = read_image(save(make_ct(gradient, WindowCenter=0.5, WindowWidth=width, **attributes)))
    assert image.displays == (Display((meant,)),)


def test_each_slice_of_a_series_has_its_own_window(make_ct, save) -> None:
    for k in range(3):
        dataset = make_ct(
            np.full((4, 4), 100, np.int16),
            SOPInstanceUID=generate_uid(),
            InstanceNumber=k + 1,
            ImagePositionPatient=[0, 0, 2.0 * k],
            WindowCenter=10 * k,
            WindowWidth=100 + k,
        )
        path = save(dataset, f"series/{k}")
    image = read_image(path.parent)
    assert [image.display(k).transforms for k in range(3)] == [(Window(10 * k, 100 + k),) for k in range(3)]


@pytest.mark.parametrize(
    ("stored", "first", "vr", "rescale"),
    [
        (RAMP, 0, "US", {}),
        (RAMP.astype(np.int16) - 1000, -1000, "SS", {}),
        (RAMP.astype(np.int16) - 1000, 2**16 - 1000, "US", {}),
        (RAMP, -1000, "SS", {"RescaleSlope": 1, "RescaleIntercept": -1000}),
        (RAMP, 2**16 - 1000, "US", {"RescaleSlope": 1, "RescaleIntercept": -1000}),
        (RAMP + np.uint16(40000), 40000, "US", {}),
        (RAMP + np.uint16(40000), 40000 - 2**16, "SS", {}),
    ],
)
def test_a_table_is_of_modality_values_with_whichever_sign_it_is_stated(
    make_ct, save, stored, first, vr, rescale
) -> None:
    image = read_image(save(make_ct(stored, VOILUTSequence=[table(CURVE, first, vr=vr)], **rescale)))
    expected = CURVE[RAMP] / 65535 * 255
    assert np.abs(shown(image) - expected).max() <= 0.51


def test_a_table_is_applied_as_pydicom_does(make_ct, save) -> None:
    dataset = make_ct(RAMP, VOILUTSequence=[table(CURVE[1000:3000], 1000)])
    peer = apply_voi_lut(RAMP, dataset) / 65535 * 255
    assert np.abs(shown(read_image(save(dataset))) - peer).max() <= 0.51


def test_a_table_comes_before_windows_and_the_first_before_the_second(make_ct, save) -> None:
    sequence = [table(CURVE[::-1], 0), table(CURVE, 0)]
    image = read_image(save(make_ct(RAMP, VOILUTSequence=sequence, WindowCenter=2000, WindowWidth=4000)))
    first, second, window = image.display(0).transforms
    assert isinstance(first, VoiTable) and first.outputs == second.outputs[::-1] and window == Window(2000, 4000)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_the_scale_of_a_table_is_that_of_its_entries(make_ct, save, bits: int) -> None:
    """Descriptors often state 16 bits although entries have fewer."""
    entries = np.arange(4096) >> (12 - bits) if bits < 12 else np.arange(4096) << (bits - 12)
    image = read_image(save(make_ct(RAMP, VOILUTSequence=[table(entries, 0, 16)])))
    assert np.abs(shown(image) - RAMP / 4095 * 255).max() <= 1.5


def test_a_table_of_65536_and_one_of_more_than_32767_entries(make_ct, save) -> None:
    stored = np.array([[0, 20000, 39999, 65535]], np.uint16)
    image = read_image(save(make_ct(stored, VOILUTSequence=[table(np.arange(65536), 0, count=0)])))
    np.testing.assert_allclose(shown(image)[0], [0, 78, 156, 255], atol=1)
    image = read_image(save(make_ct(stored, VOILUTSequence=[table(np.arange(40000), 0)])))
    np.testing.assert_allclose(shown(image)[0], [0, 78, 156, 156], atol=1)


def test_a_damaged_table_is_left_out(make_ct, save) -> None:
    dataset = make_ct(RAMP, VOILUTSequence=[table(CURVE[:10], 0, count=4096)], WindowCenter=1, WindowWidth=2)
    assert read_image(save(dataset)).displays == (Display((Window(1, 2),)),)


def test_tables_of_enhanced_objects_are_each_frames_own(make_ct, save) -> None:
    groups = [item(FrameVOILUTSequence=[item(VOILUTSequence=[table(CURVE[:: 1 - 2 * k], 0)])]) for k in range(2)]
    image = read_image(save(make_ct(np.stack([RAMP, RAMP]), PerFrameFunctionalGroupsSequence=groups)))
    np.testing.assert_allclose(shown(image, 0), CURVE[RAMP] / 257, atol=0.51)
    np.testing.assert_allclose(shown(image, 1), CURVE[::-1][RAMP] / 257, atol=0.51)


def test_padding_is_in_modality_values(make_ct, save, gradient) -> None:
    rescale = {"RescaleSlope": 2, "RescaleIntercept": -1024}
    dataset = make_ct(gradient, PixelPaddingValue=-2000, **rescale)
    assert read_image(save(dataset)).display(0).padding == (-5024, -5024)
    dataset = make_ct(gradient, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1000, **rescale)
    assert read_image(save(dataset)).display(0).padding == (-5024, -3024)
    dataset.add_new(0x00280120, "US", 65536 - 2000)  # with the wrong sign
    dataset.add_new(0x00280121, "US", 65536 - 1000)
    assert read_image(save(dataset)).display(0).padding == (-5024, -3024)
    assert read_image(save(make_ct(gradient))).display(0).padding is None


def test_padding_of_8_bits_has_a_sign_in_16(make_ct, save) -> None:
    dataset = make_ct(np.array([[-5, 7]], np.int8))
    dataset.add_new("PixelPaddingValue", "US", 65536 - 5)
    assert read_image(save(dataset)).display(0).padding == (-5, -5)


def test_padding_of_frames_with_slopes_of_their_own(make_ct, save) -> None:
    groups = [item(PixelValueTransformationSequence=[item(RescaleSlope=k + 1, RescaleIntercept=0)]) for k in range(2)]
    stored = np.full((2, 3, 4), -100, np.int16)
    image = read_image(save(make_ct(stored, PixelPaddingValue=-100, PerFrameFunctionalGroupsSequence=groups)))
    assert [image.display(k).padding for k in range(2)] == [(-100, -100), (-200, -200)]


def test_padding_of_floats(make_ct, save) -> None:
    dataset = make_ct(np.zeros((2, 2), np.uint32), PixelData=None)
    dataset.FloatPixelData = np.array([[-9999, 0.5], [np.nan, 1]], np.float32).tobytes()
    dataset.FloatPixelPaddingValue = -9999.0
    image = read_image(save(dataset))
    assert image.display(0).padding == (-9999, -9999)
    np.testing.assert_array_equal(image.frames[0], [[-9999, 0.5], [-9999, 1]])
