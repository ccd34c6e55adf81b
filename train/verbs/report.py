"""`fmodels report RUN`: write report.html for a run."""

from dataclasses import dataclass

from train import cli, cluster
from train.runs import rundir
from train.runs.arguments import RunArguments, assemble_run


@dataclass(frozen=True)
class Arguments(RunArguments):
    """Write report.html: the curves of a run, its result, and its predictions for a few held-out examples."""


def main(arguments: list[str]) -> int:
    wanted = cli.parse(Arguments, arguments, "fmodels report")
    wanted.join()
    from train.report.run import report, samples
    from train.runs.trained import Predictor, load

    job = assemble_run(wanted)
    codec, objective, examples = job.dataset.codec, job.experiment.objective, []
    if cluster.gather((job.path / "result.json").exists())[0]:
        examples = samples(job, Predictor(job.experiment, codec, job.program, *load(job.path, job.program, cluster.say)))
    page = job.path / "report.html"
    cluster.on_first(lambda: rundir.write_atomically(page, report(job.path, objective, codec, examples)))
    print(page)
    return 0
