"""AlexNet (Krizhevsky et al. 2012), in the form of Krizhevsky 2014 for a single device.

Shapes: B batch, H height, W width, C channels, F features.
"""

from dataclasses import dataclass

import jax
from flax import linen as nn

from fmodels.mlp import Mlp, MlpConfig
from fmodels.model import Model
from fmodels.nn.convolution import Conv, max_pool
from fmodels.nn.layers import Dropout

# Channels, window, stride, padding, and whether 3x3 max pooling with stride 2 follows.
LAYERS = ((64, 11, 4, 2, True), (192, 5, 1, 2, True), (384, 3, 1, 1, False), (256, 3, 1, 1, False), (256, 3, 1, 1, True))


@dataclass(frozen=True, kw_only=True)
class AlexNetConfig:
    """Configuration of an AlexNet. Raises ValueError for invalid values."""

    hidden: tuple[int, ...] = (4096, 4096)
    "widths of the dense layers on the flattened feature map"
    dropout: float = 0.5
    "dropout rate of the inputs of each dense layer"

    def __post_init__(self):
        MlpConfig(hidden=self.hidden, dropout=self.dropout)

    def build(self) -> Model:
        return Model(AlexNet(self))


class AlexNet(nn.Module):
    """Reads `image` [B, H, W, C], of at least 63 x 63 pixels; returns `pooled` [B, F], the last dense layer."""

    config: AlexNetConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        c, x_BHWC = self.config, batch["image"]
        for i, (channels, window, stride, padding, pools) in enumerate(LAYERS):
            x_BHWC = jax.nn.relu(Conv(channels, window, stride, padding, use_bias=True, name=f"conv_{i}")(x_BHWC))
            x_BHWC = max_pool(x_BHWC, 3, 2) if pools else x_BHWC
        dense = Mlp(MlpConfig(hidden=c.hidden, dropout=c.dropout), name="dense")
        return dense({"image": Dropout(c.dropout)(x_BHWC, train)}, train)
