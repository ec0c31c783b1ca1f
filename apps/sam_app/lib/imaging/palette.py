"""Colours of the object numbers, the same in all views and DICOM objects."""

import numpy as np

_OKABE_ITO = np.array(
    [
        (230, 159, 0),  # orange
        (86, 180, 233),  # sky blue
        (0, 158, 115),  # bluish green
        (240, 228, 66),  # yellow
        (0, 114, 178),  # blue
        (213, 94, 0),  # vermillion
        (204, 121, 167),  # reddish purple
    ],
    dtype=np.float64,
)
"""M. Okabe and K. Ito, "Color Universal Design" (2008): distinguishable with any kind of colour vision. Their eighth
colour, black, is not used: it is invisible on the background of medical images."""


def _make_palette() -> np.ndarray:
    """Return the ``(256, 3)`` uint8 palette: black for 0, the seven colours, then tints and shades of them in turn."""
    palette = np.zeros((256, 3))
    for number in range(1, 256):
        turn, colour = divmod(number - 1, len(_OKABE_ITO))
        towards = 255.0 if turn % 2 else 0.0
        share = (turn + 1) // 2 / 26
        palette[number] = _OKABE_ITO[colour] * (1 - share) + towards * share
    return palette.round().astype(np.uint8)


PALETTE = _make_palette()
"""``(256, 3)`` uint8 RGB: ``PALETTE[n]`` is the colour of object ``n``; 0 (background) is black. All colours differ."""
PALETTE.setflags(write=False)


def dicom_cielab(rgb: np.ndarray) -> list[int]:
    """Convert an sRGB colour to the CIELab encoding of DICOM: PS3.3 C.10.7.1.1, D50 white point.

    Args:
        rgb: ``(3,)`` uint8.

    Returns:
        L*, a*, b* as three 16-bit numbers, for Recommended Display CIELab Value (0062,000D).
    """
    share = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz_d50 = np.array(  # sRGB primaries, Bradford-adapted to D50, as in the ICC's sRGB profile
        [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
    )
    ratio = to_xyz_d50 @ linear / (0.9642, 1.0, 0.8249)
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    lightness, a, b = 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])
    return [
        round(float(np.clip(value, 0, 65535)))
        for value in (lightness * 65535 / 100, (a + 128) * 65535 / 255, (b + 128) * 65535 / 255)
    ]
