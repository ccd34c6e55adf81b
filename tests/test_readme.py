"""The README says nothing that does not work."""

import re
import shlex
from pathlib import Path

import pytest

from train import cli, recipes
from train.__main__ import VERBS, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)[3:]
    for line in [*"".join(BLOCKS).splitlines(), *re.findall(r"`(python -m train[^`]*)`", README)]
    if line.startswith("python -m train")
]
TEXT = "\n".join(f"note {i} speaks of the matter number {i * i} and of the heart of the other matters" for i in range(400))


@pytest.mark.quick
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_names_what_there_is(command):
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


@pytest.mark.quick
def test_every_file_that_is_named_is_there():
    named = re.findall(r"`((?:train|fmodels|data|tests)/[\w./]*|constraints\.txt)`|\]\(([\w/.]+)\)", README)
    assert named
    for pair in named:
        assert (ROOT / (pair[0] or pair[1])).exists(), pair


@pytest.mark.slow
def test_ones_own_text_in_three_commands_and_then_ones_own_labels(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text(TEXT)
    labelled = (f"{line}\t{'odd' if i % 2 else 'even'}" for i, line in enumerate(TEXT.splitlines()))
    Path("labelled.tsv").write_text("text\tlabel\n" + "\n".join(labelled) + "\n")
    (block,) = (block for block in BLOCKS if "notes.txt" in block)
    (own_labels,) = (block for block in BLOCKS if "labelled.tsv" in block)
    commands = [shlex.split(line)[3:] for line in (block + own_labels).splitlines()]
    assert len(commands) == 4
    for command in commands:
        short = ["--run.steps", "2", "--model.layers", "1"] if command[0] == "run" else []
        assert main([*command, *short]) == 0, capsys.readouterr().err
    assert (tmp_path / "runs" / "notes" / "report.html").exists()
    assert main(["predict", "runs/labels", "--text", "the heart of the matter"]) == 0
    assert "odd" in capsys.readouterr().out
