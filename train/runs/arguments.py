"""Arguments of the commands on a run, and how these commands open it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from train import cluster, parts, recipes
from train.cluster.join import Cluster
from train.errors import UserError
from train.experiment import Experiment, with_how
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
    """Arguments common to all commands on a run."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    "run directory, or name of a run in runs/"
    import_file: Annotated[str | None, arg(name="import")] = None
    "Python file that defines parts of the run's experiment, such as its recipe file"
    mesh: MeshSizes = MeshSizes()
    how: tuple[str, ...] = ()
    "fields to change that do not change what was learned: objective.beams=5 run.precision=bf16"
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
        """Read the resolved experiment, with `run.dir` set to the current path. Raises UserError if it cannot be read."""
        path = rundir.find(self.run)
        experiment = rundir.read_experiment(path, tuple(self.imported_modules()))
        sizes = {axis: size for axis, size in vars(self.mesh).items() if size is not None}
        try:
            mesh = replace(experiment.mesh, **sizes)
        except ValueError as error:
            raise UserError(f"mesh.{error}") from None
        experiment = replace(experiment, mesh=mesh, run=replace(experiment.run, dir=str(path)))
        return with_how(experiment, self.how, tuple(self.imported_modules()))


@dataclass(frozen=True)
class OtherData:
    """Data to use instead of that of the run, prepared in the same way."""

    source: str | None = None
    "data source: NAME or NAME:ARGUMENT, such as files:PATH (None: the data of the run)"
    fields: str | None = None
    "source fields for our fields: NAME=SOURCE_NAME,… (None: those of the run)"
    splits: str = ""
    "split of the source: test=NAME or test=NAME[:1000] (empty: test, else validation, else all rows)"


def assemble_run(wanted: RunArguments, other: OtherData = OtherData()) -> Any:
    """Assemble the run with its data, or with other data. Raises UserError if its own data changed since training."""
    from train.assemble import assemble

    experiment = wanted.read()
    if other.source is None and other != OtherData():
        raise UserError("--data.fields and --data.splits need --data.source")
    if (file := parts.code(experiment.data)) and file != wanted.import_file:
        raise UserError(f"{wanted.run}: its data runs code from {file}; if you trust it, pass --import {file}")
    if other.source is not None:
        path = Path(experiment.run.dir)
        return assemble(experiment, other=parts.elsewhere(experiment.data, path, other.source, other.fields, other.splits))
    job = assemble(experiment)
    rundir.same_data(job.path, job.dataset.fingerprint, parts.accept_changed(job.experiment.data), cluster.say)
    return job
