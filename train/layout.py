"""What lies where: every parameter of a run, and what of it each device holds, as a table that a person reads."""

import math
from collections.abc import Mapping
from typing import Any

import jax

from train import sharding
from train.optim import names
from train.step import Program


def table(program: Program, rules: sharding.Rules, spec: Mapping[str, Any]) -> str:
    """A line a parameter: shape, logical axes, mesh axes, bytes a device, and, if it is whole everywhere, why. `spec` is that of
    a batch."""
    rows = [("parameter", "shape", "logical axes", "mesh axes", "bytes a device", "whole because")]
    shapes, placed = jax.tree.leaves(program.shapes.params), jax.tree.leaves(program.shardings.params)
    axes = jax.tree.leaves(program.axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    for name, shape, logical, place in zip(names(program.shapes.params), shapes, axes, placed, strict=True):
        parts = (place.spec[i] if i < len(place.spec) else None for i in range(len(shape.shape)))
        on = ", ".join("-" if part is None else part if isinstance(part, str) else " x ".join(part) for part in parts)
        why = sharding.whole_because(program.mesh, rules, logical) if place.is_fully_replicated else ""
        size = ", ".join(map(str, shape.shape))
        rows.append((name, size, ", ".join(axis or "-" for axis in logical), on, f"{held(shape, place):,}", why))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    totals = {
        "parameters": total(program.shapes.params, program.shardings.params),
        "optimizer": total(program.shapes.opt_state, program.shardings.opt_state),
        "batch": sum(held(of, program.batch_sharding) for of in spec.values()),
    }
    summed = ", ".join(f"{count:,} of {what}" for what, count in totals.items())
    return "\n".join([*lines, "", f"mesh {sharding.said(program.mesh.shape)}; bytes a device: {summed}"])


def held(shape: Any, place: Any) -> int:
    """Bytes of an array on one device."""
    return math.prod(place.shard_shape(shape.shape)) * shape.dtype.itemsize


def total(shapes: Any, placed: Any) -> int:
    return sum(map(held, jax.tree.leaves(shapes), jax.tree.leaves(placed)))
