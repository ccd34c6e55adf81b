"""The data contract: examples by index, and facts for models and objectives.

A data config is a frozen dataclass with `batch_size` and

    build() -> Dataset            read the source or the cache
    codec(folder) -> Codec        restore the codec from its files in `folder`; reads no data
    spec() -> {name: Spec}        shape and dtype of every array of a batch; reads no data

It may also define `check`, `inherits`, `amount`, `show`, `overlaps`, `read_input`, `elsewhere`, `code` and `accept_changed`; see
`train/parts.py` for their defaults.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

Batch = dict[str, np.ndarray]


class Spec(NamedTuple):
    """Shape and dtype of an array, like jax.ShapeDtypeStruct but without importing jax."""

    shape: tuple[int, ...]
    dtype: type


class Examples(Protocol):
    """Rows of arrays, read in batches as a pure function of the indices."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        """Return the rows at `indices`, as arrays with the rows in the first dimension."""
        ...


class Columns:
    """Examples from arrays of equal length in memory."""

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
    """A subset of other examples."""

    def __init__(self, examples: Examples, chosen: np.ndarray):
        self.examples, self.chosen = examples, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        return self.examples[self.chosen[indices]]


class WithLabels:
    """Examples with a `label` array added."""

    def __init__(self, examples: Examples, labels: np.ndarray):
        self.examples, self.labels = examples, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        return {**self.examples[indices], "label": self.labels[indices]}


class Codec(Protocol):
    """The conversion of rows to arrays. Prediction needs the codec only, not the data.

    A codec may also define `fingerprint`, {part: hash}, which prediction compares with the fingerprint of the training data.
    Objectives may need other attributes, such as label names.
    """

    @property
    def files(self) -> Mapping[str, str]:
        """The files to save in the run directory, {name: text}."""
        ...

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, np.ndarray], list[str]]:
        """Convert a user's rows to the arrays of a batch. Return (arrays, notes for the user).

        Raises DataError for a row that cannot be converted.
        """
        ...


@dataclass(frozen=True)
class Dataset:
    """Examples ready to train on. `splits` has `train`, and `validation` or `test` or both."""

    splits: Mapping[str, Examples]
    facts: Mapping[str, Any]
    "properties of the data, by the model or objective field that they fill"
    fingerprint: Mapping[str, str]
    "hash of each input of the examples, by name"
    codec: Any
    "a `Codec`"
    shown: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    "rows of each split for display: texts, or arrays of images"
    references: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    "correct answer for each row of each split, as a JSON value"
    notes: Sequence[str] = ()
    "messages about the preparation of the data"
    about: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    "tables of `data inspect`, by title"
    bad_records: Sequence[str] = ()
    "a JSON object for each row of the source that was skipped"

    @property
    def held_out(self) -> str:
        """The split evaluated during training."""
        return "validation" if "validation" in self.splits else "test"

    @property
    def held_out_splits(self) -> list[str]:
        """The splits evaluated after the last step."""
        return [split for split in self.splits if split != "train"]


def fingerprint(*parts: Any) -> str:
    """Return a hash of `parts`: arrays by content, other values by repr."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()[:16]
