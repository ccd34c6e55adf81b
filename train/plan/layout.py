"""A table of the sharding and the bytes per device of every parameter."""

import math
from collections.abc import Mapping
from typing import Any

import jax

from train import sharding
from train.sharding import by_name
from train.step import Program


def table(program: Program, rules: sharding.Rules, spec: Mapping[str, Any]) -> str:
    """Return one row per parameter: shape, logical axes, mesh axes, bytes per device, and the reason if it is replicated.

    Optimizer arrays that are not sharded like a parameter have their own rows. `spec` has the shapes of a batch."""
    rows = [("parameter", "shape", "logical axes", "mesh axes", "bytes per device", "replicated because")]

    def add(name: str, leaf: Any, placement: Any, logical: tuple[str | None, ...], reason: str) -> None:
        parts = (placement.spec[i] if i < len(placement.spec) else None for i in range(len(leaf.shape)))
        mesh_axes = ", ".join("-" if part is None else part if isinstance(part, str) else " x ".join(part) for part in parts)
        shape, axes = ", ".join(map(str, leaf.shape)), ", ".join(axis or "-" for axis in logical)
        size = f"{bytes_per_device(leaf, placement):,}"
        rows.append((name, shape, axes, mesh_axes, size, reason if placement.is_fully_replicated else ""))

    shapes, placed = program.shapes, program.shardings
    trees = (("", shapes.params, placed.params), ("state/", shapes.model_state, placed.model_state))
    for (prefix, leaves, placements), names in zip(trees, program.axes, strict=True):
        axes = jax.tree.leaves(names, is_leaf=lambda leaf: isinstance(leaf, tuple))
        for (name, leaf), placement, logical in zip(by_name(leaves).items(), jax.tree.leaves(placements), axes, strict=True):
            add(prefix + name, leaf, placement, logical, sharding.why_replicated(program.mesh, rules, logical))
    owners = sharding.moments(shapes.opt_state, shapes.params)
    for (name, leaf), placement in zip(by_name(shapes.opt_state).items(), jax.tree.leaves(placed.opt_state), strict=True):
        if leaf.ndim and not owners[name]:
            add(f"optimizer/{name}", leaf, placement, (None,) * leaf.ndim, "no parameter has its name and shape")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    totals = {
        "parameters": total(shapes.params, placed.params),
        "state": total(shapes.model_state, placed.model_state),
        "optimizer": total(shapes.opt_state, placed.opt_state),
        "batch": sum(bytes_per_device(leaf, program.batch_sharding) for leaf in spec.values()),
    }
    if shapes.average:
        totals["average"] = total(shapes.average, placed.average)
    summary = ", ".join(f"{name} {count:,}" for name, count in totals.items())
    return "\n".join([*lines, "", f"mesh {sharding.mesh_text(program.mesh.shape)}; bytes per device: {summary}"])


def bytes_per_device(leaf: Any, placement: Any) -> int:
    return math.prod(placement.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def total(shapes: Any, placed: Any) -> int:
    return sum(map(bytes_per_device, jax.tree.leaves(shapes), jax.tree.leaves(placed)))
