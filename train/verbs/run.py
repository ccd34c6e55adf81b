"""`fmodels run RECIPE [--field value …]`: train a recipe, or resume from its last checkpoint."""

from train import cli, cluster
from train.runs.signals import stoppable

USAGE = "usage: fmodels run RECIPE|PATH/TO/FILE.py:NAME [--dry-run] [--field value …]"


def main(arguments: list[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"{USAGE}\n\n--dry-run prints parameters, FLOPs, memory and shapes, and trains nothing.")
        print("fmodels recipes lists the recipes; fmodels run RECIPE --help lists the fields of one.")
        return 0
    dry_run = "--dry-run" in arguments
    arguments = [a for a in arguments if a != "--dry-run"]
    experiment, trusted = cli.join_recipe(arguments, "run")
    from train import loop
    from train.assemble import assemble
    from train.runs import rundir
    from train.runs.progress import metrics_line

    if dry_run:
        from train.plan.summary import describe
        from train.runs.begin import initial
        from train.runs.best import best_of

        job = assemble(experiment)
        best_of(job)  # raises an error if training does not report the metric
        if not rundir.saved_experiment(job.experiment, trusted) and job.experiment.init_from:
            initial(job, cluster.say)  # raises an error if the parameters do not fit
        print(describe(job))
        return 0

    def work() -> int:
        result = loop.train(experiment, trusted, cli.origin(arguments, experiment))
        for split, metrics in result.items():
            print(metrics_line(split, metrics))
        print(f"saved in {experiment.run.dir}; to write a report: fmodels report {experiment.run.dir}")
        return 0

    return stoppable(work)
