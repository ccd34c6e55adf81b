"""The commands, options and files that the README names exist."""

import re
import shlex
from pathlib import Path

import pytest

from train import cli, recipes
from train.__main__ import VERBS, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMAND = re.compile(r"(?:fmodels|python -m train)(?= |$)")


def arguments_of(line: str) -> list[str]:
    """The arguments of a command line, without `fmodels` or `python -m train`."""
    return shlex.split(COMMAND.sub("", line, count=1), comments=True)


COMMANDS = [
    arguments_of(line)
    for line in [*"".join(BLOCKS).splitlines(), *re.findall(r"`((?:fmodels|python -m train) [^`]*)`", README)]
    if COMMAND.match(line)
]
TEXT = "\n".join(f"note {i} speaks of the matter number {i * i} and of the heart of the other matters" for i in range(400))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_and_options_exist(command):
    verb, *rest = command or ["quickstart"]
    assert verb in VERBS
    if (
        verb in ("run", "bench", "shardings")
        and rest != ["data"]
        and rest
        and not {"RECIPE", "PATH/TO/recipe.py:name"} & set(rest)
    ):
        experiment = recipes.find(rest[0])[1]()
        options = {word for word in rest[1:] if word.startswith("--")}
        assert options <= cli.options_of(experiment) | {"--dry-run", "--json", "--data.source"}


def test_files_exist():
    named = re.findall(r"`((?:train|fmodels|data|tests)/[\w./]*|constraints\.txt)`|\]\(([\w/.]+)\)", README)
    assert named
    for pair in named:
        assert (ROOT / (pair[0] or pair[1])).exists(), pair


@pytest.mark.slow
def test_training_on_own_text_and_then_on_own_labels(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text(TEXT)
    labelled = (f"{line}\t{'odd' if i % 2 else 'even'}" for i, line in enumerate(TEXT.splitlines()))
    Path("labelled.tsv").write_text("text\tlabel\n" + "\n".join(labelled) + "\n")
    (block,) = (block for block in BLOCKS if "notes.txt" in block)
    (own_labels,) = (block for block in BLOCKS if "labelled.tsv" in block)
    commands = [arguments_of(line) for line in (block + own_labels).splitlines()]
    assert len(commands) == 4
    for command in commands:
        short = ["--run.steps", "2", "--model.layers", "1"] if command[0] == "run" else []
        assert main([*command, *short]) == 0, capsys.readouterr().err
    assert (tmp_path / "runs" / "notes" / "report.html").exists()
    assert main(["predict", "runs/labels", "--text", "the heart of the matter"]) == 0
    assert "odd" in capsys.readouterr().out
