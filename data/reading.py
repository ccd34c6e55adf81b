"""What the config of anything that is read from a source has, and how its rows are read."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Number
from typing import Any, ClassVar, Literal

from data import sources
from data.errors import DataError
from data.sources import SPLITS, WHERE, Bad, Row
from data.sources.mixture import PART


@dataclass(frozen=True, kw_only=True)
class FromSource:
    READS: ClassVar[tuple[str, ...]] = ()  # the fields of a row that are read; without the first there is no row
    LABELLED: ClassVar[bool] = False  # whether what is trained on needs labels; others say at most what is held out

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
        splits = pairs("splits", self.splits)
        if splits and "train" not in splits:
            raise ValueError("splits must have one for train")
        if same := [split for split in splits if split != "train" and splits[split] == splits["train"]]:
            raise ValueError(f"splits must differ: {same[0]} is what is trained on, {splits['train']}")
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
        self.weights = list(getattr(self.source, "weights", [1.0]))  # of the parts of a mixture
        # What each field that is read is called in the source.
        self.names = {**{name: name for name in config.READS}, **pairs("fields", config.fields)}

    @property
    def key(self) -> list[Any]:
        """All that the rows depend on."""
        config = self.config
        return [
            repr(config.source),
            self.names,
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
        """The rows of each split, with the fields that are read, by our names. Raises DataError where there is nothing to train
        on, or nothing held out."""
        wanted = pairs("splits", self.config.splits)
        found = self.source.splits(wanted, self.names)
        if "train" not in found or len(found) < 2:
            raise DataError(
                f"data.source {self.config.source}: a run needs train, and validation or test; it has: {', '.join(found)}; "
                "data.splits says which is which: train=NAME[:90%],validation=NAME[90%:]"
            )
        return {split: self._judged(split, found[split]) for split in SPLITS if split in found}

    def _judged(self, split: str, rows: sources.Rows) -> Iterator[Row]:
        labelled = self.config.LABELLED
        needs_label, checked = labelled and split == "train", set[int]()
        for number, row in enumerate(rows):
            if isinstance(row, Bad):
                self._skip(row)
                continue
            self.where = row.get(WHERE) or f"data.source {self.config.source}, row {number} of {split}"
            part = row[PART] if len(self.weights) > 1 else 0
            if part not in checked:
                self._check_fields(row, needs_label)
                checked.add(part)
            ours = {name: row[theirs] for name, theirs in self.names.items() if theirs in row and row[theirs] is not None}
            for name in ("label", "document"):
                if isinstance(ours.get(name), str) and not ours[name].strip():  # as a table has it where there is none
                    del ours[name]
            label = ours.pop("label", None)
            if labelled and (wrong := _wrong_label(label) or (needs_label and label is None and "it has no label")):
                self.reject(wrong)
                continue
            if labelled and label is not None:
                needs_label, ours["label"] = True, label  # a split has labels, or none
            yield {**ours, PART: part}

    def reject(self, what: str) -> None:
        """To be called for the row that was read last, if it is not what it should be. Raises DataError if the policy says so."""
        self._skip(Bad(self.where, what))

    def _skip(self, bad: Bad) -> None:
        """Raises DataError if the policy, or its limit, says so."""
        if self.config.bad_records == "error":
            raise DataError(f"{bad.where}: {bad.what}; --data.bad-records skip goes on without such rows")
        self.bad.append(json.dumps({"where": bad.where, "what": bad.what}))
        if len(self.bad) > self.config.bad_limit:
            raise DataError(f"{bad.where}: {bad.what}; that is one bad record more than data.bad_limit {self.config.bad_limit}")

    def _check_fields(self, row: Row, needs_label: bool) -> None:
        """Raises DataError if the first row has not what is read, or was named; in others it may be missing, as labels are."""
        there = [name for name in row if name not in (WHERE, PART)]
        self.fields = list(dict.fromkeys([*self.fields, *there]))
        needed = {self.config.READS[0], *pairs("fields", self.config.fields)}
        for ours, theirs in self.names.items():
            if theirs not in row and (needs_label if ours == "label" else ours in needed):
                raise DataError(
                    f"data.source {self.config.source}: there is no field {theirs!r}{sources.near(theirs, there)}; it has: "
                    f"{', '.join(there)}; --data.fields {ours}=NAME says which it is"
                )


def _wrong_label(label: Any) -> str:
    """What is wrong with it, if anything is: a name or a number is needed."""
    if isinstance(label, str):
        half = any("\ud800" <= character <= "\udfff" for character in label)  # of a pair
        return f"its label {label!r} is no Unicode" if half else ""
    if label is None or (isinstance(label, Number) and label == label):  # NaN is not
        return ""
    return f"its label is {label if isinstance(label, Number) else type(label).__name__}, not a name or a number"
