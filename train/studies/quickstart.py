"""Pretrain, fine-tune with several seeds, and compare with training from scratch and with TF-IDF."""

import shlex
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from train import loop
from train.assemble import assemble
from train.baseline import tfidf
from train.experiment import Experiment, with_run
from train.objectives.classification import per_class, scores
from train.recipes import pydocs
from train.report import curves, page
from train.report.run import predicted
from train.runs import rundir
from train.runs.log import read_metrics
from train.runs.trained import Predictor, load

SEEDS = 3
COLUMNS = ("accuracy", "macro_precision", "macro_recall", "macro_f1")
PRETRAINING = (
    "train/loss",
    "validation/loss",
    "train/masked_lm_accuracy",
    "validation/masked_lm_accuracy",
    "train/learning_rate",
    "train/tokens_per_second",
)
FINE_TUNING = ("train/loss", "validation/loss", "validation/accuracy", "train/learning_rate")


def quickstart(directory: Path) -> None:
    """Run the study below `directory`, print its table, and write report.html and curves.png."""
    began = time.monotonic()

    def trained(experiment: Experiment, name: str, seed: int = 0) -> dict[str, Any]:
        command = shlex.join(["fmodels", "quickstart", "--dir", str(directory)])
        return loop.train(with_run(experiment, dir=str(directory / name), seed=seed), origin={"command": command})

    trained(pydocs.pydocs(), "pretrain")
    topics, vocabulary = pydocs.pydocs_topics(), str(directory / "pretrain" / "tokenizer.json")
    tuned = replace(topics, init_from=str(directory / "pretrain"))
    scratch = replace(topics, data=replace(topics.data, tokenizer=vocabulary))  # the same tokenizer, but no pretrained parameters
    results = {
        "pretrained, then fine-tuned": [trained(tuned, f"finetune-{seed}", seed)["test"] for seed in range(SEEDS)],
        "from scratch": [trained(scratch, f"scratch-{seed}", seed)["test"] for seed in range(SEEDS)],
    }
    job = assemble(rundir.read_experiment(directory / "finetune-0"))
    predictor = Predictor(job.experiment, job.dataset.codec, job.program, *load(job.path, job.program, print))
    labels = job.dataset.codec.labels
    results["TF-IDF + logistic regression"] = [scores(tfidf(job.dataset, "test"))]

    header, rows = (
        ["test split", *COLUMNS],
        [[name, *(_spread(found, column) for column in COLUMNS)] for name, found in results.items()],
    )
    verdict = _verdict(results, topics.data.labels_per_class, len(job.dataset.splits["test"]))
    logs = {path.parent.name: read_metrics(path.parent) for path in sorted(directory.glob("*/metrics.jsonl"))}
    chance = job.experiment.objective.chance(job.dataset.references["validation"])
    chosen = predicted(job, predictor)
    html = page.page(
        "Quickstart",
        verdict,
        [
            ("Result", page.table(header, rows, emphasised=0)),
            ("Pretraining", curves.curves({"pretrain": logs.pop("pretrain")}, PRETRAINING)),
            ("Fine-tuning and training from scratch", curves.curves(logs, FINE_TUNING, chance=chance)),
            *((f"Classes: {name}", _classes(found, labels)) for name, found in results.items()),
            ("Mistakes of the first fine-tuned run", page.predictions(chosen.mistakes, "The most confident mistakes.")),
            ("A few test passages", page.predictions(chosen.examples)),
        ],
    )
    rundir.write_atomically(directory / "report.html", html)
    all_logs = {"pretrain": read_metrics(directory / "pretrain"), **logs}
    curves.curves_png(directory / "curves.png", all_logs, ("train/loss", "validation/loss", "validation/accuracy"))
    print_table(header, rows)
    print(verdict)
    print(f"{time.monotonic() - began:.0f} s; curves, confusion matrix and predictions: {directory / 'report.html'}")


def _classes(found: list[dict[str, Any]], labels: Sequence[str]) -> str:
    """Return the confusion matrix, summed over seeds, and the scores of its classes."""
    total = np.sum([result["confusion"] for result in found], axis=0)
    caption = curves.note(f"Sum over {len(found)} seeds.") if len(found) > 1 else ""
    return caption + page.beside(page.confusion(total.tolist(), labels), per_class(scores(total), labels))


def _spread(found: list[dict[str, Any]], column: str) -> str:
    """Return the mean of a metric over runs, ± its standard deviation if there are several runs."""
    values = [result[column] for result in found]
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def _verdict(results: dict[str, list[dict[str, Any]]], labels_per_class: int | None, rows: int) -> str:
    """Summarize the table in one sentence."""
    tuned, scratch, baseline = ([result["macro_f1"] for result in found] for found in results.values())
    gain, spread = statistics.mean(tuned) - statistics.mean(scratch), max(statistics.stdev(tuned), statistics.stdev(scratch))
    lead = statistics.mean(tuned) - statistics.mean(baseline)
    times = abs(gain) / max(spread, 1e-9)
    return (
        f"{labels_per_class} labels per class, {rows:,} test passages from held-out modules: pretraining changes macro_f1 by "
        f"{100 * gain:+.1f} points, {times:.1f} times the larger standard deviation over seeds; "
        f"TF-IDF is {100 * abs(lead):.1f} points {'behind' if lead > 0 else 'ahead'}."
    )


def print_table(header: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 3, 0, 0))
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
