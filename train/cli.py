"""Command-line arguments: a recipe with options for all fields of its experiment, made by tyro. Every error is one line."""

import contextlib
import dataclasses
import io
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import tyro

from train import recipes
from train.cluster.join import Cluster
from train.errors import UserError, nearest
from train.experiment import Experiment, leaves, with_run

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch(Experiment):
    """An experiment and the processes that run it. The processes are not part of the saved experiment."""

    cluster: Cluster = Cluster()


def override(experiment: Experiment, arguments: list[str], prog: str, description: str = "") -> tuple[Experiment, Cluster]:
    """Return the experiment with the options applied, and the cluster. Raises UserError for an unknown option or invalid value.

    `--data.source files:notes.txt` also replaces a source that is a dataclass."""
    data, arguments = experiment.data, list(arguments)
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--data.source" and dataclasses.is_dataclass(getattr(data, "source", None)):
            value = value or (arguments[i + 1] if i + 1 < len(arguments) else "")
            experiment = dataclasses.replace(experiment, data=dataclasses.replace(data, source=value))
    launch = parse(Launch, arguments, prog, description, default=Launch(**_fields(experiment)))
    return Experiment(**_fields(launch)), launch.cluster


def join_recipe(arguments: list[str], verb: str) -> tuple[Experiment, tuple[str, ...]]:
    """Parse `RECIPE [--field value …]` and wait for all processes of the run. Return the experiment, and the names of the modules
    imported from the folder of the recipe file, which are trusted."""
    experiment, cluster, modules = parse_recipe(arguments, verb)
    cluster.join(list(modules.values()))
    return experiment, tuple(modules)


def parse_recipe(arguments: list[str], verb: str) -> tuple[Experiment, Cluster, dict[str, Path]]:
    """Parse `RECIPE [--field value …]`. Return the experiment, the cluster to join, and the modules imported from the folder of
    the recipe file, with their files."""
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"RECIPE is missing: fmodels {verb} RECIPE; fmodels recipes lists them")
    name, recipe = recipes.find(arguments[0])
    file = arguments[0].rpartition(":")[0]
    try:
        experiment = recipe()
    except ValueError as error:
        raise UserError(f"recipe {name}: {error}") from None
    if not experiment.run.dir:
        experiment = with_run(experiment, dir=f"runs/{name}")
    prog = f"fmodels {verb} {arguments[0]}"
    experiment, cluster = override(experiment, arguments[1:], prog, recipe.__doc__ or "")
    return experiment, cluster, recipes.modules_beside(file) if file else {}


def origin(arguments: list[str], experiment: Experiment) -> dict[str, Any]:
    """Return what environment.json says of the start of a run: its `command`, and `overrides`, the fields that differ from the
    recipe, as {name: [value of the recipe, value of the run]}."""
    recipe, own = ({name: str(value) for name, value, _ in leaves(e)} for e in (recipes.find(arguments[0])[1](), experiment))
    changed = [name for name in {**recipe, **own} if name != "run.dir" and recipe.get(name) != own.get(name)]
    overrides = {name: [recipe.get(name, "absent"), own.get(name, "absent")] for name in changed}
    return {"command": shlex.join(["fmodels", "run", *arguments]), "overrides": overrides}


def options_of(experiment: Experiment) -> set[str]:
    """Return all options of the command that runs `experiment`."""
    return known_options(Launch, default=Launch(**_fields(experiment)))


def _fields(experiment: Experiment) -> dict[str, Any]:
    return {f.name: getattr(experiment, f.name) for f in dataclasses.fields(Experiment)}


def parse(target: type[T] | Callable[..., T], arguments: list[str], prog: str, description: str = "", **options: Any) -> T:
    """Parse the arguments with tyro. Raises UserError if they are invalid; `--help` prints and exits."""
    if {"-h", "--help"} & set(arguments):
        tyro.cli(target, args=["--help"], prog=prog, description=description or None, **options)
    caught = io.StringIO()
    try:
        with _plain(), contextlib.redirect_stderr(caught):
            return tyro.cli(target, args=arguments, prog=prog, description=description or None, **options)
    except SystemExit as end:
        if not end.code:
            raise
    known = known_options(target, **options)
    for argument in arguments:
        name = argument.partition("=")[0].replace("_", "-")
        if name.startswith("--") and name not in known:
            raise UserError(f"unknown option {argument.partition('=')[0]}{nearest(name, known, '; --help lists them')}")
    raise UserError(_one_line(caught.getvalue(), known))


def known_options(target: Any, **options: Any) -> set[str]:
    """Return all options that tyro accepts for `target`."""
    help_text = io.StringIO()
    with _plain(), contextlib.redirect_stdout(help_text), contextlib.suppress(SystemExit):
        tyro.cli(target, args=["--help"], **options)
    return set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", help_text.getvalue())) | {"--help"}


@contextlib.contextmanager
def _plain():
    """Disable tyro's line wrapping and colours, so that an error is one plain line."""
    plain = {"COLUMNS": "1000", "TERM": "dumb"}
    before = {name: os.environ.get(name) for name in plain}
    os.environ.update(plain)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def _one_line(box: str, known: set[str]) -> str:
    """Return the message in tyro's box, without frame and hints; `run: steps must be …` becomes `run.steps must be …`."""
    _, *lines = (line.strip(" │") for line in box.splitlines() if line.strip())  # the first line is a title
    message = next((line for line in lines if set(line) - set("─-")), box.strip())
    if message.startswith("Missing from"):  # the missing argument and its help follow this title
        name, text, *_ = lines[lines.index(message) + 1 :]
        return f"{name} is missing: {text.removesuffix(' (required)')}"
    message = re.sub(r"^Error parsing (--)?([\w.-]+): ", r"\1\2: ", message)
    message = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not an integer", message)
    message = message.replace("could not convert string to float:", "not a number:")
    part, _, rest = message.partition(": ")
    if part == Launch.__name__:  # raised by a check of the whole experiment, which names its fields itself
        return rest
    field = rest.partition(" ")[0]
    return f"{part}.{rest}" if f"--{part}.{field}".replace("_", "-") in known else message
