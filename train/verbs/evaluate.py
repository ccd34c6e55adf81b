"""`python -m train evaluate RUN`: the metrics of a run on a held-out split."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from train import cli, cluster, recipes
from train.cluster.join import Cluster
from train.errors import UserError, nearest
from train.experiment import Experiment
from train.runs import rundir


@dataclass(frozen=True)
class Sizes:
    """Devices along each axis of the mesh, where they are to be others than the run was trained on."""

    replica: int | None = None
    data: int | None = None
    fsdp: int | None = None
    tensor: int | None = None


@dataclass(frozen=True)
class OfRun:
    """What every verb on a run takes."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    "its directory, or its name in runs/"
    import_file: Annotated[str | None, arg(name="import")] = None
    "a Python file that the run's experiment needs"
    mesh: Sizes = Sizes()
    cluster: Cluster = Cluster()

    def join(self) -> None:
        """Waits for the other processes, if there are any."""
        self.cluster.join(list(self.beside().values()))

    def beside(self) -> dict[str, Path]:
        """The modules that the user named, which are imported, and their files."""
        if not self.import_file:
            return {}
        recipes.import_file(self.import_file)
        return recipes.modules_beside(self.import_file)

    def read(self) -> Experiment:
        """The resolved experiment, wherever its directory has been moved to. Raises UserError if it cannot be read."""
        path = rundir.find(self.run)
        experiment = rundir.read_experiment(path, tuple(self.beside()))
        sizes = {axis: size for axis, size in vars(self.mesh).items() if size is not None}
        try:
            mesh = replace(experiment.mesh, **sizes)
        except ValueError as error:
            raise UserError(f"mesh.{error}") from None
        return replace(experiment, mesh=mesh, run=replace(experiment.run, dir=str(path)))


@dataclass(frozen=True)
class Arguments(OfRun):
    """The metrics of a run on a whole split."""

    split: str | None = None
    "which; test if there is one, else validation"
    best: bool = False
    "the checkpoint of least loss on the split that was evaluated in training instead of the last"
    json: bool = False
    "print one JSON value and nothing else"


def main(arguments: list[str]) -> int:
    wanted = cli.parse(Arguments, arguments, "python -m train evaluate")
    wanted.join()
    from train import loop

    opened = assemble(wanted)
    splits = opened.dataset.splits
    chosen = wanted.split or ("test" if "test" in splits else "validation")
    cluster.check_alike({"split": chosen, "best": wanted.best})
    if chosen not in splits:
        raise UserError(f"{opened.path} has no split {chosen}{nearest(chosen, splits)}")
    if wanted.best and chosen == opened.dataset.held_out:
        say(f"the best was chosen by its loss on {chosen}, which flatters these figures")
    result = loop.evaluate(opened, *load(opened.path, opened.program, wanted.best), chosen)
    if wanted.json:
        print(json.dumps({"run": str(opened.path), "split": chosen, **result}))
    else:
        print(f"{opened.path}, {chosen}: {len(splits[chosen]):,} examples")
        for name, value in result.items():
            if isinstance(value, float):
                print(f"  {name:24}{value:.4f}")
    return 0


def assemble(wanted: OfRun) -> Any:
    """The run with its data and program. Raises UserError if the data is not what it was trained on."""
    from train import loop

    experiment = wanted.read()
    if keep := getattr(getattr(experiment.data, "cleaning", None), "keep", None):
        where = keep.rpartition(":")[0]
        if where != wanted.import_file:
            raise UserError(f"{wanted.run}: its data was chosen by {keep}; if you trust it, name its file: --import {where}")
    opened = loop.assemble(experiment)
    accept = getattr(opened.experiment.data, "accept_changed", False)
    rundir.same_data(opened.path, opened.dataset.fingerprint, accept, say)
    return opened


def load(path: Path, program: Any, best: bool = False) -> tuple[Any, Any]:
    """(params, model state) of the newest checkpoint of a run, or of the best."""
    from train.runs.checkpoints import Checkpoints

    with Checkpoints(path, 1, say, read_only=True) as checkpoints:
        return checkpoints.restore_model(program, best)


def say(text: str) -> None:
    """On stderr, once for all processes."""
    if cluster.is_first():
        print(text, file=sys.stderr)
