"""Heads: layers that an objective adds on top of a model's outputs.

Shapes: B batch, K positions, D model width, V vocabulary, C classes, E width of the output.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from fmodels.axes import constrain, named
from fmodels.nn.layers import ACTIVATIONS, Dense, Dropout, LayerNorm, add_bias


class MaskedLMHead(nn.Module):
    """Dense, GELU, LayerNorm, then the product with the tied token embedding plus a bias (Devlin et al. 2019). float32 output."""

    @nn.compact
    def __call__(
        self, hidden_BKD: Float[Array, "B K D"], embedding_VD: Float[Array, "V D"], train: bool
    ) -> Float[Array, "B K V"]:
        x_BKD = ACTIVATIONS["gelu"](Dense(hidden_BKD.shape[-1], ("embed", "mlp"), name="dense")(hidden_BKD))
        x_BKD = LayerNorm(name="norm")(constrain(x_BKD, "batch", None, None))
        bias_V = self.param("bias", named(nn.initializers.zeros, "vocab"), (embedding_VD.shape[0],))
        logits_BKV = jnp.einsum("BKD,VD->BKV", x_BKD, embedding_VD, preferred_element_type=jnp.float32)
        return constrain(add_bias(logits_BKV, bias_V.astype(jnp.float32)), "batch", None, "vocab")


class ClassifierHead(nn.Module):
    """Dropout, then one dense layer initialised to zero (Dosovitskiy et al. 2021, §3.2). float32 output.

    A random kernel would pull the features in random directions, different for each seed."""

    classes: int
    dropout: float = 0.0
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B *places D"], train: bool) -> Float[Array, "B *places C"]:
        x = Dropout(self.dropout)(x, train)
        dense = Dense(self.classes, ("embed", None), self.use_bias, init=nn.initializers.zeros, name="dense")
        return constrain(dense(x).astype(jnp.promote_types(x.dtype, jnp.float32)), "batch", *(None,) * (x.ndim - 1))


class ProjectionHead(nn.Module):
    """Dense, ReLU, dense (Chen et al. 2020, §2.1)."""

    width: int

    @nn.compact
    def __call__(self, x_BD: Float[Array, "B D"], train: bool) -> Float[Array, "B E"]:
        x_BD = jax.nn.relu(Dense(x_BD.shape[-1], ("embed", "mlp"), name="hidden")(x_BD))
        return Dense(self.width, ("embed", None), name="output")(constrain(x_BD, "batch", None))
