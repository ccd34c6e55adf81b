"""Inverted residual block (Sandler et al. 2018), with squeeze-and-excitation (Tan and Le 2019, EfficientNet) and depthwise
kernels of several sizes (Tan and Le 2019, MixConv).

Shapes: B batch, H height, W width, C channels in, F channels out.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from fmodels.nn.convolution import BatchNorm, Conv, SqueezeExcite
from fmodels.nn.layers import ACTIVATIONS, DropPath


def divisible(channels: float, by: int = 8) -> int:
    """Return the nearest multiple of `by`, at least `by` and at least 90 % of `channels` (as in MobileNet's code)."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


def parts(channels: int, count: int) -> list[int]:
    """Return sizes of `count` equal groups of channels; the first takes the remainder."""
    rest = channels // count * (count - 1)
    return [channels - rest, *[channels // count] * (count - 1)]


class Mixed(nn.Module):
    """Convolutions of groups of channels, one group per window, side by side (MixConv). `depthwise`: one kernel per channel."""

    features: int
    windows: tuple[int, ...]
    stride: int = 1
    depthwise: bool = False

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "B H W C"]) -> Float[Array, "B P Q F"]:
        count = len(self.windows)
        features, sizes = parts(self.features, count), parts(x_BHWC.shape[-1], count)
        found, start = [], 0
        for i, (window, size, into) in enumerate(zip(self.windows, sizes, features, strict=True)):
            conv = Conv(into, window, self.stride, window // 2, size if self.depthwise else 1, name=f"part_{i}")
            found.append(conv(jax.lax.slice_in_dim(x_BHWC, start, start + size, axis=-1)))
            start += size
        return found[0] if count == 1 else jnp.concatenate(found, axis=-1)


class InvertedResidual(nn.Module):
    """1x1 convolution to `expansion` times the channels, depthwise convolution, gate, and 1x1 convolution to the new channels.

    `squeeze` is the width of the gate relative to the input channels; 0: no gate. `expand` and `project` are the numbers of
    groups of the 1x1 convolutions. The input is added if the shape is the same."""

    features: int
    expansion: int = 6
    windows: tuple[int, ...] = (3,)
    stride: int = 1
    squeeze: float = 0.0
    activation: str = "relu6"
    drop_path: float = 0.0
    expand: int = 1
    project: int = 1
    norm: Any = BatchNorm

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "B H W C"], train: bool) -> Float[Array, "B P Q F"]:
        channels, activation = x_BHWC.shape[-1], ACTIVATIONS[self.activation]
        y_BHWC, wide = x_BHWC, channels * self.expansion
        if self.expansion > 1:
            y_BHWC = Mixed(wide, (1,) * self.expand, name="expand")(y_BHWC)
            y_BHWC = activation(self.norm(name="expand_norm")(y_BHWC, train))
        y_BHWC = Mixed(wide, self.windows, self.stride, depthwise=True, name="depthwise")(y_BHWC)
        y_BHWC = activation(self.norm(name="depthwise_norm")(y_BHWC, train))
        if self.squeeze:
            y_BHWC = SqueezeExcite(max(1, round(channels * self.squeeze)), self.activation, name="gate")(y_BHWC)
        y_BHWC = Mixed(self.features, (1,) * self.project, name="project")(y_BHWC)
        y_BHWC = self.norm(name="project_norm")(y_BHWC, train)
        if x_BHWC.shape == y_BHWC.shape:
            y_BHWC = x_BHWC + DropPath(self.drop_path)(y_BHWC, train)
        return y_BHWC
