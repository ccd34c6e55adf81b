"""Multi-head attention and its kernels.

Shapes: B batch, T length (Q queries, K keys, S slots of a cache), D model, N heads, H head size.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from fmodels.axes import constrain, platform
from fmodels.nn.cache import Cache, Source
from fmodels.nn.layers import Dense, Dropout
from fmodels.nn.positions import Slots, rotary


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, §3.2), to the same sequence or, with `source_BSD`, to another one.

    `kv_heads`: heads of keys and values, each shared by `heads / kv_heads` query heads (Ainslie et al. 2023).
    `is_causal`: without a mask, tokens attend to earlier ones only.
    `kernel`: `xla` runs on every platform; `cudnn` is the fused kernel for NVIDIA GPUs (float16 or bfloat16, no attention
    dropout, even length, head size a multiple of 8 up to 128); `auto` uses `cudnn` if these conditions hold, else `xla`."""

    heads: int
    kv_heads: int
    head_size: int
    dropout: float = 0.0
    kernel: str = "auto"
    use_bias: bool = True
    is_scaled: bool = True
    is_causal: bool = False
    init: Callable = nn.initializers.truncated_normal(0.02)
    query_init: Callable = nn.initializers.truncated_normal(0.02)
    out_init: Callable = nn.initializers.truncated_normal(0.02)

    @nn.compact
    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        mask: Bool[Array, "#B #N #T K"] | None,
        bias: Float[Array, "#B N T K"] | None,
        train: bool,
        positions_BT: Int[Array, "#B T"],
        rotary_base: Any = None,
        source_BSD: Float[Array, "B K D"] | None = None,
        cache: Cache | None = None,
        index: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Return the output and the updated cache.

        With `index`, the keys and values of x are written to the cache from that slot on, and x attends to the whole cache.
        A cache without `index` is that of a source: `source_BSD` fills it, and without a source it is read.
        """
        q_BTNH = self.project("query", x_BTD, self.heads, self.query_init)
        if cache is not None and index is None and source_BSD is None:
            k_BSNH, v_BSNH = cache["key"], cache["value"]
        else:
            source = x_BTD if source_BSD is None else source_BSD
            k_BSNH, v_BSNH = (self.project(name, source, self.kv_heads, self.init) for name in ("key", "value"))
        if rotary_base is not None:
            q_BTNH, k_BSNH = rotary(q_BTNH, positions_BT, rotary_base), rotary(k_BSNH, positions_BT, rotary_base)
        if cache is not None:
            if index is not None:
                k_BSNH, v_BSNH = (
                    jax.lax.dynamic_update_slice_in_dim(cache[name], new.astype(cache[name].dtype), index, axis=1)
                    for name, new in (("key", k_BSNH), ("value", v_BSNH))
                )
            cache = {"key": self.placed(k_BSNH), "value": self.placed(v_BSNH)}
        if self.is_fused(q_BTNH, k_BSNH, train):
            bias = None if bias is None else bias.astype(q_BTNH.dtype)
            is_causal = self.is_causal and mask is None
            y_BTNH = jax.nn.dot_product_attention(q_BTNH, k_BSNH, v_BSNH, bias, mask, is_causal=is_causal, implementation="cudnn")
        else:
            y_BTNH = self.plain(q_BTNH, k_BSNH, v_BSNH, mask, bias, train)
        y_BTF = y_BTNH.reshape(*x_BTD.shape[:2], -1)
        return Dense(x_BTD.shape[-1], ("heads", "embed"), self.use_bias, self.out_init, name="out")(y_BTF), cache

    def project(self, name: str, x_BTD: jax.Array, heads: int, init: Callable) -> jax.Array:
        axis = "heads" if heads == self.heads else "kv_heads"
        y_BTF = Dense(heads * self.head_size, ("embed", axis), self.use_bias, init, name=name)(x_BTD)
        return self.placed(y_BTF.reshape(*y_BTF.shape[:-1], heads, self.head_size))

    def placed(self, x_BTNH: jax.Array) -> jax.Array:
        return constrain(x_BTNH, "batch", "length", "heads" if x_BTNH.shape[2] == self.heads else "kv_heads", None)

    def is_fused(self, q_BTNH: jax.Array, k_BSNH: jax.Array, train: bool) -> bool:
        # Calls in float32 need shapes only (initialisation, FLOP counts), also if `cudnn` is requested.
        is_supported = q_BTNH.dtype in (jnp.float16, jnp.bfloat16) and not self.is_mutable_collection("intermediates")
        if self.kernel != "auto":
            return self.kernel == "cudnn" and is_supported and q_BTNH.shape[1] > 1  # decoding has one query
        lengths_are_even = q_BTNH.shape[1] % 2 == k_BSNH.shape[1] % 2 == 0
        fits = lengths_are_even and self.head_size % 8 == 0 and self.head_size <= 128 and not (train and self.dropout)
        return is_supported and fits and platform() == "gpu"

    def plain(self, q_BQNH, k_BKNH, v_BKNH, mask, bias, train: bool) -> jax.Array:
        if self.kv_heads < self.heads:
            k_BKNH, v_BKNH = (self.placed(jnp.repeat(x, self.heads // self.kv_heads, axis=2)) for x in (k_BKNH, v_BKNH))
        if mask is None and self.is_causal:
            mask = jnp.tril(jnp.ones((q_BQNH.shape[1], k_BKNH.shape[1]), bool))
        q_BQNH = q_BQNH * self.head_size**-0.5 if self.is_scaled else q_BQNH
        logits_BNQK = jnp.einsum("BQNH,BKNH->BNQK", q_BQNH, k_BKNH)
        logits_BNQK = logits_BNQK.astype(jnp.float32)
        if bias is not None:
            logits_BNQK += bias.astype(jnp.float32)
        if mask is not None:  # not -inf, which makes rows with only padding NaN
            logits_BNQK = jnp.where(mask, logits_BNQK, jnp.finfo(jnp.float32).min)
        weights_BNQK = jax.nn.softmax(logits_BNQK).astype(v_BKNH.dtype)
        self.sow("intermediates", "weights", weights_BNQK)
        weights_BNQK = Dropout(self.dropout)(weights_BNQK, train)
        return jnp.einsum("BNQK,BKNH->BQNH", weights_BNQK, v_BKNH)


def attention_mask(
    keys: Source,
    sequences_BQ: jax.Array | None,
    queries_Q: Slots,
    keys_K: Slots,
    is_causal: bool = False,
    window: int | None = None,
) -> Bool[Array, "#B 1 Q K"] | None:
    """Return which queries attend to which keys. None: all do, or all of earlier slots if the attention is causal.

    Padding of packed rows attends to padding only, and no real token attends to it."""
    parts = []
    if sequences_BQ is not None and keys.sequences_BS is not None:
        parts.append(sequences_BQ[:, :, None] == keys.sequences_BS[:, None, :])
    elif keys.mask_BS is not None:
        parts.append(keys.mask_BS[:, None, :] & jnp.ones((len(queries_Q), 1), bool))
    if window is not None:
        parts.append(jnp.asarray(abs(queries_Q[:, None] - keys_K) <= window)[None])
    if is_causal and parts:
        parts.append(jnp.asarray(keys_K <= queries_Q[:, None])[None])
    return reduce(jnp.logical_and, parts)[:, None] if parts else None
