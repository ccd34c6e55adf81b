"""Multi-head attention and its kernels.

Shapes: B batch, T length (Q queries, K keys), D model, N heads, H head size.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from fmodels.axes import constrain, platform
from fmodels.nn.layers import Dense, Dropout
from fmodels.nn.positions import rotary


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, §3.2).

    `kernel`: `xla` runs on every platform; `cudnn` is the fused kernel for NVIDIA GPUs (float16 or bfloat16, no attention
    dropout, even length, head size a multiple of 8 up to 128); `auto` uses `cudnn` if these conditions hold, else `xla`."""

    heads: int
    dropout: float = 0.0
    kernel: str = "auto"
    use_rotary: bool = False
    use_bias: bool = True
    init: Callable = nn.initializers.truncated_normal(0.02)
    out_init: Callable = nn.initializers.truncated_normal(0.02)

    @nn.compact
    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        mask: Bool[Array, "B #N #T T"] | None,
        bias: Float[Array, "#B N T T"] | None,
        positions_BT: Int[Array, "#B T"],
        train: bool,
    ) -> Float[Array, "B T D"]:
        width = x_BTD.shape[-1]

        def project(name: str) -> jax.Array:
            y = Dense(width, ("embed", "heads"), self.use_bias, self.init, name=name)(x_BTD)
            y = y.reshape(*y.shape[:-1], self.heads, width // self.heads)
            return constrain(y, "batch", "length", "heads", None)

        q_BTNH, k_BTNH, v_BTNH = project("query"), project("key"), project("value")
        if self.use_rotary:
            q_BTNH, k_BTNH = rotary(q_BTNH, positions_BT), rotary(k_BTNH, positions_BT)
        if self.is_fused(q_BTNH, train):
            bias = None if bias is None else bias.astype(q_BTNH.dtype)
            y_BTNH = jax.nn.dot_product_attention(q_BTNH, k_BTNH, v_BTNH, bias, mask, implementation="cudnn")
        else:
            y_BTNH = self.plain(q_BTNH, k_BTNH, v_BTNH, mask, bias, train)
        y_BTD = y_BTNH.reshape(x_BTD.shape)
        return Dense(width, ("heads", "embed"), self.use_bias, self.out_init, name="out")(y_BTD)

    def is_fused(self, q_BTNH: jax.Array, train: bool) -> bool:
        # Calls in float32 need shapes only (initialisation, FLOP counts), also if `cudnn` is requested.
        is_supported = q_BTNH.dtype in (jnp.float16, jnp.bfloat16) and not self.is_mutable_collection("intermediates")
        if self.kernel != "auto":
            return self.kernel == "cudnn" and is_supported
        length, head_size = q_BTNH.shape[1], q_BTNH.shape[3]
        fits = length % 2 == 0 and head_size % 8 == 0 and head_size <= 128 and not (train and self.dropout)
        return is_supported and fits and platform() == "gpu"

    def plain(self, q_BTNH, k_BTNH, v_BTNH, mask, bias, train: bool) -> jax.Array:
        logits_BNQK = jnp.einsum("BQNH,BKNH->BNQK", q_BTNH * q_BTNH.shape[-1] ** -0.5, k_BTNH)
        logits_BNQK = logits_BNQK.astype(jnp.float32)
        if bias is not None:
            logits_BNQK += bias.astype(jnp.float32)
        if mask is not None:  # not -inf, which makes rows with only padding NaN
            logits_BNQK = jnp.where(mask, logits_BNQK, jnp.finfo(jnp.float32).min)
        weights_BNQK = jax.nn.softmax(logits_BNQK).astype(v_BTNH.dtype)
        self.sow("intermediates", "weights", weights_BNQK)
        weights_BNQK = Dropout(self.dropout)(weights_BNQK, train)
        return jnp.einsum("BNQK,BKNH->BQNH", weights_BNQK, v_BTNH)
