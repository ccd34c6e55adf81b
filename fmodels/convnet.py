"""A small convolutional network with batch norm. The model state holds the running statistics.

Shapes: B batch, H height, W width, C channels.
"""

from dataclasses import dataclass

import jax
from flax import linen as nn

from fmodels.axes import constrain, named
from fmodels.model import Model
from fmodels.nn.layers import HE, Dropout


@dataclass(frozen=True, kw_only=True)
class ConvNetConfig:
    channels: tuple[int, ...] = (32, 64, 128)
    "channels of each stage; every stage after the first halves the resolution"
    convolutions: int = 2
    "number of 3x3 convolutions per stage"
    dropout: float = 0.0
    "dropout rate of the pooled features"
    momentum: float = 0.9
    "momentum of the batch norm running statistics"

    def __post_init__(self):
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels must be one or more positive numbers, not {self.channels}")
        if self.convolutions < 1:
            raise ValueError(f"convolutions must be at least 1, not {self.convolutions}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")
        if not 0 < self.momentum < 1:
            raise ValueError(f"momentum must be in (0, 1), not {self.momentum}")

    def build(self) -> Model:
        return Model(ConvNet(self))


class ConvNet(nn.Module):
    """Reads `image` [B, H, W, C]; returns `pooled` [B, channels[-1]], the mean over the last feature map."""

    config: ConvNetConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        c, x_BHWC = self.config, batch["image"]
        for i, channels in enumerate(c.channels):
            for j in range(c.convolutions):
                stride = 2 if i and not j else 1
                x_BHWC = ConvNorm(channels, stride, c.momentum, name=f"stage_{i}_{j}")(x_BHWC, train)
        return {"pooled": constrain(Dropout(c.dropout)(x_BHWC.mean((1, 2)), train), "batch", None)}


class ConvNorm(nn.Module):
    """3x3 convolution, batch norm over the global batch (Ioffe and Szegedy 2015), ReLU."""

    channels: int
    stride: int
    momentum: float

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, train: bool) -> jax.Array:
        shape = (3, 3, x_BHWC.shape[-1], self.channels)
        kernel = self.param("kernel", named(HE, None, None, None, "channels"), shape)
        x_BHWC = jax.lax.conv_general_dilated(
            x_BHWC, kernel, (self.stride, self.stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x_BHWC = constrain(x_BHWC, "batch", None, None, None)
        x_BHWC = nn.BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            scale_init=named(nn.initializers.ones, "channels"),
            bias_init=named(nn.initializers.zeros, "channels"),
            name="norm",
        )(x_BHWC)
        return jax.nn.relu(x_BHWC)
