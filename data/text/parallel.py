"""Parallel texts, such as sentences and their translations, or articles and their summaries.

Shapes: B batch, T length.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Batch, Spec
from data.text.language_modelling import TextCodec
from data.text.records import Clean, FromRecords, Record, chunks
from data.text.tokenizer import Tokenizer

SIDES = ("source", "target")
SHOWN = 4  # rows that `data inspect` prints
OPEN_ROWS = 64  # rows that first-fit packing keeps open


@dataclass(frozen=True, kw_only=True)
class ParallelText(FromRecords):
    """Batches of source texts and target texts.

    `source` [B, T] is text [SEP]; `tokens` [B, T] is [CLS] text, and `targets` [B, T], the next token of each (-1: none), is
    text [SEP]. `sequences` and `source_sequences` [B, T] number the pairs of a row from 1 (0: padding), and `positions` and
    `source_positions` count from 0 in each. Several pairs share a training row; other rows have one pair. Long texts are
    truncated.
    """

    READS = SIDES
    NEEDS = SIDES[1:]

    fields: str = ""
    "source fields for our fields: source=en,target=de (empty: the names are the same)"
    packed: bool = True
    "put several pairs into a training row"

    def spec(self) -> dict[str, Spec]:
        both, rows = Spec((self.batch_size, self.length), np.int32), (self.batch_size,)
        names = [f"{side}{name}" for side in ("source_", "") for name in ("sequences", "positions")]
        return {
            **dict.fromkeys(["source", "tokens", "targets", *names], both),
            "example": Spec(rows, np.uint32),
            "valid": Spec(rows, np.float32),
        }

    def amount(self, batch: Batch) -> tuple[str, int]:
        """Count the target tokens."""
        return "tokens", int(np.count_nonzero(batch["targets"] >= 0))

    def accepted(self, row: Mapping[str, Any], clean: Clean) -> Record | str:
        """Accept a `text` for a source, and a row without a target to predict."""
        found = {"source": row.get("source", row.get("text")), "target": row.get("target", None)}
        texts = {}
        for side, text in found.items():
            if text is None and side == "target":
                texts[side] = ""
            elif not isinstance(text, str):
                return f"it has no {side}" if text is None else f"its {side} is {type(text).__name__}, not a string"
            elif not text.strip():
                return f"its {side} is empty"
            else:
                texts[side] = clean(text)
        return texts

    def texts_of(self, record: Record) -> list[str]:
        return [record[side] for side in SIDES]

    def shown(self, record: Record) -> str:
        return record["source"]

    def reference(self, record: Record) -> str:
        return record["target"]

    def show(self, batch: Batch, seen: Mapping[str, Any], codec: TextCodec, stem: Path) -> list[str]:
        """Return the source and the target of the first rows, with special tokens."""
        decode = lambda ids: codec.vocabulary.implementation.decode(ids.tolist(), skip_special_tokens=False)
        arrays = {"source": batch["source"], "target": batch["tokens"]}
        used = {"source": batch["source_sequences"] > 0, "target": batch["sequences"] > 0}
        return [f"{row} {side}: {decode(arrays[side][row][used[side][row]])}" for row in range(SHOWN) for side in SIDES]

    def row_fields(self) -> tuple[Any, ...]:
        return (*super().row_fields(), self.packed)

    def rows(
        self, numbered: Iterable[tuple[int, Record]], vocabulary: Tokenizer, counts: Counter[str], packed: bool
    ) -> Iterator[dict[str, Any]]:
        open_rows: list[_Row] = []
        for chunk in chunks(numbered):
            encoded = [[ids for ids, _ in vocabulary.encode([r[side] for _, r in chunk])] for side in SIDES]
            for (number, _), *pair in zip(chunk, *encoded, strict=True):
                for side, ids in zip(SIDES, pair, strict=True):
                    counts[f"{side} texts are truncated"] += len(ids) > self.length - 1
                source, target = (ids[: self.length - 1] for ids in pair)
                row = next((row for row in open_rows if row.fits(source, target)), None)
                if row is None:
                    row = _Row(self.length, vocabulary, number)
                    if packed and self.packed:
                        if len(open_rows) == OPEN_ROWS:
                            yield open_rows.pop(max(range(OPEN_ROWS), key=lambda i: max(open_rows[i].used))).arrays
                        open_rows.append(row)
                row.add(source, target)
                if not (packed and self.packed):
                    yield row.arrays
        for row in open_rows:
            yield row.arrays


@dataclass
class _Row:
    length: int
    vocabulary: Tokenizer
    record: int
    pairs: int = 0
    used: list[int] = field(default_factory=lambda: [0, 0])

    def __post_init__(self):
        pad, length = self.vocabulary.special["pad"], self.length
        numbers = {f"{side}{name}": np.zeros(length, np.int32) for side in ("source_", "") for name in ("sequences", "positions")}
        texts = {"source": np.full(length, pad, np.int32), "tokens": np.full(length, pad, np.int32)}
        self.arrays = {**texts, "targets": np.full(length, -1, np.int32), **numbers, "record": self.record}

    def fits(self, source: np.ndarray, target: np.ndarray) -> bool:
        return all(used + len(ids) < self.length for used, ids in zip(self.used, (source, target), strict=True))

    def add(self, source: np.ndarray, target: np.ndarray) -> None:
        self.pairs += 1
        special, row = self.vocabulary.special, self.arrays
        places = [slice(used, used + len(ids) + 1) for used, ids in zip(self.used, (source, target), strict=True)]
        row["source"][places[0]] = [*source, special["sep"]]
        row["tokens"][places[1]] = [special["cls"], *target]
        row["targets"][places[1]] = [*target, special["sep"]]
        for side, place in zip(("source_", ""), places, strict=True):
            row[f"{side}sequences"][place] = self.pairs
            row[f"{side}positions"][place] = np.arange(place.stop - place.start)
        self.used = [place.stop for place in places]
