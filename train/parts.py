"""Optional methods and fields of the parts of an experiment, and their defaults.

A part is the model, the objective, the data or the optimizer: a frozen dataclass with the short contract of `fmodels/model.py`,
`train/objectives/__init__.py`, `data/dataset.py` or `train/optim.py`. Each function here calls the method of the same name if
the part defines it, and otherwise returns the default. The core knows nothing else about a part.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.dataset import Dataset
from train.errors import UserError

NAMES = ("model", "objective", "data", "optimizer")


class Rendering(NamedTuple):
    """A prediction in readable form."""

    lines: Sequence[str]
    is_right: bool | None = None
    "whether it agrees with the reference (None: not applicable)"
    confidence: float = 0.0
    "probability of the prediction; the report shows the most confident mistakes"


def check(experiment: Any) -> None:
    """`part.check(experiment)`: check what a part requires of the others. Raises ValueError that names the field.

    Called when an experiment is made, and again when its step is built, with the target platform known.
    """
    for name in NAMES:
        if hasattr(part := getattr(experiment, name), "check"):
            part.check(experiment)


def resolved(part: Any, facts: Mapping[str, Any]) -> Any:
    """`part.resolved(facts)`: return the part with its unknown fields filled from the facts of the data.

    The default fills every field that is None and has the name of a fact. Raises ValueError that begins with the field name if
    its value contradicts a fact. A `how` field may differ from the fact.
    """
    if hasattr(part, "resolved"):
        return part.resolved(facts)
    missing = {}
    for field in dataclasses.fields(part):
        value, fact = getattr(part, field.name), facts.get(field.name)
        if value is None and fact is not None:
            missing[field.name] = fact
        elif fact is not None and value != fact and not field.metadata.get("how"):
            raise ValueError(f"{field.name} is {value}, but the data has {fact}: set it to {fact}")
    return dataclasses.replace(part, **missing)


def assumed(data: Any) -> dict[str, Any]:
    """`data.assumed()`: return facts for a plan that reads no data. The default is none."""
    return data.assumed() if hasattr(data, "assumed") else {}


def inherits(data: Any, folder: Path, resumes: bool) -> Any:
    """`data.inherits(folder, resumes)`: return the data config completed from the files of the run in `folder`.

    `resumes` is True if the run in `folder` is resumed, and False if it is `init_from`. Raises ValueError if the config
    contradicts the files of that run. The default returns the config unchanged.
    """
    return data.inherits(folder, resumes) if hasattr(data, "inherits") else data


def like(model: Any, saved: Any) -> Any:
    """`model.like(saved)`: return the model to load the parameters of `saved`, another model of the same type.

    The default is `saved` with the `how` fields and the dropout rates of `model`.
    """
    if hasattr(model, "like"):
        return model.like(saved)
    kept = [f.name for f in dataclasses.fields(model) if f.metadata.get("how") or f.name.endswith("dropout")]
    return dataclasses.replace(saved, **{name: getattr(model, name) for name in kept})


def adapted(model: Any, params: Any, wanted: Any) -> Any:
    """`model.adapted(params, wanted)`: return the parameters of another run with the structure of `wanted` (stacked layers).

    The default returns them unchanged.
    """
    return model.adapted(params, wanted) if hasattr(model, "adapted") else params


def amount(data: Any, batch: Mapping[str, Any]) -> tuple[str, int]:
    """`data.amount(batch)`: return the unit of throughput and the number of units in a batch. The default is examples."""
    return data.amount(batch) if hasattr(data, "amount") else ("examples", len(batch["valid"]))


def show(data: Any, batch: Mapping[str, Any], seen: Mapping[str, Any], codec: Any, stem: Path) -> Sequence[Any]:
    """`data.show(batch, seen, codec, stem)`: return lines for a rich console that show a batch.

    `seen` is the batch after `objective.seen`. Files are written under names that begin with `stem`. The default shows
    the first row of every array.
    """
    if hasattr(data, "show"):
        return data.show(batch, seen, codec, stem)
    return [f"{name}: {values[0]}" for name, values in batch.items()]


def overlaps(data: Any, dataset: Dataset) -> Sequence[str]:
    """`data.overlaps(dataset)`: return lines on held-out rows that are also, or nearly, in train, and on what was compared.

    The default is none.
    """
    return data.overlaps(dataset) if hasattr(data, "overlaps") else ()


def elsewhere(data: Any, folder: Path, source: str, fields: str | None, splits: str) -> Dataset:
    """`data.elsewhere(folder, source, fields, splits)`: return the dataset of another source, prepared like that of the run in
    `folder`. The default raises UserError.
    """
    if not hasattr(data, "elsewhere"):
        raise UserError(f"--data.source: {type(data).__name__} reads no other source")
    return data.elsewhere(folder, source, fields, splits)


def read_input(data: Any, paths: Sequence[str]) -> list[dict[str, Any]]:
    """`data.read_input(paths)`: return the rows of files, folders and globs, to predict. The default raises UserError."""
    if not hasattr(data, "read_input"):
        raise UserError(f"--input: {type(data).__name__} reads no files; pipe rows as JSON lines to standard input")
    return data.read_input(paths)


def code(data: Any) -> str | None:
    """`data.code()`: return the path of the user's Python file that `data.build` runs. The default is None."""
    return data.code() if hasattr(data, "code") else None


def accept_changed(data: Any) -> bool:
    """`data.accept_changed`: whether a run may continue although its data changed. The default is False."""
    return getattr(data, "accept_changed", False)


def seen(objective: Any, batch: Mapping[str, Any], rng: Any) -> Mapping[str, Any]:
    """`objective.seen(batch, rng)`: return the batch after corruption, as in training. The default is no change."""
    return objective.seen(batch, rng) if hasattr(objective, "seen") else batch


def frozen(optimizer: Any, params: Any) -> frozenset[str]:
    """`optimizer.frozen(params)`: return the names of the frozen parameters. The default is none."""
    return optimizer.frozen(params) if hasattr(optimizer, "frozen") else frozenset()


def warmup_steps(optimizer: Any) -> int:
    """`optimizer.warmup_steps`: the number of steps before the learning rate reaches its peak. The default is 0."""
    return getattr(optimizer, "warmup_steps", 0)


def unfit(objective: Any, folder: Path, codec: Any) -> Mapping[str, str]:
    """`objective.unfit(folder, codec)`: return the parameters of the run in `folder` that cannot be used here.

    Maps name prefixes (`head/classifier/`) to reasons. `--init-from` initializes these parameters anew. `codec` is the codec of
    the data of this run. The default is none.
    """
    return objective.unfit(folder, codec) if hasattr(objective, "unfit") else {}


def panels(objective: Any) -> Sequence[str]:
    """`objective.panels`: the metrics, besides the loss, that the report plots. The default is none."""
    return getattr(objective, "panels", ())


def minimized(objective: Any) -> Sequence[str]:
    """`objective.minimized`: the metrics, besides the loss and its terms, for which lower is better. The default is none."""
    return getattr(objective, "minimized", ())


def scores(objective: Any) -> Sequence[str]:
    """`objective.scores`: the metrics that `objective.score` computes from a whole split. The default is none."""
    return objective.scores if hasattr(objective, "score") else ()


def score(objective: Any, predictions: Sequence[Any], references: Sequence[Any], summary: Mapping[str, Any]) -> dict[str, float]:
    """`objective.score(predictions, references)`: return the metrics in `objective.scores`.

    Raises UserError if other metrics are returned, or metrics that `summary`, from `objective.summarize`, already has.
    """
    found, name = objective.score(predictions, references), type(objective).__name__
    if repeated := found.keys() & summary.keys():
        raise UserError(f"{name}.score returns {', '.join(repeated)}, as `summarize` does")
    if found.keys() != set(objective.scores):
        raise UserError(f"{name}.score returns {', '.join(found)}, but its `scores` are {', '.join(objective.scores)}")
    return {metric: float(value) for metric, value in found.items()}


def chance(objective: Any, references: Sequence[Any]) -> Mapping[str, float]:
    """`objective.chance(references)`: return the value of each metric without learning, from the references of a split.

    The default is none.
    """
    return objective.chance(references) if hasattr(objective, "chance") else {}


def questions(
    objective: Any, batch: Mapping[str, Any], codec: Any
) -> tuple[Mapping[str, Any], Sequence[Any], Sequence[Any]] | None:
    """`objective.questions(batch, codec)`: return a held-out batch changed to be predicted, its rows as shown in the report, and
    their references. The default is None: the batch is predicted as it is, and the data shows its rows.
    """
    return objective.questions(batch, codec) if hasattr(objective, "questions") else None


def render(objective: Any, described: Any, reference: Any = None) -> Rendering:
    """`objective.render(described, reference)`: return a prediction in readable form. The default is its JSON."""
    if hasattr(objective, "render"):
        return objective.render(described, reference)
    known = [f"reference: {json.dumps(reference)}"] if reference is not None else []
    return Rendering([json.dumps(described), *known])


def merged(objective: Any, predictions: Sequence[Any], row: Mapping[str, Any]) -> Any:
    """`objective.merged(predictions, row)`: return the prediction of a user's row from those of its examples.

    The default expects one example per row.
    """
    if hasattr(objective, "merged"):
        return objective.merged(predictions, row)
    (prediction,) = predictions
    return prediction


def generates_from(objective: Any) -> str:
    """`objective.generates_from`: the field of a row from which the objective generates a text. The default raises UserError."""
    if not hasattr(objective, "generates_from"):
        raise UserError(f"objective {type(objective).__name__} generates no texts; use fmodels predict")
    return objective.generates_from


def prompts(objective: Any, rows: Sequence[Mapping[str, Any]], codec: Any) -> Any:
    """`objective.prompts(rows, codec)`: return the rows as `train.objectives.prompts.Prompts`. Called if it has `generates_from`.

    Raises DataError for a row that has no text in this field.
    """
    return objective.prompts(rows, codec)


def sections(objective: Any, result: Mapping[str, Any], codec: Any) -> Sequence[tuple[str, str]]:
    """`objective.sections(result, codec)`: return (title, HTML) of report sections on a split's metrics. The default is none."""
    return objective.sections(result, codec) if hasattr(objective, "sections") else ()
