"""Import rules of the packages, checked on the sources: only lower layers, and no cycles."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("fmodels", "train", "data")
HEAVY = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax",
    "grain",
    "tensorflow_datasets",
    "sklearn",
    "scipy",
    "matplotlib",
    "tyro",
    "pydantic",
    "numpy",
)


def module_of(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


@cache
def read(root: Path) -> dict[str, tuple[ast.Module, bool]]:
    """Return {module: (syntax tree, whether it is a package)} for all modules of the three packages."""
    paths = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    return {module_of(path, root): (ast.parse(path.read_bytes()), path.name == "__init__.py") for path in paths}


def imports(modules: dict[str, tuple[ast.Module, bool]], name: str, *, deferred: bool = True) -> Iterator[str]:
    """Yield the full names that a module imports; without `deferred`, only those imported when the module loads."""
    tree, is_package = modules[name]
    for node in ast.walk(tree) if deferred else on_load(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: len(name.split(".")) + is_package - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:  # a name imported from a package may be a module
                yield f"{source}.{alias.name}" if f"{source}.{alias.name}" in modules else source
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield node.args[0].value
            elif node.args and isinstance(node.args[0], ast.JoinedStr) and isinstance(node.args[0].values[0], ast.Constant):
                yield node.args[0].values[0].value.rstrip(".")


def on_load(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes except those in functions and under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from on_load(node)


def violations(modules: dict[str, tuple[ast.Module, bool]]) -> list[str]:
    """Return every forbidden import, as `module imports name`."""
    found = []
    for name in modules:
        forbidden = {
            "fmodels": ("train", "data"),
            "data": ("fmodels", "train", "jax", "jaxlib", "flax", "optax", "orbax"),
            "train": ("flax",),
        }[name.split(".")[0]]
        if name.startswith("train.") and name != "train.__main__":
            forbidden += ("train.verbs", "train.__main__")  # only __main__ imports verbs
        found += [
            f"{name} imports {used}" for used in imports(modules, name) for top in forbidden if f"{used}.".startswith(f"{top}.")
        ]
    return found


def cycle(modules: dict[str, tuple[ast.Module, bool]]) -> list[str]:
    """Return a cycle of imports at load time, or an empty list. A package whose __init__ imports itself is not a cycle."""
    graph = {
        name: {used for used in imports(modules, name, deferred=False) if used in modules and used != name} for name in modules
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_imports_follow_the_rules():
    modules = read(ROOT)
    assert len(modules) > 30 and {"train.step", "data.text.tokenizer", "fmodels.bert", "train.verbs.run"} <= modules.keys()
    assert violations(modules) == []


def test_imports_have_no_cycle():
    modules = read(ROOT)
    graph = {name: set(imports(modules, name, deferred=False)) for name in modules}
    assert "train.assemble" in graph["train.loop"] and "fmodels.nn.layers" in graph["fmodels.bert"], "known imports are found"
    assert cycle(modules) == []


@pytest.mark.parametrize(
    ("module", "line", "violation"),
    [
        ("fmodels.toy", "from data.text.tokenizer import Tokenizer", "fmodels.toy imports data.text.tokenizer"),
        ("fmodels.toy", "def f():\n    import train.step as s", "fmodels.toy imports train.step"),
        ("data.toy", "import jax.numpy as jnp", "data.toy imports jax.numpy"),
        ("data.toy", "from fmodels import axes", "data.toy imports fmodels.axes"),
        ("train.toy", "from flax import linen as nn", "train.toy imports flax"),
        ("train.objectives.toy", "def f():\n    from flax.core import meta", "train.objectives.toy imports flax.core"),
        ("train.toy", "from train.verbs.run import main", "train.toy imports train.verbs.run"),
        ("train.toy", "from .verbs import run", "train.toy imports train.verbs.run"),
        ("train.toy", "import importlib\nimportlib.import_module(f'train.verbs.{x}')", "train.toy imports train.verbs"),
        ("train.verbs.toy", "from train.verbs import run", "train.verbs.toy imports train.verbs.run"),
        ("train.verbs.toy", "from train import loop", None),
        ("fmodels.toy", "from flax import linen\nimport datasets, training", None),
    ],
)
def test_import_rule_violations_are_detected(module, line, violation):
    modules = read(ROOT) | {module: (ast.parse(line), False)}
    assert violations(modules) == ([violation] if violation else [])


def test_import_cycles_are_detected():
    modules = read(ROOT)
    sharding = (ast.parse("from train import loop"), False)
    assert {"train.loop", "train.sharding"} <= set(cycle(modules | {"train.sharding": sharding}))
    assert cycle(modules | {"train.sharding": (ast.parse("def f():\n    from train import loop"), False)}) == []


@pytest.mark.parametrize("arguments", [["--help"], ["no-such-verb"]], ids=str)
def test_the_command_line_starts_without_heavy_imports(arguments):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "train", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == (0 if arguments == ["--help"] else 2)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "data.cache" in imported, "the import times were parsed"
    assert [name for name in imported if name.split(".")[0] in HEAVY] == []
