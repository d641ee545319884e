"""A drawn face whose shape, wrinkles, hair line and grey grow with age: one image of one invented person."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Array = np.ndarray[Any, Any]
Cue = Callable[..., float]  # cue(spread=1): the person's age with new noise, 0 to 1
GROUPS = 8
AGE_SPREAD = 0.35  # of a group's width, up and down: the ages of two neighbouring groups nearly touch
CUE_NOISE = 0.03  # each sign of age (wrinkles, grey hair ...) gets noise of its own, so that groups overlap
SUPERSAMPLE = 2  # drawn at twice the size and averaged, so that edges are smooth

SKINS = np.array([[240, 204, 180], [224, 178, 144], [198, 148, 112], [158, 110, 80], [112, 78, 58]], float)
HAIRS = np.array([[32, 26, 22], [74, 48, 30], [120, 82, 48], [198, 160, 96], [142, 72, 38]], float)
EYES = np.array([[66, 42, 26], [92, 66, 36], [72, 104, 128], [78, 100, 66]], float)
EYE_WHITE, PUPIL, GLINT, TEETH, FRAME = np.array(
    [[242, 240, 236], [14, 12, 12], [250, 250, 250], [232, 226, 216], [40, 38, 42]]
)


def _curve(n: int, start: float = 0.0, stop: float = 360.0) -> Array:
    """Return n points (n, 2) of the unit circle; degrees go clockwise from the right, as in Pillow."""
    t = np.radians(np.linspace(start, stop, n))
    return np.stack([np.cos(t), np.sin(t)], axis=1)


CIRCLE = _curve(28)[:-1]
OUTLINE = _curve(44)[:-1]
CAP = _curve(24, 187, 353)  # over the top of the head, from temple to temple
HAIR_LINE = np.linspace(0.97, -0.97, 15)  # x only: the height depends on the person
HALF_CIRCLE = _curve(12, 180, 360)
BELOW_EYE = _curve(9, 160, 20)
CHIN = _curve(22, 8, 172)


class Person:
    """A random person of age group 0..7: what stays the same in every image of one subject."""

    def __init__(self, rng: np.random.Generator, group: int) -> None:
        self.age = (group + 0.5 + rng.uniform(-AGE_SPREAD, AGE_SPREAD)) / GROUPS  # 0 to 1 over the eight groups
        woman, adult = rng.random() < 0.5, self.age > 0.36
        self.skin = SKINS[rng.integers(len(SKINS))] + rng.normal(0, 7, 3)
        self.hair = HAIRS[rng.integers(len(HAIRS))] + rng.normal(0, 8, 3)
        self.iris = EYES[rng.integers(len(EYES))] + rng.normal(0, 8, 3)
        self.shirt = rng.uniform(25, 225, 3)
        self.width, self.height, self.eye = rng.normal(0, 0.02), rng.normal(0, 0.02), rng.normal(0, 0.005)
        self.mouth, self.nose = rng.uniform(0.30, 0.42), rng.uniform(0.8, 1.2)
        length = rng.uniform(0.5, 1.15)
        self.long_hair = length if woman and self.age > 0.15 and rng.random() < 0.8 else 0.0
        self.fringe = rng.uniform(-0.05, 0.10)
        self.beard = adult and not woman and rng.random() < 0.5
        self.balding = adult and not woman and rng.random() < 0.7
        self.glasses = rng.random() < 0.1


class Pose:
    """A random pose of the head in one image: tilt and turn in degrees, shift in halves of the image's side."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.tilt, self.turn = float(rng.normal(0, 8)), float(rng.normal(0, 9))
        self.shift = rng.normal(0, 0.06, 2).tolist()


class _Pen:
    """A pen whose curves are in face coordinates (-1 to 1 across the image, y down) and that draws them in the pose."""

    def __init__(self, canvas: Image.Image, pose: Pose, width: float, height: float) -> None:
        self.draw, self.scale = ImageDraw.Draw(canvas), canvas.width / 2
        tilt, turn = np.radians(pose.tilt), np.radians(pose.turn)
        rotation = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
        self.matrix, self.origin = self.scale * rotation, self.scale * (1 + np.array(pose.shift))
        self.cos, self.sin, self.w, self.h = np.cos(turn), np.sin(turn), width, height

    def place(self, points: Array, depth: float | None) -> list[float]:
        """Return image coordinates x, y, x, y ...; depth: height above the head (an ellipsoid); None: do not turn."""
        if depth is not None:
            x, y = points[:, 0], points[:, 1]
            z = np.sqrt(np.maximum(1 - (x / self.w) ** 2 - (y / self.h) ** 2, 0.04)) * self.w * 0.8 + depth
            points = np.stack([x * self.cos + z * self.sin, y], axis=1)
        coordinates: list[float] = (points @ self.matrix + self.origin).ravel().tolist()
        return coordinates

    def fill(self, points: Array, colour: Array, depth: float | None = None) -> None:
        self.draw.polygon(self.place(points, depth), fill=_rgb(colour))

    def line(self, points: Any, colour: Array, width: float, depth: float = 0.0) -> None:
        points = np.asarray(points, float)
        self.draw.line(self.place(points, depth), fill=_rgb(colour), width=max(1, round(width * self.scale)))


def _rgb(colour: Array) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, int(c))) for c in colour)
    return red, green, blue


def draw(who: Person, how: Pose, rng: np.random.Generator, size: int = 64) -> Array:
    """Return an image of Person `who` in Pose `how`, uint8 (size, size, 3); light, blur and noise come from `rng`."""

    def cue(spread: float = 1.0) -> float:
        return min(1.0, max(0.0, who.age + CUE_NOISE * spread * rng.standard_normal()))

    canvas = _background(rng, size * SUPERSAMPLE)
    grow = min(1.0, cue() / 0.45)  # 1 for an adult: the head is longer, the eyes are smaller and higher
    baby = max(0.0, 1 - cue() / 0.13)
    w = 0.66 - 0.06 * grow + who.width
    h = 0.66 + 0.15 * grow + who.height
    pen = _Pen(canvas, how, w, h)
    aged = cue()
    skin = who.skin * (1 - 0.12 * aged) + np.array([12, 4, -6]) * aged
    grey = min(1.0, max(0.0, (cue(1.5) - 0.55) * 2.5))
    hair = who.hair * (1 - grey) + np.array([214, 213, 210]) * grey
    bald = who.balding * min(0.6, max(0.0, (cue(1.5) - 0.45) * 1.3))
    line = -h * (0.60 + 0.32 * bald - who.fringe * (1 - bald) + 0.10 * baby)
    _head(pen, who, skin, hair, grow, bald, baby, line, cue)
    _wrinkles(pen, skin, line, who.beard, cue, rng)
    _nose_and_mouth(pen, who, skin, hair, grow, cue, rng)
    _eyes(pen, who, skin, hair * (1 - 0.25 * (1 - grey)), grow, cue, rng)
    return _photograph(canvas, how, w, h, rng, size)


def _background(rng: np.random.Generator, side: int) -> Image.Image:
    """Return a blurred room: 4 x 4 coloured patches, enlarged to the image, and up to four shapes in front of them."""
    base = rng.uniform(40, 215, 3)
    patches = np.clip(base + rng.normal(0, 38, (4, 4, 1)) + rng.normal(0, 14, (4, 4, 3)), 0, 255).astype(np.uint8)
    canvas = Image.fromarray(patches).resize((side, side), Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(0, 5)):
        x, y, a, b = (rng.uniform([0, 0, 0.05, 0.05], [1, 1, 0.3, 0.3]) * side).tolist()
        shape = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        shape([x - a, y - b, x + a, y + b], fill=_rgb(base + rng.normal(0, 50, 3)))
    return canvas


def _head(
    pen: _Pen, who: Person, skin: Array, hair: Array, grow: float, bald: float, baby: float, line: float, cue: Cue
) -> None:  # fmt: skip
    """Draw long hair, shirt, neck, ears, face, hair and beard; `line` is the height of the hair line."""
    w, h = pen.w, pen.h
    shadow, scalp = skin * 0.78, hair * (1 - 0.75 * baby) + skin * 0.75 * baby
    if who.long_hair:
        fall = h * who.long_hair
        back = OUTLINE * [w * 1.2, h * 1.08]
        pen.fill(np.where(back[:, 1:] > 0, back * [1, 0] + [0, fall], back), hair * 0.82)
    pen.fill(CIRCLE * [0.95, 0.5] + [0, 1.32], who.shirt)
    pen.fill(np.array([[-0.5, 0.4], [0.5, 0.4], [0.55, 1.0], [0, 1.12], [-0.55, 1.0]]) * [w, 1], shadow)
    for side in (-1, 1):
        pen.fill(CIRCLE * [0.10 * w + 0.02, 0.16 * h] + [side * w * 1.0, 0.06 * h], skin * 0.88)
    if bald < 0.25:
        pen.fill(CIRCLE * [w * 1.07, h * 0.85] + [0, -h * (0.26 - 0.10 * baby)], scalp)
    jowl = min(1.0, max(0.0, (cue() - 0.6) * 2))
    taper = 0.06 + 0.20 * grow - 0.08 * jowl
    face = OUTLINE * [w, h]
    face[:, 0] *= 1 - taper * np.maximum(OUTLINE[:, 1], 0) ** 2
    pen.fill(face, skin)
    for side in (-1, 1):
        blush = CIRCLE * [0.22 * w, 0.16 * h] + [side * 0.52 * w, 0.30 * h]
        pen.fill(blush, skin * (1 - np.array([-0.02, 0.09, 0.08]) * (1 - 0.8 * grow)), depth=0)
    bow = 1 - (HAIR_LINE / 0.97) ** 2
    temples = np.abs(HAIR_LINE) ** 4 * 0.55 * h * (1 - 0.4 * baby)
    heights = line + temples + bald * h * 0.25 * (np.abs(HAIR_LINE) ** 2 - 0.25 * bow)
    edge = np.stack([HAIR_LINE * w, np.maximum(heights, -h * 0.99)], axis=1)
    crown = 1.09 - 0.09 * min(1.0, bald * 2) - 0.06 * baby
    pen.fill(np.concatenate([CAP * [w * 1.06, h * crown], edge]), scalp)
    if who.beard:
        outer = CHIN * [w, h * 1.02]
        outer[:, 0] *= 1 - taper * np.maximum(CHIN[:, 1], 0) ** 2
        inner = CHIN[::-1] * [w * 0.74, h * 0.46] + [0, h * 0.06]
        pen.fill(np.concatenate([outer, inner]), hair * 0.7 + skin * 0.3)


def _wrinkles(pen: _Pen, skin: Array, line: float, beard: bool, cue: Cue, rng: np.random.Generator) -> None:
    """Draw wrinkles on the forehead, beside the mouth and on the chin."""
    w, h = pen.w, pen.h
    for k in range(round(5 * max(0.0, (cue() - 0.4) * 1.8))):
        y, bend = line + h * (0.10 + 0.085 * k), rng.normal(0, 0.02)
        pen.line([[-0.52 * w, y + bend], [0, y - 0.02], [0.52 * w, y + bend]], skin * 0.78, 0.016)
    fold = min(1.0, max(0.0, (cue() - 0.3) * 1.6))
    chin = min(1.0, max(0.0, (cue() - 0.5) * 1.6))
    for side in (-1, 1):
        smile = [[0.22, 0.27], [0.36, 0.40], [0.43, 0.58]]
        pen.line(np.array(smile) * [side * w, h], skin * (1 - 0.36 * fold), 0.03)
        if not beard:
            pen.line(np.array([[0.38, 0.66], [0.36, 0.80]]) * [side * w, h], skin * (1 - 0.30 * chin), 0.022)
    if not beard and chin > 0.2:
        pen.line(np.array([[-0.2, 0.80], [0, 0.83], [0.2, 0.80]]) * [w, h], skin * (1 - 0.25 * chin), 0.016)


def _nose_and_mouth(
    pen: _Pen, who: Person, skin: Array, hair: Array, grow: float, cue: Cue, rng: np.random.Generator
) -> None:
    w, h = pen.w, pen.h
    tip, wide = h * (0.20 + 0.13 * grow), w * (0.10 + 0.07 * grow) * who.nose
    pen.fill(CIRCLE * [wide, 0.055 * h] + [0, tip], skin * 0.93, depth=0.06)
    ridge = [[wide * 0.6, tip - 0.24 * h], [wide * 0.75, tip - 0.06 * h]]
    pen.line(ridge, skin * (0.92 - 0.08 * grow), 0.03, depth=0.05)
    for side in (-1, 1):
        pen.fill(CIRCLE * [wide * 0.24, 0.018 * h] + [side * wide * 0.5, tip + 0.03 * h], skin * 0.55, depth=0.06)
    y, half = h * (0.60 + 0.01 * grow), w * who.mouth
    thick = 0.065 - 0.034 * cue()
    bend = rng.normal(0.02, 0.035)  # a smile or a frown
    x = np.linspace(-1, 1, 9)
    between = np.stack([half * x, y - bend * x**2 + bend * 0.4], axis=1)
    bow = (1 - x**2)[::-1, None]
    upper, lower = between[::-1] - [0, thick] * bow, between[::-1] + [0, 1.25 * thick] * bow
    lips = skin * [0.86, 0.58, 0.58]
    pen.fill(np.concatenate([between, upper]), lips * 0.92, depth=0.02)
    pen.fill(np.concatenate([between, lower]), lips * 1.06, depth=0.02)
    pen.line(between, lips * 0.6, 0.02, depth=0.02)
    if rng.random() < 0.25 and bend > 0:
        pen.line(between[2:-2], TEETH, 0.035, depth=0.02)
    if who.beard:
        pen.line(between * [1.25, 1] - [0, thick + 0.05], hair * 0.75 + skin * 0.25, 0.07, depth=0.02)


def _eyes(pen: _Pen, who: Person, skin: Array, brow: Array, grow: float, cue: Cue, rng: np.random.Generator) -> None:
    """Draw eyes, lids, brows, the small wrinkles beside the eyes, and glasses."""
    w, h = pen.w, pen.h
    y, r = -h * (0.12 * grow - 0.10 * (1 - grow)), 0.104 - 0.040 * grow + who.eye
    gaze, hang = rng.normal(0, 0.25) * r, min(1.0, max(0.0, (cue() - 0.4) * 2))
    for side in (-1, 1):
        at = np.array([side * w * 0.45, y])
        sag = min(1.0, max(0.0, (cue() - 0.4) * 2))
        pen.line(BELOW_EYE * [1.45 * r, (1.7 + sag) * r] + at, skin * (1 - 0.32 * sag), 0.03)
        pen.fill(CIRCLE * [1.6 * r, 1.25 * r] + at, skin * 0.90, depth=0)
        pen.fill(CIRCLE * [1.4 * r, r] + at, EYE_WHITE, depth=0)
        pen.fill(CIRCLE * 0.82 * r + at + [gaze, 0], who.iris, depth=0)
        pen.fill(CIRCLE * 0.42 * r + at + [gaze, 0], PUPIL, depth=0)
        pen.fill(CIRCLE * 0.20 * r + at + [gaze - 0.3 * r, -0.35 * r], GLINT, depth=0)
        lid = HALF_CIRCLE * [1.5 * r, (1.02 - 0.35 * hang) * r] + at
        pen.fill(np.concatenate([lid, (HALF_CIRCLE * [1.6 * r, 1.4 * r] + at)[::-1]]), skin * 0.92, depth=0)
        pen.line(lid, skin * 0.42, 0.025)
        arch = np.array([[-1.5, -1.95], [0.2, -2.25], [1.7, -1.8]])
        pen.line(arch * [side * r, r] + at, brow * 0.85, 0.02 + 0.035 * grow)
        for k in range(round(3 * max(0.0, (cue() - 0.45) * 2))):
            feet = np.array([[1.8, 0.5 * (k - 1)], [2.7, k - 1.0]])
            pen.line(feet * [side * r, r] + at, skin * 0.74, 0.016)
    if who.glasses:
        for side in (-1, 1):
            ring = CIRCLE[np.arange(len(CIRCLE) + 1) % len(CIRCLE)] * [0.30 * w, 0.24 * w] + [side * w * 0.45, y]
            pen.line(ring, FRAME, 0.025, depth=0.04)
        pen.line([[-0.16 * w, y], [0.16 * w, y]], FRAME, 0.03, depth=0.06)


def _photograph(canvas: Image.Image, how: Pose, w: float, h: float, rng: np.random.Generator, size: int) -> Array:
    """Return the drawing as a photograph: light from one side, shade towards the edge of the head, blur, noise."""
    image = canvas.resize((size, size), Image.Resampling.BOX)
    image = image.filter(ImageFilter.BoxBlur(float(rng.uniform(0.0, 0.8)) * size / 128))
    g = np.linspace(-1, 1, size, dtype=np.float32)
    lx, ly = rng.normal(0, 0.18, 2).tolist()
    x, y = (g - how.shift[0]) / np.float32(1.15 * w), (g - how.shift[1]) / np.float32(1.15 * h)
    round_ = np.minimum(np.square(x)[None, :] + np.square(y)[:, None], 1.0)
    light = rng.uniform(0.72, 1.2) * (1.06 - 0.24 * round_ * round_ + lx * g[None, :] + ly * g[:, None])
    pixels: Array = np.asarray(image, np.float32) * light[:, :, None].astype(np.float32)
    pixels += rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(2, 8))
    return np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)
