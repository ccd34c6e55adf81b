"""Augmentation against Pillow and direct formulas."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from train.objectives import augmentation
from train.objectives.augmentation import OPERATIONS, Augmentation, erase, mix, resample, resampling

HEIGHT, WIDTH = 12, 10


def picture(channels: int = 3) -> np.ndarray:
    """Return an image of 256 levels."""
    return np.random.default_rng(0).integers(20, 220, (HEIGHT, WIDTH, channels), dtype=np.uint8)


def as_float(image: np.ndarray) -> jax.Array:
    return jnp.asarray(image, jnp.float32) / 255


def keys(count: int) -> jax.Array:
    return jax.random.split(jax.random.key(0), count)


def many(augment: Augmentation, count: int = 200, channels: int = 3) -> np.ndarray:
    """Return the picture, augmented `count` times, as levels."""
    images = jnp.broadcast_to(as_float(picture(channels)), (count, HEIGHT, WIDTH, channels))
    return np.asarray(jax.jit(augment.__call__)(images, keys(count))) * 255


def test_crops_are_windows_of_the_padded_image():
    padded = np.pad(picture(), [(2, 2), (2, 2), (0, 0)])
    windows = {(i, j): padded[i : i + HEIGHT, j : j + WIDTH] for i in range(5) for j in range(5)}
    found = [place for image in many(Augmentation(crop=2)) for place in windows if np.allclose(image, windows[place], atol=1e-3)]
    assert len(found) == 200
    assert set(found) == set(windows), "every place occurs"


def test_half_of_the_images_are_mirrored():
    images = many(Augmentation(flip=True))
    mirrored = [np.allclose(image, picture()[:, ::-1], atol=1e-3) for image in images]
    unchanged = [np.allclose(image, picture(), atol=1e-3) for image in images]
    assert 70 < sum(mirrored) < 130 and sum(mirrored) + sum(unchanged) == 200


@pytest.mark.parametrize("box", [(0, 0, WIDTH, HEIGHT), (2.5, 1.25, 8.0, 9.5), (0, 3, 5, 12)])
def test_resampling_is_that_of_pillow(box):
    """`box` is left, top, right, bottom."""
    left, top, right, bottom = box
    rows = resampling(HEIGHT, jnp.float32(top), jnp.float32(bottom - top) / HEIGHT)
    columns = resampling(WIDTH, jnp.float32(left), jnp.float32(right - left) / WIDTH)
    found = np.asarray(resample(as_float(picture()), rows, columns)) * 255
    wanted = Image.fromarray(picture()).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, box)
    np.testing.assert_allclose(found, np.asarray(wanted), rtol=0, atol=1)


def test_random_crops_keep_their_share_of_the_area():
    """On an image of two ramps, the range of each tells the sides of the crop."""
    rows, columns = np.mgrid[:64, :64]
    ramps = jnp.asarray(np.stack([rows, columns, columns], -1), jnp.float32)
    augment = Augmentation(resized_crop=0.25)
    images = np.asarray(jax.jit(augment.__call__)(jnp.broadcast_to(ramps, (300, 64, 64, 3)), keys(300)))
    sides = images[..., :2].max((1, 2)) - images[..., :2].min((1, 2)) + 1
    area, ratio = sides.prod(-1) / 64**2, sides[:, 1] / sides[:, 0]
    assert 0.22 < area.min() < 0.3 and 0.9 < area.max() <= 1
    assert abs(area.mean() - 0.625) < 0.05
    assert 0.7 < ratio.min() < 0.85 and 1.2 < ratio.max() < 1.4
    assert images.min() >= 0 and images.max() <= 63, "no pixel from outside"


FACTORS = [0.0, 0.4, 1.0, 1.7]
ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", ENHANCERS)
def test_changes_of_color_are_those_of_pillow(name, factor):
    found = np.asarray(getattr(augmentation, name)(as_float(picture()), jnp.float32(factor))) * 255
    wanted = ENHANCERS[name](Image.fromarray(picture())).enhance(factor)
    np.testing.assert_allclose(found, np.asarray(wanted), rtol=0, atol=1.5)


LEVELS: dict[str, tuple[Callable, Callable]] = {
    "autocontrast": (augmentation.autocontrast, ImageOps.autocontrast),
    "equalize": (augmentation.equalize, ImageOps.equalize),
    "posterize": (lambda x: augmentation.posterize(x, jnp.float32(3)), lambda x: ImageOps.posterize(x, 3)),
    "solarize": (lambda x: augmentation.solarize(x, jnp.float32(100 / 255)), lambda x: ImageOps.solarize(x, 100)),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", LEVELS)
def test_changes_of_levels_are_those_of_pillow(name, channels):
    image = np.random.default_rng(1).integers(30, 200, (40, 40, channels), dtype=np.uint8)
    ours, theirs = LEVELS[name]
    wanted = np.asarray(theirs(Image.fromarray(image.squeeze()))).reshape(image.shape)
    np.testing.assert_allclose(np.asarray(ours(as_float(image))) * 255, wanted, rtol=0, atol=1)


WARPS = {
    "rotate": (lambda x: augmentation.rotate(x, jnp.float32(20)), lambda x: x.rotate(20, Image.Resampling.BILINEAR)),
    "shear": (
        lambda x: augmentation.shear(x, jnp.float32(0.25), 1),
        lambda x: x.transform(x.size, Image.Transform.AFFINE, (1, 0.25, -0.25 * 19.5, 0, 1, 0), Image.Resampling.BILINEAR),
    ),
    "translate": (
        lambda x: augmentation.translate(x, jnp.float32(0.1), 0),
        lambda x: x.transform(x.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, 4), Image.Resampling.BILINEAR),
    ),
}


@pytest.mark.parametrize("name", WARPS)
def test_warps_are_those_of_pillow_away_from_the_border(name):
    rows, columns = np.mgrid[:40, :40]
    image = np.stack([5 * rows, 3 * columns, rows * columns // 8], -1).astype(np.uint8)
    ours, theirs = WARPS[name]
    wanted = np.asarray(theirs(Image.fromarray(image)))[10:-10, 10:-10]
    np.testing.assert_allclose((np.asarray(ours(as_float(image))) * 255)[10:-10, 10:-10], wanted, rtol=0, atol=2.5)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_keeps_the_shape_and_the_range(channels):
    image = as_float(picture(channels))
    for name, change in OPERATIONS.items():
        for level in (-1.0, -0.3, 0.6, 1.0):
            found = np.asarray(change(image, jnp.float32(level)))
            assert found.shape == image.shape and found.min() >= 0 and found.max() <= 1, name
    assert len({image.tobytes() for image in many(Augmentation(operations=2), 60, channels)}) > 40


def test_magnitude_0_changes_less_than_magnitude_10():
    changed = lambda magnitude: np.abs(many(Augmentation(operations=1, magnitude=magnitude)) - picture()).mean()
    assert changed(0.0) < 0.6 * changed(10.0)


def test_erased_rectangles_have_their_share_of_the_area():
    image = jnp.full((32, 32, 3), 2.0)
    found = np.asarray(jax.vmap(lambda key: erase(image, key, 0.5))(keys(400)))
    erased = (found < 2).all(-1)
    share = erased.mean((1, 2))
    assert 150 < (share > 0).sum() < 250
    assert share.max() < 0.36 and 0.08 < share[share > 0].mean() < 0.18, "the border cuts some"
    for mask in erased[share > 0]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1), "a rectangle"


def test_mixup_is_a_weighted_mean_with_the_image_before():
    images = jnp.arange(6.0).reshape(6, 1, 1, 1) * jnp.ones((6, 4, 4, 1))
    found, share = mix(images, keys(6), 0.7, 0.0)
    want = (1 - share) * jnp.arange(6) + share * jnp.roll(jnp.arange(6), 1)
    np.testing.assert_allclose(found, want[:, None, None, None] * np.ones((6, 4, 4, 1)), rtol=1e-6)
    assert len(set(share.tolist())) == 6


def test_the_share_of_cutmix_is_that_of_the_pixels():
    images = jnp.stack([jnp.zeros((16, 16, 3)), jnp.ones((16, 16, 3))] * 50)
    found, share = mix(images, keys(100), 0.0, 1.0)
    other = np.abs(np.asarray(found) - np.asarray(images)).mean((1, 2, 3))
    np.testing.assert_allclose(other, share, rtol=0, atol=1e-6)
    assert set(np.unique(found)) == {0, 1} and 0.15 < other.mean() < 0.5


def test_with_both_each_image_gets_one():
    images = jnp.stack([jnp.zeros((16, 16, 1)), jnp.ones((16, 16, 1))] * 50)
    found, _ = mix(images, keys(100), 5.0, 1.0)
    blended = [(image > 0).all() and (image < 1).all() for image in np.asarray(found)]
    assert 30 < sum(blended) < 70


def test_the_change_of_an_image_depends_on_its_key_only():
    augment = Augmentation(resized_crop=0.5, crop=1, flip=True, rotation=10, color_jitter=0.3, operations=1, erasing=0.5)
    images = jnp.asarray(np.random.default_rng(0).random((8, HEIGHT, WIDTH, 3)), jnp.float32)
    whole = augment(images, keys(8))
    np.testing.assert_allclose(augment(images[3:6], keys(8)[3:6]), whole[3:6], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resized_crop": 0.0}, r"resized_crop must be in \(0, 1\], or None for no crop, not 0.0"),
        ({"crop": -1}, "crop must be 0 or more, not -1"),
        ({"rotation": 181.0}, r"rotation must be in \[0, 180\], not 181.0"),
        ({"magnitude": 11.0}, r"magnitude must be in \[0, 10\], not 11.0"),
        ({"erasing": 2.0}, r"erasing must be in \[0, 1\], not 2.0"),
    ],
)
def test_invalid_fields_are_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**fields)
