"""Local files: plain text, JSON lines and TSV.

`files:notes.txt` is text, one document a line, or, where there are blank lines, one between each two of them.
`files:reviews.jsonl` has an object with `text` a line, and `label` for classification; `files:reviews.tsv` has a header with
these names.
"""

import csv
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.sources import Rows

HELD_OUT_ONE_IN = 10


@dataclass(frozen=True)
class Files:
    path: str

    def load(self) -> dict[str, Rows]:
        """The splits `train` and `validation`, one row in ten by a hash of its text.

        Raises DataError for a file that is missing or empty, text that is not UTF-8 (with the byte), a line that cannot be read.
        """
        path = Path(self.path)
        readers = {".txt": _text, ".jsonl": _json_lines, ".tsv": _tsv}
        if path.suffix not in readers:
            raise DataError(
                f"{path}: cannot tell what is in a {path.suffix or 'file without suffix'}; there are: {', '.join(readers)}"
            )
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}{_near(path)}") from None
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: byte {error.start} (0x{data[error.start]:02x}) is not UTF-8; convert the file") from None
        rows = list(readers[path.suffix](path, text))
        if not rows:
            raise DataError(f"{path}: there is no text in it")
        held_out = [zlib.crc32(row["text"].encode()) % HELD_OUT_ONE_IN == 0 for row in rows]
        if sum(held_out) < 2 or all(held_out):  # too few to leave it to chance
            held_out = [i >= len(rows) - min(2, len(rows) // 2) for i in range(len(rows))]
        if len(rows) == 1:
            raise DataError(
                f"{path}: one document only; at least two are needed, one a line or parted by blank lines, to hold one out"
            )
        splits = {"train": [], "validation": []}
        for row, out in zip(rows, held_out, strict=True):
            splits["validation" if out else "train"].append(row)
        return splits


def source(argument: str) -> Files:
    if not argument:
        raise DataError("data.source files: the path is missing: files:PATH")
    return Files(argument)


def _text(path: Path, text: str) -> Iterator[dict[str, str]]:
    lines = text.replace("\r\n", "\n").split("\n")
    documents = "\n".join(line.strip() for line in lines).strip("\n").split("\n\n")
    if len(documents) == 1:
        documents = lines
    for number, document in enumerate(documents):
        if document.strip():
            yield {"text": document.strip(), "document": str(number)}


def _json_lines(path: Path, text: str) -> Iterator[dict[str, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: not JSON: {error}") from None
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise DataError(f'{path}, line {number}: an object with the string "text" is needed')
            for name in ("label", "document"):
                if not isinstance(row.get(name, ""), str | int):
                    raise DataError(f'{path}, line {number}: "{name}" must be a string or a number, not {json.dumps(row[name])}')
            yield {name: str(value) for name, value in row.items()}


def _tsv(path: Path, text: str) -> Iterator[dict[str, str]]:
    lines = csv.reader(text.replace("\r\n", "\n").rstrip("\n").split("\n"), delimiter="\t", quoting=csv.QUOTE_NONE)
    header = next(lines, [])
    if "text" not in header:
        raise DataError(
            f"{path}, line 1: the header must name a column text, and label for classification; it has: {', '.join(header)}"
        )
    for number, fields in enumerate(lines, 2):
        if len(fields) != len(header):
            raise DataError(f"{path}, line {number}: {len(fields)} fields, but the header has {len(header)}")
        yield dict(zip(header, fields, strict=True))


def _near(path: Path) -> str:
    import difflib

    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, n=1)
    return f"; did you mean {path.with_name(close[0])}?" if close else ""
