"""Decode and resize images with Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError


def read_image(path: str | Path, size: int | None = None) -> np.ndarray:
    """Decode an image file to RGB: uint8 (h, w, 3).

    With `size`, a large JPEG is decoded at the smallest of its built-in scales that still has `size` pixels each way,
    several times faster. Raises InputError with the file's name when it cannot be decoded.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            image: Image.Image = file
            if size is not None:
                file.draft("RGB", (size, size))
            if image.mode[0] in "IF":
                raise ValueError(f"{image.mode}: more than eight bits a channel")
            if image.mode in ("P", "LA", "RGBA", "PA"):
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"{path} was deleted after the data was listed: put it back, or start again.") from None
    except Exception as problem:  # on a damaged file Pillow's readers raise exceptions of many kinds
        raise InputError(f"{path} does not decode ({problem}): delete it or fetch it again.") from None


def fit(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize uint8 (h, w, channels) to (size, size, channels).

    A square grey image that is at most an eighth smaller is padded with zeros on all sides, so that MNIST's 28 x 28
    keeps its pixels in 32 x 32. Anything else is resized (bilinear, antialiased) without keeping its aspect ratio.
    """
    h, w = pixels.shape[:2]
    if h == w == size:
        return pixels
    grey = pixels.shape[2] == 1
    if grey and h == w and size * 7 <= h * 8 and h < size:
        around = ((size - h) // 2, (size - h + 1) // 2)
        return np.pad(pixels, (around, around, (0, 0)))
    from PIL import Image

    image = Image.fromarray(pixels[:, :, 0] if grey else pixels).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)[:, :, None] if grey else np.asarray(image)
