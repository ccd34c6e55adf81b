"""MobileNet-V2 (Sandler et al. 2018).

Shapes: B batch, H height, W width, C channels, F features.
"""

from dataclasses import dataclass
from functools import partial

import jax
from flax import linen as nn

from fmodels.axes import constrain
from fmodels.model import Model
from fmodels.nn.convolution import BatchNorm, ConvNorm, check_momentum
from fmodels.nn.inverted_residual import InvertedResidual, divisible
from fmodels.nn.layers import Dropout

# Expansion, channels, blocks, and stride of the first block (table 2 of the paper).
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


@dataclass(frozen=True, kw_only=True)
class MobileNetConfig:
    """Configuration of a MobileNet-V2. Raises ValueError for invalid values."""

    width: float = 1.0
    "factor on the number of channels"
    dropout: float = 0.2
    "dropout rate of the pooled features"
    momentum: float = 0.9
    "momentum of the batch norm running statistics"

    def __post_init__(self):
        if not self.width > 0:
            raise ValueError(f"width must be greater than 0, not {self.width}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")
        check_momentum(self.momentum)

    def build(self) -> Model:
        return Model(MobileNet(self))


class MobileNet(nn.Module):
    """Reads `image` [B, H, W, C]; returns `pooled` [B, F], the mean over the last feature map."""

    config: MobileNetConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        c = self.config
        norm, layer = partial(BatchNorm, c.momentum), partial(ConvNorm, activation="relu6", momentum=c.momentum)
        x_BHWC = layer(divisible(32 * c.width), 3, 2, name="stem")(batch["image"], train)
        for i, (expansion, channels, blocks, stride) in enumerate(STAGES):
            for j in range(blocks):
                options = {"expansion": expansion, "stride": 1 if j else stride, "norm": norm}
                x_BHWC = InvertedResidual(divisible(channels * c.width), **options, name=f"stage_{i}_block_{j}")(x_BHWC, train)
        x_BHWC = layer(divisible(1280 * max(1.0, c.width)), 1, name="top")(x_BHWC, train)
        return {"pooled": constrain(Dropout(c.dropout)(x_BHWC.mean((1, 2)), train), "batch", None)}
