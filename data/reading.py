"""What the config of anything that is read from a source has, and how its rows are read."""

import json
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from data import sources
from data.errors import DataError
from data.sources import SPLITS, Bad, Row


@dataclass(frozen=True, kw_only=True)
class FromSource:
    READS: ClassVar[tuple[str, ...]] = ()  # the fields of a row that are read

    source: Any
    "NAME or NAME:ARGUMENT of data.sources, such as files:PATH or tfds:NAME"
    fields: str = ""
    "our names for the source's fields: text=sentence,label=sentiment; empty where they have our names"
    splits: str = ""
    "which of the source's splits ours are: train=train[:90%],validation=train[90%:]; empty is the source's own choice"
    bad_records: Literal["error", "skip"] = "error"
    "what a row that cannot be read does: it stops the run, or is counted and written to bad_records.jsonl"
    bad_limit: int = 100
    "rows that may be skipped"
    accept_changed: bool = field(default=False, metadata={"how": True})
    "go on with a run although its data has changed"
    batch_size: int = 32
    "rows of a step, on all devices together, B"

    def __post_init__(self):
        for ours in pairs("fields", self.fields):
            if ours not in self.READS:
                raise ValueError(f"fields must be of {', '.join(self.READS)}, not {ours!r}: OURS=THEIRS")
        for split in pairs("splits", self.splits):
            if split not in SPLITS:
                raise ValueError(f"splits must be of {', '.join(SPLITS)}, not {split!r}")
        if self.splits and "train" not in pairs("splits", self.splits):
            raise ValueError("splits must have one for train")
        for name in ("bad_limit", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


def pairs(name: str, text: str) -> dict[str, str]:
    """{"a": "b"} of `a=b,…`. Raises ValueError for anything else."""
    found = {}
    for part in filter(None, text.split(",")):
        ours, equals, theirs = part.partition("=")
        if not (equals and ours.strip() and theirs.strip()):
            raise ValueError(f"{name} must be OURS=THEIRS,…, not {part!r}")
        if ours.strip() in found:
            raise ValueError(f"{name} must name {ours.strip()} once")
        found[ours.strip()] = theirs.strip()
    return found


class Reading:
    """The rows of a config's source, with our names, by its policy for bad ones. `bad` has a line of JSON for each row skipped,
    `fields` the names of the first of each split."""

    def __init__(self, config: FromSource):
        self.config, self.bad, self.fields = config, list[str](), list[str]()
        self.where = ""  # of the row that was read last
        self.source = sources.find(config.source)

    @property
    def key(self) -> list[Any]:
        """All that the rows depend on."""
        config = self.config
        return [
            repr(config.source),
            config.fields,
            config.splits,
            config.bad_records,
            config.bad_limit,
            self.stamp,
        ]

    @cached_property
    def stamp(self) -> dict[str, str]:
        """The state of what is read, before it is."""
        return dict(self.source.stamp())

    def check_unchanged(self) -> None:
        """To be called when all was read. Raises DataError if what was read is of two states."""
        now = self.source.stamp()
        changed = sorted(name for name in self.stamp.keys() | now.keys() if self.stamp.get(name) != now.get(name))
        if changed:
            raise DataError(f"data.source {self.config.source}: {changed[0]} changed while it was read; it must be read anew")

    def splits(self) -> dict[str, Iterator[Row]]:
        """Raises DataError where there is nothing to train on, or nothing held out."""
        wanted = pairs("splits", self.config.splits)
        found = self.source.splits(wanted, pairs("fields", self.config.fields))
        if "train" not in found or len(found) < 2:
            raise DataError(
                f"data.source {self.config.source}: a run needs train, and validation or test; it has: {', '.join(found)}; "
                "data.splits says which is which: train=NAME[:90%],validation=NAME[90%:]"
            )
        return {split: self._judged(split, found[split]) for split in SPLITS if split in found}

    def _judged(self, split: str, rows: sources.Rows) -> Iterator[Row]:
        names = pairs("fields", self.config.fields)
        needed = {ours: theirs for ours, theirs in names.items() if split == "train" or ours != "label"}
        seen = False
        for number, row in enumerate(rows):
            if isinstance(row, Bad):
                self._skip(row)
                continue
            self.where = f"data.source {self.config.source}, row {number} of {split}"
            if not seen:
                self._check(row, needed)
                self.fields = list(dict.fromkeys([*self.fields, *row]))
            seen = True
            ours = {**row, **{ours: row[theirs] for ours, theirs in names.items() if theirs in row}}
            if ours.get("label") == "":  # as a table has it where there is none
                del ours["label"]
            yield ours

    def reject(self, row: Row, what: str) -> None:
        """To be called for the row that was read last, if it is not what it should be. Raises DataError if the policy says so."""
        shortened = " ".join(reprlib.repr(row).split())  # an array would be several lines
        self._skip(Bad(f"{self.where}, {shortened}", what))

    def _skip(self, bad: Bad) -> None:
        """Raises DataError if the policy, or its limit, says so."""
        if self.config.bad_records == "error":
            raise DataError(f"{bad.where}: {bad.what}; --data.bad-records skip goes on without such rows")
        self.bad.append(json.dumps({"where": bad.where, "what": bad.what}))
        if len(self.bad) > self.config.bad_limit:
            raise DataError(f"{bad.where}: {bad.what}; that is one bad record more than data.bad_limit {self.config.bad_limit}")

    def _check(self, row: Mapping[str, Any], names: Mapping[str, str]) -> None:
        """Raises DataError if a field that was named is not in the first row; in others it may be missing, as labels are."""
        missing = [theirs for theirs in names.values() if theirs not in row]
        if missing:
            raise DataError(
                f"data.fields: data.source {self.config.source} has no field {missing[0]!r}{sources.near(missing[0], row)}; "
                f"it has: {', '.join(row)}"
            )
