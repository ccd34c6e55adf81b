"""Small convolutional networks, from those of textbooks to a stack of stages with batch norm.

Shapes: B batch, H height, W width, C channels, F features.
"""

from dataclasses import dataclass
from typing import Literal

import jax
from flax import linen as nn

from fmodels.axes import constrain
from fmodels.mlp import Activation, Mlp, MlpConfig
from fmodels.model import Model
from fmodels.nn.convolution import Conv, ConvNorm, check_momentum, max_pool
from fmodels.nn.layers import ACTIVATIONS, Dropout


@dataclass(frozen=True, kw_only=True)
class ConvNetConfig:
    channels: tuple[int, ...] = (32, 64, 128)
    "channels of each stage"
    convolutions: tuple[int, ...] = (2,)
    "number of convolutions of each stage; a single number holds for all stages"
    window: int = 3
    "height and width of the kernels"
    padding: Literal["same", "valid"] = "same"
    "same: pad the images with zeros to keep their size; valid: no padding"
    pools: int | None = None
    "number of stages, from the first, that end with 2x2 max pooling; None: stride 2 at the start of each later stage instead"
    batch_norm: bool = True
    "batch norm after each convolution; else biases"
    momentum: float = 0.9
    "momentum of the batch norm running statistics"
    activation: Activation = "relu"
    "activation of all layers"
    hidden: tuple[int, ...] = ()
    "widths of dense layers on the flattened feature map; (): the mean over the feature map instead"
    dropout: float = 0.0
    "dropout rate of the features and of each dense layer"

    def __post_init__(self):
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels must be one or more positive numbers, not {self.channels}")
        if self.hidden and min(self.hidden) < 1:
            raise ValueError(f"hidden must be positive widths, not {self.hidden}")
        if len(self.convolutions) not in (1, len(self.channels)) or min(self.convolutions) < 1:
            stages = f"{len(self.channels)} stages"
            raise ValueError(f"convolutions must be one positive number, or one for each of {stages}, not {self.convolutions}")
        if self.window < 1:
            raise ValueError(f"window must be at least 1, not {self.window}")
        if self.pools is not None and not 0 <= self.pools <= len(self.channels):
            raise ValueError(f"pools must be 0 to {len(self.channels)} (the number of stages), or None, not {self.pools}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")
        check_momentum(self.momentum)

    def build(self) -> Model:
        return Model(ConvNet(self))


class ConvNet(nn.Module):
    """Reads `image` [B, H, W, C]; returns `pooled` [B, F]: the last dense layer, or the mean over the last feature map."""

    config: ConvNetConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        c, x_BHWC = self.config, batch["image"]
        counts = c.convolutions if len(c.convolutions) > 1 else c.convolutions * len(c.channels)
        for i, (channels, count) in enumerate(zip(c.channels, counts, strict=True)):
            for j in range(count):
                stride, name = 2 if i and not j and c.pools is None else 1, f"stage_{i}_{j}"
                if c.batch_norm:
                    layer = ConvNorm(
                        channels, c.window, stride, c.padding, activation=c.activation, momentum=c.momentum, name=name
                    )
                    x_BHWC = layer(x_BHWC, train)
                else:
                    layer = Conv(channels, c.window, stride, c.padding, use_bias=True, name=name)
                    x_BHWC = ACTIVATIONS[c.activation](layer(x_BHWC))
            if c.pools is not None and i < c.pools:
                x_BHWC = max_pool(x_BHWC, 2)
        if not c.hidden:
            return {"pooled": constrain(Dropout(c.dropout)(x_BHWC.mean((1, 2)), train), "batch", None)}
        dense = Mlp(MlpConfig(hidden=c.hidden, dropout=c.dropout, activation=c.activation), name="dense")
        return dense({"image": Dropout(c.dropout)(x_BHWC, train)}, train)
