"""Layers shared by all families: dense, embedding, norms, activations, dropout.

Shapes: ... any leading dimensions, D in, F out or hidden, V vocabulary.
Parameters are stored in float32; the train step casts them to the compute dtype. Layers compute in the dtype of their inputs,
except norms and softmax, which always compute in float32.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from fmodels.axes import look_up, named, platform

ACTIVATIONS: dict[str, Callable] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "relu6": jax.nn.relu6,
}
GATED = {"swiglu": jax.nn.silu, "geglu": ACTIVATIONS["gelu"], "geglu_tanh": ACTIVATIONS["gelu_tanh"]}

HE = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")  # He et al. 2015, for ReLU


def bias_gradient(g: jax.Array) -> jax.Array:
    """Return the sum [F] of `g` [..., F] over all rows, as a matrix product with ones: several times faster than the column sum
    that XLA emits on CPU, and not slower elsewhere."""
    rows = g.reshape(-1, g.shape[-1])
    return jnp.ones((rows.shape[0],), g.dtype) @ rows


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Return `x + bias` [..., F]. The gradient of the bias is `bias_gradient`."""
    return x + bias


add_bias.defvjp(lambda x, bias: (x + bias, None), lambda _, g: (g, bias_gradient(g)))


@jax.custom_vjp
def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Return `x @ kernel + bias` [..., F] for `x` [..., D], without the bias if it is None.

    XLA:CPU would write the gradient of an activation twice, the second time transposed for the gradient of the kernel. A barrier
    prevents that. The product for the kernel transposes its first factor, so the narrower array comes first."""
    y = x @ kernel
    return y if bias is None else y + bias


def _linear_forward(x, kernel, bias):
    return linear(x, kernel, bias), (x, kernel, bias is not None)


def _linear_backward(saved, g):
    x, kernel, has_bias = saved
    if platform() == "cpu":
        g = jax.lax.optimization_barrier(g)
    rows = tuple(range(x.ndim - 1))
    narrow_first = x.shape[-1] > g.shape[-1]
    kernel_gradient = jnp.tensordot(g, x, (rows, rows)).T if narrow_first else jnp.tensordot(x, g, (rows, rows))
    return g @ kernel.T, kernel_gradient, bias_gradient(g) if has_bias else None


linear.defvjp(_linear_forward, _linear_backward)


class Dense(nn.Module):
    """y = x W + b over the last dimension. `axes` are the logical axes of W; b has the second one."""

    features: int
    axes: tuple[str | None, str | None]
    use_bias: bool = True
    init: Callable = nn.initializers.truncated_normal(0.02)

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch F"]:
        kernel = self.param("kernel", named(self.init, *self.axes), (x.shape[-1], self.features))
        bias = self.param("bias", named(nn.initializers.zeros, self.axes[1]), (self.features,)) if self.use_bias else None
        return linear(x, kernel, bias)


class Embed(nn.Module):
    """Embedding table. `axis` is the logical axis of its rows: `vocab`, or None for small tables with unsharded rows."""

    size: int
    features: int
    axis: str | None = None
    init: Callable = nn.initializers.truncated_normal(0.02)

    def setup(self):
        self.table = self.param("embedding", named(self.init, self.axis, "embed"), (self.size, self.features))

    def __call__(self, ids: Int[Array, "#B *T"], batch: int | None = None) -> Float[Array, "B *T D"]:
        """Return the vectors of `ids`; a single row of ids is repeated `batch` times."""
        return look_up(self.table, (self.axis, "embed"), ids, batch or len(ids))


class LayerNorm(nn.Module):
    """Layer normalization (Ba et al. 2016). `epsilon` defaults to BERT's."""

    epsilon: float = 1e-12
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        scale = self.param("scale", named(nn.initializers.ones, "embed"), (x.shape[-1],))
        bias = self.param("bias", named(nn.initializers.zeros, "embed"), (x.shape[-1],)) if self.use_bias else jnp.zeros(())
        x32 = x.astype(jnp.float32)
        centred = x32 - x32.mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        return (y * scale.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)


class RMSNorm(nn.Module):
    """Root mean square normalization (Zhang and Sennrich 2019)."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        scale = self.param("scale", named(nn.initializers.ones, "embed"), (x.shape[-1],))
        x32 = x.astype(jnp.float32)
        y = x32 * jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + self.epsilon)
        return (y * scale.astype(jnp.float32)).astype(x.dtype)


NORMS: dict[str, Callable[..., nn.Module]] = {
    "layer": LayerNorm,
    "layer_no_bias": partial(LayerNorm, use_bias=False),
    "rms": RMSNorm,
}


def mixed(x: jax.Array) -> jax.Array:
    """Return a bijective hash of uint32 numbers (`lowbias32` of Wellons, https://nullprogram.com/blog/2018/07/31/)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def random_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return uint32 random numbers: a hash of the index of each entry and of two words drawn from `key`.

    Far cheaper than `jax.random.bits`, which dominates the cost of dropout on CPU, and good enough for dropout. The numbers do
    not depend on the sharding."""
    iota = lambda axis: jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    row = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape) - 1):
        row = row * jnp.uint32(shape[axis]) + iota(axis)
    return mixed(mixed(iota(len(shape) - 1) ^ mixed(row ^ first)) + mixed(row ^ second))


def kept(key: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
    """Return booleans that are False with probability `rate`."""
    return random_bits(key, shape) >= jnp.uint32(round(rate * 2**32))


class Dropout(nn.Module):
    """Zero a fraction `rate` of the entries and scale up the rest, in training only."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train or self.rate == 0:
            return x
        return jnp.where(kept(self.make_rng("dropout"), x.shape, self.rate), x * (1 / (1 - self.rate)), jnp.zeros((), x.dtype))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): zero a fraction `rate` of the examples and scale up the rest, in training only."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "B *rest"], train: bool) -> Float[Array, "B *rest"]:
        if not train or self.rate == 0:
            return x
        is_kept = kept(self.make_rng("dropout"), (len(x), *(1,) * (x.ndim - 1)), self.rate)
        return jnp.where(is_kept, x * (1 / (1 - self.rate)), jnp.zeros((), x.dtype))
