"""Decode and resize images with Pillow."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from .text import shown

if TYPE_CHECKING:
    from PIL import Image

# A file is opened as one of these by its content, whatever its name: Pillow's other readers are seldom tried, and one
# of them (EPS) starts another program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MOST_PIXELS = 120_000_000  # more than any camera's picture; a file of a few kilobytes can unpack to more
TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
         8: "ROTATE_90"}  # what makes a picture upright, by its EXIF orientation  # fmt: skip
ORIENTATION = 0x0112  # of EXIF


class Unusable(ValueError):
    """An image file that cannot be used; the text goes on after the file's name, like "has no pixels"."""


def read_image(path: str | Path, size: int | None = None) -> np.ndarray:
    """Decode an image file to RGB, upright and laid on white: uint8 (h, w, 3).

    With `size`, a large JPEG is decoded at the smallest of its built-in scales that still has `size` pixels each way,
    several times faster. Raises InputError with the file's name when it cannot be decoded.
    """
    try:
        return decode(path, size)
    except FileNotFoundError:
        raise InputError(f"{shown(path)} was deleted after the data was listed: put it back, or start again.") from None
    except (OSError, Unusable) as problem:
        raise InputError(f"{shown(path)} {fault(problem)}: delete it or fetch it again.") from None


def fault(problem: Exception) -> str:
    """What is wrong with an image file, to be put after its name."""
    return (
        str(problem) if isinstance(problem, Unusable) else f"cannot be read ({getattr(problem, 'strerror', problem)})"
    )


def decode(source: str | Path | bytes, size: int | None = None) -> np.ndarray:
    """`read_image` of a file or of its bytes. Raises OSError where the file cannot be read, else Unusable."""
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream:
        try:
            return _decoded(stream, size)
        except Unusable:
            raise
        except Exception as problem:  # on a damaged file Pillow's readers raise exceptions of many kinds
            raise Unusable(f"does not decode ({shown(problem)})") from None


def _decoded(stream: IO[bytes], size: int | None) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    # Pillow warns of large pictures, where here they are refused.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    too_large = Unusable(f"has more than {MOST_PIXELS // 10**6} million pixels")
    try:
        file = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        names = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise Unusable(f"does not decode (it is no {names} file, whatever its name says)") from None
    except Image.DecompressionBombError:
        raise too_large from None
    if file.width * file.height > MOST_PIXELS:
        raise too_large
    raw = str(file.tile[0][3]) if file.tile else ""  # how the file stores a pixel; forgotten by load()
    if size is not None:
        file.draft("RGB", (size, size))
    file.load()
    return np.array(_upright(_in_colour(file, raw), file))


def _in_colour(image: Image.Image, raw: str) -> Image.Image:
    """The image as RGB; where it is transparent, white shows through."""
    from PIL import Image

    key = image.info.get("transparency")
    hidden = None
    if key is not None and image.mode in ("1", "L", "I", "I;16", "RGB"):  # one colour of these is transparent
        depth = next((bits for mark, bits in (("16", 16), ("L;2", 2), ("L;4", 4)) if mark in raw), 8)
        if image.mode == "RGB":
            key = [value >> (depth - 8) for value in key]  # Pillow keeps the upper byte of 16 bits
        elif image.mode == "1":
            key = bool(key)
        elif depth < 8:
            key *= 255 // (2**depth - 1)
        same = np.asarray(image) == key
        hidden = same.all(axis=2) if image.mode == "RGB" else same
    if image.mode[0] in "IF":
        image = Image.fromarray(_eight_bits(np.asarray(image), image, raw))
    elif image.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if hidden is not None:
        image = Image.fromarray(np.where(hidden[:, :, None], np.uint8(255), np.asarray(image)))
    return image


def _eight_bits(values: np.ndarray, image: Any, raw: str) -> np.ndarray:
    """Grey values of more than eight bits as uint8.

    Whole numbers of 16 bits (or 12) are scaled by their range. Fractions are in [0, 1], as is usual in files, or in
    [0, 255], as Pillow writes them. Other values have no white that is known.
    """
    if image.mode[0] == "I" and ("16" in image.mode + raw or "12" in raw or image.format == "PPM"):
        top = 4095.0 if "12" in raw else 65535.0
    elif image.mode == "F" and np.all((values >= 0) & (values <= 255)):
        top = 255.0 if values.max() > 1 else 1.0
    else:
        raise Unusable("does not decode (its grey values have no known white: save it with 8 or 16 bits)")
    return np.rint(values * (255 / top)).clip(0, 255).astype(np.uint8)


def _upright(image: Image.Image, file: Image.Image) -> Image.Image:
    """The image as its EXIF data says it was held; Pillow turns TIFF by itself."""
    from PIL import Image

    try:
        turn = TURNS.get(file.getexif().get(ORIENTATION, 1)) if file.format != "TIFF" else None
    except Exception:  # EXIF data that is damaged says nothing; the picture itself is whole
        turn = None
    return image.transpose(Image.Transpose[turn]) if turn else image


def fit(pixels: np.ndarray, size: int) -> np.ndarray:
    """Resize uint8 (h, w, channels) to (size, size, channels): the one rule of training, evaluate and classify.

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
