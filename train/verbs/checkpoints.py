"""`python -m train checkpoints RUN`: what is saved of a run, and whether it is whole."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from train import cli, cluster
from train.cluster.join import Cluster
from train.errors import UserError
from train.runs import rundir

LOOKS = 10  # at a run that goes on, and may replace all that it has saved while it is read


@dataclass(frozen=True)
class Arguments:
    """Reads every checkpoint of a run, on the devices that there are, and says which are whole."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    "its directory, or its name in runs/"
    json: bool = False
    "print one JSON value and nothing else"
    cluster: Cluster = Cluster()


def main(arguments: list[str]) -> int:
    wanted = cli.parse(Arguments, arguments, "python -m train checkpoints")
    wanted.cluster.join()
    path = rundir.find(wanted.run)
    from train.runs.checkpoints import Checkpoints
    from train.sharding import Mesh

    mesh = Mesh().build()
    with Checkpoints(path, 1, print) as checkpoints:
        rows, looks, wrong = [], 0, []
        while not rows and checkpoints.steps() and looks < LOOKS:
            rows = [row for step in checkpoints.steps() if (row := cluster.gathered(describe(checkpoints, step, mesh))[0])]
            checkpoints.manager.reload()
            looks += 1
        try:
            best = checkpoints.best()
        except UserError as error:
            best, wrong = {}, [str(error)]
    for row in rows:
        row["best"] = best.get("metric") if row["step"] == best.get("step") else None
    if wanted.json:
        print(json.dumps(rows))
    if not rows:
        raise UserError(f"{path}: there is no checkpoint: none was saved yet, or they are gone")
    if not wanted.json:
        print(f"{'step':>10}  {'MiB':>10}  {'written on':40}  state")
        for row in rows:
            state = row["wrong"] or (f"whole, the best by {row['best']}" if row["best"] else "whole")
            print(f"{row['step']:>10,}  {row['bytes'] / 2**20:>10,.1f}  {row['mesh'] or '':40}  {state}")
    if damaged := [str(row["step"]) for row in rows if row["wrong"]]:
        wrong.insert(0, f"{path}: not readable: {', '.join(damaged)}")
    if wrong:
        raise UserError("; ".join(wrong))
    return 0


def describe(checkpoints: Any, step: int, mesh: Any) -> dict[str, Any] | None:
    """None for one that is there no more, since the run goes on."""
    wrong = checkpoints.wrong(step, mesh)
    try:
        files = [file.stat() for file in (checkpoints.directory / str(step)).rglob("*") if file.is_file()]
    except FileNotFoundError:
        files = []
    if not files and not (checkpoints.directory / str(step)).exists():
        return None
    return {
        "step": step,
        "bytes": sum(file.st_size for file in files),
        "mesh": checkpoints.mesh(step),
        "wrong": wrong,
    }
