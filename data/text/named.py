"""Records whose answers are names: a label, several labels, or a tag for each word."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from data import labels as labelling
from data.dataset import Dataset
from data.errors import DataError
from data.text import records
from data.text.records import FromRecords, Record, RecordCodec


@dataclass(frozen=True, kw_only=True)
class Named(FromRecords):
    """Base class of the configs of such data. Names are the labels of the codec, and arrays have their indices."""

    labels: tuple[str, ...] | None = None
    "the names in order (None: those of train, sorted)"

    def __post_init__(self):
        super().__post_init__()
        if self.labels is not None and len(set(self.labels)) != max(len(self.labels), 2):
            raise ValueError(f"labels must be at least two distinct names, not {', '.join(self.labels)}")

    def names_of(self, record: Record) -> Iterable[str]:
        """Return the names in a record."""
        raise NotImplementedError(type(self).__name__)

    @property
    def numbers(self) -> dict[str, int]:
        """The index of each name."""
        return {name: number for number, name in enumerate(self.labels or ())}

    def label_names(self) -> tuple[str, ...]:
        return self.labels or ()

    def row_fields(self) -> tuple[Any, ...]:
        return (*super().row_fields(), self.labels)

    def assumed(self) -> dict[str, Any]:
        return {**super().assumed(), **labelling.TWO_CLASSES}

    def build(self) -> Dataset:
        """Raises DataError for a name of a held-out split that does not occur in train, or in `labels`."""
        found = records.records(self)
        counts = {split: Counter(n for record in found.rows(split) for n in self.names_of(record)) for split in found.splits}
        names = self.labels or tuple(sorted(counts["train"]))
        known = f"{'the labels are' if self.labels else 'train has'} {', '.join(names[:10])}{', …' if names[10:] else ''}"
        for split, used in counts.items():
            if unknown := sorted(used.keys() - set(names)):
                where = "a row" if self.labels else split
                raise DataError(f"data.source {self.source}: {where} has the label {unknown[0]!r}; {known}")
        if len(names) < 2:
            raise DataError(f"data.source {self.source}: at least two labels are needed; {known}")
        dataset = records.build(replace(self, labels=names))
        total = sum(counts["train"].values())
        shares = tuple(round(counts["train"][name] / total, 6) for name in names)
        about = {**dataset.about, **{f"labels of {split}": dict(used.most_common()) for split, used in counts.items()}}
        return replace(dataset, facts={**dataset.facts, "classes": len(names), "label_shares": shares}, about=about)

    def codec(self, folder: Path) -> RecordCodec:
        return super(Named, self._as_in(folder)).codec(folder)

    def elsewhere(self, folder: Path, source: str, fields: str | None, splits: str) -> Dataset:
        """Return the data as in FromSource, with the labels of the run. Raises DataError for labels unknown to the run."""
        return super(Named, self._as_in(folder)).elsewhere(folder, source, fields, splits)

    def _as_in(self, folder: Path) -> Self:
        return self if self.labels else replace(self, labels=labelling.read(folder))
