"""What the data of an experiment becomes: examples by index, and the facts that model and objective ask for.

A data config is a frozen dataclass with `batch_size` and

    build(tokenizer) -> Dataset       `tokenizer` is the path of one to use instead of training one, or None
    codec(folder) -> Codec            from the files that the codec of such a dataset left in `folder`, without reading any data
    spec() -> {name: Spec}            shape and type of every array of a batch, without reading any data
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
    """How rows become arrays, and numbers words again: all of its data that a run needs to predict."""

    @property
    def labels(self) -> Sequence[str]:
        """The text of each label; none where there are no labels."""
        ...

    @property
    def files(self) -> Mapping[str, str]:
        """Name and text of what a run directory keeps of it: the tokenizer, the labels."""
        ...

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, np.ndarray], list[str]]:
        """Rows, as a user writes them, to the arrays of a batch, and notes for the user. Raises DataError for what is no row."""
        ...

    def token(self, index: int) -> str:
        """The text of a token."""
        ...


@dataclass(frozen=True)
class Dataset:
    """`splits` has `train`, and `validation` or `test` or both."""

    splits: Mapping[str, Examples]
    facts: Mapping[str, Any]
    "what is known of the data (`classes`, `vocab_size`, `mask_id`): fills fields of model and objective that are None"
    fingerprint: Mapping[str, str]
    "of each part that examples are made of, by a name that a user knows it by"
    codec: Codec
    shown: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    "for each split, its rows as a person wants to see them"
    notes: Sequence[str] = ()
    "what was done to the data that a user should know"
    about: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    "what a person who looks at the data wants to know, by topic"
    bad_records: Sequence[str] = ()
    "a JSON object for each row of the source that was skipped"

    @property
    def held_out(self) -> str:
        """The split that is evaluated while training."""
        return "validation" if "validation" in self.splits else "test"


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
