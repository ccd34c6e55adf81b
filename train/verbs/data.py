"""`fmodels data …`: prepare or inspect a data set."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from train import cli, recipes
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
        print("       fmodels data inspect SOURCE [--data.fields NAME=SOURCE_NAME,…] [--data.splits train=NAME,…]")
        return 0
    from data import sources

    if arguments and arguments[0].partition(":")[0] in sources.names() and arguments[0] not in recipes.known():
        return inspect_source(arguments)
    experiment, _, _ = cli.join_recipe(arguments, "data inspect")
    from rich.console import Console

    from train.assemble import assemble
    from train.report import inspect

    inspect.show(assemble(experiment), Path(Path(experiment.run.dir).name), Console())
    return 0


@dataclass(frozen=True)
class Columns:
    fields: str = ""
    "source fields for our fields: NAME=SOURCE_NAME,…"
    splits: str = ""
    "source splits for our splits: train=NAME,validation=NAME"


@dataclass(frozen=True)
class InspectSource:
    """Show the data of a source."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    "NAME or NAME:ARGUMENT, such as files:PATH"
    data: Columns = Columns()


def inspect_source(arguments: list[str]) -> int:
    wanted = cli.parse(InspectSource, arguments, "fmodels data inspect")
    from rich.console import Console

    from data import inference
    from train.report import inspect

    try:
        config = inference.config_for(wanted.source, wanted.data.fields, wanted.data.splits)
    except ValueError as error:
        raise UserError(f"data.{error}") from None
    inspect.show_data(config, Path(re.sub(r"\W+", "-", wanted.source)), Console())
    return 0


SUBCOMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "inspect": (
        inspect,
        "show the data of a recipe or source: sizes, cleaning, and one batch as the training step receives it",
    ),
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
