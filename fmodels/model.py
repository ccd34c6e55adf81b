"""The model contract: two pure functions over plain dict pytrees.

The config of a family builds a model: `BertConfig(...).build()`. The module reads the fields it needs from the batch (a dict of
arrays) and returns a dict of named outputs. Under jit, unused outputs cost nothing.
"""

from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn

Tree = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A linen module wrapped as pure functions `init` and `apply`."""

    module: nn.Module

    def init(self, rng: jax.Array, *inputs: Any) -> tuple[Tree, Tree]:
        """Return (params, state): parameters boxed with their logical axes (`fmodels.axes.split` unboxes them), and all other
        variables, such as the running statistics of batch norm. Only the shapes of `inputs` matter."""
        variables = dict(self.module.init(rng, *inputs, train=False))
        return variables.pop("params"), variables

    def apply(
        self, params: Tree, state: Tree, *inputs: Any, rng: jax.Array | None = None, train: bool = False
    ) -> tuple[Any, Tree]:
        """Return (outputs, new state). `rng` drives dropout in training. Without `train`, the state is returned unchanged."""
        variables = {"params": params, **state}
        if not train:
            return self.module.apply(variables, *inputs, train=False), state
        rngs = {} if rng is None else {"dropout": rng}
        outputs, state = self.module.apply(variables, *inputs, train=True, rngs=rngs, mutable=list(state))  # pyright: ignore
        return outputs, dict(state)

    def intermediates(self, params: Tree, state: Tree, *inputs: Any) -> Tree:
        """Return everything the module sows (attention weights, hidden states of each layer), by path. `apply` does not sow."""
        _, sown = self.module.apply({"params": params, **state}, *inputs, train=False, mutable=["intermediates"])
        return dict(sown)["intermediates"]
