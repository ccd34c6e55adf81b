"""`fmodels run RECIPE [--field value …]`: train a recipe, or resume from its last checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train import cli, cluster
from train.errors import UserError
from train.experiment import Experiment
from train.runs.signals import stoppable


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.Launch):
    dry_run: bool = False
    "print parameters, FLOPs, memory and shapes, and whether the run directory would be accepted; train nothing"


def main(arguments: list[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"]):
        print("usage: fmodels run RECIPE|PATH/TO/FILE.py:NAME [--dry-run] [--field value …]\n")
        print("--dry-run prints parameters, FLOPs, memory and shapes, and trains nothing.")
        print("fmodels recipes lists the recipes; fmodels run RECIPE --help lists the fields of one.")
        return 0
    experiment, wanted, trusted = cli.join_recipe(arguments, "run", Arguments)
    from train import loop
    from train.runs.progress import metrics_line

    if wanted.dry_run:
        print(dry_run(experiment, trusted))
        return 0

    def work() -> int:
        result = loop.train(experiment, trusted, cli.origin(arguments, experiment))
        for split, metrics in result.items():
            print(metrics_line(split, metrics))
        print(f"saved in {experiment.run.dir}; to write a report: fmodels report {experiment.run.dir}")
        return 0

    return stoppable(work)


def dry_run(experiment: Experiment, trusted: tuple[str, ...]) -> str:
    """Return a summary of a new run of the experiment, and what `fmodels run` would do with its directory.

    Raises UserError if the experiment cannot run in an empty directory.
    """
    from train.assemble import assemble
    from train.plan.summary import describe
    from train.runs.begin import initial
    from train.runs.best import best_of

    job = assemble(experiment, is_new=True)
    best_of(job)  # raises an error if training does not report the metric
    if experiment.init_from:
        initial(job, cluster.say)  # raises an error if the parameters do not fit
    return describe(job, directory_state(job, trusted))


def directory_state(job: Any, trusted: tuple[str, ...]) -> str:
    """Return whether the run directory is new, would be resumed, or would be refused and why."""
    from train.runs import rundir

    path = Path(job.experiment.run.dir)
    try:
        if rundir.saved_experiment(job.experiment, trusted) is None:
            return f"{path}, new"
        rundir.same_data(path, job.dataset.fingerprint, getattr(job.experiment.data, "accept_changed", False), cluster.say)
        return f"{path}, which holds this experiment and would be resumed"
    except UserError as error:
        return f"would be refused: {error}"
