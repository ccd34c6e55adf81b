"""`python -m train report RUN`: report.html of a run directory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from train import cli, rundir
from train.verbs.evaluate import OfRun, load, open_run

SAMPLES = 12


@dataclass(frozen=True)
class Arguments(OfRun):
    """Writes report.html: the curves of a run, its result, and what it says of a few held-out examples."""


def main(arguments: list[str]) -> int:
    wanted = cli.parse(Arguments, arguments, "python -m train report")
    from train.report import of_run

    opened = open_run(wanted.run, wanted.import_file)
    shown = samples(opened, *load(opened)) if opened.dataset.labels and (opened.path / "result.json").exists() else []
    page = opened.path / "report.html"
    rundir.write_atomically(page, of_run(opened.path, opened.dataset.labels, shown))
    print(page)
    return 0


def samples(opened: Any, params: Any, model_state: Any, count: int = SAMPLES) -> list[Mapping[str, Any]]:
    """Every so many of the held-out examples, with their label and what the run says of them."""
    import numpy as np

    from train.verbs.predict import predicted

    split = "test" if "test" in opened.dataset.splits else opened.dataset.held_out
    examples, shown = opened.dataset.splits[split], opened.dataset.shown[split]
    chosen = np.linspace(0, len(examples) - 1, min(count, len(examples)), dtype=int)
    rows = [examples[int(i)] for i in chosen]
    described = predicted(opened, params, model_state, {name: np.stack([row[name] for row in rows]) for name in rows[0]})
    found = []
    for i, row, said in zip(chosen, rows, described, strict=True):
        value = shown[i]
        probability = said["probabilities"][said["label"]]
        what = {"text": value} if isinstance(value, str) else {"image": value}
        found.append(
            {**what, "label": opened.dataset.labels[int(row["label"])], "prediction": said["label"], "probability": probability}
        )
    return found
