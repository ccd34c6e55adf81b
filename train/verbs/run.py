"""`python -m train run RECIPE [--field value …]`: trains it, from its last checkpoint if it has one."""

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

USAGE = "usage: python -m train run RECIPE|PATH/TO/FILE.py:NAME [--dry-run] [--field value …]"


def main(arguments: list[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"{USAGE}\n\npython -m train recipes lists the recipes; python -m train run RECIPE --help lists the fields of one.")
        return 0
    dry_run = "--dry-run" in arguments
    experiment, trusted = named([a for a in arguments if a != "--dry-run"], "run")
    from train import loop
    from train.runs import rundir

    if dry_run:
        from train.plan.summary import describe
        from train.runs.begin import initial

        job = loop.assemble(experiment)
        if not rundir.begun_as(job.experiment, trusted) and job.experiment.init_from:
            initial(job, lambda text: print(text, file=sys.stderr))  # raises an error if the parameters do not fit
        print(describe(job))
        return 0

    def work() -> int:
        result = loop.train(experiment, trusted)
        for split, metrics in result.items():
            print(f"{split}  " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float)))
        print(f"{experiment.run.dir} holds the run; python -m train report {experiment.run.dir}")
        return 0

    return stoppable(work)


def stoppable(work: Callable[[], int]) -> int:
    """The status of the work, or of the signal that ended it, having said what that left behind. Whoever sent SIGTERM got what
    was asked for, a saved state, and status 0."""
    from train import cluster
    from train.cluster import roll_call
    from train.runs.opened import RERUN, Interrupted

    def stop(number, _frame):
        """While nothing is being trained, and what was trained is saved. It ends at once: an exception may be raised within a
        callback that swallows it."""
        cursor = "\x1b[?25h\n" if sys.stderr.isatty() else ""  # which a progress bar hides
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
    """The experiment that `RECIPE [--field value …]` says, and the modules that the user named by naming a file. Of several
    processes that run it, all are there."""
    experiment, cluster, beside = told(arguments, verb)
    cluster.join(list(beside.values()))
    return experiment, tuple(beside)


def told(arguments: list[str], verb: str) -> tuple[Experiment, Cluster, dict[str, Path]]:
    """The same, with the cluster that has not been joined, and the file of each module."""
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"which recipe? python -m train {verb} RECIPE; python -m train recipes lists them")
    name, recipe = recipes.find(arguments[0])
    file = arguments[0].rpartition(":")[0]
    experiment = with_directory(recipe(), Path("runs") / name)
    prog = f"python -m train {verb} {arguments[0]}"
    experiment, cluster = cli.override(experiment, arguments[1:], prog, recipe.__doc__ or "")
    return experiment, cluster, recipes.modules_beside(file) if file else {}


def with_directory(experiment: Experiment, path: Path) -> Experiment:
    return experiment if experiment.run.dir else replace(experiment, run=replace(experiment.run, dir=os.fspath(path)))
