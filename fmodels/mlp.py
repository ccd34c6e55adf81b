"""A multilayer perceptron over a flattened image.

Shapes: B batch, H height, W width, C channels, F features.
"""

from dataclasses import dataclass
from typing import Literal

import jax
from flax import linen as nn

from fmodels.axes import constrain
from fmodels.model import Model
from fmodels.nn.layers import ACTIVATIONS, HE, Dense, Dropout

Activation = Literal["relu", "sigmoid", "tanh", "gelu", "silu"]


@dataclass(frozen=True, kw_only=True)
class MlpConfig:
    hidden: tuple[int, ...] = (256, 128)
    "width of each hidden layer"
    activation: Activation = "relu"
    "activation of each hidden layer"
    dropout: float = 0.0
    "dropout rate of each hidden layer"

    def __post_init__(self):
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be one or more positive widths, not {self.hidden}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")

    def build(self) -> Model:
        return Model(Mlp(self))


class Mlp(nn.Module):
    """Reads `image` [B, H, W, C]; returns `pooled` [B, F], the last hidden layer."""

    config: MlpConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        x_BF = batch["image"].reshape(len(batch["image"]), -1)
        axes = ("pixels", "mlp")
        for i, width in enumerate(self.config.hidden):
            x_BF = ACTIVATIONS[self.config.activation](Dense(width, axes, init=HE, name=f"dense_{i}")(x_BF))
            # Replicate the features, since each layer shards its outputs. With (batch, mlp) here, XLA's partitioner (jax 0.10 to
            # 0.12) computes a wrong gradient of the previous layer on a mesh with data, fsdp and tensor 2; see
            # tests/train/test_invariance.py.
            x_BF = constrain(Dropout(self.config.dropout)(x_BF, train), "batch", None)
            axes = ("embed", "mlp")
        return {"pooled": x_BF}
