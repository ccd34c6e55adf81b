"""Labels of classification: their numbers, and a budget of so many a class."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.reading import FromSource


@dataclass(frozen=True, kw_only=True)
class Labelled(FromSource):
    """What the config of any labelled data has."""

    LABELLED = True

    labels_per_class: int | None = None
    "labelled rows used for training; None for all"
    label_seed: int = 0
    "which"

    def __post_init__(self):
        super().__post_init__()
        if self.labels_per_class is not None and self.labels_per_class < 1:
            raise ValueError(f"labels_per_class must be at least 1, or None for all, not {self.labels_per_class}")
        if self.label_seed < 0:
            raise ValueError(f"label_seed must be at least 0, not {self.label_seed}")


@dataclass(frozen=True)
class Labels:
    """The sorted label set of the training split, and the number of each row's label in it."""

    names: tuple[str, ...]
    numbers: dict[str, np.ndarray]
    "[rows] of each split"
    notes: tuple[str, ...]

    def references(self, chosen: np.ndarray) -> dict[str, list[str]]:
        """The name of each row's label: of the `chosen` training rows, and of all rows of the other splits."""
        used = {**self.numbers, "train": self.numbers["train"][chosen]}
        return {split: [self.names[number] for number in numbers] for split, numbers in used.items()}

    def counts(self, split: str) -> dict[str, int]:
        found = np.bincount(self.numbers[split], minlength=len(self.names))
        return {name: int(count) for name, count in zip(self.names, found, strict=True)}


def numbered(found: dict[str, np.ndarray], appeared: list[str], source: object) -> Labels:
    """From numbers by order of appearance, -1 without a label, to those of the sorted set. A held-out split without any label,
    as a benchmark's test split may be, is left out, with a note.

    Raises DataError for rows without a label, fewer than two labels, or a label of another split that training never sees."""
    notes, numbers = [], {}
    names = tuple(sorted({appeared[i] for i in np.unique(found["train"]) if i >= 0}))
    order = {name: number for number, name in enumerate(names)}
    place = np.array([order.get(label, -1) for label in appeared] or [-1])
    for split, labels in found.items():
        unlabelled = np.flatnonzero(labels < 0)
        if split != "train" and len(unlabelled) == len(labels):
            notes.append(f"{split} has no labels, and is left out")
            continue
        if len(unlabelled):
            raise DataError(
                f"data.source {source}: row {unlabelled[0]} of {split} has no label, and others of it have; "
                "--data.splits says which splits to use"
            )
        unknown = np.flatnonzero(place[labels] < 0)
        if len(unknown):
            raise DataError(
                f"data.source {source}: {split} has the label {appeared[labels[unknown[0]]]!r}, and train only {', '.join(names)}"
            )
        numbers[split] = place[labels].astype(np.int32)
    if len(names) < 2:
        raise DataError(
            f"data.source {source}: classification needs two labels or more; all rows of train have {', '.join(names)!r}"
        )
    if len(numbers) < 2:
        raise DataError(
            f"data.source {source}: no held-out split has labels; --data.splits validation=train[90%:] takes some of train"
        )
    return Labels(names, numbers, tuple(notes))


def budget(labels: Labels, per_class: int | None, seed: int, source: object) -> np.ndarray:
    """The training rows that are used: `per_class` of each label, drawn by `seed`; all of them for None. Raises DataError where a
    label has fewer."""
    numbers = labels.numbers["train"]
    if per_class is None:
        return np.arange(len(numbers))
    rng, chosen = np.random.default_rng(seed), []
    for number, name in enumerate(labels.names):
        rows = np.flatnonzero(numbers == number)
        if len(rows) < per_class:
            raise DataError(f"data.source {source}: {name!r} has {len(rows)} rows, fewer than data.labels_per_class {per_class}")
        chosen.append(rows[rng.permutation(len(rows))[:per_class]])
    return np.concatenate(chosen)


FILE = "labels.json"


def read(folder: Path) -> tuple[str, ...]:
    """The labels that a run directory keeps. Raises DataError if it has none."""
    try:
        found = json.loads((folder / FILE).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / FILE} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not (isinstance(found, list) and all(isinstance(name, str) for name in found) and len(set(found)) == len(found) >= 2):
        raise DataError(f"{folder / FILE}: a list of two distinct labels or more is needed")
    return tuple(found)


def facts(labels: Labels, chosen: np.ndarray) -> dict:
    """What a classification objective asks for: `classes`, and `label_shares` of the training rows."""
    counts = np.bincount(labels.numbers["train"][chosen], minlength=len(labels.names))
    return {"classes": len(labels.names), "label_shares": tuple(round(float(count) / len(chosen), 6) for count in counts)}
