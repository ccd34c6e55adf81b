"""Texts, or pairs of texts, with a number to predict, such as a rating or the similarity of two sentences."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset, Spec
from data.errors import DataError
from data.text import records
from data.text.numbers import number_of
from data.text.one_or_two import OneOrTwo
from data.text.records import Record


@dataclass(frozen=True, kw_only=True)
class ScoredText(OneOrTwo):
    """Batches of [CLS] text [SEP], or with `pairs` [CLS] text [SEP] second [SEP].

    `tokens`, `words`, `segments` and `mask` [B, T], and `score` [B] (NaN: unknown, in rows to predict).
    """

    READS = ("text", "second", "score")
    NEEDS = ("score",)

    pairs: bool = False
    "read pairs of texts, `text` and `second`"

    def has_second(self) -> bool:
        return self.pairs

    def spec(self) -> dict[str, Spec]:
        return {**super().spec(), "score": Spec((self.batch_size,), np.float32)}

    def answer(self, row: Mapping[str, Any]) -> Record | str:
        score = None if row.get("score") is None else number_of(row["score"], "score")
        return score if isinstance(score, str) else {"score": score}

    def answer_arrays(self, record: Record) -> dict[str, Any]:
        return {"score": np.float32(np.nan if record["score"] is None else record["score"])}

    def reference(self, record: Record) -> float:
        return record["score"]

    def assumed(self) -> dict[str, Any]:
        return {**super().assumed(), "score_mean": 0.0, "score_std": 1.0}

    def build(self) -> Dataset:
        """Raises DataError if all training rows have the same score."""
        train = np.fromiter(records.records(self).rows("train", self.reference), np.float64)
        if np.ptp(train) == 0:
            raise DataError(f"data.source {self.source}: every row of train has the score {train[0]:g}; two scores are needed")
        dataset = records.build(self)
        found = {"score_mean": float(train.mean()), "score_std": float(train.std())}
        scores = {"mean": f"{train.mean():.4g}", "standard deviation": f"{train.std():.4g}"}
        scores |= {"smallest": f"{train.min():.4g}", "largest": f"{train.max():.4g}"}
        return replace(dataset, facts={**dataset.facts, **found}, about={**dataset.about, "scores of train": scores})

    def elsewhere(self, folder: Path, source: str, fields: str | None, splits: str) -> Dataset:
        """Return the data as in FromSource. The mean and the standard deviation remain those of the run."""
        dataset = super().elsewhere(folder, source, fields, splits)
        return replace(dataset, facts={**dataset.facts, "score_mean": None, "score_std": None})
