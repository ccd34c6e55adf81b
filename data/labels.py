"""Classification labels: their names and indices, and a limit of labelled rows per class."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Batch, Dataset, Examples
from data.errors import DataError
from data.reading import FromSource, pairs

TWO_CLASSES = {"classes": 2, "label_shares": (0.5, 0.5)}


@dataclass(frozen=True, kw_only=True)
class Labelled(FromSource):
    """Base class of the configs of labelled data."""

    LABELLED = True

    labels_per_class: int | None = None
    "labelled training rows per class (None: all)"
    label_seed: int = 0
    "seed for choosing the labelled rows"

    def __post_init__(self):
        super().__post_init__()
        if self.labels_per_class is not None and self.labels_per_class < 1:
            raise ValueError(f"labels_per_class must be at least 1, or None for all, not {self.labels_per_class}")
        if self.label_seed < 0:
            raise ValueError(f"label_seed must be at least 0, not {self.label_seed}")

    def assumed(self) -> dict[str, Any]:
        return {**super().assumed(), **TWO_CLASSES}

    def elsewhere(self, folder: Path, source: str, fields: str | None, splits: str) -> Dataset:
        """Return the data as in FromSource, with the label indices of the run. Raises DataError for labels unknown to the run."""
        found = replace(self, labels_per_class=None)
        dataset, known = super(Labelled, found).elsewhere(folder, source, fields, splits), read(folder)
        if unknown := [name for name in dataset.codec.labels if name not in known]:
            raise DataError(
                f"data.source {source}: the run does not know the label(s) {', '.join(unknown[:10])}; "
                f"it knows {', '.join(known[:10])}{', …' if known[10:] else ''}"
            )
        numbers = np.array([known.index(name) for name in dataset.codec.labels], np.int32)
        return replace(
            dataset,
            splits={split: Renumbered(examples, numbers) for split, examples in dataset.splits.items()},
            codec=replace(dataset.codec, labels=known),
            facts={**dataset.facts, "classes": len(known), "label_shares": None},
        )


class Renumbered:
    """Examples with other label indices: `numbers[label]`."""

    def __init__(self, examples: Examples, numbers: np.ndarray):
        self.examples, self.numbers = examples, numbers

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        batch = self.examples[indices]
        return {**batch, "label": self.numbers[batch["label"]]}


@dataclass(frozen=True)
class Labels:
    """The sorted label set of the training split, and the label index of every row."""

    names: tuple[str, ...]
    numbers: dict[str, np.ndarray]
    "label indices [rows] of each split"
    notes: tuple[str, ...]

    def references(self, chosen: np.ndarray) -> dict[str, list[str]]:
        """Return the label name of each row: the `chosen` rows of train, and all rows of the other splits."""
        used = {**self.numbers, "train": self.numbers["train"][chosen]}
        return {split: [self.names[number] for number in numbers] for split, numbers in used.items()}

    def counts(self, split: str) -> dict[str, int]:
        found = np.bincount(self.numbers[split], minlength=len(self.names))
        return {name: int(count) for name, count in zip(self.names, found, strict=True)}


STRATIFIED = (
    "are the rows sorted by label? Omit --data.splits to hold out a tenth of each label, or, if the source has several splits, "
    "use train=train,validation=held_out"
)


def sorted_labels(found: dict[str, np.ndarray], appeared: list[str], source: object, splits: str = "") -> Labels:
    """Renumber labels in sorted order. `found` has the indices of the labels in `appeared`, {split: [rows]}; -1: no label.

    A held-out split without labels, such as the test split of a benchmark, is dropped with a note. Another note lists the labels
    that a held-out split lacks. Raises DataError for unlabelled rows among labelled ones, for fewer than two labels, for a
    held-out label that does not occur in train, and for a held-out slice (in `splits`, data.splits) with one label only.
    """
    notes, numbers, slices = [], {}, {split for split, expression in pairs("splits", splits).items() if "[" in expression}
    names = tuple(sorted({appeared[i] for i in np.unique(found["train"]) if i >= 0}))
    order = {name: number for number, name in enumerate(names)}
    new_index = np.array([order.get(label, -1) for label in appeared] or [-1])
    for split, labels in found.items():
        unlabelled = np.flatnonzero(labels < 0)
        if split != "train" and len(unlabelled) == len(labels):
            notes.append(f"{split} has no labels and is not used")
            continue
        if len(unlabelled):
            raise DataError(
                f"data.source {source}: row {unlabelled[0]} of {split} has no label, but other rows do; "
                "label every row, or choose other splits with --data.splits"
            )
        unknown = np.flatnonzero(new_index[labels] < 0)
        if len(unknown):
            raise DataError(
                f"data.source {source}: {split} has the label {appeared[labels[unknown[0]]]!r}, "
                f"which is not in train; train has {', '.join(names)}{'; ' + STRATIFIED if slices & {'train', split} else ''}"
            )
        numbers[split] = new_index[labels].astype(np.int32)
        found_names = {names[number] for number in np.unique(numbers[split])}
        if split in slices - {"train"} and len(found_names) == 1 and len(names) > 1:
            raise DataError(f"data.source {source}: {split} has the label {names[numbers[split][0]]!r} only; {STRATIFIED}")
        if absent := [name for name in names if name not in found_names]:
            notes.append(f"{split} has no rows of {len(absent)} of the {len(names)} labels: {', '.join(absent[:10])}")
    if len(names) < 2:
        raise DataError(
            f"data.source {source}: classification needs at least two labels; every row of train has {', '.join(names)!r}"
        )
    if len(numbers) < 2:
        raise DataError(f"data.source {source}: no held-out split has labels; use --data.splits train=train,validation=held_out")
    return Labels(names, numbers, tuple(notes))


def budget(labels: Labels, per_class: int | None, seed: int, source: object) -> np.ndarray:
    """Return the indices of the training rows to use: `per_class` random rows of each label, or all rows if it is None.

    Raises DataError if a label has too few rows.
    """
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
    """Return the labels stored in a run directory. Raises DataError if they are missing or invalid."""
    try:
        found = json.loads((folder / FILE).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / FILE} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not (isinstance(found, list) and all(isinstance(name, str) for name in found) and len(set(found)) == len(found) >= 2):
        raise DataError(f"{folder / FILE}: must be a list of at least two distinct labels")
    return tuple(found)


def facts(labels: Labels, chosen: np.ndarray) -> dict:
    """Return the facts for a classification objective: `classes`, and `label_shares`, the share of each label in training."""
    counts = np.bincount(labels.numbers["train"][chosen], minlength=len(labels.names))
    return {"classes": len(labels.names), "label_shares": tuple(round(float(count) / len(chosen), 6) for count in counts)}
