"""The data contract: examples by index, and the facts about them that the model and the objective ask for.

A data config is a frozen dataclass with `batch_size` and

    build() -> Dataset            reads the source, or the cache
    codec(folder) -> Codec        from the files that the codec of such a dataset wrote into `folder`; reads no data
    spec() -> {name: Spec}        shape and type of every array of a batch; reads no data

It may also define `check`, `inherits`, `amount`, `show` and `code`; `train/parts.py` says what they do, and has their defaults.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

Batch = dict[str, np.ndarray]


class Spec(NamedTuple):
    """As jax.ShapeDtypeStruct, without jax."""

    shape: tuple[int, ...]
    dtype: type


class Examples(Protocol):
    """Rows of arrays, read many at a time: a pure function of the indices."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        """Arrays whose first dimension is that of `indices`."""
        ...


class Columns:
    """Examples that are the rows of arrays of equal length, in memory."""

    def __init__(self, columns: Mapping[str, np.ndarray]):
        self.columns = columns
        lengths = {len(column) for column in columns.values()}
        assert len(lengths) == 1, f"columns of different lengths: {lengths}"
        (self.length,) = lengths

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        return {name: column[indices] for name, column in self.columns.items()}


class Subset:
    """Some of other examples."""

    def __init__(self, examples: Examples, chosen: np.ndarray):
        self.examples, self.chosen = examples, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        return self.examples[self.chosen[indices]]


class WithLabels:
    """Examples, and their `label`s, one a row."""

    def __init__(self, examples: Examples, labels: np.ndarray):
        self.examples, self.labels = examples, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        return {**self.examples[indices], "label": self.labels[indices]}


class Codec(Protocol):
    """The conversion of rows to arrays. It is all that a run needs of its data to predict.

    A codec may also define `fingerprint`, a mapping from the name of a part to its hash: `predict` compares it with what the run
    was trained with. An objective may ask for more, such as the names of labels.
    """

    @property
    def files(self) -> Mapping[str, str]:
        """The name and the text of each file that a run directory keeps of the codec."""
        ...

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, np.ndarray], list[str]]:
        """Convert rows, as a user writes them, to the arrays of a batch. Return them with notes for the user.

        Raises DataError for a row that cannot be converted.
        """
        ...


@dataclass(frozen=True)
class Dataset:
    """Examples ready to train on. `splits` has `train`, and `validation` or `test` or both."""

    splits: Mapping[str, Examples]
    facts: Mapping[str, Any]
    "properties of the data by the name of the field that they fill in a model or an objective"
    fingerprint: Mapping[str, str]
    "hash of each part that the examples depend on, by a name that users know"
    codec: Any
    "a `Codec`"
    shown: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    "rows of each split for display: texts, or arrays of images"
    references: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    "correct answer for each row of a split, as JSON values, in the order of its examples"
    notes: Sequence[str] = ()
    "messages about the preparation of the data"
    about: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    "tables of `data inspect`, by title"
    bad_records: Sequence[str] = ()
    "a JSON object for each row of the source that was skipped"

    @property
    def held_out(self) -> str:
        """The split that is evaluated while training."""
        return "validation" if "validation" in self.splits else "test"

    @property
    def held_out_splits(self) -> list[str]:
        """The splits that are evaluated after the last step."""
        return [split for split in self.splits if split != "train"]


def fingerprint(*parts: Any) -> str:
    """A hash of arrays, and of anything else by its repr."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()[:16]
