"""`fmodels checkpoints RUN`: list and verify the checkpoints of a run."""

import json
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from train import cli, cluster
from train.cluster.join import Cluster
from train.errors import UserError
from train.runs import rundir

ATTEMPTS = 10  # a run in progress may replace all its checkpoints while they are read


@dataclass(frozen=True)
class Arguments:
    """List the checkpoints of a run. Reads each on the available devices and reports damaged ones."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    "run directory, or name of a run in runs/"
    json: bool = False
    "print one JSON value and nothing else"
    cluster: Cluster = Cluster()


def main(arguments: list[str]) -> int:
    wanted = cli.parse(Arguments, arguments, "fmodels checkpoints")
    wanted.cluster.join()
    path = rundir.find(wanted.run)
    from train.runs.checkpoints import Checkpoints
    from train.sharding import Mesh

    mesh = Mesh().build()
    with Checkpoints(path, print) as checkpoints:
        rows, attempts, errors = [], 0, []
        while not rows and checkpoints.steps() and attempts < ATTEMPTS:
            rows = [row for step in checkpoints.steps() if (row := cluster.gather(describe(checkpoints, step, mesh))[0])]
            checkpoints.manager.reload()
            attempts += 1
        try:
            best = checkpoints.best()
        except UserError as error:
            best, errors = {}, [str(error)]
    for row in rows:
        row["best"] = best.get("metric") if row["step"] == best.get("step") else None
    if wanted.json:
        print(json.dumps(rows))
    if not rows:
        raise UserError(f"{path} has no checkpoints: none was saved yet, or all were deleted")
    if not wanted.json:
        print(f"{'step':>10}  {'MiB':>10}  {'mesh':40}  state")
        for row in rows:
            state = row["damage"] or (f"valid, best by {row['best']}" if row["best"] else "valid")
            print(f"{row['step']:>10,}  {row['bytes'] / 2**20:>10,.1f}  {row['mesh'] or '':40}  {state}")
    if damaged := [str(row["step"]) for row in rows if row["damage"]]:
        errors.insert(0, f"{path}: damaged checkpoints: {', '.join(damaged)}")
    if errors:
        raise UserError("; ".join(errors))
    return 0


def describe(checkpoints: Any, step: int, mesh: Any) -> dict[str, Any] | None:
    """Return the row of a checkpoint, or None if a run in progress has deleted it."""
    damage = checkpoints.damage(step, mesh)
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
        "damage": damage,
    }
