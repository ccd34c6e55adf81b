"""What the data of an experiment becomes: examples by index, and the facts that model and objective ask for.

A data config is a frozen dataclass with `batch_size` and

    build(tokenizer) -> Dataset       `tokenizer` is the path of one to use instead of training one, or None
    spec() -> {name: Spec}            shape and type of every array of a batch, without reading any data
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

Row = Mapping[str, np.ndarray | np.generic]


class Spec(NamedTuple):
    """As jax.ShapeDtypeStruct, without jax."""

    shape: tuple[int, ...]
    dtype: type


class Examples(Protocol):
    """Rows of arrays of one shape, by index: a pure function of the index."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Row: ...


class Columns:
    """Examples that are the rows of arrays of equal length."""

    def __init__(self, columns: Mapping[str, np.ndarray]):
        self.columns = columns
        lengths = {len(column) for column in columns.values()}
        assert len(lengths) == 1, f"columns of different lengths: {lengths}"
        (self.length,) = lengths

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int, /) -> Row:
        return {name: column[index] for name, column in self.columns.items()}


@dataclass(frozen=True)
class Dataset:
    """`splits` has `train`, and `validation` or `test` or both."""

    splits: Mapping[str, Examples]
    facts: Mapping[str, Any]
    "what is known of the data (`classes`, `vocab_size`, `mask_id`): fills fields of model and objective that are None"
    fingerprint: str
    "of everything that examples are made of"
    encode: Callable[[Sequence[Mapping[str, Any]]], tuple[Row, list[str]]]
    "raw rows, as a user writes them, to the arrays of a batch, and notes for the user; raises DataError for what cannot be one"
    labels: Sequence[str] = ()
    token: Callable[[int], str] = str
    "the text of a token"
    files: Mapping[str, str] = field(default_factory=dict)
    "name and text of what a run directory keeps: the tokenizer"
    shown: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    "for each split, its rows as a person wants to see them"
    notes: Sequence[str] = ()
    "what was done to the data that a user should know"

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
