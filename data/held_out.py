"""The default `train` and `validation` splits of a source that has one split."""

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Number
from typing import Any

from data.errors import DataError
from data.sources import Bad, Row, Rows

HELD_OUT_ONE_IN = 10


def split(rows: Rows, names: Mapping[str, str], source: str) -> dict[str, Rows]:
    """Return `train` and `validation`. `names` maps `label` and `document`, if they are read, to the fields of `source`."""
    label, document = names.get("label"), names.get("document")
    return {name: HeldOut(rows, source, label, document, name == "validation") for name in ("train", "validation")}


@dataclass(frozen=True)
class HeldOut:
    """The held-out rows if `out`, about a tenth chosen by hash, or else the other rows.

    Whole documents are held out; rows without a document are held out separately for each label. The first document or row is
    never held out and the second always is, so a label with two rows is in both splits.
    """

    rows: Rows
    source: str
    label: str | None
    "label field of the source, if it is read"
    document: str | None
    "document field of the source, if it is read"
    out: bool
    "whether to yield the held-out rows"

    def __iter__(self) -> Iterator[Row | Bad]:
        counts: Counter[Any] = Counter()
        bad, documents, found = None, list[Any](), False
        for row in self.rows:
            if isinstance(row, Bad):
                bad = bad or row
                if not self.out:
                    yield row
                continue
            document = row.get(self.document) if self.document else None
            if document not in (None, ""):
                # Keep only the first two: a document may reappear later, and all of them may not fit in memory.
                if len(documents) < 2 and document not in documents:
                    documents.append(document)
                position, key = documents.index(document) if document in documents else None, str(document)
            else:
                label = row.get(self.label) if self.label else None
                label = label if isinstance(label, str | Number) else None
                position, key = counts[label], str(counts[label])
                counts[label] += 1
            key_hash = zlib.crc32(key.encode("utf-8", "surrogatepass"))
            is_out = position == 1 or (position != 0 and key_hash % HELD_OUT_ONE_IN == 0)
            found |= is_out
            if is_out == self.out:
                yield row
        if self.out and not found:
            if bad:  # too few rows may remain because of bad ones
                raise DataError(f"{bad.where}: {bad.what}")
            unit = "row" if not counts.keys() - {None} else f"row per {self.label}"
            raise DataError(
                f"data.source {self.source}: only one {'document' if documents else unit}, so none can be held out; "
                "add data, or name a split for each with --data.splits train=…,validation=…"
            )
