"""The HTML report of a run directory."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data.loader import with_indices
from train import parts
from train.assemble import Job
from train.parts import Rendering
from train.report.curves import curves, note
from train.report.page import beside, details, facts, folded, headline, page, predictions, table, warning
from train.runs.best import best_of, overfitting
from train.runs.log import read_metrics
from train.runs.rundir import read_json, read_result
from train.runs.trained import Predictor
from train.sharding import by_name

SAMPLES = 12
CHECKED = 2000  # rows, at most, among which to look for mistakes
CHUNK = 500  # rows in memory

Sample = tuple[Any, Rendering]
"""An example as shown, and its rendered prediction."""


class Samples(NamedTuple):
    """Predictions of a held-out split: evenly spaced examples, and the most confident mistakes among `checked` rows."""

    split: str
    examples: Sequence[Sample]
    mistakes: Sequence[Sample] = ()
    checked: int = 0


def report(job: Job, samples: Samples | None) -> str:
    """Return the HTML page of the run of an assembled experiment."""
    path, objective, codec = job.path, job.experiment.objective, job.dataset.codec
    files = [path / f"{name}.json" for name in ("experiment", "environment", "best")]
    experiment, environment, best = (read_json(file) if file.exists() else {} for file in files)
    results = read_result(path) if (path / "result.json").exists() else {}
    log = read_metrics(path)
    names = panels(log, objective)
    references = job.dataset.references.get(job.dataset.held_out)
    chance = parts.chance(objective, references) if references else {}
    training = curves({path.name: log}, names, chance=chance) if names else note("No metrics: metrics.jsonl is empty.")
    sections = [("Run", started(job, log, environment))]
    sections += [(f"Result on the {split} split", headline(result)) for split, result in reversed(results.items())]
    worse = overfitting(log, best_of(job), best.get("step"), job.experiment.run.patience)
    sections += [("Training", warning(worse) * bool(worse) + training)]
    for split, result in results.items():
        sections += [(f"{title} of the {split} split", html) for title, html in parts.sections(objective, result, codec)]
    if samples is not None and samples.mistakes:
        rows = len(job.dataset.splits[samples.split])
        caption = f"The most confident mistakes in {samples.checked:,} of {rows:,} rows."
        sections += [(f"Mistakes on the {samples.split} split", predictions(samples.mistakes, caption))]
    if samples is not None and samples.examples:
        sections += [(f"Predictions on the {samples.split} split", predictions(samples.examples))]
    layout = path / "shardings.txt"
    sections.append(("Settings", details(experiment, environment) + (folded(layout) if layout.exists() else "")))
    summary = [_type(experiment.get(name)) for name in ("objective", "model")] + [_type(experiment.get("data", {}).get("source"))]
    step, steps = log[-1]["step"] if log else 0, job.experiment.run.steps
    summary.append(f"step {step:,} of {steps:,}")
    summary.append("not finished" if not results else "ended early" if step < steps else "")
    return page(path.name, " · ".join(filter(None, summary)), sections)


def started(job: Job, log: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]) -> str:
    """Return what was run on what: command, parameters, rows, devices, time, and the fields that differ from the recipe."""
    sizes = {name: int(np.prod(leaf.shape)) for name, leaf in by_name(job.program.shapes.params).items()}
    heads = sum(size for name, size in sizes.items() if name.startswith("head/"))
    devices = environment.get("devices", [])
    kinds = {" ".join(dict.fromkeys(device.split())): devices.count(device) for device in devices}  # "cpu cpu" is "cpu"
    seconds = max((row["train/wall_seconds"] for row in log if "train/wall_seconds" in row), default=None)
    known = {
        "command": environment.get("command"),
        "parameters": f"{sum(sizes.values()):,}, of which {heads:,} in heads",
        "data": ", ".join(f"{split} {len(rows):,} rows" for split, rows in job.dataset.splits.items()),
        "devices": ", ".join(f"{count} x {device}" for device, count in kinds.items()),
        "wall time": None if seconds is None else duration(seconds),
    }
    changed = [(name, *values) for name, values in environment.get("overrides", {}).items()]
    differing = table(("differs from the recipe", "recipe", "this run"), changed) if changed else ""
    return beside(facts({name: value for name, value in known.items() if value}), differing)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def panels(log: Sequence[Mapping[str, Any]], objective: Any) -> list[str]:
    """Return the logged metrics to plot: the loss, `objective.panels`, the learning rate and the throughput."""
    logged = sorted({name for row in log for name in row}, key=lambda name: (not name.startswith("train/"), name))
    metric = lambda name: name.rpartition("/")[2]
    throughput = [metric(name) for name in logged if name.endswith("_per_second") and not name.endswith("tflops_per_second")]
    chosen = dict.fromkeys(["loss", *parts.panels(objective), "learning_rate", *throughput])
    return [name for panel in chosen for name in logged if metric(name) == panel]


def predicted(job: Job, predictor: Predictor) -> Samples:
    """Predict rows of the test split, or of the held-out split: those that `objective.questions` asks, or the examples."""
    split = "test" if "test" in job.dataset.splits else job.dataset.held_out
    objective, dataset = predictor.experiment.objective, job.dataset
    examples, references = dataset.splits[split], dataset.references.get(split)
    few = evenly(len(examples), SAMPLES)
    asked = parts.questions(objective, with_indices(examples, few), dataset.codec)
    if asked is not None:
        batch, shown, truths = asked
        found = [parts.render(objective, *pair) for pair in zip(predictor(batch), truths, strict=True)]
        return Samples(split, list(zip(shown, found, strict=True)))
    if split not in dataset.shown:
        return Samples(split, ())
    rows = few if references is None else np.union1d(few, evenly(len(examples), CHECKED))
    rendered = dict[int, Rendering]()
    for chunk in np.split(rows, range(CHUNK, len(rows), CHUNK)):
        for row, described in zip(map(int, chunk), predictor(examples[chunk]), strict=True):
            rendered[row] = parts.render(objective, described, None if references is None else references[row])
    wrong = sorted((row for row in rendered if rendered[row].is_right is False), key=lambda row: -rendered[row].confidence)
    samples = lambda chosen: [(dataset.shown[split][int(row)], rendered[int(row)]) for row in chosen]
    return Samples(split, samples(few), samples(wrong[:SAMPLES]), len(rows))


def evenly(count: int, wanted: int) -> np.ndarray:
    """Return `wanted` evenly spaced indices below `count`, or all."""
    return np.linspace(0, count - 1, min(wanted, count), dtype=int)


def _type(value: Any) -> str:
    """Return the class name of a part of an experiment, or the part itself if it is a string."""
    return value["type"].rpartition(":")[2] if isinstance(value, dict) else str(value or "")
