"""Initializing a run with the parameters of another (`--init-from`)."""

import chex

import pytest

from tests.train.processes import model_of
from train import cli, loop
from train.assemble import assemble
from train.__main__ import main
from train.runs.begin import initial

pytestmark = pytest.mark.slow


def test_init_from_converts_between_scanned_and_unscanned_layers(tmp_path, capsys):
    notes = tmp_path / "notes.txt"
    notes.write_text("\n".join(f"note {i} is of a thing that is {i % 7} years old" for i in range(100)))
    small = ["--run.steps=1", "--data.length=16", "--data.batch-size=8", "--data.vocab-size=300"]
    command = ["run", "bert-tiny", f"--data.source=files:{notes}", *small, "--optimizer.learning-rate=1e-30"]
    plain, scanned = tmp_path / "plain", tmp_path / "scanned"
    assert main([*command, f"--run.dir={plain}"]) == 0
    assert main([*command, "--model.scan", f"--init-from={plain}", f"--run.dir={scanned}"]) == 0
    assert "0 new, 0 unused" in capsys.readouterr().err
    assert "layers" in model_of(scanned)[0]["model"]["encoder"]
    experiment, _, _ = cli.join_recipe([*command[1:], "--model.no-scan", f"--init-from={scanned}", f"--run.dir={tmp_path / 'again'}"], "run")
    again = initial(assemble(experiment), print)
    assert "0 new, 0 unused" in capsys.readouterr().out
    chex.assert_trees_all_close(again.params, model_of(plain)[0], rtol=0, atol=1e-12)


def test_init_from_never_replicates_an_array(uncached, tmp_path, capfd):
    """Arrays are read with their final sharding. Otherwise XLA's partitioner warns of an involuntary full rematerialization."""
    notes = tmp_path / "notes.txt"
    notes.write_text("\n".join(f"note {i} is of a thing that is {i % 7} years old" for i in range(100)))
    small = ["--run.steps=1", "--data.length=16", "--data.batch-size=8", "--data.vocab-size=300", "--model.layers=1"]
    command = ["run", "bert-tiny", f"--data.source=files:{notes}", *small, "--mesh.data=2", "--mesh.fsdp=2", "--mesh.tensor=2"]
    assert main([*command, f"--run.dir={tmp_path / 'one'}"]) == 0
    assert main([*command, f"--init-from={tmp_path / 'one'}", f"--run.dir={tmp_path / 'two'}"]) == 0
    stderr = capfd.readouterr().err
    assert "0 new, 0 unused" in stderr and "Involuntary" not in stderr
