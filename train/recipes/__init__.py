"""Recipes: named experiments. Every public function in these modules that returns an `Experiment` is a recipe.

`bert_tiny` is called `bert-tiny` on the command line. The first line of its docstring is its description. The other lines, or the
module's docstring, give the command, the hardware and the expected results.
"""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from data import sources
from train.errors import UserError, nearest
from train.experiment import Experiment

Recipe = Callable[[], Experiment]
PROJECT = Path(__file__).resolve().parents[2]


def recipes_of(module: ModuleType) -> dict[str, Recipe]:
    """Return the recipes of a module, by command-line name."""
    functions = inspect.getmembers(module, inspect.isfunction)
    return {
        name.replace("_", "-"): function
        for name, function in functions
        if not name.startswith("_")
        and function.__module__ == module.__name__
        and function.__annotations__.get("return") is Experiment
    }


def known() -> dict[str, Recipe]:
    """Return all built-in recipes, by command-line name."""
    found: dict[str, Recipe] = {}
    for module in pkgutil.iter_modules(__path__):
        found |= recipes_of(importlib.import_module(f"{__name__}.{module.name}"))
    return found


def find(name: str) -> tuple[str, Recipe]:
    """Return (name, recipe) for a name or PATH/TO/FILE.py:NAME. Raises UserError if there is no such recipe, with the recipes of
    the file for PATH/TO/FILE.py alone."""
    file, _, function = name.rpartition(":")
    if not function or name.endswith(".py"):
        file = name.removesuffix(":")
        examples = " or ".join(f"{file}:{recipe}" for recipe in recipes_of(import_file(file)))
        raise UserError(f"{file}: name a recipe of the file: {examples}" if examples else f"{file} defines no recipes")
    if file in sources.names():
        raise UserError(f"{name} is a data source, not a recipe; use it with a recipe: RECIPE --data.source {name}")
    if file:
        recipes, name, where = recipes_of(import_file(file)), function.replace("_", "-"), f" in {file}"
    else:
        recipes, where = known(), ""
    if name not in recipes:
        raise UserError(f"there is no recipe {name}{where}{nearest(name, recipes) if recipes else '; it defines no recipes'}")
    return name, recipes[name]


def import_file(path: str) -> ModuleType:
    """Import a user's Python file, and add its folder to `sys.path`. Raises UserError if the import fails."""
    file = Path(path)
    if not file.is_file() or file.suffix != ".py":
        raise UserError(f"{path}: no such Python file")
    if file.stem in sys.modules and getattr(sys.modules[file.stem], "__file__", None) == str(file.resolve()):
        return sys.modules[file.stem]
    found = importlib.util.find_spec(file.stem)
    if found is not None and found.origin != str(file.resolve()):  # the current directory may be on sys.path
        raise UserError(f"{path}: a module named {file.stem} already exists; rename the file")
    folder = file.resolve().parent
    for name in ("fmodels", "train", "data"):
        spec = PathFinder.find_spec(name, [str(folder)])
        # A folder without __init__.py has no origin, and does not hide a package.
        if spec is not None and spec.origin is not None and Path(spec.origin) != PROJECT / name / "__init__.py":
            raise UserError(f"{path}: {Path(spec.origin).relative_to(folder)} in its folder hides our package {name}; rename it")
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(file.stem)
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error


def modules_beside(path: str) -> dict[str, Path]:
    """Return the files of all imported modules in the folder of a user's file, by module name. Giving the file means trust."""
    folder = Path(path).resolve().parent
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    return {name: Path(file) for name, file in files.items() if file and Path(file).parent == folder}
