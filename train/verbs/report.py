"""`python -m train report RUN`: report.html of a run directory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from train import cli, cluster
from train.runs import rundir
from train.verbs.evaluate import OfRun, assemble, load
from train.verbs.predict import Predictor

SAMPLES = 12


@dataclass(frozen=True)
class Arguments(OfRun):
    """Writes report.html: the curves of a run, its result, and what a classifier says of a few held-out examples."""


def main(arguments: list[str]) -> int:
    wanted = cli.parse(Arguments, arguments, "python -m train report")
    wanted.join()
    from train.report.page import of_run

    opened = assemble(wanted)
    labels = opened.dataset.codec.labels
    is_finished = cluster.gathered((opened.path / "result.json").exists())[0]
    shown = samples(opened) if labels and is_finished else []
    page = opened.path / "report.html"
    cluster.by_first(lambda: rundir.write_atomically(page, of_run(opened.path, labels, shown)))
    print(page)
    return 0


def samples(opened: Any, count: int = SAMPLES) -> list[Mapping[str, Any]]:
    """Every so many of the held-out examples, with their label and what the run says of them."""
    import numpy as np

    codec, program = opened.dataset.codec, opened.program
    predictor = Predictor(opened.experiment, codec, program, *load(opened.path, program))
    split = "test" if "test" in opened.dataset.splits else opened.dataset.held_out
    examples, shown = opened.dataset.splits[split], opened.dataset.shown[split]
    chosen = np.linspace(0, len(examples) - 1, min(count, len(examples)), dtype=int)
    rows = examples[chosen]
    found = []
    for i, label, said in zip(chosen, rows["label"], predictor(rows), strict=True):
        value = shown[int(i)]
        probability = said["probabilities"][said["label"]]
        what = {"text": value} if isinstance(value, str) else {"image": value}
        found.append({**what, "label": codec.labels[int(label)], "prediction": said["label"], "probability": probability})
    return found
