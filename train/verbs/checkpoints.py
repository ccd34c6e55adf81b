"""`python -m train checkpoints RUN`: what is saved of a run, and whether it is whole."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train import cli
from train.errors import UserError
from train.verbs.evaluate import OfRun


@dataclass(frozen=True)
class Arguments(OfRun):
    """Reads every checkpoint of a run, as a run that continues would, and says which are whole."""

    json: bool = False
    "print one JSON value and nothing else"


def main(arguments: list[str]) -> int:
    wanted = cli.parse(Arguments, arguments, "python -m train checkpoints")
    experiment = wanted.read()
    from train.checkpoint import Checkpoints
    from train.loop import batch_spec
    from train.step import build

    path = Path(experiment.run.dir)
    program = build(experiment, batch_spec(experiment), experiment.mesh.build())
    with Checkpoints(path, 1, print, read_only=True) as checkpoints:
        rows = [row for step in checkpoints.steps() if (row := describe(checkpoints, step, program))]
    if wanted.json:
        print(json.dumps(rows))
    if not rows:
        raise UserError(f"{path}: there is no checkpoint: none was saved yet, or they are gone")
    if not wanted.json:
        print(f"{'step':>10}  {'MiB':>10}  {'written on':40}  state")
        for row in rows:
            state = row["wrong"] or ("whole, the best" if row["best"] else "whole")
            print(f"{row['step']:>10,}  {row['bytes'] / 2**20:>10,.1f}  {row['mesh'] or '':40}  {state}")
    if wrong := [str(row["step"]) for row in rows if row["wrong"]]:
        raise UserError(f"{path}: not readable: {', '.join(wrong)}")
    return 0


def describe(checkpoints: Any, step: int, program: Any) -> dict[str, Any] | None:
    """None for one that is there no more, since the run goes on."""
    folder = checkpoints.directory / str(step)
    try:
        _, damage = checkpoints.attempt(step, lambda step: checkpoints.read(step, program))
        wrong = f"damaged: {damage}" if damage else ""
    except UserError as error:  # of a newer version
        wrong = str(error)
    if not folder.exists():
        return None
    return {
        "step": step,
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "mesh": checkpoints.mesh(step),
        "best": checkpoints.best().get("step") == step,
        "wrong": wrong,
    }
