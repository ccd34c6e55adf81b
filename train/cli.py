"""Command-line arguments: a recipe with options for all fields of its experiment, made by tyro. Every error is one line."""

import contextlib
import dataclasses
import difflib
import io
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import tyro

from train import cluster, parts, recipes
from train.cluster.join import Cluster
from train.errors import UserError
from train.experiment import Experiment, leaves, with_run
from train.runs import rundir

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch(Experiment):
    """An experiment and the processes that run it. The processes are not part of the saved experiment."""

    cluster: Cluster = Cluster()


L = TypeVar("L", bound=Launch)


def override(
    experiment: Experiment, arguments: list[str], prog: str, description: str, target: type[L], trusted: tuple[str, ...] = ()
) -> tuple[Experiment, L]:
    """Return the experiment with the options applied, and all options. Raises UserError for an unknown option or invalid value.

    `--init-from RUN` without options of the model takes the model of the run, which may be defined in `trusted` modules.

    `--data.source files:notes.txt` also replaces a source that is a dataclass."""
    data, arguments = experiment.data, list(arguments)
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--data.source" and dataclasses.is_dataclass(getattr(data, "source", None)):
            value = value or (arguments[i + 1] if i + 1 < len(arguments) else "")
            experiment = dataclasses.replace(experiment, data=dataclasses.replace(data, source=value))
    launch = parse(target, arguments, prog, description, default=target(**_fields(experiment)))
    if launch.init_from != experiment.init_from and not any(argument.startswith("--model.") for argument in arguments):
        launch = _with_model_of(launch, trusted)
    return Experiment(**_fields(launch)), launch


def _with_model_of(launch: L, trusted: tuple[str, ...]) -> L:
    """Return the options with the model of the run `init_from`, if it is of the same type; see `parts.like`.

    If that run is gone but this one has begun, its own model is used. Raises UserError if there is neither.
    """
    own = Path(launch.run.dir)
    try:
        folder = rundir.find_initial(launch.init_from or "")
    except UserError:
        if not (own / "experiment.json").exists():
            raise
        folder = own
    found = rundir.read_model(folder, trusted) if launch.init_from else None
    if type(found) is not type(launch.model):  # loading the parameters reports the difference
        return launch
    model = parts.like(launch.model, found)
    try:
        changed = dataclasses.replace(launch, model=model)
    except ValueError as error:
        raise UserError(f"init_from {launch.init_from}: its model does not fit: {error}") from None
    if model != launch.model:
        cluster.say(f"model: that of {folder}, since no --model option is given")
    return changed


def join_recipe(arguments: list[str], verb: str, target: type[L] = Launch) -> tuple[Experiment, L, tuple[str, ...]]:
    """Parse `RECIPE [--field value …]` and wait for all processes of the run. Return the experiment, all options as a `target`,
    and the names of the modules imported from the folder of the recipe file, which are trusted."""
    experiment, launch, modules = parse_recipe(arguments, verb, target)
    launch.cluster.join(list(modules.values()))
    return experiment, launch, tuple(modules)


def parse_recipe(arguments: list[str], verb: str, target: type[L] = Launch) -> tuple[Experiment, L, dict[str, Path]]:
    """Parse `RECIPE [--field value …]`. Return the experiment, all options as a `target`, and the modules imported from the
    folder of the recipe file, with their files."""
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
    modules = recipes.modules_beside(file) if file else {}
    experiment, launch = override(experiment, arguments[1:], prog, recipe.__doc__ or "", target, tuple(modules))
    return experiment, launch, modules


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
    repeated = {name for name, count in Counter(map(_option, arguments)).items() if name and count > 1}
    if lost := sorted(repeated & known_options(target, r" [^ \n]*\[\S+ \[", **options) if repeated else ()):
        raise UserError(f"{lost[0]} is given more than once; give it once, followed by all its values")
    caught = io.StringIO()
    try:
        with _plain(), contextlib.redirect_stderr(caught):
            return tyro.cli(target, args=arguments, prog=prog, description=description or None, **options)
    except SystemExit as end:
        if not end.code:
            raise
    known = known_options(target, **options)
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=False):
        name, equals, value = argument.partition("=")
        option = name.replace("_", "-")
        if name.startswith("--") and option not in known:
            raise UserError(f"unknown option {name}{_nearest_option(option, known)}")
        opposite = re.sub(r"^--(.*\.)?", r"\g<0>no-", option)
        given = value if equals else after
        if opposite in known and given.lower() in ("true", "false"):
            raise UserError(f"{name} {given}: the option takes no value; use {option if given.lower() == 'true' else opposite}")
    raise UserError(_one_line(caught.getvalue(), known, getattr(target, "__name__", "")))


def _option(argument: str) -> str:
    """Return the name of the option that an argument begins, or an empty string."""
    return argument.partition("=")[0].replace("_", "-") if argument.startswith("--") else ""


def _nearest_option(name: str, known: set[str]) -> str:
    """Return `; did you mean X?` for the known option closest to `name`.

    If no option is close, list those of the same part, such as `--model`, or refer to --help.
    """
    part, dot, last = name.strip("-").rpartition(".")

    def likeness(option: str) -> float:
        other_part, _, other = option.strip("-").rpartition(".")
        if dot and part != other_part:
            return difflib.SequenceMatcher(None, name, option).ratio()
        is_initials = last == "".join(word[0] for word in other.split("-"))
        return max(is_initials, difflib.SequenceMatcher(None, last, other).ratio())

    best = max(sorted(option for option in known if option.count(".") <= max(name.count("."), 1)), key=likeness)
    if likeness(best) >= 0.65:
        return f"; did you mean {best}?"
    of_part = sorted(option for option in known if dot and option.startswith(f"--{part}."))
    return f"; there are: {', '.join(of_part)}" if 0 < len(of_part) < 10 else "; --help lists them"


def known_options(target: Any, values: str = "", **options: Any) -> set[str]:
    """Return all options that tyro accepts for `target`, of those whose values match a regular expression in the help."""
    help_text = io.StringIO()
    with _plain(), contextlib.redirect_stdout(help_text), contextlib.suppress(SystemExit):
        tyro.cli(target, args=["--help"], **options)
    return set(re.findall(rf"(?<![\w-])(--[a-z][\w.-]*){values}", help_text.getvalue())) | {"--help"}


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


def _one_line(box: str, known: set[str], target: str) -> str:
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
    message = re.sub(r"^Unrecognized options: (.*)", r"unexpected argument \1; options begin with --", message)
    if part == target:  # raised by a check of the whole experiment, which names its fields itself
        return rest
    field = rest.partition(" ")[0]
    return f"{part}.{rest}" if f"--{part}.{field}".replace("_", "-") in known else message
