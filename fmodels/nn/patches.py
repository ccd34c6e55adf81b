"""Patches of images, and the decoder of masked patches (He et al. 2022).

Shapes: B batch, H height, W width, C channels, P patches, K kept patches, N numbers in a patch, E width of the encoder,
D width of the decoder.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from fmodels.axes import constrain, named
from fmodels.nn.layers import Dense
from fmodels.nn.positions import sinusoidal_grid
from fmodels.nn.transformer import Stack, TransformerConfig


def patches(image_BHWC: Float[Array, "B H W C"], size: int) -> Float[Array, "B P N"]:
    """Cut images into square patches, row by row."""
    batch, height, width, channels = image_BHWC.shape
    split = image_BHWC.reshape(batch, height // size, size, width // size, size, channels)
    return split.swapaxes(2, 3).reshape(batch, -1, size * size * channels)


def assembled(patches_BPN: Float[Array, "B P N"], shape: tuple[int, ...], size: int) -> Float[Array, "B H W C"]:
    """Return the images of `shape` that these patches make up: the inverse of `patches`."""
    batch, height, width, channels = shape
    split = patches_BPN.reshape(batch, height // size, width // size, size, size, channels)
    return split.swapaxes(2, 3).reshape(shape)


class PatchDecoder(nn.Module):
    """A stack of transformer blocks on the encoded patches and, in the places of the others, a learned mask token.

    `rows` and `columns` are the size of the grid of patches, `numbers` is that of a patch."""

    config: TransformerConfig
    rows: int
    columns: int
    numbers: int

    @nn.compact
    def __call__(self, hidden_BKE: Float[Array, "B K E"], kept_BK: Int[Array, "B K"], train: bool) -> Float[Array, "B P N"]:
        c, count = self.config, self.rows * self.columns
        x_BKD = Dense(c.width, ("embed", "mlp"), name="embed")(hidden_BKE)
        mask_D = self.param("mask_token", named(nn.initializers.normal(0.02), "embed"), (c.width,)).astype(x_BKD.dtype)
        is_own_BPK = kept_BK[:, None] == jnp.arange(count)[:, None]
        x_BPD = jnp.where(is_own_BPK.any(-1, keepdims=True), is_own_BPK.astype(x_BKD.dtype) @ x_BKD, mask_D)
        x_BPD += sinusoidal_grid(self.rows, self.columns, c.width).astype(x_BPD.dtype)
        x_BPD = constrain(x_BPD, "batch", "length", None)
        x_BPD, _ = Stack(c, name="decoder")(x_BPD, None, jnp.arange(count)[None], train)
        return Dense(self.numbers, ("embed", None), name="pixels")(x_BPD)
