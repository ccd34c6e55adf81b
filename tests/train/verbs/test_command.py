"""The installed command `fmodels` does the same as `python -m train`, also in a folder with modules named like our packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.processes import finish, free_port
from train import recipes
from train.errors import UserError

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "tests" / "extension" / "toy_recipe.py"
FMODELS = Path(sys.executable).parent / "fmodels"
MODULE = [sys.executable, "-m", "train"]
STEPS = ["--run.steps", "2", "--optimizer.warmup-steps", "0"]


@pytest.fixture
def fmodels() -> list[str]:
    if not FMODELS.is_file():
        pytest.fail(f"the command is not installed as {FMODELS}: run {sys.executable} -m pip install -e {ROOT}")
    return [str(FMODELS)]


@pytest.fixture
def own_modules(tmp_path) -> Path:
    """A folder with modules named like our packages that raise an error when imported."""
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("train", "data"):
        (folder / f"{name}.py").write_text(f'raise RuntimeError("the {name}.py of the user is imported")\n')
    return folder


def start(command: list[str], arguments: list[str], folder: Path) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, *arguments], env=environment, cwd=folder, text=True, **pipes)


def outcome(command: list[str], arguments: list[str], folder: Path) -> tuple[int, str, str]:
    """(status, stdout, stderr)"""
    process = start(command, arguments, folder)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["recipe"], 2), (["evaluate", "nothing"], 2)])
def test_output_is_that_of_the_module(fmodels, own_modules, tmp_path, arguments, status):
    expected = outcome(MODULE, arguments, tmp_path)
    assert expected[0] == status
    assert outcome(fmodels, arguments, tmp_path) == expected
    assert outcome(fmodels, arguments, own_modules) == expected


@pytest.mark.slow
def test_run_is_that_of_the_module(fmodels, own_modules, tmp_path):
    arguments = ["run", "digits-mlp", *STEPS]
    status, expected, _ = outcome(MODULE, arguments, tmp_path)
    assert status == 0
    status, out, err = outcome(fmodels, [*arguments, "--run.read-workers", "2"], own_modules)
    assert (status, out) == (0, expected), err


@pytest.mark.slow
def test_recipe_file_imports_modules_beside_it_also_in_reader_processes(fmodels, own_modules):
    arguments = ["run", f"{RECIPE}:toy", *STEPS, "--run.read-workers", "2"]
    status, _, err = outcome(fmodels, arguments, own_modules)
    assert status == 0, err
    assert (own_modules / "runs" / "toy" / "result.json").is_file()


@pytest.mark.parametrize("command", ["fmodels", "module"])
def test_recipe_file_in_the_current_directory(request, tmp_path, command):
    for file in RECIPE.parent.glob("toy_*.py"):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "data").mkdir()  # a folder of files, not a package
    command = MODULE if command == "module" else request.getfixturevalue(command)
    status, out, err = outcome(command, ["run", f"{RECIPE.name}:toy", "--dry-run"], tmp_path)
    assert status == 0 and "parameters" in out, err


@pytest.mark.parametrize("hidden", ["data.py", "train.py", "fmodels/__init__.py"])
def test_recipe_file_beside_a_module_that_hides_a_package_is_an_error(tmp_path, hidden):
    recipe = tmp_path / "own_recipe.py"
    recipe.write_text("import data\n")
    (tmp_path / hidden).parent.mkdir(exist_ok=True)
    (tmp_path / hidden).write_text("")
    name = hidden.partition("/")[0].removesuffix(".py")
    with pytest.raises(UserError, match=rf"own_recipe.py: {hidden} in its folder hides our package {name}; rename it"):
        recipes.import_file(str(recipe))
    assert str(tmp_path) not in sys.path


@pytest.mark.slow
def test_processes_of_both_commands_are_one_run(fmodels, tmp_path):
    cluster = [f"--cluster.coordinator=127.0.0.1:{free_port()}", "--cluster.processes=2"]
    arguments = ["run", "digits-mlp", "--dry-run", *cluster]
    commands = (fmodels, MODULE)
    finish([start(command, [*arguments, f"--cluster.process={i}"], tmp_path) for i, command in enumerate(commands)])
