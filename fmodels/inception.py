"""Inception-v3 (Szegedy et al. 2016), with the auxiliary output that helps its training.

Shapes: B batch, H height, W width, C channels, F features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from fmodels.axes import constrain
from fmodels.model import Model
from fmodels.nn.convolution import ConvNorm, average_pool, check_momentum, max_pool
from fmodels.nn.layers import Dropout

Step = tuple | str | Mapping
"""(channels, window): a convolution that keeps the size of the map; (channels, window, 2): with stride 2 and no padding; mean and
max: 3x3 pooling with stride 1 and 2; a mapping: branches side by side, each a sequence of steps."""


def block_35(pooled: int) -> Mapping[str, Sequence[Step]]:
    double = [(64, 1), (96, 3), (96, 3)]
    return {"one": [(64, 1)], "five": [(48, 1), (64, 5)], "double": double, "pool": ["mean", (pooled, 1)]}


def block_17(width: int) -> Mapping[str, Sequence[Step]]:
    seven = [(width, 1), (width, (1, 7)), (192, (7, 1))]
    double = [(width, 1), (width, (7, 1)), (width, (1, 7)), (width, (7, 1)), (192, (1, 7))]
    return {"one": [(192, 1)], "seven": seven, "double": double, "pool": ["mean", (192, 1)]}


FORK = {"row": [(384, (1, 3))], "column": [(384, (3, 1))]}
BLOCK_8 = {"one": [(320, 1)], "three": [(384, 1), FORK], "double": [(448, 1), (384, 3), FORK], "pool": ["mean", (192, 1)]}
TO_17 = {"three": [(384, 3, 2)], "double": [(64, 1), (96, 3), (96, 3, 2)], "pool": ["max"]}
TO_8 = {
    "three": [(192, 1), (320, 3, 2)],
    "seven": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)],
    "pool": ["max"],
}
BELOW = [block_35(32), block_35(64), block_35(64), TO_17, block_17(128), block_17(160), block_17(160), block_17(192)]
ABOVE = [TO_8, BLOCK_8, BLOCK_8]


@dataclass(frozen=True, kw_only=True)
class InceptionConfig:
    """Configuration of an Inception-v3. Raises ValueError for invalid values."""

    dropout: float = 0.5
    "dropout rate of the pooled features"
    momentum: float = 0.9
    "momentum of the batch norm running statistics"

    def __post_init__(self):
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")
        check_momentum(self.momentum)

    def build(self) -> Model:
        return Model(Inception(self))


class Inception(nn.Module):
    """Reads `image` [B, H, W, C], of at least 107 x 107 pixels (published: 299 x 299).

    Returns `pooled` [B, F], the mean over the last feature map, and `auxiliary` [B, F], features of a lower layer; an objective
    adds a head to both."""

    config: InceptionConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        layer = partial(ConvNorm, momentum=self.config.momentum, epsilon=1e-3)
        branches = partial(Branches, layer)
        x_BHWC = layer(32, 3, 2, "valid", name="stem_0")(batch["image"], train)
        x_BHWC = layer(32, 3, 1, "valid", name="stem_1")(x_BHWC, train)
        x_BHWC = max_pool(layer(64, 3, name="stem_2")(x_BHWC, train), 3, 2)
        x_BHWC = layer(80, 1, name="stem_3")(x_BHWC, train)
        x_BHWC = max_pool(layer(192, 3, 1, "valid", name="stem_4")(x_BHWC, train), 3, 2)
        for i, steps in enumerate(BELOW):
            x_BHWC = branches(steps, name=f"block_{i}")(x_BHWC, train)
        y_BHWC = layer(128, 1, name="auxiliary_0")(average_pool(x_BHWC, 5, 3), train)
        whole = min(5, y_BHWC.shape[1]), min(5, y_BHWC.shape[2])  # 5x5 in the published network
        y_BHWC = layer(768, whole, 1, "valid", name="auxiliary_1")(y_BHWC, train)
        for i, steps in enumerate(ABOVE, len(BELOW)):
            x_BHWC = branches(steps, name=f"block_{i}")(x_BHWC, train)
        pooled_BF = Dropout(self.config.dropout)(x_BHWC.mean((1, 2)), train)
        return {"pooled": constrain(pooled_BF, "batch", None), "auxiliary": constrain(y_BHWC.mean((1, 2)), "batch", None)}


class Branches(nn.Module):
    """Branches side by side; their channels are concatenated."""

    layer: Callable[..., nn.Module]
    branches: Mapping[str, Sequence[Step]]

    @nn.compact
    def __call__(self, x_BHWC: Float[Array, "B H W C"], train: bool) -> Float[Array, "B P Q F"]:
        found = []
        for name, steps in self.branches.items():
            y_BHWC = x_BHWC
            for i, step in enumerate(steps):
                if isinstance(step, Mapping):
                    y_BHWC = Branches(self.layer, step, name=f"{name}_{i}")(y_BHWC, train)
                elif step == "mean":
                    y_BHWC = average_pool(y_BHWC, 3, 1, padding=1)
                elif step == "max":
                    y_BHWC = max_pool(y_BHWC, 3, 2)
                else:
                    channels, window, *stride = step
                    options = {"stride": 2, "padding": "valid"} if stride else {}
                    y_BHWC = self.layer(channels, window, **options, name=f"{name}_{i}")(y_BHWC, train)
            found.append(y_BHWC)
        return jnp.concatenate(found, axis=-1)
