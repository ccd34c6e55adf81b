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
    from train.report.run import predicted, report
    from train.runs.trained import Predictor, load

    job = assemble_run(wanted)
    samples, page = None, job.path / "report.html"
    if cluster.gather((job.path / "result.json").exists())[0]:
        model = load(job.path, job.program, cluster.say)
        samples = predicted(job, Predictor(job.experiment, job.dataset.codec, job.program, *model))
    cluster.on_first(lambda: rundir.write_atomically(page, report(job, samples)))
    print(page)
    return 0
