"""Random changes of training images, computed on the device, for each example from random numbers of its own.

Shapes: B batch, H height, W width, C channels, T rows or columns of the new image, S those of the old one.
Images are floats in [0, 1], and are changed in float32 at least. Integer operations, such as `equalize`, round them to 256
levels.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from fmodels.axes import constrain

GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue in the luma of ITU-R BT.601, as in Pillow


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The operations are applied in the order of the fields. By default, there are none."""

    resized_crop: float | None = None
    "cut out a random rectangle with at least this share of the area, and resize it (Szegedy et al. 2015, §6); None: off"
    crop: int = 0
    "pad with this many black pixels on each side, and cut out a random image of the original size"
    flip: bool = False
    "mirror half of the images, left to right"
    rotation: float = 0.0
    "largest angle of a random rotation, in degrees"
    color_jitter: float = 0.0
    "change brightness, contrast and saturation by random factors between 1 minus and 1 plus this number"
    operations: int = 0
    "number of random operations on each image (RandAugment: Cubuk et al. 2020)"
    magnitude: float = 9.0
    "strength of these operations, 0 to 10"
    erasing: float = 0.0
    "probability of erasing a random rectangle of 2 % to 33 % of the area (Zhong et al. 2020)"

    def __post_init__(self):
        if self.resized_crop is not None and not 0 < self.resized_crop <= 1:
            raise ValueError(f"resized_crop must be in (0, 1], or None for no crop, not {self.resized_crop}")
        for name in ("crop", "operations"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        for name, limit in (("rotation", 180), ("color_jitter", 1), ("magnitude", 10), ("erasing", 1)):
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"{name} must be in [0, {limit}], not {getattr(self, name)}")

    @property
    def is_on(self) -> bool:
        """Whether it changes images."""
        return any(getattr(self, f.name) != f.default for f in fields(self) if f.name != "magnitude")

    def __call__(self, image_BHWC: jax.Array, key_B: jax.Array) -> jax.Array:
        """Return changed images [B, H, W, C]. `key_B` has a random key for each."""
        if not self.is_on:
            return image_BHWC
        changed_BHWC = jax.vmap(self.change)(precise(image_BHWC), key_B)
        return constrain(changed_BHWC.astype(image_BHWC.dtype), "batch", None, None, None)

    def change(self, image_HWC: jax.Array, key: jax.Array) -> jax.Array:
        frame, rotation, color, *operations, erasing = jax.random.split(key, 4 + self.operations)
        if self.resized_crop is not None or self.crop or self.flip:
            image_HWC = self.reframe(image_HWC, frame)
        if self.rotation:
            image_HWC = rotate(image_HWC, jax.random.uniform(rotation, (), minval=-self.rotation, maxval=self.rotation))
        if self.color_jitter:
            low, high = 1 - self.color_jitter, 1 + self.color_jitter
            for change, factor in zip(
                (brightness, contrast, saturation), jax.random.uniform(color, (3,), minval=low, maxval=high), strict=True
            ):
                image_HWC = change(image_HWC, factor)
        for key in operations:
            which, sign = jax.random.split(key)
            branches = [partial(_apply, change) for change in OPERATIONS.values()]
            level = self.magnitude / 10 * jnp.where(jax.random.bernoulli(sign), 1, -1)
            image_HWC = jax.lax.switch(jax.random.randint(which, (), 0, len(branches)), branches, image_HWC, level)
        return erase(image_HWC, erasing, self.erasing) if self.erasing else image_HWC

    def reframe(self, image_HWC: jax.Array, key: jax.Array) -> jax.Array:
        """Crop and flip: one linear map of the rows, and one of the columns."""
        height, width, _ = image_HWC.shape
        area, ratio, top, left, down, right, mirror = jax.random.uniform(key, (7,))
        tall, wide = jnp.float32(height), jnp.float32(width)
        if self.resized_crop is not None:
            area = self.resized_crop + area * (1 - self.resized_crop)
            ratio = (4 / 3) ** (2 * ratio - 1)  # log-uniform between 3/4 and 4/3
            tall, wide = height * jnp.minimum(jnp.sqrt(area / ratio), 1), width * jnp.minimum(jnp.sqrt(area * ratio), 1)
        first_row, first_column = top * (height - tall), left * (width - wide)
        shift = lambda x: jnp.floor(x * (2 * self.crop + 1)) - self.crop
        rows = resampling(height, first_row + shift(down), tall / height)
        columns = resampling(width, first_column + shift(right), wide / width)
        if self.flip:
            columns = jnp.where(mirror < 0.5, columns[::-1], columns)
        return resample(image_HWC, rows, columns)


def precise(image: jax.Array) -> jax.Array:
    return image.astype(jnp.promote_types(image.dtype, jnp.float32))


def _apply(change: Callable, image_HWC: jax.Array, level: jax.Array) -> jax.Array:
    return change(image_HWC, level).astype(image_HWC.dtype)


def resampling(size: int, first: jax.Array, step: jax.Array) -> jax.Array:
    """Return the weights [T, S] of bilinear interpolation: output pixel t covers the input from `first` + t `step` on.

    Weights outside of the image are 0."""
    place_T = first + (jnp.arange(size) + 0.5) * step - 0.5
    inside_T = (place_T > -0.5 - 1e-3) & (place_T < size - 0.5 + 1e-3)
    place_T = jnp.clip(place_T, 0, size - 1)
    weights_TS = jnp.maximum(0, 1 - jnp.abs(place_T[:, None] - jnp.arange(size)))
    return weights_TS * inside_T[:, None]


def resample(image_HWC: jax.Array, rows_TS: jax.Array, columns_TS: jax.Array) -> jax.Array:
    highest = jax.lax.Precision.HIGHEST  # so that pixels that only move keep their values on all platforms
    return jnp.einsum("ih,hwc,jw->ijc", rows_TS, image_HWC, columns_TS, precision=highest)


def warp(image_HWC: jax.Array, matrix: jax.Array, shift: jax.Array | float = 0.0) -> jax.Array:
    """Return the image whose pixel at p, relative to the centre, is that of the old one at `matrix` p + `shift`; 0 outside."""
    height, width, channels = image_HWC.shape
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
    place_2HW = jnp.mgrid[:height, :width] - centre
    place_2HW = jnp.einsum("ij,jhw->ihw", matrix, place_2HW, precision=jax.lax.Precision.HIGHEST)
    place_2HW += jnp.broadcast_to(shift, (2,))[:, None, None] + centre
    layers = [map_coordinates(image_HWC[..., c], tuple(place_2HW), order=1, mode="constant") for c in range(channels)]
    return jnp.stack(layers, axis=-1)


def rotate(image_HWC: jax.Array, degrees: jax.Array) -> jax.Array:
    """Rotate counterclockwise around the centre."""
    sine, cosine = jnp.sin(jnp.deg2rad(degrees)), jnp.cos(jnp.deg2rad(degrees))
    return warp(image_HWC, jnp.array([[cosine, sine], [-sine, cosine]]))


def blend(first_HWC: jax.Array, second_HWC: jax.Array, factor: jax.Array) -> jax.Array:
    return jnp.clip(first_HWC + factor * (second_HWC - first_HWC), 0, 1)


def grey(image_HWC: jax.Array) -> jax.Array:
    return image_HWC @ jnp.array(GREY)[:, None] if image_HWC.shape[-1] == 3 else image_HWC


def brightness(image_HWC: jax.Array, factor: jax.Array) -> jax.Array:
    return blend(jnp.zeros(()), image_HWC, factor)


def contrast(image_HWC: jax.Array, factor: jax.Array) -> jax.Array:
    return blend(grey(image_HWC).mean(), image_HWC, factor)


def saturation(image_HWC: jax.Array, factor: jax.Array) -> jax.Array:
    return blend(grey(image_HWC), image_HWC, factor)


def sharpness(image_HWC: jax.Array, factor: jax.Array) -> jax.Array:
    """Blend with a smoothed image, except at the border."""
    height, width, _ = image_HWC.shape
    parts = [(i, j, 5 if i == j == 1 else 1) for i in range(3) for j in range(3)]
    inner = sum(weight * image_HWC[i : height - 2 + i, j : width - 2 + j] for i, j, weight in parts) / 13
    return blend(image_HWC.at[1:-1, 1:-1].set(inner), image_HWC, factor)


def levels(image_HWC: jax.Array) -> jax.Array:
    """Return the pixels as integers 0 to 255."""
    return jnp.round(image_HWC * 255).astype(jnp.int32)


def posterize(image_HWC: jax.Array, bits: jax.Array) -> jax.Array:
    """Keep the upper `bits` bits of 8."""
    step = 2 ** (8 - bits.astype(jnp.int32))
    return levels(image_HWC) // step * step / 255


def solarize(image_HWC: jax.Array, threshold: jax.Array) -> jax.Array:
    """Invert the pixels from the threshold on."""
    return jnp.where(image_HWC < threshold, image_HWC, 1 - image_HWC)


def autocontrast(image_HWC: jax.Array) -> jax.Array:
    """Stretch each channel to [0, 1]."""
    low, high = image_HWC.min((0, 1)), image_HWC.max((0, 1))
    return jnp.where(high > low, (image_HWC - low) / jnp.maximum(high - low, 1e-6), image_HWC)


def equalize(image_HWC: jax.Array) -> jax.Array:
    """Change the levels of each channel so that their histogram is nearly flat, as `PIL.ImageOps.equalize` does."""

    def channel(level_N: jax.Array) -> jax.Array:
        counts = jnp.zeros(256, jnp.int32).at[level_N].add(1)
        last = counts[255 - jnp.argmax(counts[::-1] > 0)]
        step = (len(level_N) - last) // 255
        table = jnp.clip((step // 2 + jnp.cumsum(counts) - counts) // jnp.maximum(step, 1), 0, 255)
        return jnp.where(step > 0, table[level_N], level_N)

    level_NC = levels(image_HWC).reshape(-1, image_HWC.shape[-1])
    return jax.vmap(channel, 1, 1)(level_NC).reshape(image_HWC.shape) / 255


def shear(image_HWC: jax.Array, amount: jax.Array, axis: int) -> jax.Array:
    return warp(image_HWC, jnp.eye(2).at[axis, 1 - axis].set(amount))


def translate(image_HWC: jax.Array, share: jax.Array, axis: int) -> jax.Array:
    return warp(image_HWC, jnp.eye(2), jnp.zeros(2).at[axis].set(share * image_HWC.shape[axis]))


# The operations of RandAugment and their strengths (Cubuk et al. 2019, table 6) for a level in [-1, 1].
OPERATIONS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "identity": lambda image, _: image,
    "autocontrast": lambda image, _: autocontrast(image),
    "equalize": lambda image, _: equalize(image),
    "rotate": lambda image, level: rotate(image, 30 * level),
    "solarize": lambda image, level: solarize(image, 1 - jnp.abs(level)),
    "saturation": lambda image, level: saturation(image, 1 + 0.9 * level),
    "posterize": lambda image, level: posterize(image, 8 - jnp.round(4 * jnp.abs(level))),
    "contrast": lambda image, level: contrast(image, 1 + 0.9 * level),
    "brightness": lambda image, level: brightness(image, 1 + 0.9 * level),
    "sharpness": lambda image, level: sharpness(image, 1 + 0.9 * level),
    "shear rows": lambda image, level: shear(image, 0.3 * level, 0),
    "shear columns": lambda image, level: shear(image, 0.3 * level, 1),
    "translate rows": lambda image, level: translate(image, 0.45 * level, 0),
    "translate columns": lambda image, level: translate(image, 0.45 * level, 1),
}


def rectangle(shape: tuple[int, ...], key: jax.Array, area: jax.Array, ratio: jax.Array) -> jax.Array:
    """Return whether each pixel, [H, W, 1], is in a random rectangle with this share of the area and ratio of sides.

    The border may cut it."""
    places = jnp.mgrid[: shape[0], : shape[1]]
    inside = jnp.ones(shape[:2], bool)
    sides = (jnp.sqrt(area * ratio), jnp.sqrt(area / ratio))
    for size, side, place, share in zip(shape, sides, places, jax.random.uniform(key, (2,)), strict=False):
        middle, half = share * size, side * size / 2
        inside &= (place + 0.5 > middle - half) & (place + 0.5 < middle + half)
    return inside[..., None]


def erase(image_HWC: jax.Array, key: jax.Array, probability: float) -> jax.Array:
    """Fill a random rectangle with random pixels."""
    whether, area, ratio, place, fill = jax.random.split(key, 5)
    area = jax.random.uniform(area, minval=0.02, maxval=1 / 3)
    ratio = jnp.exp(jax.random.uniform(ratio, minval=jnp.log(0.3), maxval=-jnp.log(0.3)))
    inside = rectangle(image_HWC.shape, place, area, ratio) & jax.random.bernoulli(whether, probability)
    return jnp.where(inside, jax.random.uniform(fill, image_HWC.shape), image_HWC)


def mix(image_BHWC: jax.Array, key_B: jax.Array, mixup: float, cutmix: float) -> tuple[jax.Array, jax.Array]:
    """Mix each image with that before it in the batch. Return the images and the share of the other image in each.

    mixup: the weighted mean (Zhang et al. 2018); cutmix: a rectangle of the other image (Yun et al. 2019). Both are the
    parameter of a symmetric beta distribution of the share; 0: off. If both are on, each image gets one of them.
    """

    def one(image_HWC: jax.Array, other_HWC: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        which, first, second, place = jax.random.split(key, 4)
        mixed = (image_HWC, jnp.zeros(()))
        if mixup:
            share = jax.random.beta(first, mixup, mixup)
            mixed = ((1 - share) * image_HWC + share * other_HWC, share)
        if cutmix:
            area = jax.random.beta(second, cutmix, cutmix)
            inside = rectangle(image_HWC.shape, place, area, jnp.ones(()))
            cut = (jnp.where(inside, other_HWC, image_HWC), inside.mean())
            is_cut = jax.random.bernoulli(which) if mixup else jnp.array(True)
            mixed = jax.tree.map(lambda a, b: jnp.where(is_cut, a, b), cut, mixed)
        return mixed

    own_BHWC = precise(image_BHWC)
    mixed_BHWC, share_B = jax.vmap(one)(own_BHWC, jnp.roll(own_BHWC, 1, axis=0), key_B)
    return constrain(mixed_BHWC.astype(image_BHWC.dtype), "batch", None, None, None), share_B
