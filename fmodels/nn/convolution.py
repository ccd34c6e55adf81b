"""Convolutions, pooling, and the blocks that convolutional networks share.

Each operation has the form that is fastest on the platform of the trace and for its shape; all forms compute the same value and
gradient. On CPU, XLA's windowed reductions and depthwise convolutions are slow, and so are its convolutions with strides and of
small maps; there, they are slices and matrix products.

Shapes: B batch, H height, W width, C channels in, F channels out, K kernel height or width, R squeezed channels.
Parameters are float32 at rest; layers compute in the dtype of their inputs, except batch norm, which computes in
float32 at least.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from fmodels.axes import constrain, named, platform
from fmodels.nn.layers import ACTIVATIONS, HE, linear

Padding = Literal["same", "valid"] | int | tuple[int, int]
"""`same`: ceil(size / stride) outputs, with the extra zero after the image, as in TensorFlow; numbers: zeros on each side of the
height and of the width, as in PyTorch."""
Pair = int | tuple[int, int]


def pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def paddings(sizes: Sequence[int], window: Sequence[int], stride: Sequence[int], padding: Padding) -> list[tuple[int, int]]:
    """Return the number of zeros (before, after) of the height and of the width. Raises ValueError if no window fits."""
    if padding == "valid":
        padding = 0
    if padding == "same":
        missing = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, window, stride, strict=True)]
        return [(n // 2, n - n // 2) for n in missing]
    for size, k, zeros in zip(sizes, window, pair(padding), strict=True):
        if size + 2 * zeros < k:
            raise ValueError(f"an image or feature map of {list(sizes)} is smaller than a window of {list(window)}")
    return [(zeros, zeros) for zeros in pair(padding)]


def padded(x_BHWC: jax.Array, zeros: list[tuple[int, int]], value: float = 0.0) -> jax.Array:
    if not np.any(zeros):
        return x_BHWC
    return jnp.pad(x_BHWC, [(0, 0), *zeros, (0, 0)], constant_values=jnp.asarray(value, x_BHWC.dtype))


def shifted(x_BHWC: jax.Array, window: Sequence[int], stride: Sequence[int]) -> Iterator[jax.Array]:
    """Yield, for each place in the window, its entry in all windows: row by row, each [B, H', W', C]."""
    batch, height, width, channels = x_BHWC.shape
    for i in range(window[0]):
        for j in range(window[1]):
            last = (batch, height - window[0] + i + 1, width - window[1] + j + 1, channels)
            yield jax.lax.slice(x_BHWC, (0, i, j, 0), last, (1, *stride, 1))


def convolve(
    x_BHWC: Float[Array, "B H W C"], kernel: Float[Array, "K L G F"], stride: Pair = 1, padding: Padding = "same", groups: int = 1
) -> Float[Array, "B P Q F"]:
    """Return the convolution (cross-correlation) of images with a kernel. Each of `groups` groups of channels has its own.

    Raises ValueError if the kernel is larger than the padded image.
    """
    stride, window, channels = pair(stride), kernel.shape[:2], x_BHWC.shape[-1]
    zeros = paddings(x_BHWC.shape[1:3], window, stride, padding)
    if platform() == "cpu" and groups == channels == kernel.shape[-1]:
        return depthwise_by_slices(x_BHWC, kernel, stride, zeros)
    if platform() == "cpu" and groups == 1:
        sizes = [(n + sum(z) - k) // s + 1 for n, z, k, s in zip(x_BHWC.shape[1:3], zeros, window, stride, strict=True)]
        is_strided = max(stride) > 1 and channels > 4  # XLA's gradient of the image is slow; a first layer does not need it
        if max(window) == 1 or is_strided or math.prod(sizes) <= 49:
            return convolve_by_product(x_BHWC, kernel, stride, zeros)
    return convolve_directly(x_BHWC, kernel, stride, zeros, groups)


def convolve_directly(x_BHWC: jax.Array, kernel: jax.Array, stride, zeros, groups: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x_BHWC, kernel, stride, zeros, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def convolve_by_product(x_BHWC: jax.Array, kernel: jax.Array, stride, zeros) -> jax.Array:
    """Return the convolution as one matrix product of all windows and the kernel."""
    parts = list(shifted(padded(x_BHWC, zeros), kernel.shape[:2], stride))
    windows = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
    return linear(windows, kernel.reshape(-1, kernel.shape[-1]), None)


def depthwise_by_slices(x_BHWC: jax.Array, kernel: jax.Array, stride, zeros) -> jax.Array:
    """Return the convolution of each channel with its own kernel as a sum over the places of the window."""
    parts = shifted(padded(x_BHWC, zeros), kernel.shape[:2], stride)
    return reduce(jnp.add, (x * weight_C for x, weight_C in zip(parts, kernel.reshape(-1, kernel.shape[-1]), strict=True)))


def max_pool(x_BHWC: jax.Array, window: Pair, stride: Pair | None = None, padding: Padding = 0) -> jax.Array:
    """Return the largest entry of each window. The first of equal entries gets the gradient. `stride` defaults to the window."""
    window, stride = pair(window), pair(window if stride is None else stride)
    zeros = paddings(x_BHWC.shape[1:3], window, stride, padding)
    if platform() == "cpu":
        return max_pool_by_slices(x_BHWC, window, stride, zeros)
    return max_pool_directly(x_BHWC, window, stride, zeros)


def max_pool_directly(x_BHWC: jax.Array, window, stride, zeros) -> jax.Array:
    return jax.lax.reduce_window(x_BHWC, -jnp.inf, jax.lax.max, (1, *window, 1), (1, *stride, 1), [(0, 0), *zeros, (0, 0)])


def max_pool_by_slices(x_BHWC: jax.Array, window, stride, zeros) -> jax.Array:
    entries = shifted(padded(x_BHWC, zeros, -jnp.inf), window, stride)
    return reduce(lambda largest, x: jnp.where(x > largest, x, largest), entries)


def average_pool(x_BHWC: jax.Array, window: Pair, stride: Pair | None = None, padding: Padding = 0) -> jax.Array:
    """Return the mean of each window, with padding counted as zeros. `stride` defaults to the window."""
    window, stride = pair(window), pair(window if stride is None else stride)
    x_BHWC = padded(x_BHWC, paddings(x_BHWC.shape[1:3], window, stride, padding))
    return reduce(jnp.add, shifted(x_BHWC, window, stride)) / (window[0] * window[1])


class Conv(nn.Module):
    """Convolution with a kernel of `window`. `axis` is the logical axis of the output channels in the kernel."""

    features: int
    window: Pair = 3
    stride: Pair = 1
    padding: Padding = "same"
    groups: int = 1
    use_bias: bool = False
    init: Callable = HE
    axis: str | None = "channels"

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B P Q F"]:
        shape = (*pair(self.window), x_BHWC.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", named(self.init, None, None, None, self.axis), shape)
        x_BHWC = convolve(x_BHWC, kernel, self.stride, self.padding, self.groups)
        if self.use_bias:
            x_BHWC += self.param("bias", named(nn.initializers.zeros, self.axis), (self.features,))
        return constrain(x_BHWC, "batch", None, None, None)


def channel_mean(x_BHWC: jax.Array) -> jax.Array:
    """Return the mean [C] of each channel; on CPU as a matrix product, which is several times faster than XLA's reduction."""
    rows = x_BHWC.reshape(-1, x_BHWC.shape[-1])
    return (jnp.ones(len(rows), rows.dtype) @ rows) / len(rows) if platform() == "cpu" else rows.mean(0)


class BatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy 2015) with the statistics of the global batch, however it is sharded.

    The model state holds the running statistics: `momentum` times the old plus 1 - `momentum` times those of the batch."""

    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "*batch C"], train: bool) -> Float[Array, "*batch C"]:
        shape = (x.shape[-1],)
        scale_C = self.param("scale", named(self.scale_init, "channels"), shape)
        bias_C = self.param("bias", named(nn.initializers.zeros, "channels"), shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        precise = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if train:
            mean_C = channel_mean(precise)
            var_C = jnp.maximum(channel_mean(jnp.square(precise)) - jnp.square(mean_C), 0)
            for running, new in ((running_mean, mean_C), (running_var, var_C)):
                running.value = self.momentum * running.value + (1 - self.momentum) * new
        else:
            mean_C, var_C = running_mean.value, running_var.value
        return ((precise - mean_C) * (scale_C * jax.lax.rsqrt(var_C + self.epsilon)) + bias_C).astype(x.dtype)


def check_momentum(momentum: float) -> None:
    """Raises ValueError for an invalid momentum of batch norm."""
    if not 0 < momentum < 1:
        raise ValueError(f"momentum must be in (0, 1), not {momentum}")


@contextmanager
def frozen_batch_norms(paths: Collection[str]) -> Iterator[None]:
    """While active, batch norms at these module paths (`stage_0_0/norm`) use and keep their running statistics in training."""

    def call(function, args, kwargs, context):
        module = context.module
        if isinstance(module, BatchNorm) and "/".join(module.path) in paths:
            return function(args[0], train=False)
        return function(*args, **kwargs)

    with nn.intercept_methods(call):
        yield


class ConvNorm(nn.Module):
    """Convolution, batch norm and activation (None: no activation). `padding` defaults to half the window, as in PyTorch."""

    features: int
    window: Pair = 3
    stride: Pair = 1
    padding: Padding | None = None
    groups: int = 1
    activation: str | None = "relu"
    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Callable = nn.initializers.ones

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "B H W C"], train: bool) -> Float[Array, "B P Q F"]:
        height, width = pair(self.window)
        padding = (height // 2, width // 2) if self.padding is None else self.padding
        x_BHWC = Conv(self.features, self.window, self.stride, padding, self.groups, name="conv")(x_BHWC)
        x_BHWC = BatchNorm(self.momentum, self.epsilon, self.scale_init, name="norm")(x_BHWC, train)
        return x_BHWC if self.activation is None else ACTIVATIONS[self.activation](x_BHWC)


class SqueezeExcite(nn.Module):
    """Multiply each channel by a gate computed from the means of all channels (Hu et al. 2018)."""

    squeezed: int
    activation: str = "relu"

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        dense = lambda features, name: Conv(features, 1, use_bias=True, axis=None, name=name)
        squeezed_B11R = ACTIVATIONS[self.activation](dense(self.squeezed, "reduce")(x_BHWC.mean((1, 2), keepdims=True)))
        return x_BHWC * jax.nn.sigmoid(dense(x_BHWC.shape[-1], "expand")(squeezed_B11R))
