"""The model contract: two pure functions over plain dict pytrees.

A family's config builds one: `BertConfig(...).build()`. Its module is called with the batch (a dict of arrays; it reads the
fields that it knows) and returns a dict of named outputs; a jitted caller pays only for those it uses.
"""

from dataclasses import dataclass
from typing import Any

import jax
from flax import linen as nn

Tree = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A linen module, seen from outside as `init` and `apply`."""

    module: nn.Module

    def init(self, rng: jax.Array, *inputs: Any) -> tuple[Tree, Tree]:
        """(params, state): fresh parameters, boxed with their logical axes (`fmodels.axes.split` unboxes), and whatever else
        the module keeps, such as the running statistics of batch norm. The values of `inputs` do not matter, their shapes do."""
        variables = dict(self.module.init(rng, *inputs, train=False))
        return variables.pop("params"), variables

    def apply(
        self, params: Tree, state: Tree, *inputs: Any, rng: jax.Array | None = None, train: bool = False
    ) -> tuple[Any, Tree]:
        """(outputs, new state). `rng` drives dropout, in training only; without `train` the state comes back as it was."""
        variables = {"params": params, **state}
        if not train:
            return self.module.apply(variables, *inputs, train=False), state
        rngs = {} if rng is None else {"dropout": rng}
        outputs, state = self.module.apply(variables, *inputs, train=True, rngs=rngs, mutable=list(state))  # pyright: ignore
        return outputs, dict(state)

    def intermediates(self, params: Tree, state: Tree, *inputs: Any) -> Tree:
        """All that the module sows (attention weights, hidden states of each layer), by path. It costs nothing elsewhere."""
        _, sown = self.module.apply({"params": params, **state}, *inputs, train=False, mutable=["intermediates"])
        return dict(sown)["intermediates"]
