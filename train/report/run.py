"""The HTML report of a run directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train import parts
from train.parts import Rendering
from train.report.curves import curves, note
from train.report.page import details, folded, headline, page, predictions
from train.runs.log import read_metrics
from train.runs.rundir import read_json, read_result
from train.runs.trained import Predictor

SAMPLES = 12


def report(path: Path, objective: Any, codec: Any, samples: Sequence[tuple[Any, Rendering]]) -> str:
    """Return the HTML page of a run directory. `samples` are rows for `page.predictions`."""
    files = [path / f"{name}.json" for name in ("experiment", "environment")]
    experiment, environment = (read_json(file) if file.exists() else {} for file in files)
    results = read_result(path) if (path / "result.json").exists() else {}
    log = read_metrics(path)
    names = panels(log, objective)
    training = curves({path.name: log}, names) if names else note("No metrics: metrics.jsonl is empty.")
    sections = [("Training", training)]
    for split, result in results.items():
        sections.insert(0, (f"Result on the {split} split", headline(result)))
        sections += [(f"{title} of the {split} split", html) for title, html in parts.sections(objective, result, codec)]
    sections += [("Predictions", predictions(samples))] * bool(samples)
    table = path / "shardings.txt"
    sections.append(("Settings", details(experiment, environment) + (folded(table) if table.exists() else "")))
    summary = [_type(experiment.get(name)) for name in ("objective", "model")] + [_type(experiment.get("data", {}).get("source"))]
    if (steps := experiment.get("run", {}).get("steps")) is not None:
        summary.append(f"step {log[-1]['step'] if log else 0:,} of {steps:,}")
    summary.append("" if results else "not finished")
    return page(path.name, " · ".join(filter(None, summary)), sections)


def panels(log: Sequence[Mapping[str, Any]], objective: Any) -> list[str]:
    """Return the logged metrics to plot: the loss, `objective.panels`, the learning rate and the throughput."""
    logged = sorted({name for row in log for name in row}, key=lambda name: (not name.startswith("train/"), name))
    metric = lambda name: name.rpartition("/")[2]
    throughput = [metric(name) for name in logged if name.endswith("_per_second") and not name.endswith("tflops_per_second")]
    chosen = dict.fromkeys(["loss", *parts.panels(objective), "learning_rate", *throughput])
    return [name for panel in chosen for name in logged if metric(name) == panel]


def samples(job: Any, predictor: Predictor, count: int = SAMPLES) -> list[tuple[Any, Rendering]]:
    """Return evenly spaced held-out examples in display form, with their rendered predictions."""
    split = "test" if "test" in job.dataset.splits else job.dataset.held_out
    if split not in job.dataset.shown:
        return []
    examples, shown, references = job.dataset.splits[split], job.dataset.shown[split], job.dataset.references.get(split)
    chosen = np.linspace(0, len(examples) - 1, min(count, len(examples)), dtype=int)
    found = []
    for i, described in zip(chosen, predictor(examples[chosen]), strict=True):
        reference = None if references is None else references[int(i)]
        found.append((shown[int(i)], parts.render(predictor.experiment.objective, described, reference)))
    return found


def _type(value: Any) -> str:
    """Return the class name of a part of an experiment, or the part itself if it is a string."""
    return value["type"].rpartition(":")[2] if isinstance(value, dict) else str(value or "")
