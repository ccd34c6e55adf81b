"""`fmodels data …`: prepare or inspect a data set."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from train import cli
from train.errors import UserError, nearest


@dataclass(frozen=True)
class Prepare:
    """Prepare a data set of TFDS, or of data/builders, for runs to read. Writes it to $TFDS_DATA_DIR."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    "tfds:NAME, tfds:NAME/CONFIG or tfds:NAME/CONFIG:VERSION"
    folder: Annotated[Path | None, arg(name="from")] = None
    "folder of manually downloaded files (None: $FMODELS_DATA, if set)"


def prepare(arguments: list[str]) -> int:
    wanted = cli.parse(Prepare, arguments, "fmodels data prepare")
    kind, _, name = wanted.source.partition(":")
    if kind != "tfds" or not name:
        raise UserError(f"data prepare {wanted.source}: only tfds:NAME can be prepared; runs read other sources directly")
    from data import prepare

    print(prepare.prepare(name, wanted.folder))
    print(f"fmodels run RECIPE --data.source tfds:{name}", file=sys.stderr)
    return 0


def inspect(arguments: list[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"]):
        print("usage: fmodels data inspect RECIPE [--field value …]")
        return 0
    experiment, _, _ = cli.join_recipe(arguments, "data inspect")
    from rich.console import Console

    from train.assemble import assemble
    from train.report import inspect

    inspect.show(assemble(experiment), Path(Path(experiment.run.dir).name), Console())
    return 0


SUBCOMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "inspect": (inspect, "show the data of a recipe: sizes, cleaning, and one batch as the training step receives it"),
    "prepare": (prepare, "prepare a TFDS data set for runs to read"),
}


def main(arguments: list[str]) -> int:
    if not arguments:
        raise UserError(f"SUBCOMMAND is missing: {' or '.join(SUBCOMMANDS)}; fmodels data --help describes them")
    if arguments[0] in ("-h", "--help"):
        lines = [f"  {name}  {text}" for name, (_, text) in SUBCOMMANDS.items()]
        print("\n".join(["usage: fmodels data SUBCOMMAND …", "", *lines]))
        return 0
    name, *rest = arguments
    if name not in SUBCOMMANDS:
        raise UserError(f"unknown subcommand data {name}{nearest(name, SUBCOMMANDS)}")
    return SUBCOMMANDS[name][0](rest)
