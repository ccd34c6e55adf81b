"""Layers shared by all families: dense, embedding, norms, activations, dropout.

Shapes: ... any leading dimensions, D in, F out or hidden, V vocabulary.
Parameters are stored in float32; the train step casts them to the compute dtype. Layers compute in the dtype of their inputs,
except norms and softmax, which always compute in float32.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from fmodels.axes import look_up, named

ACTIVATIONS: dict[str, Callable] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}
GATED = {"swiglu": jax.nn.silu, "geglu": ACTIVATIONS["gelu"], "geglu_tanh": ACTIVATIONS["gelu_tanh"]}

HE = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")  # He et al. 2015, for ReLU


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Return `x + bias` over the last dimension. The bias gradient is a matrix product with ones: several times faster than
    the column sum that XLA emits on CPU, and not slower elsewhere."""
    return x + bias


def _add_bias_forward(x, bias):
    return x + bias, None


def _add_bias_backward(_, g):
    rows = g.reshape(-1, g.shape[-1])
    return g, jnp.ones((rows.shape[0],), g.dtype) @ rows


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


class Dense(nn.Module):
    """y = x W + b over the last dimension. `axes` are the logical axes of W; b has the second one."""

    features: int
    axes: tuple[str | None, str | None]
    use_bias: bool = True
    init: Callable = nn.initializers.truncated_normal(0.02)

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch F"]:
        kernel = self.param("kernel", named(self.init, *self.axes), (x.shape[-1], self.features))
        y = x @ kernel
        if self.use_bias:
            y = add_bias(y, self.param("bias", named(nn.initializers.zeros, self.axes[1]), (self.features,)))
        return y


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


@contextmanager
def frozen_batch_norms(paths: Collection[str]) -> Iterator[None]:
    """While active, batch norms at these module paths (`stage_0_0/norm`) use and keep their running statistics in training."""

    def call(function, args, kwargs, context):
        module = context.module
        if isinstance(module, nn.BatchNorm) and "/".join(module.path) in paths:
            object.__setattr__(module, "use_running_average", None)  # so that the argument decides
            args, kwargs = args[:1], {**kwargs, "use_running_average": True}
        return function(*args, **kwargs)

    with nn.intercept_methods(call):
        yield


class Dropout(nn.Module):
    """Zero a fraction `rate` of the entries and scale up the rest, in training only.

    Draws 8 random bits per entry instead of 32, since threefry dominates the cost of dropout. The rate is therefore rounded to a
    multiple of 1/256, at least 1/256. The scale uses the rounded rate, so the expectation is exact.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train or self.rate == 0:
            return x
        dropped = min(max(round(256 * self.rate), 1), 255)
        kept = jax.random.bits(self.make_rng("dropout"), x.shape, jnp.uint8) >= dropped
        return jnp.where(kept, x * (256 / (256 - dropped)), jnp.zeros((), x.dtype))
