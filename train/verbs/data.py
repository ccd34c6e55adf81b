"""`python -m train data …`: prepare a data set, or look at one."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from train import cli
from train.errors import UserError, nearest
from train.verbs.run import named


@dataclass(frozen=True)
class Prepare:
    """Makes a data set of TFDS, or one of ours (data/builders), so that a run can read it; it is written below $TFDS_DATA_DIR."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    "tfds:NAME, tfds:NAME/CONFIG or tfds:NAME/CONFIG:VERSION"
    folder: Annotated[Path | None, arg(name="from")] = None
    "holds files that were fetched by hand; $FMODELS_DATA if it is set"


def prepare(arguments: list[str]) -> int:
    wanted = cli.parse(Prepare, arguments, "python -m train data prepare")
    kind, _, name = wanted.source.partition(":")
    if kind != "tfds" or not name:
        raise UserError(f"data prepare {wanted.source}: only tfds:NAME is prepared; other sources are read as they are")
    from data import prepare

    print(prepare.prepare(name, wanted.folder))
    print(f"python -m train run RECIPE --data.source tfds:{name}", file=sys.stderr)
    return 0


def inspect(arguments: list[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"]):
        print("usage: python -m train data inspect RECIPE [--field value …]")
        return 0
    experiment, _ = named(arguments, "data inspect")
    from rich.console import Console

    from train import loop
    from train.report import inspect

    inspect.show(loop.assemble(experiment), Path(Path(experiment.run.dir).name), Console())
    return 0


SUBCOMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "inspect": (inspect, "what a recipe's data is, what was done to it, and a batch as the step sees it"),
    "prepare": (prepare, "make a data set of TFDS, so that a run can read it"),
}


def main(arguments: list[str]) -> int:
    if not arguments:
        raise UserError(f"data what? There are: {', '.join(SUBCOMMANDS)}; python -m train data --help says more")
    if arguments[0] in ("-h", "--help"):
        lines = [f"  {name}  {text}" for name, (_, text) in SUBCOMMANDS.items()]
        print("\n".join(["usage: python -m train data SUBCOMMAND …", "", *lines]))
        return 0
    name, *rest = arguments
    if name not in SUBCOMMANDS:
        raise UserError(f"there is no data {name}{nearest(name, SUBCOMMANDS)}")
    return SUBCOMMANDS[name][0](rest)
