"""EfficientNet (Tan and Le 2019): one network, scaled in width, depth and resolution together.

Shapes: B batch, H height, W width, C channels, F features.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
from flax import linen as nn

from fmodels.axes import constrain
from fmodels.model import Model
from fmodels.nn.convolution import BatchNorm, ConvNorm, check_momentum
from fmodels.nn.inverted_residual import InvertedResidual, divisible
from fmodels.nn.layers import Dropout

# Expansion, channels, blocks, stride of the first block, and window (table 1 of the paper).
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """Configuration of an EfficientNet. The defaults are B0. Raises ValueError for invalid values."""

    width: float = 1.0
    "factor on the number of channels"
    depth: float = 1.0
    "factor on the number of blocks"
    dropout: float = 0.2
    "dropout rate of the pooled features"
    drop_path: float = 0.2
    "rate of stochastic depth of the last block; it grows linearly from 0"
    momentum: float = 0.99
    "momentum of the batch norm running statistics"
    norm_epsilon: float = 1e-3
    "added to the variance by batch norm"

    def __post_init__(self):
        for name in ("width", "depth", "norm_epsilon"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, not {getattr(self, name)}")
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        check_momentum(self.momentum)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Number of blocks of each stage."""
        return tuple(math.ceil(self.depth * blocks) for _, _, blocks, _, _ in STAGES)

    def build(self) -> Model:
        return Model(EfficientNet(self))


# Width, depth, dropout. The published networks take images of 224, 240, 260, 300, 380, 456, 528 and 600 pixels.
SIZES = {
    "b0": (1.0, 1.0, 0.2),
    "b1": (1.0, 1.1, 0.2),
    "b2": (1.1, 1.2, 0.3),
    "b3": (1.2, 1.4, 0.3),
    "b4": (1.4, 1.8, 0.4),
    "b5": (1.6, 2.2, 0.4),
    "b6": (1.8, 2.6, 0.5),
    "b7": (2.0, 3.1, 0.5),
}


def efficientnet(size: str, **changes) -> EfficientNetConfig:
    """Return the config of a published size, `b0` to `b7`, with any fields overridden."""
    return EfficientNetConfig(**{**dict(zip(("width", "depth", "dropout"), SIZES[size], strict=True)), **changes})


class EfficientNet(nn.Module):
    """Reads `image` [B, H, W, C]; returns `pooled` [B, F], the mean over the last feature map."""

    config: EfficientNetConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        c = self.config
        norm = partial(BatchNorm, c.momentum, c.norm_epsilon)
        layer = partial(ConvNorm, activation="silu", momentum=c.momentum, epsilon=c.norm_epsilon)
        x_BHWC = layer(divisible(32 * c.width), 3, 2, name="stem")(batch["image"], train)
        done, total = 0, sum(c.blocks)
        for i, ((expansion, channels, _, stride, window), blocks) in enumerate(zip(STAGES, c.blocks, strict=True)):
            for j in range(blocks):
                block = InvertedResidual(
                    divisible(channels * c.width), expansion, (window,), 1 if j else stride, 0.25, "silu",
                    drop_path=c.drop_path * done / total, norm=norm, name=f"stage_{i}_block_{j}",
                )  # fmt: skip
                x_BHWC, done = block(x_BHWC, train), done + 1
        x_BHWC = layer(4 * divisible(320 * c.width), 1, name="top")(x_BHWC, train)
        return {"pooled": constrain(Dropout(c.dropout)(x_BHWC.mean((1, 2)), train), "batch", None)}
