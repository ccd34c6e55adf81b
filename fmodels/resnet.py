"""ResNet (He et al. 2016): the networks for ImageNet, with stride in the 3x3 convolution of a bottleneck (v1.5), and for CIFAR.

Shapes: B batch, H height, W width, C channels, F features.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from fmodels.axes import constrain
from fmodels.model import Model
from fmodels.nn.convolution import ConvNorm, check_momentum, max_pool
from fmodels.nn.layers import DropPath

EXPANSION = {"basic": 1, "bottleneck": 4}  # output channels of a block, relative to its width


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Configuration of a ResNet. The defaults are ResNet-50. Raises ValueError for invalid values."""

    depths: tuple[int, ...] = (3, 4, 6, 3)
    "number of blocks of each stage"
    width: int = 64
    "width of the first stage; each later stage doubles it and halves the resolution"
    block: Literal["basic", "bottleneck"] = "bottleneck"
    "block: two 3x3 convolutions, or 1x1, 3x3 and 1x1 with four times the channels at the end"
    stem: Literal["large", "small"] = "large"
    "beginning: 7x7 convolution and 3x3 max pooling, both with stride 2, for large images; or one 3x3 convolution"
    shortcut: Literal["projection", "zeros"] = "projection"
    "shortcut where the shape changes: a 1x1 convolution (option B), or every second pixel and channels of zeros (option A)"
    drop_path: float = 0.0
    "rate of stochastic depth in each block"
    momentum: float = 0.9
    "momentum of the batch norm running statistics"

    def __post_init__(self):
        if not self.depths or min(self.depths) < 1:
            raise ValueError(f"depths must be one or more positive numbers, not {self.depths}")
        if self.width < 1:
            raise ValueError(f"width must be at least 1, not {self.width}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1), not {self.drop_path}")
        if self.shortcut == "zeros" and self.block == "bottleneck":
            raise ValueError("shortcut zeros needs block basic")
        check_momentum(self.momentum)

    def build(self) -> Model:
        return Model(ResNet(self))


DEPTHS = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
CIFAR_DEPTHS = (20, 32, 44, 56, 110)


def resnet(depth: int, **changes) -> ResNetConfig:
    """Return the config of a ResNet for ImageNet with 18, 34, 50, 101 or 152 layers, with any fields overridden."""
    block, depths = DEPTHS[depth]
    return ResNetConfig(**{"block": block, "depths": depths, **changes})


def cifar_resnet(depth: int, **changes) -> ResNetConfig:
    """Return the config of a ResNet for CIFAR with 6n + 2 layers (20, 32, 44, 56 or 110), with any fields overridden."""
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"depth must be 6n + 2 (20, 32, 44, 56 or 110), not {depth}")
    fields = {"block": "basic", "depths": (blocks,) * 3, "width": 16, "stem": "small", "shortcut": "zeros"}
    return ResNetConfig(**{**fields, **changes})


class ResNet(nn.Module):
    """Reads `image` [B, H, W, C]; returns `pooled` [B, F], the mean over the last feature map."""

    config: ResNetConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        c = self.config
        if c.stem == "large":
            x_BHWC = ConvNorm(c.width, 7, 2, momentum=c.momentum, name="stem")(batch["image"], train)
            x_BHWC = max_pool(x_BHWC, 3, 2, padding=1)
        else:
            x_BHWC = ConvNorm(c.width, 3, momentum=c.momentum, name="stem")(batch["image"], train)
        for i, blocks in enumerate(c.depths):
            for j in range(blocks):
                block = Block(c, c.width * 2**i, 2 if i and not j else 1, name=f"stage_{i}_block_{j}")
                x_BHWC = block(x_BHWC, train)
        return {"pooled": constrain(x_BHWC.mean((1, 2)), "batch", None)}


class Block(nn.Module):
    config: ResNetConfig
    width: int
    stride: int

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "B H W C"], train: bool) -> Float[Array, "B P Q F"]:
        c, features = self.config, self.width * EXPANSION[self.config.block]
        layer = partial(ConvNorm, momentum=c.momentum)
        if c.block == "basic":
            y_BHWC = layer(self.width, 3, self.stride, name="conv_0")(x_BHWC, train)
            y_BHWC = layer(features, 3, activation=None, name="conv_1")(y_BHWC, train)
        else:
            y_BHWC = layer(self.width, 1, name="conv_0")(x_BHWC, train)
            y_BHWC = layer(self.width, 3, self.stride, name="conv_1")(y_BHWC, train)
            y_BHWC = layer(features, 1, activation=None, name="conv_2")(y_BHWC, train)
        if self.stride > 1 or x_BHWC.shape[-1] != features:
            if c.shortcut == "projection":
                x_BHWC = layer(features, 1, self.stride, activation=None, name="shortcut")(x_BHWC, train)
            else:
                missing = features - x_BHWC.shape[-1]
                x_BHWC = x_BHWC[:, :: self.stride, :: self.stride]
                x_BHWC = jnp.pad(x_BHWC, [(0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)])
        return jax.nn.relu(x_BHWC + DropPath(c.drop_path)(y_BHWC, train))
