"""A model outside of the project: one dense layer with tanh."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from fmodels.axes import named


@dataclass(frozen=True)
class ToyConfig:
    width: int = 8

    def build(self) -> "Toy":
        return Toy(self)


@dataclass(frozen=True)
class Toy:
    """The model interface with plain dicts and functions, without Flax, and with a logical axis of its own."""

    config: ToyConfig

    def init(self, rng, batch):
        kernel = named(jax.nn.initializers.normal(0.1), "numbers", "embed")
        return {"kernel": kernel(rng, (batch["numbers"].shape[1], self.config.width))}, {}

    def apply(self, params, state, batch, rng=None, train=False):
        return {"pooled": jnp.tanh(batch["numbers"] @ params["kernel"])}, state
