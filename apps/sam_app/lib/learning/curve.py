"""Small pictures of what a training does: its loss, and what more labels bring."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

WIDTH, HEIGHT, MARGIN = 480, 240, 36
FEW = 12
"""So many places on the x axis are numbered, and their points marked."""

COLOURS = ("#0b5cad", "#b3541e", "#2e7d32", "#7b1fa2", "#555555")

Points = Sequence[tuple[float, float]]
"""x and y of each point of a curve, in the order of x."""


def draw_loss(losses: Sequence[float]) -> bytes:
    """Return a PNG of the loss over a training, from its start to its end."""
    return draw_curves({"loss": list(enumerate(losses))}, "loss from the start of the training to its end")


def draw_curves(curves: Mapping[str, Points], caption: str, top: float | None = None) -> bytes:
    """Return a PNG of curves with the same axes, of which both begin at 0.

    Args:
        curves: By name; several are listed at the right.
        caption: What the axes are.
        top: Upper end of the y axis; None: the largest value.
    """
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    shown = {name: [point for point in points if math.isfinite(point[1])] for name, points in curves.items()}
    together = [point for points in shown.values() for point in points]
    top = top or max((y for _, y in together), default=1.0) or 1.0
    right = max((x for x, _ in together), default=1.0) or 1.0
    left, upper, last, lower = MARGIN, MARGIN / 2, WIDTH - MARGIN * (2.5 if len(shown) > 1 else 0.5), HEIGHT - MARGIN
    draw.rectangle((left, upper, last, lower), outline="#888888")
    draw.text((4, upper), f"{top:.2f}", fill="#444444")
    draw.text((4, lower - 10), "0", fill="#444444")
    numbered = sorted({x for x, _ in together})
    numbered = numbered if len(numbered) <= FEW else []
    for x in numbered:
        draw.text((left + x / right * (last - left), lower + 2), f"{x:g}", fill="#444444", anchor="ma")
    draw.text((left, lower + 18), caption, fill="#444444")
    for row, ((name, points), colour) in enumerate(zip(shown.items(), COLOURS, strict=False)):
        places = [(left + x / right * (last - left), lower - y / top * (lower - upper)) for x, y in points]
        if len(places) > 1:
            draw.line(places, fill=colour, width=2)
        for x, y in places if numbered else ():
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        if len(shown) > 1:
            draw.text((last + 8, upper + 16 * row), name, fill=colour)
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return content.getvalue()
