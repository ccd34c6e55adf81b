"""The key-value cache of a decoder: a pytree of fixed shapes, so that decoding is one jitted loop.

Shapes: B batch, T length, S slots of the cache or length of a source, N heads, H head size, D model width.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fmodels.axes import constrain

Cache = dict[str, Any]


class Source(NamedTuple):
    """Hidden states that a decoder attends to, their mask (True at real tokens) and the sequence numbers of packed rows."""

    hidden_BSD: jax.Array
    mask_BS: jax.Array | None = None
    sequences_BS: jax.Array | None = None


def empty_cache(config: Any, rows: int, slots: int, dtype: Any = jnp.float32, source_length: int | None = None) -> Cache:
    """Return the cache of a causal stack with a `TransformerConfig`, for `slots` tokens per row and a source of `source_length`.

    `index` is the number of slots in use, the same for all rows; `mask` [B, S] is True at the slots of real tokens; `layers` has
    the keys and values [B, S, N, H] of each layer. Rows with fewer tokens are padded on the left.
    """
    lengths = {"attention": slots} | ({"source_attention": source_length} if source_length is not None else {})
    stacked = (config.layers,) if config.scan else ()

    def layer() -> Cache:
        shape = lambda length: (*stacked, rows, length, config.kv_heads or config.heads, config.size_of_head)
        return {name: {part: jnp.zeros(shape(length), dtype) for part in ("key", "value")} for name, length in lengths.items()}

    cache = {"index": jnp.zeros((), jnp.int32), "mask": jnp.zeros((rows, slots), bool)}
    if source_length is not None:
        cache["source_mask"] = jnp.zeros((rows, source_length), bool)
    return {**cache, "layers": layer() if config.scan else {f"layer_{i}": layer() for i in range(config.layers)}}


def begun(config: Any, cache: Cache | int | None, rows: int, dtype: Any, source_length: int | None = None) -> Cache | None:
    """Return the cache, or an empty one if `cache` is its number of slots. Raises ValueError if they exceed `max_length`."""
    if not isinstance(cache, int):
        return cache
    if cache > config.max_length:
        raise ValueError(f"{cache} tokens exceed max_length {config.max_length}")
    return empty_cache(config, rows, cache, dtype, source_length)


def extended(cache: Cache, shape: tuple[int, ...], mask_BT: jax.Array | None, source: Source | None) -> Cache:
    """Return the cache with T more tokens, of `shape` [B, T, …], in its mask and index, and with the mask of the source.

    Raises ValueError if the tokens exceed the slots. The caller counts the tokens of several calls.
    """
    rows, length, slots = *shape[:2], cache["mask"].shape[1]
    if length > slots:
        raise ValueError(f"{length} tokens do not fit into a cache of {slots} slots")
    new = jnp.ones((rows, length), bool) if mask_BT is None else mask_BT
    mask = jax.lax.dynamic_update_slice_in_dim(cache["mask"], new, cache["index"], axis=1)
    cache = {**cache, "index": cache["index"] + length, "mask": constrain(mask, "batch", "length")}
    if source is not None:
        all_real = jnp.ones(source.hidden_BSD.shape[:2], bool)
        cache["source_mask"] = all_real if source.mask_BS is None else source.mask_BS
    return cache


def positions_of(mask_BT: jax.Array | None, length: int, cache: Cache | None = None) -> jax.Array:
    """Return the position [#B, T] of each token among the real tokens of its row, after those in the cache."""
    if mask_BT is None and cache is None:
        return jnp.arange(length)[None]
    steps_BT = jnp.arange(1, length + 1)[None] if mask_BT is None else jnp.cumsum(mask_BT, axis=1)
    before_B1 = 0 if cache is None else cache["mask"].sum(1, keepdims=True)
    return jnp.maximum(before_B1 + steps_BT - 1, 0)


def take_rows(cache: Cache, rows: jax.Array) -> Cache:
    """Return the cache of the given rows, in this order."""
    axis = 1 if "attention" in cache["layers"] else 0  # scanned layers are stacked before the rows
    layers = jax.tree.map(lambda x: jnp.take(x, rows, axis=axis), cache["layers"])
    masks = {name: mask[rows] for name, mask in cache.items() if name.endswith("mask")}
    return {"index": cache["index"], **masks, "layers": layers}
