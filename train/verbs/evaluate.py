"""`fmodels evaluate RUN`: compute the metrics of a run on a held-out split."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from train import cli, cluster, parts, recipes
from train.cluster.join import Cluster
from train.errors import UserError, nearest
from train.experiment import Experiment
from train.runs import rundir


@dataclass(frozen=True)
class MeshSizes:
    """Number of devices along each mesh axis (None: as the run was trained)."""

    replica: int | None = None
    data: int | None = None
    fsdp: int | None = None
    tensor: int | None = None


@dataclass(frozen=True)
class RunArguments:
    """The arguments that all commands on a run share."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    "run directory, or name of a run in runs/"
    import_file: Annotated[str | None, arg(name="import")] = None
    "Python file that defines parts of the run's experiment, such as its recipe file"
    mesh: MeshSizes = MeshSizes()
    cluster: Cluster = Cluster()

    def join(self) -> None:
        """Wait for the other processes, if there are any."""
        self.cluster.join(list(self.imported_modules().values()))

    def imported_modules(self) -> dict[str, Path]:
        """Import the file given by --import. Return the modules imported from its folder, and their files."""
        if not self.import_file:
            return {}
        recipes.import_file(self.import_file)
        return recipes.modules_beside(self.import_file)

    def read(self) -> Experiment:
        """Read the resolved experiment, with the current place of the run as `run.dir`. Raises UserError if it cannot be read."""
        path = rundir.find(self.run)
        experiment = rundir.read_experiment(path, tuple(self.imported_modules()))
        sizes = {axis: size for axis, size in vars(self.mesh).items() if size is not None}
        try:
            mesh = replace(experiment.mesh, **sizes)
        except ValueError as error:
            raise UserError(f"mesh.{error}") from None
        return replace(experiment, mesh=mesh, run=replace(experiment.run, dir=str(path)))


@dataclass(frozen=True)
class Arguments(RunArguments):
    """Compute the metrics of a run on a whole split."""

    split: str | None = None
    "split to evaluate (None: test if there is one, else validation)"
    step: int | None = None
    "step of the checkpoint to evaluate (None: the newest)"
    best: bool = False
    "evaluate the best checkpoint, as chosen by run.best during training"
    json: bool = False
    "print one JSON value and nothing else"


def main(arguments: list[str]) -> int:
    wanted = cli.parse(Arguments, arguments, "fmodels evaluate")
    if wanted.best and wanted.step is not None:
        raise UserError("--best and --step both choose a checkpoint; give one of them")
    wanted.join()
    from train import loop
    from train.runs.trained import load

    job = assemble_run(wanted)
    splits = job.dataset.splits
    chosen = wanted.split or ("test" if "test" in splits else "validation")
    cluster.check_equal({"split": chosen, "best": wanted.best, "step": wanted.step})
    if chosen not in splits:
        raise UserError(f"{job.path} has no split {chosen}{nearest(chosen, splits)}")
    if wanted.best and chosen == job.dataset.held_out:
        say(f"the best checkpoint was chosen on {chosen}, so these figures are optimistic")
    params, model_state = load(job.path, job.program, say, wanted.step, wanted.best)
    result = loop.evaluate(job, params, model_state, chosen)
    if wanted.json:
        print(json.dumps({"run": str(job.path), "split": chosen, **result}))
    else:
        print(f"{job.path}, {chosen}: {len(splits[chosen]):,} examples")
        for name, value in result.items():
            if isinstance(value, float):
                print(f"  {name:24}{value:.4f}")
    return 0


def assemble_run(wanted: RunArguments) -> Any:
    """Assemble the run with its data. Raises UserError if the data is not what the run was trained on."""
    from train.assemble import assemble

    experiment = wanted.read()
    if (file := parts.code(experiment.data)) and file != wanted.import_file:
        raise UserError(f"{wanted.run}: its data runs code from {file}; if you trust it, pass --import {file}")
    job = assemble(experiment)
    accept = getattr(job.experiment.data, "accept_changed", False)
    rundir.same_data(job.path, job.dataset.fingerprint, accept, say)
    return job


def say(text: str) -> None:
    """Print to stderr, on the first process only."""
    if cluster.is_first():
        print(text, file=sys.stderr)
