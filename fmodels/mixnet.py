"""MixNet (Tan and Le 2019, MixConv): inverted residual blocks whose depthwise convolutions have kernels of several sizes.

Shapes: B batch, H height, W width, C channels, F features.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
from flax import linen as nn

from fmodels.axes import constrain
from fmodels.model import Model
from fmodels.nn.convolution import BatchNorm, ConvNorm, check_momentum
from fmodels.nn.inverted_residual import InvertedResidual, divisible
from fmodels.nn.layers import Dropout


class Blocks(NamedTuple):
    """A stage of equal blocks; `stride` is that of the first. `expand` and `project` are the groups of the 1x1 convolutions."""

    blocks: int
    channels: int
    windows: tuple[int, ...]
    stride: int = 1
    expansion: int = 6
    expand: int = 1
    project: int = 1
    squeeze: float = 0.5


THREE, FOUR, FIVE = (3, 5, 7), (3, 5, 7, 9), (3, 5, 7, 9, 11)
# Channels of the stem, and the blocks (figure 5 of the paper; the groups of the 1x1 convolutions are those of the authors' code).
NETWORKS = {
    "s": (
        16,
        Blocks(1, 16, (3,), expansion=1, squeeze=0.0),
        Blocks(1, 24, (3,), 2, expand=2, project=2, squeeze=0.0),
        Blocks(1, 24, (3,), expansion=3, expand=2, project=2, squeeze=0.0),
        Blocks(1, 40, THREE, 2),
        Blocks(3, 40, (3, 5), expand=2, project=2),
        Blocks(1, 80, THREE, 2, project=2, squeeze=0.25),
        Blocks(2, 80, (3, 5), project=2, squeeze=0.25),
        Blocks(1, 120, THREE, expand=2, project=2),
        Blocks(2, 120, FOUR, expansion=3, expand=2, project=2),
        Blocks(1, 200, FIVE, 2),
        Blocks(2, 200, FOUR, project=2),
    ),
    "m": (
        24,
        Blocks(1, 24, (3,), expansion=1, squeeze=0.0),
        Blocks(1, 32, THREE, 2, expand=2, project=2, squeeze=0.0),
        Blocks(1, 32, (3,), expansion=3, expand=2, project=2, squeeze=0.0),
        Blocks(1, 40, FOUR, 2),
        Blocks(3, 40, (3, 5), expand=2, project=2),
        Blocks(1, 80, THREE, 2, squeeze=0.25),
        Blocks(3, 80, FOUR, expand=2, project=2, squeeze=0.25),
        Blocks(1, 120, (3,)),
        Blocks(3, 120, FOUR, expansion=3, expand=2, project=2),
        Blocks(1, 200, FOUR, 2),
        Blocks(3, 200, FOUR, project=2),
    ),
}


@dataclass(frozen=True, kw_only=True)
class MixNetConfig:
    """Configuration of a MixNet. The defaults are MixNet-S. Raises ValueError for invalid values."""

    network: Literal["s", "m"] = "s"
    "blocks of MixNet-S, or of MixNet-M and -L"
    width: float = 1.0
    "factor on the number of channels"
    dropout: float = 0.2
    "dropout rate of the pooled features"
    drop_path: float = 0.0
    "rate of stochastic depth of each block"
    momentum: float = 0.99
    "momentum of the batch norm running statistics"

    def __post_init__(self):
        if not self.width > 0:
            raise ValueError(f"width must be greater than 0, not {self.width}")
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        check_momentum(self.momentum)

    def build(self) -> Model:
        return Model(MixNet(self))


def mixnet(size: str, **changes) -> MixNetConfig:
    """Return the config of a published size, `s`, `m` or `l`, with any fields overridden."""
    fields = {"network": "m", "width": 1.3} if size == "l" else {"network": size}
    return MixNetConfig(**{**fields, **changes})


class MixNet(nn.Module):
    """Reads `image` [B, H, W, C]; returns `pooled` [B, F], the mean over the last feature map."""

    config: MixNetConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        c = self.config
        layer, norm = partial(ConvNorm, momentum=c.momentum), partial(BatchNorm, c.momentum)
        stem, *stages = NETWORKS[c.network]
        x_BHWC = layer(divisible(stem * c.width), 3, 2, name="stem")(batch["image"], train)
        for i, stage in enumerate(stages):
            for j in range(stage.blocks):
                channels, stride = divisible(stage.channels * c.width), 1 if j else stage.stride
                block = InvertedResidual(
                    channels, stage.expansion, stage.windows, stride, stage.squeeze, "silu" if stage.squeeze else "relu",
                    c.drop_path, stage.expand, stage.project, norm, name=f"stage_{i}_block_{j}",
                )  # fmt: skip
                x_BHWC = block(x_BHWC, train)
        x_BHWC = layer(1536, 1, name="top")(x_BHWC, train)
        return {"pooled": constrain(Dropout(c.dropout)(x_BHWC.mean((1, 2)), train), "batch", None)}
