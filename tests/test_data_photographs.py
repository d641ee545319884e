"""Photographs of every kind: how they were held, what shines through, which formats are opened, and how large."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from minisatm.data.pixels import MOST_PIXELS, decode, fit, read_image
from minisatm.errors import InputError

# Four colours in the corners, far apart: they survive JPEG.
CORNERS = np.array([[[250, 10, 10], [10, 250, 10]], [[10, 10, 250], [240, 240, 240]]], np.uint8)
UPRIGHT = CORNERS.repeat(48, axis=0).repeat(32, axis=1)  # 96 high, 64 wide
# The stored picture for each EXIF orientation, from its definition: which side of the scene row 0 and column 0 are.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: UPRIGHT.transpose(1, 0, 2)[::-1],
    7: UPRIGHT.transpose(1, 0, 2)[::-1, ::-1],
    8: UPRIGHT.transpose(1, 0, 2)[:, ::-1],
}


def exif(orientation):
    held = Image.Exif()
    held[0x0112] = orientation
    return held


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "lzw.tif"])
def test_pictures_are_turned_upright_once(tmp_path, orientation, suffix):
    path = tmp_path / f"x.{suffix}"
    options = {"lzw.tif": dict(compression="tiff_lzw"), "webp": dict(lossless=True)}.get(suffix, {})
    Image.fromarray(np.ascontiguousarray(STORED[orientation])).save(path, exif=exif(orientation), **options)
    image = read_image(path)
    assert image.shape == (96, 64, 3)
    assert np.abs(image[24::48, 16::32].astype(int) - CORNERS).max() < 12
    near = read_image(path, 24)
    assert np.abs(fit(near, 24)[5::12, 5::12].astype(int) - CORNERS).max() < 40


@pytest.mark.parametrize(
    "data", [b"Exif\0\0nonsense", exif(0).tobytes(), exif(9).tobytes(), b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
def test_exif_data_that_says_nothing_leaves_the_picture_as_it_is(tmp_path, data):
    Image.fromarray(UPRIGHT).save(tmp_path / "x.jpg", exif=data)
    assert read_image(tmp_path / "x.jpg").shape == (96, 64, 3)


# --- transparency and depth


def png(width, depth, kind, row, *chunks):
    """A PNG of one row, written by hand: Pillow's writer would choose the depth itself."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def key(*values):
    return b"tRNS", struct.pack(f">{len(values)}H", *values)


COLOURS = (b"PLTE", bytes([9, 8, 7, 50, 60, 70, 1, 2, 3]))
WHITE = [255] * 3


@pytest.mark.parametrize(
    "data, expected",
    [
        pytest.param(png(2, 1, 0, b"\x40", key(0)), [255, 255], id="1 bit, black hidden"),
        pytest.param(png(2, 1, 0, b"\x40", key(1)), [0, 255], id="1 bit, white hidden"),
        pytest.param(png(4, 2, 0, b"\x1b", key(1)), [0, 255, 170, 255], id="2 bits"),
        pytest.param(png(2, 4, 0, b"\x3a", key(3)), [255, 170], id="4 bits"),
        pytest.param(png(3, 8, 0, b"\x00\x07\xff", key(7)), [0, 255, 255], id="8 bits"),
        pytest.param(png(2, 16, 0, struct.pack(">2H", 700, 701), key(700)), [255, 3], id="16 bits"),
        pytest.param(png(2, 8, 2, bytes([1, 2, 3, 1, 2, 4]), key(1, 2, 3)), [WHITE, [1, 2, 4]], id="colour"),
        pytest.param(png(2, 16, 2, struct.pack(">6H", 700, 800, 900, 257, 514, 771), key(700, 800, 900)),
                     [WHITE, [1, 2, 3]], id="colour of 16 bits"),
        pytest.param(png(3, 8, 3, b"\0\1\2", COLOURS, (b"tRNS", b"\xff\0")),
                     [[9, 8, 7], WHITE, [1, 2, 3]], id="palette"),
        pytest.param(png(2, 8, 3, b"\0\1", COLOURS, (b"tRNS", b"\x80\xff")),
                     [[132, 131, 131], [50, 60, 70]], id="half"),
        pytest.param(png(2, 1, 3, b"\x40", COLOURS, (b"tRNS", b"\0")), [WHITE, [50, 60, 70]], id="palette of 1 bit"),
        pytest.param(png(3, 8, 4, bytes([40, 255, 40, 0, 0, 128])), [40, 255, 127], id="grey and alpha"),
        pytest.param(png(1, 16, 4, struct.pack(">2H", 257, 0)), [255], id="grey and alpha of 16 bits"),
        pytest.param(png(1, 8, 6, bytes([9, 9, 9, 0])), [255], id="colour and alpha"),
        pytest.param(png(3, 16, 0, struct.pack(">3H", 0, 32768, 65535)), [0, 128, 255], id="16 bits, opaque"),
    ],
)  # fmt: skip
def test_a_png_is_laid_on_white(data, expected):
    expected = np.array(expected)
    expected = expected if expected.ndim == 2 else expected[:, None].repeat(3, axis=1)
    np.testing.assert_array_equal(decode(data)[0], expected)


def encoded(image, kind="TIFF", **options):
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()


@pytest.mark.parametrize(
    "image, kind, expected",
    [
        (Image.fromarray(np.array([[0, 257, 65535]], np.uint16)), "TIFF", [0, 1, 255]),
        (Image.fromarray(np.array([[0, 257, 65535]], np.uint16)), "PPM", [0, 1, 255]),
        (Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), "TIFF", [0, 128, 255]),
        (Image.fromarray(np.array([[0, 51.2, 254.6]], np.float32)), "TIFF", [0, 51, 255]),
        (Image.new("CMYK", (1, 1), (255, 0, 0, 0)), "TIFF", [[0, 255, 255]]),
        (Image.new("CMYK", (1, 1), (0, 0, 0, 255)), "TIFF", [[0, 0, 0]]),
        (Image.new("CMYK", (1, 1), (0, 0, 255, 0)), "JPEG", [[255, 255, 0]]),
        (Image.new("1", (1, 1), 1), "BMP", [255]),
        (Image.new("1", (1, 1), 0), "TIFF", [0]),
        (Image.new("LA", (1, 1), (7, 0)), "TIFF", [255]),
        (Image.new("PA", (1, 1), (7, 0)), "TIFF", [255]),
        (Image.new("LA", (1, 1), (7, 255)), "TIFF", [7]),
        (Image.new("RGBA", (1, 1), (7, 8, 9, 0)), "WEBP", [255]),
    ],
)
def test_pillows_other_modes(image, kind, expected):
    expected = np.array(expected)
    expected = expected if expected.ndim == 2 else expected[:, None].repeat(3, axis=1)
    assert np.abs(decode(encoded(image, kind))[0].astype(int) - expected).max() <= (kind == "JPEG")


def test_a_gif_with_a_transparent_colour_and_a_picture_in_several_frames():
    still = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    still.putpalette([9, 8, 7, 50, 60, 70])
    assert decode(encoded(still, "GIF", transparency=0)).tolist() == [[WHITE, [50, 60, 70]]]
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "MPO"):
        first = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
        assert first[0, 0, 0] > 240 and first[0, 0, 2] < 15


@pytest.mark.parametrize("values", [[-1.0, 0.5], [0, 256.0], [0, np.nan], np.array([0, 70000], np.int32)])
def test_grey_values_without_a_known_white_are_refused(tmp_path, values):
    values = np.asarray(values)
    Image.fromarray(values[None].astype(values.dtype if values.dtype.kind == "i" else np.float32)).save(
        tmp_path / "x.tif"
    )
    with pytest.raises(InputError, match="x.tif does not decode .*no known white: save it with 8 or 16 bits"):
        read_image(tmp_path / "x.tif")


# --- formats and sizes


def test_only_known_formats_are_opened_whatever_the_name_says(tmp_path, monkeypatch):
    def started(*_args, **_options):
        raise AssertionError("another program was started")

    for module, name in ((subprocess, "Popen"), (subprocess, "check_call"), (subprocess, "run")):
        monkeypatch.setattr(module, name, started)
    picture = Image.fromarray(UPRIGHT)
    files = {
        "eps": encoded(picture, "EPS"), "pdf": encoded(picture, "PDF"), "ico": encoded(picture, "ICO"),
        "tga": encoded(picture, "TGA"), "jp2": encoded(picture, "JPEG2000"), "pcx": encoded(picture, "PCX"),
        "html": b"<html>", "empty": b"", "svg": b"<svg/>", "ps": b"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / f"{name}.jpg").write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}.jpg does not decode \(it is no JPEG, PNG, .* or PPM file"):
            read_image(tmp_path / f"{name}.jpg")
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"):
        (tmp_path / "x.jpg").write_bytes(encoded(picture, kind))  # the content decides here as well
        assert read_image(tmp_path / "x.jpg").shape == UPRIGHT.shape


@pytest.mark.parametrize("w, h", [(13_000, 10_000), (30_000, 30_000), (2, 2**30)])
@pytest.mark.filterwarnings("error")
def test_a_small_file_that_claims_many_pixels_is_refused(tmp_path, w, h):
    assert w * h > MOST_PIXELS
    data = bytearray(png(1, 8, 0, b"\0\0"))
    data[16:24] = struct.pack(">II", w, h)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "x.png").write_bytes(data)
    bitmap = bytearray(encoded(Image.new("RGB", (1, 1)), "BMP"))
    bitmap[18:26] = struct.pack("<II", w, h)
    (tmp_path / "x.bmp").write_bytes(bitmap)
    (tmp_path / "x.ppm").write_bytes(b"P6 %d %d 255\n" % (w, h))
    for suffix in ("png", "bmp", "ppm"):
        with pytest.raises(
            InputError, match=rf"x.{suffix} has more than 120 million pixels: delete it or fetch it again"
        ):
            read_image(tmp_path / f"x.{suffix}")


@pytest.mark.slow
def test_a_large_photograph_is_read_without_a_warning():
    code = (
        "import sys; sys.path.insert(0, 'tests'); from test_data_photographs import *\n"
        "raw = encoded(Image.new('L', (9500, 9500), 99), 'PNG', compress_level=1)\n"
        "assert decode(raw)[9000, 9000].tolist() == [99] * 3"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
