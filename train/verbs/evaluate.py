"""`python -m train evaluate RUN`: the metrics of a run on a held-out split."""

import json
from dataclasses import replace
from typing import Annotated

from tyro.conf import Positional, arg

from train import cli, recipes, rundir
from train.errors import UserError, nearest


def main(arguments: list[str]) -> int:
    def evaluate(
        run: Positional[str],
        split: str | None = None,
        best: bool = False,
        as_json: Annotated[bool, arg(name="json")] = False,
        import_file: Annotated[str | None, arg(name="import")] = None,
    ) -> int:
        """The metrics of a run on a whole split.

        Args:
            run: its directory, or its name in runs/.
            split: which; test if there is one, else validation.
            best: the checkpoint of least validation loss instead of the last.
            as_json: print one JSON value and nothing else.
            import_file: a Python file that the run's experiment needs.
        """
        from train import loop

        opened = open_run(run, import_file)
        splits = opened.dataset.splits
        chosen = split or ("test" if "test" in splits else "validation")
        if chosen not in splits:
            raise UserError(f"{opened.path} has no split {chosen}{nearest(chosen, splits)}")
        result = loop.evaluate(opened, *load(opened, best), chosen)
        if as_json:
            print(json.dumps({"run": str(opened.path), "split": chosen, **result}))
        else:
            print(f"{opened.path}, {chosen}: {len(splits[chosen]):,} examples")
            for name, value in result.items():
                if isinstance(value, float):
                    print(f"  {name:24}{value:.4f}")
        return 0

    return cli.parse(evaluate, arguments, "python -m train evaluate")


def open_run(run: str, import_file: str | None = None):
    """The assembled experiment of a run directory, wherever it has been moved to. Raises UserError if it cannot be read."""
    from train import loop

    trusted: tuple[str, ...] = ()
    if import_file:
        recipes.import_file(import_file)
        trusted = recipes.modules_beside(import_file)
    path = rundir.find(run)
    experiment = rundir.read_experiment(path, trusted)
    return loop.assemble(replace(experiment, run=replace(experiment.run, dir=str(path))))


def load(opened, best: bool = False):
    """(params, model state) of an opened run."""
    import sys

    from train.checkpoint import Checkpoints

    with Checkpoints(opened.path, opened.experiment.run.keep, say=lambda text: print(text, file=sys.stderr)) as checkpoints:
        return checkpoints.restore_model(opened.program, best)
