"""`fmodels shardings RECIPE [--mesh.AXIS N …]`: the sharding of every parameter of a run.

A mesh with explicit sizes is built of simulated CPU devices, so that a laptop can show the layout of a pod. A mesh with an axis
of size -1 is built of the devices of this machine.
"""

import math

from train import cli, sharding
from train.errors import UserError
from train.experiment import Experiment

MAX_SIMULATED = 2**12  # takes ten seconds; four times as many take minutes
USAGE = "usage: fmodels shardings RECIPE [--mesh.AXIS N …] [--field value …]"


def main(arguments: list[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    experiment, launch, beside = cli.parse_recipe(arguments, "shardings")
    if not simulate_devices(experiment):
        launch.cluster.join(list(beside.values()))
        check_devices(experiment)
    from train.assemble import assemble
    from train.plan import layout

    job = assemble(experiment)
    print(layout.table(job.program, job.experiment.mesh.rules, job.spec))
    return 0


def simulate_devices(experiment: Experiment) -> bool:
    """Make JAX simulate the CPU devices of a mesh with explicit sizes. Return whether the mesh has explicit sizes.

    Must be called before any device is used."""
    import jax

    sizes = [getattr(experiment.mesh, axis) for axis in sharding.AXES]
    if -1 in sizes:
        return False
    if math.prod(sizes) > MAX_SIMULATED:
        raise UserError(f"mesh: cannot simulate {math.prod(sizes):,} devices; the limit is {MAX_SIMULATED:,}")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", math.prod(sizes))
    return True


def check_devices(experiment: Experiment) -> None:
    """Raise UserError if a mesh with an axis of size -1 does not fit the devices of this machine."""
    import jax

    sizes = {axis: getattr(experiment.mesh, axis) for axis in sharding.AXES}
    required, found = -math.prod(sizes.values()), jax.device_count()
    if found % required:
        (free,) = (axis for axis, size in sizes.items() if size == -1)
        raise UserError(f"mesh: needs a multiple of {required} devices, found {found}; set --mesh.{free} to simulate devices")
