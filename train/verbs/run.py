"""`fmodels run RECIPE [--field value …]`: train a recipe, or resume from its last checkpoint."""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from train import cli, recipes
from train.cluster.join import Cluster
from train.errors import UserError
from train.experiment import Experiment

USAGE = "usage: fmodels run RECIPE|PATH/TO/FILE.py:NAME [--dry-run] [--field value …]"


def main(arguments: list[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"{USAGE}\n\n--dry-run prints parameters, FLOPs, memory and shapes, and trains nothing.")
        print("fmodels recipes lists the recipes; fmodels run RECIPE --help lists the fields of one.")
        return 0
    dry_run = "--dry-run" in arguments
    experiment, trusted = named([a for a in arguments if a != "--dry-run"], "run")
    from train import loop
    from train.assemble import assemble
    from train.runs import rundir

    if dry_run:
        from train.plan.summary import describe
        from train.runs.begin import initial
        from train.runs.best import best_of

        job = assemble(experiment)
        best_of(job)  # raises an error if training does not report the metric
        if not rundir.saved_experiment(job.experiment, trusted) and job.experiment.init_from:
            initial(job, lambda text: print(text, file=sys.stderr))  # raises an error if the parameters do not fit
        print(describe(job))
        return 0

    def work() -> int:
        result = loop.train(experiment, trusted)
        for split, metrics in result.items():
            print(f"{split}  " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float)))
        print(f"saved in {experiment.run.dir}; to write a report: fmodels report {experiment.run.dir}")
        return 0

    return stoppable(work)


def stoppable(work: Callable[[], int]) -> int:
    """Run `work` and return its exit status. If a signal stops it, print what is saved and return 0 for SIGTERM, which asks
    for a saved state, or 128 + the number of another signal."""
    from train import cluster
    from train.cluster import roll_call
    from train.runs.opened import RERUN, Interrupted

    def stop(number, _frame):
        """End the process at once; used outside of training, when all progress is saved. An exception instead could be raised
        inside a callback that swallows it."""
        cursor = "\x1b[?25h\n" if sys.stderr.isatty() else ""  # a progress bar hides it
        os.write(sys.stderr.fileno(), f"{cursor}stopped; {RERUN}\n".encode())
        roll_call.stop_all(0 if number == signal.SIGTERM else 128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return work()
    except Interrupted as interrupted:
        if cluster.is_first():
            print(interrupted, file=sys.stderr)
        return 0 if interrupted.signal == signal.SIGTERM else 128 + interrupted.signal
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def named(arguments: list[str], verb: str) -> tuple[Experiment, tuple[str, ...]]:
    """Parse `RECIPE [--field value …]` and wait for all processes of the run. Return the experiment, and the modules imported
    from the folder of the recipe file, which are trusted."""
    experiment, cluster, modules = parse(arguments, verb)
    cluster.join(list(modules.values()))
    return experiment, tuple(modules)


def parse(arguments: list[str], verb: str) -> tuple[Experiment, Cluster, dict[str, Path]]:
    """Parse the same without waiting. Also return the cluster to join, and the file of each module."""
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"RECIPE is missing: fmodels {verb} RECIPE; fmodels recipes lists them")
    name, recipe = recipes.find(arguments[0])
    file = arguments[0].rpartition(":")[0]
    try:
        experiment = with_directory(recipe(), Path("runs") / name)
    except ValueError as error:
        raise UserError(f"recipe {name}: {error}") from None
    prog = f"fmodels {verb} {arguments[0]}"
    experiment, cluster = cli.override(experiment, arguments[1:], prog, recipe.__doc__ or "")
    return experiment, cluster, recipes.modules_beside(file) if file else {}


def with_directory(experiment: Experiment, path: Path) -> Experiment:
    return experiment if experiment.run.dir else replace(experiment, run=replace(experiment.run, dir=os.fspath(path)))
