"""What a run prints on stderr: the metrics of the held-out split at each evaluation, from the first process only."""

import contextlib
import json
import os
import pty
import re
import sys
from pathlib import Path

import pytest

from tests.train.experiments import short
from train import loop
from train.experiment import with_run
from train.runs.progress import Progress


def evaluations(stderr: str) -> list[tuple[int, str, dict[str, float]]]:
    """Return (step, split, metrics) of each printed evaluation."""
    found = re.findall(r"  step (\d+)/\d+  (validation|test)  (.*)", stderr)
    return [(int(step), split, {n: float(v) for n, v in re.findall(r"(\S+) (\S+)", line)}) for step, split, line in found]


def logged(folder: Path) -> list[tuple[int, str, dict[str, float]]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    test = [(row["step"], {n.removeprefix("test/"): v for n, v in row.items() if n.startswith("test/")}) for row in rows]
    return [(step, "test", {n: round(v, 4) for n, v in metrics.items()}) for step, metrics in test if metrics]


def test_figures_are_printed_at_each_evaluation(tmp_path, capsys):
    loop.train(with_run(short(tmp_path / "run"), evaluate_every=20))
    printed, wanted = evaluations(capsys.readouterr().err), logged(tmp_path / "run")
    assert [step for step, _, _ in printed] == [20, 40]
    for _, _, metrics in wanted:
        assert metrics.pop("classification") == metrics["loss"], "a copy of the loss is not printed"
    assert printed == wanted


def test_figures_are_printed_above_the_bar_of_a_terminal(monkeypatch):
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        progress = Progress("run", 40)
        progress.evaluated(20, {"validation": {"loss": 0.5, "classification": 0.5, "accuracy": 0.75, "confusion": [[1]]}})
        progress.close()
    shown = ""
    with contextlib.suppress(OSError):  # the end, as the writer is closed
        while part := os.read(reader, 10_000):  # a read returns what is there, not all
            shown += part.decode()
    os.close(reader)
    assert "run  step 20/40  validation  loss 0.5000  accuracy 0.7500\r\n" in shown


@pytest.mark.slow
def test_only_the_first_process_prints_figures(uninterrupted):
    _, stderr = uninterrupted("2 data")
    assert [[step for step, _, _ in evaluations(one)] for one in stderr] == [[20, 40], []]
