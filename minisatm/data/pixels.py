"""Decoding and resizing with Pillow, in one place."""

import numpy as np

from ..errors import InputError


def read_image(path, size=None):
    """Decode an image file to RGB: uint8 (h, w, 3).

    With `size`, a large JPEG is decoded at the smallest of its built-in scales that still has `size` pixels each way,
    several times faster. Raises InputError naming the file when it does not decode.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if size is not None:
                image.draft("RGB", (size, size))
            if image.mode[0] in "IF":
                raise ValueError(f"{image.mode}: more than eight bits a channel")
            if image.mode in ("P", "LA", "RGBA", "PA"):
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise InputError(f"{path} is gone since the data was listed: put it back, or start again without it") from None
    except Exception as problem:  # whatever a damaged file makes one of Pillow's readers trip over
        raise InputError(f"{path} does not decode ({problem}): delete it or fetch it again") from None


def fit(pixels, size):
    """Bring uint8 (h, w, channels) to (size, size, channels).

    A square grey image up to an eighth smaller is padded with zeros all around (MNIST's 28 in 32 keeps its pixels
    exactly); anything else is resized, antialiased bilinear, not keeping its aspect.
    """
    h, w = pixels.shape[:2]
    if h == w == size:
        return pixels
    grey = pixels.shape[2] == 1
    if grey and h == w and size * 7 <= h * 8 and h < size:
        before = (size - h) // 2
        after = size - h - before
        return np.pad(pixels, ((before, after), (before, after), (0, 0)))
    from PIL import Image

    image = Image.fromarray(pixels[:, :, 0] if grey else pixels).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)[:, :, None] if grey else np.asarray(image)
