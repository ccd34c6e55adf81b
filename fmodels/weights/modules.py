"""Conversion of convolutional networks from and to the names and layouts of PyTorch.

A family lists its modules: the name of each in PyTorch, our path, and the names of its tensors.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from fmodels.weights.rules import HF_ORDER, OUR_ORDER

NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}

Modules = Mapping[str, tuple[str, Mapping[str, str]]]
"""Module in PyTorch -> (our path, the names of its tensors there -> here)."""


def names(modules: Modules) -> dict[str, str]:
    """Return the path in {"params": …, "batch_stats": …} of each tensor of PyTorch."""
    state = lambda path: f"batch_stats/{path.removeprefix('model/')}"
    return {
        f"{module}.{theirs}": f"{state(path) if theirs.startswith('running_') else f'params/{path}'}/{ours}"
        for module, (path, tensors) in modules.items()
        for theirs, ours in tensors.items()
    }


def from_torch(modules: Modules, tensors: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters {"model": …, "head": …} and the model state, in float32. Skips the step counters of batch norms.

    Raises ValueError for a tensor that is unknown or missing."""
    paths, found = names(modules), {}
    for name, tensor in tensors.items():
        if name.endswith(".num_batches_tracked"):
            continue
        if name not in paths:
            raise ValueError(f"{name} is not a parameter of this network")
        x = np.asarray(tensor, np.float32)
        found[paths[name]] = x.transpose(OUR_ORDER[x.ndim]) if paths[name].endswith("/kernel") else x
    for name, path in paths.items():
        if path not in found:
            raise ValueError(f"{name} is missing")
    tree = unflatten_dict(found, sep="/")
    return tree["params"], {"batch_stats": tree["batch_stats"]} if "batch_stats" in tree else {}


def to_torch(modules: Modules, params: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the tensors of PyTorch: the inverse of `from_torch`.

    Raises ValueError for a parameter that is unknown or missing."""
    given = flatten_dict({"params": params, **state}, sep="/")
    paths = names(modules)
    if unknown := given.keys() - set(paths.values()):
        raise ValueError(f"{min(unknown)} is not a parameter of this network")
    found = {}
    for name, path in paths.items():
        if path not in given:
            raise ValueError(f"{path} is missing")
        x = np.asarray(given[path])
        found[name] = np.ascontiguousarray(x.transpose(HF_ORDER[x.ndim])) if path.endswith("/kernel") else x
    return found
