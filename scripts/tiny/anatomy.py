"""Scenes with the coarse layout of CT slices: invented bodies, no patient's anatomy.

Values are Hounsfield-like. Organs are random shapes at loosely plausible places; neighbours often differ by
a few units only, and some objects are split without any visible border, as heart chambers and lung lobes are.
"""

from __future__ import annotations

import numpy as np

from .canvas import MIN_AREA, Canvas
from .shapes import Mask, Rng, grid, polyline, smooth_noise, star, tube

AIR, LUNG, FAT = -1000.0, -820.0, -100.0


def split(rng: Rng, canvas: Canvas, label: int, *, line: float | None = None) -> int:
    """Cut a label in two along a random smooth line; the new part keeps the values unless `line` is given.

    Args:
        rng: Source of randomness.
        canvas: Scene to change.
        label: Label to cut.
        line: Value to draw the cut with (a fissure or a fat plane); None leaves the border invisible.
    """
    region = canvas.labels == label
    if region.sum() < 4 * MIN_AREA:
        return label
    x, y = grid(canvas.size)
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    extent = float(np.std(along[region])) + 1e-3
    bend = rng.normal(0, 0.35) * across**2 / extent + rng.normal(0, 0.12) * extent * smooth_noise(rng, canvas.size, 4)
    position = along + bend
    cut = float(np.quantile(position[region], rng.uniform(0.25, 0.75)))
    new = len(canvas.parents)
    canvas.parents.append(canvas.parents[label])
    canvas.labels[region & (position > cut)] = new
    if line is not None:
        width = rng.uniform(0.002, 0.009)
        canvas.values[region & (np.abs(position - cut) < width)] = line
    return new


def bone(rng: Rng, canvas: Canvas, mask: Mask, parent: int) -> int:
    """Paint a bone: a bright cortical shell around a darker, textured marrow."""
    cortex = rng.uniform(300, 1100)
    label = canvas.paint(mask, cortex, parent=parent)
    inner = canvas.labels == label
    shell = rng.uniform(1, 4) * canvas.size / 256
    for _ in range(int(shell)):
        inner = inner & np.roll(inner, 1, 0) & np.roll(inner, -1, 0) & np.roll(inner, 1, 1) & np.roll(inner, -1, 1)
    if inner.any():
        canvas.values[inner] = rng.uniform(60, 0.8 * cortex)
        canvas.texture(rng, inner, rng.uniform(0, 80), rng.uniform(20, 60))
    return label


def marble(rng: Rng, canvas: Canvas, region: Mask) -> None:
    """Draw thin streaks of fat into the values of a muscle."""
    streaks = np.abs(smooth_noise(rng, canvas.size, rng.uniform(8, 50))) < rng.uniform(0.03, 0.15)
    canvas.values[region & streaks] -= rng.uniform(20, 130)


def implant(rng: Rng, canvas: Canvas, bones: list[int]) -> None:
    """Put metal into bones, which still hold it as targets, with streaks from it and dark bands between."""
    x, y = grid(canvas.size)
    centres = []
    for label in bones:
        place = canvas.labels == label
        if place.sum() < MIN_AREA:
            continue
        centre = (float(x[place].mean()), float(y[place].mean()))
        radius = float(np.sqrt(place.mean() * 4 / np.pi)) * rng.uniform(0.4, 1.1)
        mask = star(rng, canvas.size, centre, (radius, radius * rng.uniform(0.7, 1)), wobble=0.08)
        canvas.paint(mask & canvas.whole(canvas.parents[label]), rng.uniform(2500, 6000), parent=label, clip=False)
        centres.append((centre, radius))
    metal = canvas.values > 2400
    for (a, b), radius in centres:
        angle, distance = np.arctan2(y - b, x - a), np.hypot(x - a, y - b)
        waves = sum(
            np.cos(k * angle + rng.uniform(0, 2 * np.pi)) * rng.normal() for k in rng.integers(2, 40, 10).tolist()
        )
        fading = np.exp(-distance / rng.uniform(0.1, 0.5)) / (1 + distance / radius)
        canvas.values[~metal] += (rng.uniform(30, 300) * waves * fading)[~metal]
    if len(centres) == 2 and rng.random() < 0.7:
        level = (centres[0][0][1] + centres[1][0][1]) / 2
        band = np.exp(-(((y - level) / rng.uniform(0.02, 0.12)) ** 2)) * (1 + 0.4 * smooth_noise(rng, canvas.size, 6))
        canvas.values[~metal] -= (band * rng.uniform(0, 400))[~metal]


def vessels(rng: Rng, canvas: Canvas, region: Mask, count: int, value: float, width: float) -> None:
    """Draw small bright vessels and dots into a region's values; the labels stay as they are."""
    points = np.argwhere(region)
    if len(points) == 0:
        return
    for _ in range(count):
        row, column = points[rng.integers(len(points))]
        start = ((column + 0.5) / canvas.size * 2 - 1, (row + 0.5) / canvas.size * 2 - 1)
        length = rng.choice([0.01, 0.05, 0.2])
        canvas.values[
            region & tube(rng, canvas.size, start, length=length, width=width * rng.uniform(0.3, 1), bend=0.4)
        ] = value + rng.normal(0, 30)


def body(rng: Rng, canvas: Canvas) -> tuple[int, int, tuple[float, float, float, float]]:
    """Paint skin, fat and muscle wall; return (body label, cavity label, (cx, cy, rx, ry) of the cavity)."""
    size = canvas.size
    if rng.random() < 0.4:
        ring = rng.uniform(0.9, 1.05)
        x, y = grid(size)
        canvas.values[x**2 + y**2 > ring**2] = AIR - rng.choice([0, 0, 1000])
    rx = rng.uniform(0.5, 0.93)
    ry = rx * rng.uniform(0.55, 0.85)
    cx, cy = rng.normal(0, 0.04, 2)
    angle = rng.normal(0, 0.06)
    power = rng.uniform(2.0, 3.0)
    wobble = rng.uniform(0.01, 0.05)
    outline = star(rng, size, (cx, cy), (rx, ry), angle=angle, wobble=wobble, power=power)
    label = canvas.paint(outline, FAT + rng.normal(0, 15))
    canvas.texture(rng, outline, rng.uniform(0, 15), rng.uniform(10, 50))
    fat = rng.uniform(0.02, 0.14)
    rx, ry = rx - fat, ry - fat
    muscle = rng.uniform(40, 80)
    wall = star(rng, size, (cx, cy), (rx, ry), angle=angle, wobble=wobble, power=power)
    canvas.paint(wall, muscle, parent=label)
    wall_width = rng.uniform(0.02, 0.08)
    rx, ry = rx - wall_width, ry - wall_width
    cavity_mask = star(rng, size, (cx, cy), (rx, ry), angle=angle, wobble=wobble, power=power)
    cavity = canvas.paint(cavity_mask, rng.choice([FAT + rng.normal(0, 15), muscle + rng.normal(0, 10)]), parent=label)
    return label, cavity, (cx, cy, rx, ry)


def table(rng: Rng, canvas: Canvas) -> None:
    """Draw the scanner's table and clothes as thin curves outside the body, into the values only."""
    outside = canvas.labels == 0
    xs = np.linspace(-1, 1, 4 * canvas.size)
    side = rng.choice([-1, 1])
    for _ in range(int(rng.integers(0, 4))):
        base, sag = rng.uniform(0.55, 0.95), rng.uniform(-0.1, 0.3)
        ys = side * (base - sag * xs**2)
        canvas.values[outside & polyline(canvas.size, xs, ys, rng.uniform(0.008, 0.03))] = rng.uniform(-700, 200)


def spine(rng: Rng, canvas: Canvas, parent: int, centre: tuple[float, float], scale: float) -> None:
    """Paint a vertebra with canal and processes, and the muscles on both sides of it."""
    size = canvas.size
    x, y = centre
    muscle = rng.uniform(40, 80)
    for side in (-1, 1):
        place = (x + side * scale * rng.uniform(0.9, 1.3), y + scale * rng.uniform(0.5, 1.2))
        mask = star(rng, size, place, (scale * rng.uniform(0.5, 0.9), scale * rng.uniform(0.4, 0.7)), wobble=0.12)
        canvas.paint(mask, muscle + rng.normal(0, 4), parent=parent, clip=False)
    vertebra = star(rng, size, (x, y), (scale * rng.uniform(0.65, 0.9), scale * rng.uniform(0.5, 0.7)), wobble=0.08)
    back = y + scale * rng.uniform(0.9, 1.1)
    arch = star(rng, size, (x, back), (scale * 0.55, scale * 0.5), wobble=0.1)
    process = star(rng, size, (x, back + scale * 0.6), (scale * 0.15, scale * 0.6), wobble=0.1)
    wings = star(rng, size, (x, back), (scale * rng.uniform(0.8, 1.4), scale * 0.18), wobble=0.1)
    label = bone(rng, canvas, vertebra | arch | process | wings, parent)
    canal = star(rng, size, (x, back), (scale * 0.32, scale * 0.28), wobble=0.05)
    canvas.paint(canal, rng.uniform(10, 50), parent=label if rng.random() < 0.25 else parent, clip=False)


def ribs(rng: Rng, canvas: Canvas, parent: int, cavity: tuple[float, float, float, float]) -> None:
    """Paint ribs as short arcs on the wall of the cavity."""
    cx, cy, rx, ry = cavity
    where = rng.uniform(0, 2 * np.pi, int(rng.integers(4, 14)))
    out = rng.uniform(0.99, 1.08)
    width = rng.uniform(0.025, 0.06)
    for start in where:
        arc = start + np.linspace(0, rng.uniform(0.05, 0.35), 60)
        mask = polyline(canvas.size, cx + out * rx * np.cos(arc), cy + out * ry * np.sin(arc), width)
        bone(rng, canvas, mask, parent)


def blob(
    rng: Rng,
    canvas: Canvas,
    parent: int,
    centre: tuple[float, float],
    radius: float,
    value: float,
    *,
    wobble: float = 0.15,
) -> int:
    """Paint one organ-like blob, clipped to its parent, with a faint texture and sometimes vessels."""
    radii = (radius * rng.uniform(0.75, 1.25), radius * rng.uniform(0.75, 1.25))
    angle = rng.uniform(0, np.pi)
    mask = star(rng, canvas.size, centre, radii, angle=angle, wobble=wobble, power=rng.uniform(1.8, 2.6))
    label = canvas.paint(mask, value, parent=parent)
    region = canvas.labels == label
    canvas.texture(rng, region, rng.choice([0, 2, 5, 12]), rng.uniform(4, 50))
    if radius > 0.12 and rng.random() < 0.3:
        vessels(rng, canvas, region, int(rng.integers(2, 12)), value + rng.choice([-20, 30, 70]), 0.03)
    return label


def heart(rng: Rng, canvas: Canvas, parent: int, centre: tuple[float, float], radius: float) -> None:
    """Paint a heart: a muscle with one thick-walled chamber, and chambers split with faint borders."""
    blood = rng.uniform(40, 90) if rng.random() < 0.5 else rng.uniform(90, 350)
    whole = blob(rng, canvas, parent, centre, radius, blood, wobble=0.08)
    parts = [whole]
    for _ in range(int(rng.integers(1, 4))):
        line = None if rng.random() < 0.5 else blood + rng.uniform(-60, 20)
        parts.append(split(rng, canvas, parts[int(rng.integers(len(parts)))], line=line))
    for part in parts:
        if rng.random() < 0.4:
            region = canvas.labels == part
            canvas.values[region] += rng.normal(0, 25)
    angle = rng.uniform(0, 2 * np.pi)
    place = (centre[0] + 0.4 * radius * np.cos(angle), centre[1] + 0.4 * radius * np.sin(angle))
    muscle = blob(
        rng, canvas, parent, place, radius * rng.uniform(0.4, 0.6), blood + rng.choice([-60, -30, -10, 10]), wobble=0.06
    )
    size = radius * rng.uniform(0.2, 0.45)
    away, shift = rng.uniform(0, 2 * np.pi), size * rng.choice([0.1, 0.3, 0.7])
    inner = (place[0] + shift * np.cos(away), place[1] + shift * np.sin(away))
    chamber = star(rng, canvas.size, inner, (size, size * rng.uniform(0.6, 1)), angle=away, wobble=0.08)
    owner = muscle if rng.random() < 0.25 else whole
    canvas.paint(chamber & canvas.whole(whole), blood + rng.normal(0, 8), parent=owner, clip=False)


def tubes(rng: Rng, canvas: Canvas, parent: int, centre: tuple[float, float], scale: float) -> None:
    """Paint round vessels (aorta, vena cava) near the spine, sometimes with a bright wall or a thrombus."""
    base = rng.uniform(35, 60) if rng.random() < 0.5 else rng.uniform(60, 300)
    for side in (-1, 1, rng.choice([-1, 1])):
        place = (centre[0] + side * scale * rng.uniform(0.2, 1.2), centre[1] - scale * rng.uniform(0.6, 1.4))
        radius = scale * rng.uniform(0.25, 0.5)
        flat = rng.uniform(0.6, 1.0)
        mask = star(rng, canvas.size, place, (radius, radius * flat), angle=rng.uniform(0, np.pi), wobble=0.04)
        if rng.random() < 0.25:
            base = rng.uniform(35, 200)
        canvas.paint(mask, base + rng.normal(0, 6), parent=parent, clip=False)


def thorax(rng: Rng, size: int) -> Canvas:
    """Return a chest-like or upper-abdomen scene: lungs, heart, organs, vessels, spine, ribs."""
    canvas = Canvas(size, AIR)
    whole, cavity, (cx, cy, rx, ry) = body(rng, canvas)
    lungs = rng.uniform() < 0.65
    back = cy + ry * rng.uniform(0.45, 0.75)
    scale = rx * rng.uniform(0.13, 0.2)
    if lungs:
        for side in (-1, 1):
            place = (cx + side * rx * rng.uniform(0.45, 0.6), cy + ry * rng.normal(0, 0.1))
            radii = (rx * rng.uniform(0.3, 0.5), ry * rng.uniform(0.55, 0.95))
            mask = star(rng, size, place, radii, angle=side * rng.normal(0, 0.2), wobble=0.1, power=rng.uniform(2, 2.8))
            lung = canvas.paint(mask, LUNG + rng.normal(0, 50), parent=cavity)
            region = canvas.labels == lung
            canvas.texture(rng, region, rng.uniform(0, 40), rng.uniform(8, 60))
            vessels(rng, canvas, region, int(rng.integers(5, 50)), rng.uniform(-300, 50), 0.045)
            parts = [lung]
            for _ in range(int(rng.integers(0, 3))):
                line = LUNG + rng.uniform(50, 300) if rng.random() < 0.5 else None
                parts.append(split(rng, canvas, parts[int(rng.integers(len(parts)))], line=line))
            for part in parts:
                if rng.random() < 0.3:
                    canvas.values[canvas.labels == part] += rng.normal(0, 40)
    if rng.random() < (0.8 if lungs else 0.1):
        place = (cx + rx * rng.normal(0, 0.15), cy - ry * rng.uniform(-0.1, 0.4))
        heart(rng, canvas, cavity, place, rx * rng.uniform(0.25, 0.45))
    tissue = rng.uniform(40, 120)
    spread = rng.choice([4, 12, 30])
    for _ in range(int(rng.integers(0, 4) if lungs else rng.integers(3, 9))):
        angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 0.8))
        place = (cx + reach * rx * np.cos(angle), cy + reach * ry * np.sin(angle))
        organ = blob(
            rng, canvas, cavity, place, rx * rng.choice([0.12, 0.2, 0.35, 0.6]), tissue + rng.normal(0, spread)
        )
        if rng.random() < 0.2:
            split(rng, canvas, organ)
        if rng.random() < 0.15:
            inner = (place[0] + rng.normal(0, 0.05), place[1] + rng.normal(0, 0.05))
            blob(rng, canvas, organ, inner, rng.uniform(0.03, 0.1), tissue + rng.choice([-40, 30]))
    for _ in range(int(rng.integers(0, 12)) if not lungs else 0):
        angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 0.7))
        place = (cx + reach * rx * np.cos(angle), cy + reach * ry * np.sin(angle))
        loop = tube(rng, size, place, length=rng.uniform(0.1, 0.5), width=rng.uniform(0.05, 0.14), bend=0.5)
        bowel = canvas.paint(loop, tissue + rng.normal(0, 20), parent=cavity)
        if rng.random() < 0.5:
            gas = star(rng, size, place, (rng.uniform(0.02, 0.07),) * 2, wobble=0.15)
            canvas.paint(gas, AIR, parent=bowel)
    tubes(rng, canvas, cavity, (cx, back), scale)
    spine(rng, canvas, whole, (cx + rng.normal(0, 0.02), back), scale)
    ribs(rng, canvas, whole, (cx, cy, rx, ry))
    table(rng, canvas)
    return canvas


def pelvis(rng: Rng, size: int) -> Canvas:
    """Return a pelvis-like or limb-like scene: paired bones, muscles with fat planes, hollow organs, metal."""
    canvas = Canvas(size, AIR)
    whole, cavity, (cx, cy, rx, ry) = body(rng, canvas)
    base = rng.uniform(40, 70)
    for _ in range(int(rng.integers(2, 8))):
        x, y = abs(rng.normal(0, 0.6)) * rx, rng.normal(0, 0.5) * ry
        radii = (rx * rng.uniform(0.08, 0.45), ry * rng.uniform(0.1, 0.35))
        angle, value = rng.uniform(0, np.pi), base + rng.normal(0, 10)
        for muscle in paired(rng, canvas, whole, (cx, cy), (x, y), radii, angle, value, is_bone=False):
            if rng.random() < 0.3:
                marble(rng, canvas, canvas.labels == muscle)
            for _ in range(int(rng.integers(0, 3))):
                split(rng, canvas, muscle, line=rng.choice([FAT, 0.0]) if rng.random() < 0.7 else None)
    bones = []
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(0.05, 0.85) * rx, rng.normal(0, 0.4) * ry
        radii = (rx * rng.uniform(0.05, 0.16), rx * rng.uniform(0.06, 0.2))
        bones.append(paired(rng, canvas, whole, (cx, cy), (x, y), radii, rng.uniform(0, np.pi), 0.0, is_bone=True))
    for _ in range(int(rng.integers(0, 4))):
        place = (cx + rng.normal(0, 0.15) * rx, cy + rng.normal(0, 0.4) * ry)
        blob(rng, canvas, cavity, place, rx * rng.uniform(0.06, 0.25), rng.choice([0.0, 40.0, 90.0, -600.0]))
    if rng.random() < 0.35:
        implant(rng, canvas, bones[int(rng.integers(len(bones)))][: int(rng.integers(1, 3))])
    table(rng, canvas)
    return canvas


def paired(
    rng: Rng,
    canvas: Canvas,
    parent: int,
    centre: tuple[float, float],
    offset: tuple[float, float],
    radii: tuple[float, float],
    angle: float,
    value: float,
    *,
    is_bone: bool,
) -> list[int]:
    """Paint a structure and its mirror image, each with its own small variations; return their labels."""
    labels = []
    for side in (-1, 1):
        place = (centre[0] + side * offset[0], centre[1] + offset[1])
        jittered = (radii[0] * rng.uniform(0.9, 1.1), radii[1] * rng.uniform(0.9, 1.1))
        mask = star(rng, canvas.size, place, jittered, angle=side * angle, wobble=0.15)
        if is_bone:
            labels.append(bone(rng, canvas, mask, parent))
            continue
        gap = star(rng, canvas.size, place, (jittered[0] + 0.02, jittered[1] + 0.02), angle=side * angle, wobble=0.05)
        canvas.values[gap & canvas.whole(parent)] = FAT
        label = canvas.paint(mask, value + rng.normal(0, 3), parent=parent)
        canvas.texture(rng, canvas.labels == label, rng.choice([0, 5, 15]), rng.uniform(10, 60))
        labels.append(label)
    return labels
