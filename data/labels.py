"""Labels of classification: their numbers, and a budget of so many a class."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.sources import Rows


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """What the config of any labelled data has."""

    batch_size: int = 32
    labels_per_class: int | None = None
    "labelled rows used for training; None for all"
    label_seed: int = 0
    "which"

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.labels_per_class is not None and self.labels_per_class < 1:
            raise ValueError(f"labels_per_class must be at least 1, or None for all, not {self.labels_per_class}")


def numbered(splits: dict[str, Rows], source: object) -> tuple[str, ...]:
    """The sorted label set of the training split. Raises DataError for rows without a label, fewer than two labels, or a label of
    another split that training never sees."""
    for split, rows in splits.items():
        for i, row in enumerate(rows):
            if "label" not in row:
                raise DataError(f"data.source {source}: row {i} of {split} has no label; it has: {', '.join(row)}")
    labels = tuple(sorted({row["label"] for row in splits["train"]}))
    if len(labels) < 2:
        raise DataError(
            f"data.source {source}: classification needs two labels or more; all rows of train have {', '.join(labels)!r}"
        )
    for split, rows in splits.items():
        for row in rows:
            if row["label"] not in labels:
                known = ", ".join(labels)
                raise DataError(f"data.source {source}: {split} has the label {row['label']!r}, and train only {known}")
    return labels


def budget(rows: Rows, per_class: int | None, seed: int, source: object) -> Rows:
    """`per_class` rows of each label, drawn by `seed`; all of them for None. Raises DataError where a label has fewer."""
    if per_class is None:
        return rows
    by_label: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_label.setdefault(row["label"], []).append(i)
    rng, chosen = np.random.default_rng(seed), []
    for label, indices in sorted(by_label.items()):
        if len(indices) < per_class:
            raise DataError(
                f"data.source {source}: {label!r} has {len(indices)} rows, fewer than data.labels_per_class {per_class}"
            )
        chosen += [indices[i] for i in rng.permutation(len(indices))[:per_class]]
    return [rows[i] for i in chosen]


FILE = "labels.json"


def read(folder: Path) -> tuple[str, ...]:
    """The labels that a run directory keeps. Raises DataError if it has none."""
    try:
        return tuple(json.loads((folder / FILE).read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / FILE}: {error}") from None


def facts(rows: Rows, labels: tuple[str, ...]) -> dict:
    """What a classification objective asks for: `classes`, and `label_shares` of the training rows."""
    counts = [sum(row["label"] == label for row in rows) for label in labels]
    return {"classes": len(labels), "label_shares": tuple(round(count / len(rows), 6) for count in counts)}
