"""FLOPs of a computation, counted from its matrix products and convolutions."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def count(function: Callable, *shapes: Any) -> int:
    """Count the FLOPs of the matrix products and convolutions in `function` at these shapes.

    A multiply-add is two FLOPs; the body of a scan counts once per iteration. All other operations are negligible."""
    return _count(jax.make_jaxpr(function)(*shapes).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * int(np.prod(out)) * int(np.prod([left[i] for i in contracted]))
        elif name == "conv_general_dilated":
            kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
            out_channels = kernel[params["dimension_numbers"].rhs_spec[0]]
            total += 2 * int(np.prod(out)) * int(np.prod(kernel)) // out_channels
        else:
            iterations = params.get("length", 1) if name == "scan" else 1
            total += iterations * sum(map(_count, _inner(params)))
    return total


def _inner(params: dict) -> list[Any]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                found.append(item)
    return found


def training(objective: Any, model: Any, params: Any, state: Any, batch: Any) -> int:
    """Count the FLOPs of a training step: three forward passes, since each product has two gradients. Ignores remat."""
    rng = jax.eval_shape(lambda: jax.random.key(0))
    loss = lambda params, state, batch, rng: objective.loss(model.apply, params, state, batch, rng, True)
    return 3 * count(loss, params, state, batch, rng)
