"""The sharding table of every family of recipes."""

import os
from pathlib import Path

import pytest

from train.__main__ import main

GOLDEN = Path(__file__).parents[2] / "goldens" / "shardings.txt"
RECIPES = {
    "bert-mini": ["--mesh.replica=2", "--mesh.fsdp=2", "--mesh.tensor=2"],
    "bert-tiny": ["--mesh.fsdp=8", "--model.scan"],
    "pydocs": ["--mesh.fsdp=4", "--mesh.tensor=2"],
    "pydocs-topics": ["--mesh.tensor=4", "--data.labels-per-class=None"],
    "digits-mlp": ["--mesh.fsdp=4", "--mesh.tensor=2"],
    "digits-cnn": ["--mesh.fsdp=8"],
}


@pytest.fixture(autouse=True)
def texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = (f"row number {i} speaks of the matter number {i * i}\t{'ab'[i % 2]}" for i in range(900))
    Path("rows.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n")


def options(recipe: str) -> list[str]:
    """Return the recipe with a small source instead of its corpus, on which the shapes do not depend."""
    return [recipe, *([] if recipe.startswith("digits") else ["--data.source=files:rows.tsv"])]


def test_tables_match_the_goldens(capsys):
    """To update the goldens: FMODELS_WRITE_GOLDENS=1 pytest tests/train/plan/test_shardings.py -n 0"""
    found = ""
    for recipe, mesh in RECIPES.items():
        assert main(["shardings", *options(recipe), *mesh]) == 0
        found += f"$ shardings {recipe} {' '.join(mesh)}\n{capsys.readouterr().out}\n"
    if os.environ.get("FMODELS_WRITE_GOLDENS"):
        GOLDEN.write_text(found)
    assert found == GOLDEN.read_text()
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_simulated_pod(front_door, tmp_path):
    mesh = ["--mesh.replica=2", "--mesh.data=1", "--mesh.fsdp=16", "--mesh.tensor=2"]
    process = front_door("shardings", *options("bert-tiny"), *mesh, cwd=tmp_path)
    table, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "mesh replica 2 x data 1 x fsdp 16 x tensor 2; bytes per device: " in table
    (row,) = (line.split("  ") for line in table.splitlines() if line.startswith("model/encoder/layer_0/mlp/up/kernel "))
    assert [cell.strip() for cell in row if cell] == [
        "model/encoder/layer_0/mlp/up/kernel", "128, 512", "embed, mlp", "fsdp, tensor", f"{128 * 512 * 4 // 32:,}",
    ]  # fmt: skip
    process = front_door("shardings", *options("bert-tiny"), "--mesh.data=1", "--mesh.fsdp=48", cwd=tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and "data.batch_size 256 does not divide over 48 device(s)" in errors
    process = front_door("shardings", *options("bert-tiny"), "--mesh.fsdp=48", cwd=tmp_path)
    _, errors = process.communicate(timeout=120)
    expected = "error: mesh: needs a multiple of 48 devices, found 1; set --mesh.data to simulate devices\n"
    assert (process.returncode, errors) == (2, expected)
