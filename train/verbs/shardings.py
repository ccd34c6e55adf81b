"""`python -m train shardings RECIPE [--mesh.AXIS N …]`: which device holds which part of a run.

A mesh of which every axis is given is built of as many pretended devices, so that a pod can be looked at from a laptop; one that
fills an axis is built of the devices that there are.
"""

import math
from typing import Any

from train import sharding
from train.errors import UserError
from train.experiment import Experiment
from train.verbs.run import named

USAGE = "usage: python -m train shardings RECIPE [--mesh.AXIS N …] [--field value …]"


def main(arguments: list[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    experiment, _ = named(arguments, "shardings")
    pretend(experiment)
    from train import loop

    print(table(loop.assemble(experiment)))
    return 0


def pretend(experiment: Experiment) -> None:
    """Has jax make as many CPU devices as the mesh says. It is too late for that once jax has been used. Raises UserError for a
    mesh that fills an axis and does not fit the devices that there are."""
    import jax

    sizes = {axis: getattr(experiment.mesh, axis) for axis in sharding.AXES}
    if -1 not in sizes.values():
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", math.prod(sizes.values()))
    elif (there := jax.device_count()) % (given := -math.prod(sizes.values())):
        (filled,) = (axis for axis, size in sizes.items() if size == -1)
        raise UserError(
            f"mesh: {given} devices at least, and there are {there} here; say --mesh.{filled} too, and they are pretended"
        )


def table(run: Any) -> str:
    """A line a parameter: shape, logical axes, mesh axes, bytes a device, and, if it is whole everywhere, why."""
    import jax

    from train.optim import names

    program, rules = run.program, run.experiment.mesh.rules
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
        "batch": sum(held(spec, program.batch_sharding) for spec in run.spec.values()),
    }
    summed = ", ".join(f"{count:,} of {what}" for what, count in totals.items())
    return "\n".join([*lines, "", f"mesh {sharding.said(program.mesh.shape)}; bytes a device: {summed}"])


def held(shape: Any, place: Any) -> int:
    """Bytes of an array on one device."""
    return math.prod(place.shard_shape(shape.shape)) * shape.dtype.itemsize


def total(shapes: Any, placed: Any) -> int:
    import jax

    return sum(map(held, jax.tree.leaves(shapes), jax.tree.leaves(placed)))
