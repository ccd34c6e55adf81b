"""Decoding of image files, with the colours and the orientation that image viewers show.

EXIF orientation and the gamma of a PNG are applied. ICC profiles convert colours to
sRGB; as in browsers, a profile that is unreadable or for other pixels (RGB in a grey image) is ignored. Only the first frame of
an animation, or the first page of a file, is decoded.

On request, images of another mode are converted: colours to grey and grey to colours, CMYK to RGB, and transparent pixels are
composited over white.

16-bit integers are divided by 65535. Floats are unchanged, since their range is unknown.
"""

import io
from functools import lru_cache
from typing import Any

import numpy as np

from data.errors import DataError


def pixels(encoded: bytes, shape: tuple[int, int, int], resize: bool, convert: bool) -> np.ndarray:
    """Decode an image file with Pillow to `shape` [H, W, C]: uint8, or float32 for 16-bit and float grey images.

    Raises DataError if it cannot be decoded, or has another size and `resize` is off, or another mode and `convert` is off.
    """
    from PIL import Image, ImageOps

    height, width, channels = shape
    try:
        picture = Image.open(io.BytesIO(encoded))
        found, wanted = _mode(picture), "grey" if channels == 1 else "RGB"
        ImageOps.exif_transpose(picture, in_place=True)
        if picture.mode.startswith(("I", "F")):
            picture = Image.fromarray(_deep(picture))
        else:
            picture = _opaque(picture).convert("L" if channels == 1 else "RGB")
    except Exception as error:  # Pillow's decoders raise various errors
        raise DataError(f"its image cannot be decoded: {str(error)[:100]}") from None
    if found != wanted and not convert:
        raise DataError(f"its image is {found}, not {wanted}; add --data.convert, or change --data.shape")
    if picture.size != (width, height):
        if not resize:
            found = [picture.height, picture.width]
            raise DataError(f"its image is {found}, not {[height, width]}; change --data.shape, or add --data.resize")
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.broadcast_to(np.asarray(picture).reshape(height, width, -1), shape)


def has_more(image: Any) -> bool:
    """Return whether an encoded image, or the file at a path, has more than one frame or page."""
    from PIL import Image

    if not isinstance(image, bytes | str):
        return False
    with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as picture:
        return getattr(picture, "is_animated", False)


def _mode(picture: Any) -> str:
    if picture.has_transparency_data:
        return "transparent"
    if picture.mode.startswith(("1", "L", "I", "F")) and picture.mode != "LAB":
        return "grey"
    return "RGB" if picture.mode in ("P", "YCbCr") else picture.mode


def _deep(picture: Any) -> np.ndarray:
    """Return a grey image of more than 8 bits as float32 [H, W]."""
    from PIL.ExifTags import Base

    values = np.asarray(picture)
    if picture.mode == "F":
        return values
    tags = getattr(picture, "tag_v2", {})  # of TIFF
    if picture.mode == "I" and picture.format not in ("PNG", "PPM"):  # in these two formats, mode I has 16 bits
        raise ValueError("integers of 32 or of signed 16 bits have no known range; convert it to unsigned 16 bits or floats")
    grey = values.astype(np.float32) / (2 ** tags.get(Base.BitsPerSample, (16,))[0] - 1)
    if tags.get(Base.PhotometricInterpretation) == 0:  # white is 0
        grey = 1 - grey
    return np.where(values == picture.info.get("transparency"), np.float32(1), grey ** (_gamma(picture.info) or 1))


def _opaque(picture: Any) -> Any:
    """Return an 8-bit image as L or RGB, in sRGB and composited over white."""
    from PIL import Image, ImageCms

    profile, alpha = picture.info.get("icc_profile"), None
    mode = "L" if picture.mode in ("1", "L", "LA") else "RGB"
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        alpha = picture.getchannel("A")
    if picture.mode != "CMYK":
        picture = picture.convert(mode)
    if gamma := _gamma(picture.info):
        picture = picture.point([round(255 * (level / 255) ** gamma) for level in range(256)] * len(picture.getbands()))
    if profile and (transform := _to_srgb(profile, picture.mode)):
        picture = ImageCms.applyTransform(picture, transform)
    picture = picture.convert("RGB") if picture.mode == "CMYK" else picture
    return Image.composite(picture, Image.new(picture.mode, picture.size, "white"), alpha) if alpha else picture


def _gamma(info: dict) -> float | None:
    """Return the exponent that converts a PNG to the usual gamma of 1/2.2, or None if no conversion is needed."""
    gamma = info.get("gamma")
    is_overridden = "srgb" in info or "icc_profile" in info
    return None if not gamma or is_overridden or abs(2.2 * gamma - 1) < 0.01 else 1 / (2.2 * gamma)


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> Any:
    """Return the transform from an ICC profile to sRGB for pixels of `mode`, or None if the profile is not usable."""
    from PIL import ImageCms

    try:
        return ImageCms.buildTransform(io.BytesIO(profile), ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None
