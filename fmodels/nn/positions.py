"""Position encodings: absolute embeddings, rotations, and biases on the attention logits.

Shapes: B batch, T length (Q queries, K keys), D model, N heads, H head size.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from fmodels.axes import named

Slots = np.ndarray | Array
"""Places in a row, ascending. Constants are NumPy arrays, so that what depends on them only is computed once."""


def sinusoidal(positions_BT: Int[Array, "#B T"], width: int) -> Float[Array, "#B T D"]:
    """Return interleaved sines and cosines of geometrically spaced frequencies (Vaswani et al. 2017, §3.5). `width` is even."""
    frequency = jnp.exp(-math.log(10_000.0) * jnp.arange(0, width, 2) / width)
    angle_BTF = positions_BT[..., None].astype(jnp.float32) * frequency
    return jnp.stack([jnp.sin(angle_BTF), jnp.cos(angle_BTF)], axis=-1).reshape(*positions_BT.shape, width)


def sinusoidal_grid(rows: int, columns: int, width: int) -> Float[Array, "P D"]:
    """Return the encodings of the places of a grid, row by row: half of each vector is for the row, half for the column."""
    places_2P = jnp.mgrid[:rows, :columns].reshape(2, -1)
    return jnp.concatenate(tuple(sinusoidal(places_2P, width // 2)), axis=-1)


def rotary(x_BTNH: Float[Array, "B T N H"], positions_BT: Int[Array, "#B T"], base: Any = 10_000.0) -> Float[Array, "B T N H"]:
    """Rotate the pairs (i, i + H/2) of each head by the position (Su et al. 2021; halves as in GPT-NeoX). H is even.

    Pair i turns by `base` ** (-2 i / H) per position. A long context needs a large base.
    """
    half = x_BTNH.shape[-1] // 2
    log = math.log(base) if isinstance(base, float) else jnp.log(base)
    frequency = jnp.exp(-log * jnp.arange(half) / half)
    angle = positions_BT[..., None, None].astype(jnp.float32) * frequency
    sin, cos = jnp.sin(angle).astype(x_BTNH.dtype), jnp.cos(angle).astype(x_BTNH.dtype)
    a, b = x_BTNH[..., :half], x_BTNH[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def alibi(heads: int, queries_Q: Slots, keys_K: Slots) -> Float[Array, "1 N Q K"]:
    """Return a penalty linear in the distance, with one slope per head (Press et al. 2022, §3), in both directions.

    If `heads` is not a power of two, take the slopes for the next lower power P, then every other slope for 2 P.
    """
    lower = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * i / lower) for i in range(1, lower + 1)]
    slopes += [2.0 ** (-4.0 * i / lower) for i in range(1, 2 * (heads - lower), 2)]
    distance_QK = jnp.abs(queries_Q[:, None] - keys_K[None, :]).astype(jnp.float32)
    return -jnp.asarray(slopes, jnp.float32)[None, :, None, None] * distance_QK


def bucket_distances(buckets: int, max_distance: int) -> np.ndarray:
    """Return the smallest distance of each bucket in one direction: exact for half of the buckets, then logarithmic."""
    exact = buckets // 2
    steps = np.arange(buckets)
    return np.where(steps < exact, steps, exact * (max_distance / exact) ** ((steps - exact) / (buckets - exact)))


def directional(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32, max_distance: int = 128) -> jax.Array:
    """Return ALiBi values as initial values of `RelativeBias`. `key` is not used.

    Even heads look ahead and odd heads look back. The slopes are 1/2, 1/8, 1/32, …, each for two heads. The other direction
    starts 4 lower, and all values are at least -8. With these values, a small encoder leaves the unigram plateau of masked LM at
    once: it need not learn first that neighbours matter and on which side they are.
    """
    buckets, heads = shape
    distance = bucket_distances(buckets // 2, max_distance)
    slope_N = 2.0 ** -(1 + 2 * (np.arange(heads) // 2))
    near_SN = -distance[:, None] * slope_N
    ahead_N = np.arange(heads) % 2 == 0
    table_back, table_ahead = near_SN - 4 * ahead_N, near_SN - 4 * ~ahead_N
    return jnp.asarray(np.maximum(np.concatenate([table_back, table_ahead]), -8), dtype)


class RelativeBias(nn.Module):
    """Learned bias per head and distance bucket (Raffel et al. 2020, §2.1), shared by all layers.

    Each direction has half of the buckets; a causal bias has one direction. The first half of the buckets of a direction hold one
    distance each, the others grow logarithmically up to `max_distance`."""

    heads: int
    causal: bool = False
    buckets: int = 32
    max_distance: int = 128
    init: Callable = nn.initializers.normal(0.02)

    @nn.compact
    def __call__(self, queries_Q: Slots, keys_K: Slots) -> Float[Array, "1 N Q K"]:
        table = self.param("embedding", named(self.init, None, "heads"), (self.buckets, self.heads))
        one_way = self.buckets if self.causal else self.buckets // 2
        starts = np.ceil(bucket_distances(one_way, self.max_distance) - 1e-6).astype(np.int32)
        ahead_QK = keys_K[None, :] - queries_Q[:, None]
        distance_QK = jnp.maximum(-ahead_QK, 0) if self.causal else abs(ahead_QK)
        bucket_QK = (distance_QK[..., None] >= starts).sum(-1) - 1
        if not self.causal:
            bucket_QK += one_way * (ahead_QK > 0)
        # A product with one-hot buckets instead of a gather, because the gradient of a gather is a slow scatter.
        one_hot = jax.nn.one_hot(bucket_QK.reshape(-1), self.buckets, dtype=table.dtype)
        return (one_hot @ table).T.reshape(1, self.heads, *bucket_QK.shape)
