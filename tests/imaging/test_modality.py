from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset

from lib.imaging.image import CorruptImageError, Window
from lib.imaging.readers import read_image


def item(**attributes) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


STORED = np.array([[0, 1, 1000, 4095]], dtype=np.uint16)


@pytest.mark.parametrize(
    ("slope", "intercept", "bits", "dtype"),
    [
        (1, -1024, 12, np.int16),
        (1, 0, 12, np.int16),
        (2, 0, 16, np.int16),
        (20, 0, 16, np.int32),
        (20, -1, 12, np.int32),
        (0.5, 0, 12, np.float32),
        (1, -0.25, 12, np.float32),
    ],
)
def test_rescale(make_ct, save, slope: float, intercept: float, bits: int, dtype: type) -> None:
    dataset = make_ct(STORED, BitsStored=bits, HighBit=bits - 1, RescaleSlope=slope, RescaleIntercept=intercept)
    frames = read_image(save(dataset)).frames
    assert frames.dtype == dtype
    np.testing.assert_array_equal(frames[0], STORED.astype(float) * slope + intercept)


def test_eight_bits_stay_eight(make_ct, save) -> None:
    stored = np.array([[0, 7, 255]], dtype=np.uint8)
    frames = read_image(save(make_ct(stored))).frames
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(frames[0], stored)


@pytest.mark.parametrize("bits", [8, 16])
def test_modality_lut_sequence(make_ct, save, bits: int) -> None:
    entries = np.array([7, 200, 30, 4], dtype=np.uint8 if bits == 8 else np.uint16)
    lut = item(LUTDescriptor=[4, 1, bits], ModalityLUTType="HU", LUTData=entries.tobytes())
    lut["LUTDescriptor"].VR, lut["LUTData"].VR = "US", "OW"
    dataset = make_ct(np.array([[0, 1, 2, 3, 4, 9]], np.uint16), ModalityLUTSequence=[lut])
    np.testing.assert_array_equal(read_image(save(dataset)).frames[0, 0], [7, 7, 200, 30, 4, 4])


def test_a_damaged_modality_lut_is_refused(make_ct, save) -> None:
    lut = item(LUTDescriptor=[40, 0, 16], LUTData=b"\x00\x00")
    lut["LUTDescriptor"].VR, lut["LUTData"].VR = "US", "OW"
    with pytest.raises(CorruptImageError, match="lookup table"):
        read_image(save(make_ct(STORED, ModalityLUTSequence=[lut])))


def test_slope_zero_is_refused(make_ct, save) -> None:
    with pytest.raises(CorruptImageError, match="Rescale Slope"):
        read_image(save(make_ct(STORED, RescaleSlope=0, RescaleIntercept=0)))


def test_functional_groups_give_each_frame_its_own(make_ct, save) -> None:
    groups = [
        item(
            PixelValueTransformationSequence=[item(RescaleSlope=k + 1, RescaleIntercept=-k, RescaleType="US")],
            FrameVOILUTSequence=[item(WindowCenter=10 * k, WindowWidth=100, VOILUTFunction="SIGMOID")],
        )
        for k in range(3)
    ]
    stored = np.full((3, 2, 2), 50, dtype=np.uint8)
    image = read_image(save(make_ct(stored, PerFrameFunctionalGroupsSequence=groups)))
    np.testing.assert_array_equal(image.frames[:, 0, 0], [50, 99, 148])
    assert image.windows == (Window(10, 100, "SIGMOID"),)  # of the middle frame


def test_shared_functional_groups_hold_where_frames_have_none(make_ct, save) -> None:
    shared = item(
        PixelValueTransformationSequence=[item(RescaleSlope=3, RescaleIntercept=1)],
        FrameVOILUTSequence=[item(WindowCenter=[1, 2], WindowWidth=[30, 40])],
    )
    stored = np.full((2, 2, 2), 5, dtype=np.uint8)
    image = read_image(
        save(
            make_ct(stored, SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=[item(), item()])
        )
    )
    assert image.frames[1, 0, 0] == 16
    assert image.windows == (Window(1, 30), Window(2, 40))


def test_windows_keep_their_order_and_impossible_ones_go(make_ct, save, gradient) -> None:
    dataset = make_ct(gradient, WindowCenter=[40, 0, 300], WindowWidth=[300, 0, 1500])
    assert read_image(save(dataset)).windows == (Window(40, 300), Window(300, 1500))
    exact = make_ct(gradient, WindowCenter=0.5, WindowWidth=0.25, VOILUTFunction="LINEAR_EXACT")
    assert read_image(save(exact)).windows == (Window(0.5, 0.25, "LINEAR_EXACT"),)
    assert read_image(save(make_ct(gradient))).windows == ()


def test_padding_is_in_modality_values(make_ct, save, gradient) -> None:
    rescale = {"RescaleSlope": 2, "RescaleIntercept": -1024}
    dataset = make_ct(gradient, PixelPaddingValue=-2000, **rescale)
    assert read_image(save(dataset)).padding == (-5024, -5024)
    dataset = make_ct(gradient, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1000, **rescale)
    assert read_image(save(dataset)).padding == (-5024, -3024)
    dataset.add_new(0x00280120, "US", 65536 - 2000)  # with the wrong sign
    dataset.add_new(0x00280121, "US", 65536 - 1000)
    assert read_image(save(dataset)).padding == (-5024, -3024)
    assert read_image(save(make_ct(gradient))).padding is None
