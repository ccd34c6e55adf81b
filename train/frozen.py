"""Freeze the model state of frozen parameters, such as the running statistics of a batch norm."""

from collections.abc import Callable, Set
from typing import Any

import jax

from fmodels.nn.convolution import frozen_batch_norms
from train.sharding import by_name


def frozen_state(frozen: Set[str], params: Any, model_state: Any) -> frozenset[str]:
    """Return the names of the model state that belongs to frozen parameters.

    `batch_stats/stage/norm/mean` belongs to the parameters `model/stage/norm/…` or, if there are none, to the parameters of the
    innermost enclosing module with any. It is frozen if all these parameters are.
    """

    def owners(name: str) -> set[str]:
        path = name.split("/")[1:-1]
        while path and not any(param.startswith("/".join(["model", *path, ""])) for param in names):
            path.pop()
        return {param for param in names if param.startswith("/".join(["model", *path, ""]))}

    names = by_name(params)
    return frozenset(name for name in by_name(model_state) if frozenset() < owners(name) <= frozen)


def keeping(apply: Callable, frozen: Set[str]) -> Callable:
    """Return `apply` with the model state `frozen` unchanged. Batch norms with frozen statistics use them in training too."""
    modules = {"/".join(name.split("/")[1:-1]) for name in frozen}

    def keep(path: tuple, old: Any, new: Any) -> Any:
        return old if jax.tree_util.keystr(path, simple=True, separator="/") in frozen else new

    def frozen_apply(params: Any, model_state: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        with frozen_batch_norms(modules):
            outputs, new = apply(params, model_state, *args, **kwargs)
        return outputs, jax.tree_util.tree_map_with_path(keep, model_state, new)

    return frozen_apply if frozen else apply
