"""`python -m train evaluate RUN`: the metrics of a run on a held-out split."""

import json
import sys
from dataclasses import dataclass, replace
from typing import Annotated

from tyro.conf import Positional, arg

from train import cli, recipes, rundir
from train.errors import UserError, nearest


@dataclass(frozen=True)
class OfRun:
    """What every verb on a run takes."""

    run: Positional[str]
    "its directory, or its name in runs/"
    import_file: Annotated[str | None, arg(name="import")] = None
    "a Python file that the run's experiment needs"


@dataclass(frozen=True)
class Arguments(OfRun):
    """The metrics of a run on a whole split."""

    split: str | None = None
    "which; test if there is one, else validation"
    best: bool = False
    "the checkpoint of least validation loss instead of the last"
    json: bool = False
    "print one JSON value and nothing else"


def main(arguments: list[str]) -> int:
    wanted = cli.parse(Arguments, arguments, "python -m train evaluate")
    from train import loop

    opened = open_run(wanted.run, wanted.import_file)
    splits = opened.dataset.splits
    chosen = wanted.split or ("test" if "test" in splits else "validation")
    if chosen not in splits:
        raise UserError(f"{opened.path} has no split {chosen}{nearest(chosen, splits)}")
    result = loop.evaluate(opened, *load(opened, wanted.best), chosen)
    if wanted.json:
        print(json.dumps({"run": str(opened.path), "split": chosen, **result}))
    else:
        print(f"{opened.path}, {chosen}: {len(splits[chosen]):,} examples")
        for name, value in result.items():
            if isinstance(value, float):
                print(f"  {name:24}{value:.4f}")
    return 0


def open_run(run: str, import_file: str | None = None):
    """The assembled experiment of a run directory, wherever it has been moved to. Raises UserError if it cannot be read."""
    from train import loop

    trusted: tuple[str, ...] = ()
    if import_file:
        recipes.import_file(import_file)
        trusted = recipes.modules_beside(import_file)
    path = rundir.find(run)
    experiment = rundir.read_experiment(path, trusted)
    opened = loop.assemble(replace(experiment, run=replace(experiment.run, dir=str(path))))
    rundir.same_data(path, opened.dataset.fingerprint)
    return opened


def load(opened, best: bool = False):
    """(params, model state) of an opened run."""
    from train.checkpoint import Checkpoints

    say = lambda text: print(text, file=sys.stderr)
    with Checkpoints(opened.path, opened.experiment.run.keep, say, read_only=True) as checkpoints:
        return checkpoints.restore_model(opened.program, best)
