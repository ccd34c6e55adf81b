"""What lies where: every parameter of a run, and what of it each device holds, as a table that a person reads."""

import math
from collections.abc import Mapping
from typing import Any

import jax

from train import sharding
from train.sharding import by_name
from train.step import Program


def table(program: Program, rules: sharding.Rules, spec: Mapping[str, Any]) -> str:
    """A line a parameter: shape, logical axes, mesh axes, bytes a device, and, if it is whole everywhere, why; and one for each
    other array of the state that does not lie as a parameter does. `spec` is that of a batch."""
    rows = [("parameter", "shape", "logical axes", "mesh axes", "bytes a device", "whole because")]

    def add(name: str, shape: Any, place: Any, logical: tuple[str | None, ...], why: str) -> None:
        parts = (place.spec[i] if i < len(place.spec) else None for i in range(len(shape.shape)))
        on = ", ".join("-" if part is None else part if isinstance(part, str) else " x ".join(part) for part in parts)
        size, called = ", ".join(map(str, shape.shape)), ", ".join(axis or "-" for axis in logical)
        rows.append((name, size, called, on, f"{held(shape, place):,}", why if place.is_fully_replicated else ""))

    shapes, placed = program.shapes, program.shardings
    parts = (("", shapes.params, placed.params), ("state/", shapes.model_state, placed.model_state))
    for (prefix, of, to), names in zip(parts, program.axes, strict=True):
        axes = jax.tree.leaves(names, is_leaf=lambda leaf: isinstance(leaf, tuple))
        for (name, shape), place, logical in zip(by_name(of).items(), jax.tree.leaves(to), axes, strict=True):
            add(prefix + name, shape, place, logical, sharding.why_replicated(program.mesh, rules, logical))
    owners = sharding.moments(shapes.opt_state, shapes.params)
    for (name, shape), place in zip(by_name(shapes.opt_state).items(), jax.tree.leaves(placed.opt_state), strict=True):
        if shape.ndim and not owners[name]:
            add(f"optimizer/{name}", shape, place, (None,) * shape.ndim, "no parameter has its name and shape")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    totals = {
        "parameters": total(shapes.params, placed.params),
        "state": total(shapes.model_state, placed.model_state),
        "optimizer": total(shapes.opt_state, placed.opt_state),
        "batch": sum(held(of, program.batch_sharding) for of in spec.values()),
    }
    summed = ", ".join(f"{count:,} of {what}" for what, count in totals.items())
    return "\n".join([*lines, "", f"mesh {sharding.mesh_text(program.mesh.shape)}; bytes a device: {summed}"])


def held(shape: Any, place: Any) -> int:
    """Bytes of an array on one device."""
    return math.prod(place.shard_shape(shape.shape)) * shape.dtype.itemsize


def total(shapes: Any, placed: Any) -> int:
    return sum(map(held, jax.tree.leaves(shapes), jax.tree.leaves(placed)))
