"""A data source outside of the project: seeded random numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from data.dataset import Columns, Dataset, Spec, fingerprint


@dataclass(frozen=True)
class Numbers:
    batch_size: int = 16
    count: int = 256

    def spec(self):
        rows = (self.batch_size,)
        return {
            "numbers": Spec((self.batch_size, 4), np.float32),
            "example": Spec(rows, np.uint32),
            "valid": Spec(rows, np.float32),
        }

    def build(self):
        numbers = np.random.default_rng(0).normal(size=(self.count, 4)).astype(np.float32) * 0.3
        return Dataset(
            splits={"train": Columns({"numbers": numbers[32:]}), "test": Columns({"numbers": numbers[:32]})},
            facts={},
            fingerprint={"numbers": fingerprint(numbers)},
            codec=self.codec(None),
            references={"test": numbers[:32].sum(1).tolist()},
        )

    def codec(self, folder):
        return NumbersCodec()


@dataclass(frozen=True)
class NumbersCodec:
    files: Mapping[str, str] = field(default_factory=dict)

    def encode(self, rows):
        return {"numbers": np.array([row["numbers"] for row in rows], np.float32)}, []
