"""A small picture of a training's loss."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

WIDTH, HEIGHT, MARGIN = 480, 240, 36


def draw_curve(losses: Sequence[float]) -> bytes:
    """Return a PNG of the loss over a training, from its start to its end."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    values = [loss for loss in losses if math.isfinite(loss)]
    top = max(values, default=1.0) or 1.0
    frame = MARGIN, MARGIN / 2, WIDTH - MARGIN / 2, HEIGHT - MARGIN
    draw.rectangle(frame, outline="#888888")
    draw.text((4, frame[1]), f"{top:.2f}", fill="#444444")
    draw.text((4, frame[3] - 10), "0", fill="#444444")
    draw.text((frame[0], frame[3] + 6), "loss from the start of the training to its end", fill="#444444")
    if len(values) > 1:
        step = (frame[2] - frame[0]) / (len(values) - 1)
        points = [
            (frame[0] + index * step, frame[3] - value / top * (frame[3] - frame[1]))
            for index, value in enumerate(values)
        ]
        draw.line(points, fill="#0b5cad", width=2)
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return content.getvalue()
