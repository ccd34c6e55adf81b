"""`python -m train shardings RECIPE [--mesh.AXIS N …]`: which device holds which part of a run.

A mesh of which every axis is given is built of as many pretended devices, so that a pod can be looked at from a laptop; one that
fills an axis is built of the devices that there are.
"""

import math

from train import sharding
from train.errors import UserError
from train.experiment import Experiment
from train.verbs.run import parse

MOST_DEVICES = 2**12  # which takes ten seconds; four times as many take minutes
USAGE = "usage: python -m train shardings RECIPE [--mesh.AXIS N …] [--field value …]"


def main(arguments: list[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    experiment, cluster, beside = parse(arguments, "shardings")
    if not pretend(experiment):
        cluster.join(list(beside.values()))
        check_there(experiment)
    from train.assemble import assemble
    from train.plan import layout

    run = assemble(experiment)
    print(layout.table(run.program, run.experiment.mesh.rules, run.spec))
    return 0


def pretend(experiment: Experiment) -> bool:
    """Has jax make as many CPU devices as the mesh says, if it gives every axis. It is too late for that once jax has been
    used."""
    import jax

    sizes = [getattr(experiment.mesh, axis) for axis in sharding.AXES]
    if -1 in sizes:
        return False
    if math.prod(sizes) > MOST_DEVICES:
        raise UserError(f"mesh: {math.prod(sizes):,} devices; at most {MOST_DEVICES:,} are pretended")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", math.prod(sizes))
    return True


def check_there(experiment: Experiment) -> None:
    """Raises UserError for a mesh that fills an axis and does not fit the devices that there are."""
    import jax

    sizes = {axis: getattr(experiment.mesh, axis) for axis in sharding.AXES}
    given, there = -math.prod(sizes.values()), jax.device_count()
    if there % given:
        (filled,) = (axis for axis, size in sizes.items() if size == -1)
        raise UserError(
            f"mesh: {given} devices at least, and there are {there} here; say --mesh.{filled} too, and they are pretended"
        )
