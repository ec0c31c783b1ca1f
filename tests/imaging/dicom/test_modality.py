from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset

from lib.imaging.image import CorruptImageError, Display, Window
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
    assert [image.display(k).transforms for k in range(3)] == [(Window(10 * k, 100, "SIGMOID"),) for k in range(3)]


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
    assert image.displays == (Display((Window(1, 30), Window(2, 40))),)


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"RescaleType": "HU"}, True),
        ({"RescaleType": "HU", "Modality": "OT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, True),
        ({"RescaleType": "US"}, False),
        ({"RescaleType": "Z_EFF"}, False),
        ({}, None),
        ({"Modality": None}, None),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, False),
        ({"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, False),
        ({"ModalityLUTSequence": "HU"}, True),
        ({"ModalityLUTSequence": "OD"}, False),
    ],
)
def test_what_a_header_says_of_hounsfield_units(make_ct, save, attributes, said) -> None:
    if "ModalityLUTSequence" in attributes:
        lut = item(LUTDescriptor=[4, 0, 16], ModalityLUTType=attributes["ModalityLUTSequence"], LUTData=b"\0" * 8)
        lut["LUTDescriptor"].VR, lut["LUTData"].VR = "US", "OW"
        attributes = {"ModalityLUTSequence": [lut]}
    image = read_image(save(make_ct(STORED, RescaleSlope=1, RescaleIntercept=0, **attributes)))
    assert image.is_hounsfield is said


def test_frames_say_for_themselves_what_their_values_are(make_ct, save) -> None:
    groups = [item(PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=0, RescaleType="US")])] * 2
    image = read_image(save(make_ct(np.zeros((2, 3, 4), np.int16), PerFrameFunctionalGroupsSequence=groups)))
    assert image.is_hounsfield is False
