"""Image files are decoded to the pixels that a viewer shows."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from data.errors import DataError
from data.images import decoding

RAMP = np.arange(0, 256, 4, np.uint8).reshape(8, 8)
WHITE, GREY, BLACK, RED = (255, 255, 255), (128, 128, 128), (0, 0, 0), (255, 0, 0)


def encoded(picture, kind="png", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def decoded(picture, kind="png", channels=3, resize=False, convert=True, size=None, **options):
    width, height = size or picture.size
    return decoding.pixels(encoded(picture, kind, **options), (height, width, channels), resize, convert)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    picture = Image.new("RGB", (32, 16))
    picture.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = picture.copy()
    turned.getexif()[0x0112] = orientation
    upright = ImageOps.exif_transpose(turned)
    found = decoded(picture, kind, size=upright.size, exif=exif)
    assert np.abs(found.astype(int) - np.asarray(upright)).mean() < 8  # JPEG and WebP are lossy
    reds = [(0, 0), (0, -1), (-1, -1), (-1, 0), (0, 0), (0, -1), (-1, -1), (-1, 0)]
    assert found[reds[orientation - 1]][0] > 200


def test_the_shape_is_that_of_the_upright_image():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (4, 2)), "jpeg", exif=exif)
    assert decoding.pixels(data, (4, 2, 3), False, True).shape == (4, 2, 3)
    with pytest.raises(DataError, match=r"its image is \[4, 2\], not \[2, 4\]"):
        decoding.pixels(data, (2, 4, 3), False, True)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_transparent_pixels_are_composited_over_white(mode, kind):
    picture = Image.new("RGBA", (3, 1))
    picture.putdata([(0, 0, 0, 0), (0, 0, 0, 127), (0, 0, 0, 255)])
    found = decoded(picture.convert(mode), kind)
    assert found.tolist() == [[[255] * 3, [128] * 3, [0] * 3]]
    assert decoded(picture.convert(mode), kind, channels=1).tolist() == [[[255], [128], [0]]]


def test_colours_that_a_file_marks_as_transparent_become_white():
    palette = Image.new("P", (3, 1))
    palette.putpalette([*RED, *BLACK, *GREY])
    palette.putdata([0, 1, 2])
    assert decoded(palette).tolist() == [[list(RED), list(BLACK), list(GREY)]]
    for options in ({"transparency": 1}, {"transparency": b"\xff\x00\xff"}):
        assert decoded(palette, **options).tolist() == [[list(RED), list(WHITE), list(GREY)]]
    assert decoded(palette, "gif", transparency=1).tolist() == [[list(RED), list(WHITE), list(GREY)]]
    colours = palette.convert("RGB")
    assert decoded(colours, transparency=RED).tolist() == [[list(WHITE), list(BLACK), list(GREY)]]
    assert decoded(Image.fromarray(RAMP), channels=1, transparency=4)[0, :3, 0].tolist() == [0, 255, 8]
    deep = Image.fromarray(np.array([[0, 300, 65535]], np.uint16))
    assert np.allclose(decoded(deep, channels=1, transparency=300)[0, :, 0], [0, 1, 1])


@pytest.mark.parametrize("kind", ["png", "tiff", "bmp", "gif"])
def test_one_bit_images_are_black_and_white(kind):
    picture = Image.fromarray(RAMP).point(lambda value: value > 100 and 255).convert("1")
    assert np.array_equal(decoded(picture, kind, channels=1)[..., 0], np.where(RAMP > 100, 255, 0))


@pytest.mark.parametrize(("kind", "options"), [("jpeg", {"quality": 100}), ("tiff", {})])
def test_cmyk_is_converted_to_rgb(kind, options):
    picture = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(decoded(picture, kind, **options).astype(int) - RED).max() <= 2


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_16_bit_grey_is_divided_by_65535(kind):
    values = np.array([[0, 1, 256], [32768, 65534, 65535]], np.uint16)
    found = decoded(Image.fromarray(values), kind, channels=1)
    assert found.dtype == np.float32 and np.allclose(found[..., 0] * 65535, values, atol=0.01)
    assert np.array_equal(decoded(Image.fromarray(values), kind), np.repeat(found, 3, axis=2))
    assert np.allclose(decoded(Image.fromarray(values[:, :2]), kind, size=(1, 1), resize=True) * 65535, 24575.75, atol=0.1)


def test_16_bit_pgm_and_inverted_tiff_are_scaled():
    assert np.allclose(decoding.pixels(b"P5 2 1 65535\n\x00\x00\x80\x00", (1, 2, 1), False, True)[..., 0], [[0, 32768 / 65535]])
    tiff = encoded(Image.fromarray(np.array([[0, 1, 65535]], np.uint16)), "tiff")
    photometric = struct.pack("<HHI", 262, 3, 1)  # 1: black is 0; 0: white is 0
    assert tiff.count(photometric + b"\1") == 1
    inverted = decoding.pixels(tiff.replace(photometric + b"\1", photometric + b"\0"), (1, 3, 1), False, True)
    assert np.allclose(inverted[0, :, 0] * 65535, [65535, 65534, 0], atol=0.01)


def test_12_bit_tiff_is_divided_by_4095():
    tiff = encoded(Image.fromarray(np.array([[0xF0FF, 0]], np.uint16)), "tiff")  # as 12-bit integers: 0xFFF and 0
    bits = struct.pack("<HHI", 258, 3, 1)
    assert tiff.count(bits + b"\x10") == 1
    assert decoding.pixels(tiff.replace(bits + b"\x10", bits + b"\x0c"), (1, 2, 1), False, True).tolist() == [[[1.0], [0.0]]]


def test_float_tiff_is_unchanged_and_32_bit_integers_are_refused():
    values = np.array([[-1.5, 0, 0.25, 300]], np.float32)
    assert np.array_equal(decoded(Image.fromarray(values), "tiff", channels=1)[..., 0], values)
    with pytest.raises(DataError, match="integers of 32 or of signed 16 bits have no known range; convert it to"):
        decoded(Image.fromarray(np.array([[1, 2]], np.int32)), "tiff")


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff"])
def test_the_first_frame_or_page_is_decoded(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLACK, WHITE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert decoding.has_more(data) and not decoding.has_more(encoded(frames[0], kind))
    assert np.abs(decoding.pixels(data, (4, 4, 3), False, True).astype(int) - RED).max() <= 4  # WebP is lossy


def swapped_profile():
    """Return the sRGB profile with its red and blue primaries exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    entries = {bytes(profile[start : start + 4]): start for start in range(132, 132 + 12 * profile[131], 12)}
    red, blue = (slice(entries[name] + 4, entries[name] + 12) for name in (b"rXYZ", b"bXYZ"))
    profile[red], profile[blue] = profile[blue], profile[red]
    return bytes(profile)


def test_colours_are_converted_to_srgb_by_the_icc_profile():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Image.new("RGB", (2, 2), (200, 100, 30))
    for kind in ("png", "tiff"):
        assert np.abs(decoded(picture, kind, icc_profile=srgb).astype(int) - (200, 100, 30)).max() <= 1
        assert np.abs(decoded(picture, kind, icc_profile=swapped_profile()).astype(int) - (30, 100, 200)).max() <= 1
    picture.putalpha(0)
    assert (decoded(picture, icc_profile=swapped_profile()) == 255).all()


def with_chunk(png, name, content):
    """Insert a chunk before the pixels of a PNG."""
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    place = png.index(b"IDAT") - 4
    return png[:place] + chunk + png[place:]


def test_the_gamma_of_a_png_is_applied():
    linear, usual = (struct.pack(">I", round(gamma * 100_000)) for gamma in (1, 1 / 2.2))
    expected = (64 / 255) ** (1 / 2.2)
    for channels, picture in ((3, Image.new("RGB", (1, 1), (64, 0, 255))), (1, Image.new("L", (1, 1), 64))):
        png, shape = encoded(picture), (1, 1, channels)
        assert abs(decoding.pixels(with_chunk(png, b"gAMA", linear), shape, False, True)[0, 0, 0] / 255 - expected) < 1 / 255
        assert decoding.pixels(with_chunk(png, b"gAMA", usual), shape, False, True)[0, 0, 0] == 64
        srgb = with_chunk(with_chunk(png, b"gAMA", linear), b"sRGB", b"\0")
        assert decoding.pixels(srgb, shape, False, True)[0, 0, 0] == 64
    deep = encoded(Image.fromarray(np.array([[64 * 257]], np.uint16)))
    assert np.allclose(decoding.pixels(with_chunk(deep, b"gAMA", linear), (1, 1, 1), False, True), expected)


def test_an_unusable_icc_profile_is_ignored():
    assert (decoded(Image.new("RGB", (2, 2), RED), icc_profile=b"nothing") == RED).all()
    assert (decoded(Image.new("L", (2, 2), 77), channels=1, icc_profile=swapped_profile()) == 77).all()


@pytest.mark.parametrize(
    ("mode", "channels", "message"),
    [
        ("RGB", 1, "its image is RGB, not grey; add --data.convert, or change --data.shape"),
        ("L", 3, "its image is grey, not RGB"),
        ("RGBA", 3, "its image is transparent, not RGB"),
        ("LA", 1, "its image is transparent, not grey"),
        ("CMYK", 3, "its image is CMYK, not RGB"),
        ("I;16", 3, "its image is grey, not RGB"),
    ],
)
def test_images_of_another_mode_are_refused_unless_they_are_to_be_converted(mode, channels, message):
    kind = "tiff" if mode == "CMYK" else "png"
    with pytest.raises(DataError, match=message):
        decoded(Image.new(mode, (2, 2)), kind, channels, convert=False)
    assert decoded(Image.new(mode, (2, 2)), kind, channels).shape == (2, 2, channels)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("I;16", 1), ("RGB", 3), ("P", 3)])
def test_images_of_the_wanted_mode_need_no_conversion(mode, channels):
    assert decoded(Image.new(mode, (2, 2)), "png", channels, convert=False).shape == (2, 2, channels)
