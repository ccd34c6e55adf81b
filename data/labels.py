"""Classification labels: their names and indices, and the choice and the sampling of training rows by label."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.dataset import Batch, Dataset, Examples
from data.errors import DataError
from data.mixture import Weighted, weighted
from data.reading import FromSource, pairs

TWO_CLASSES = {"classes": 2, "label_shares": (0.5, 0.5)}


@dataclass(frozen=True, kw_only=True)
class Labelled(FromSource):
    """Base class of the configs of labelled data."""

    LABELLED = True

    labels_per_class: int | None = None
    "labelled training rows per class (None: all)"
    imbalance: float = 1.0
    """rows of the first label for each row of the last, in training: a long tail, for experiments; from label to label, their \
number falls by one factor (Cui et al. 2019, §5)"""
    sampling: Literal["natural", "oversample", "undersample"] = "natural"
    "oversample: batches have all labels equally often, and rare rows repeat; undersample: rows of frequent labels are dropped"
    label_seed: int = 0
    "seed for choosing the labelled rows"

    def __post_init__(self):
        super().__post_init__()
        if not self.imbalance >= 1:
            raise ValueError(f"imbalance must be at least 1, not {self.imbalance}")
        if self.labels_per_class is not None and (self.imbalance > 1 or self.sampling == "undersample"):
            name = "imbalance" if self.imbalance > 1 else "sampling undersample"
            raise ValueError(f"labels_per_class {self.labels_per_class} and {name} both choose rows; give one of them")
        if self.labels_per_class is not None and self.labels_per_class < 1:
            raise ValueError(f"labels_per_class must be at least 1, or None for all, not {self.labels_per_class}")
        if self.label_seed < 0:
            raise ValueError(f"label_seed must be at least 0, not {self.label_seed}")

    def assumed(self) -> dict[str, Any]:
        return {**super().assumed(), **TWO_CLASSES}

    def chosen(self, labels: "Labels") -> np.ndarray:
        """Return the indices of the training rows to use. Raises DataError if a label has too few rows."""
        count, counts = len(labels.names), np.bincount(labels.numbers["train"], minlength=len(labels.names))
        wanted = counts
        if self.labels_per_class is not None:
            wanted = np.full(count, self.labels_per_class)
        if self.imbalance > 1:
            wanted = np.maximum(np.round(counts * self.imbalance ** (-np.arange(count) / (count - 1))), 1).astype(int)
        if self.sampling == "undersample":
            wanted = np.full(count, wanted.min())
        return budget(labels, wanted, self.label_seed, self.source)

    def oversampled(self, examples: Examples, labels: "Labels", chosen: np.ndarray) -> Examples:
        """Return the chosen training examples, with `sampling` oversample in parts that are drawn equally often.

        Raises DataError if they are the parts of a mixture, which has proportions of its own."""
        if self.sampling != "oversample":
            return examples
        if isinstance(examples, Weighted):
            raise DataError(f"data.source {self.source}: a mixture has proportions of its own; set data.sampling to natural")
        return weighted(examples, labels.numbers["train"][chosen], [1.0] * len(labels.names), self.source)

    def notes_on(self, labels: "Labels", chosen: np.ndarray) -> list[str]:
        total = len(labels.numbers["train"])
        per_class = "" if self.labels_per_class is None else f": {self.labels_per_class} per class"
        used = [f"{len(chosen):,} of {total:,} labelled rows are used{per_class}"] if len(chosen) < total else []
        return [*labels.notes, *used]

    def facts(self, labels: "Labels", chosen: np.ndarray) -> dict[str, Any]:
        """Return the facts for a classification objective: `classes`, and `label_shares`, the share of each label in training."""
        shares = np.bincount(labels.numbers["train"][chosen], minlength=len(labels.names)) / len(chosen)
        if self.sampling == "oversample":
            shares = np.full(len(labels.names), 1 / len(labels.names))
        return {"classes": len(labels.names), "label_shares": tuple(shares.round(6).tolist())}

    def elsewhere(self, folder: Path, source: str, fields: str | None, splits: str) -> Dataset:
        """Return the data as in FromSource, with the label indices of the run. Raises DataError for labels unknown to the run."""
        found = replace(self, labels_per_class=None, imbalance=1.0, sampling="natural")
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

    def counts(self, chosen: np.ndarray) -> dict[str, dict[str, int]]:
        """Return the number of rows of each label in each split, of train those of the `chosen` rows, as tables for `about`."""
        used, count = {**self.numbers, "train": self.numbers["train"][chosen]}, len(self.names)
        found = {split: np.bincount(numbers, minlength=count).tolist() for split, numbers in used.items()}
        return {f"labels of {split}": dict(zip(self.names, counts, strict=True)) for split, counts in found.items()}


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


def budget(labels: Labels, wanted: np.ndarray, seed: int, source: object) -> np.ndarray:
    """Return the indices of the training rows to use: `wanted` random rows of each label; all of them in their order.

    Raises DataError if a label has too few rows.
    """
    numbers = labels.numbers["train"]
    if wanted.sum() == len(numbers) and (np.bincount(numbers, minlength=len(labels.names)) == wanted).all():
        return np.arange(len(numbers))
    rng, chosen = np.random.default_rng(seed), []
    for number, (name, count) in enumerate(zip(labels.names, wanted, strict=True)):
        rows = np.flatnonzero(numbers == number)
        if len(rows) < count:
            raise DataError(f"data.source {source}: {name!r} has {len(rows)} rows, fewer than data.labels_per_class {count}")
        chosen.append(rows[rng.permutation(len(rows))[:count]])
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
