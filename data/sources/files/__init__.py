"""Files: a path, a folder or a glob, local or on any file system of fsspec (`gs://`, `s3://`, `hf://`).

    files:notes.txt              `text`: one document per line, or documents separated by blank lines if there are any
    files:raw/*.en.gz            `text`: one sentence per line; the suffix is a language code
    files:reviews.jsonl          the fields of the objects; also .csv and .tsv, with a header line, and .parquet
    files:photos                 `image` (encoded), `label`: photos/CLASS/NAME.jpg; also .png, .bmp, .gif, .tif and .webp
    files:digits                 `audio`, `sample_rate`, `label`: CLASS/NAME.wav or digits/CLASS_….wav
    files:mnist                  `image` uint8 [28, 28, 1], `label`: train-images-idx3-ubyte and train-labels-idx1-ubyte

Text, .csv, .tsv, .jsonl and idx files may be compressed (.gz, .xz, .zst). Images and audio files may be in a .tar, compressed or
not, which is read as a stream. Folders are classes if there are at least two of them. In a folder or an archive, hidden files and
files named README, LICENSE or COPYING are ignored.

File and folder names determine the splits: train.tsv, dev.tsv and test_2016.tsv, or train/CLASS/NAME.jpg. If no name mentions a
split, about one row in ten is held out as `validation`; rows with a document are held out by whole documents. In data.splits, a
split may also be a file or a glob in the folder or archive: train=reviews.tsv,validation=more/*.tsv.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import PurePosixPath
from typing import Any

from fsspec.utils import glob_translate

from data.errors import DataError
from data.sources import SPLITS, WHERE, Bad, Row, Rows, choose, near
from data.sources.files import formats, places
from data.sources.files.places import DAMAGE, File

HELD_OUT_ONE_IN = 10

_SPLIT = re.compile(r"(?:^|/)(?:(train)|(valid|validation|val|dev)|(test|t10k))(?![^\W_])[^/]*", re.IGNORECASE)
_NO_DATA = re.compile(r"(^|/)(\.|__MACOSX/|(README|LICENSE|COPYING)(\.(md|rst|txt|html?))?$)", re.IGNORECASE)


@dataclass(frozen=True)
class Files:
    path: str

    def stamp(self) -> Mapping[str, str]:
        """Return the size and time (if remote: the checksum) of each file. Raises DataError if there is no file."""
        files = self._files()
        names = [(file, PurePosixPath(file.path).name) for file in files]
        labels = [file.beside(formats.labels_of(name)) for file, name in names if formats.labels_of(name) != name]
        return {file.where: file.stamp() for file in [*files, *labels]}

    def splits(self, wanted: Mapping[str, str], names: Mapping[str, str]) -> Mapping[str, Rows]:
        """Return the splits named by files or by `wanted`, else a random `train` and `validation`.

        Raises DataError if there is no readable file, or if only some files belong to a split.
        """
        parts = self._parts()
        classes = len({_folder(name) for name in parts} - {None}) > 1
        rows = lambda chosen: FileRows(f"data.source {self}", chosen, classes)
        named: dict[str | None, dict[str, File]] = {}
        for name, file in parts.items():
            named.setdefault(_split(name), {})[name] = file
        unnamed = named.pop(None, {})
        own: dict[str, FileRows | HeldOut] = {split: rows(named[split]) for split in SPLITS if split in named}
        if not named:
            label, document = names.get("label"), names.get("document")
            own = {
                "train": HeldOut(rows(parts), label, document, False),
                "validation": HeldOut(rows(parts), label, document, True),
            }
        elif unnamed and not wanted:
            split, files = next(iter(named.items()))
            raise DataError(
                f"data.source {self}: {next(iter(unnamed))} belongs to no split, but {next(iter(files))} belongs to {split}; "
                "exclude files with a glob, or use --data.splits train=FILE,validation=FILE"
            )
        used = list(own)
        if wanted:
            used = [name for expression in wanted.values() for name in (expression, *re.split(r"\[[^]]*\]|\+", expression))]
        for name in filter(None, map(str.strip, used)):
            pattern = re.compile(glob_translate(name))
            if name not in own and (chosen := {part: parts[part] for part in parts if pattern.match(part)}):
                own[name] = rows(chosen)
            if name in own:
                own[name].check()
            elif re.fullmatch(r"[^[+]*[/*?.][^[+]*", name):  # a path or a glob, not the name of a split
                raise DataError(f"data.splits: no file {name!r} in {self}{near(name, parts)}")
        # `choose` cannot parse paths and globs.
        whole: dict[str, Rows] = {split: own[name] for split, name in wanted.items() if name in own}
        rest = {split: expression for split, expression in wanted.items() if split not in whole}
        chosen = {**whole, **choose(own, rest, self)} if rest else whole or own
        return {split: chosen[split] for split in wanted or own}

    def __str__(self) -> str:
        return f"files:{self.path}"

    def _files(self) -> list[File]:
        found = places.find(self.path)
        kept = [file for file in found if self.path.endswith(file.name) or not _NO_DATA.search(file.name)]
        if not kept:
            raise DataError(f"data.source {self}: no data files, only ignored ones such as {found[0].name}")
        # Members of a single archive are named relative to it, as the files of a folder are.
        return [replace(kept[0], name="")] if len(kept) == 1 and kept[0].is_archive else kept

    def _parts(self) -> dict[str, File]:
        """Return {name: file} for each file, and for each member of an archive {name: archive}."""
        parts: dict[str, File] = {}
        for file in self._files():
            parts |= dict.fromkeys(_members(file), file) if file.is_archive else {file.name: file}
        labels = {formats.labels_of(name) for name in parts if formats.labels_of(name) != name}
        return {name: file for name, file in parts.items() if name not in labels}


def _members(archive: File) -> list[str]:
    names: list[str] = []
    try:
        names.extend(member.name for member in places.members(archive) if not _NO_DATA.search(member.name))
    except (*DAMAGE, OSError) as error:  # if there are intact members, reading reports the damage after them
        if not names:
            raise DataError(f"{archive.where}: not a readable archive: {error}") from None
    if not names:
        raise DataError(f"{archive.where}: the archive contains no files")
    return names


@dataclass(frozen=True)
class FileRows:
    """The rows of files and archive members, concatenated."""

    source: str
    parts: Mapping[str, File]
    "files and archive members by name"
    classes: bool
    "whether folders are classes"

    def check(self) -> str:
        """Return the kind of all files. Raises DataError for an unknown format or for several kinds."""
        first: dict[str, str] = {}
        for name, file in self.parts.items():
            format = formats.find(name, f"{file.where}, {name}" if file.is_archive else file.where)
            first.setdefault(format.kind, name)
            if file.is_archive and not format.streamed:
                raise DataError(f"{file.where}, {name}: only images and audio can be read from an archive; unpack it")
        if len(first) > 1:
            (kind, name), (other, another) = list(first.items())[:2]
            raise DataError(f"{self.source}: mixes {kind} ({name}) and {other} ({another}); select one kind with a glob")
        return next(iter(first))

    def __iter__(self) -> Iterator[Row | Bad]:
        kind, numbers = self.check(), count()
        files = list(dict.fromkeys(self.parts.values()))
        example: tuple[File, Row] | None = None
        bad: Bad | None = None
        for file in files:
            empty = True
            for row in self._read(file, kind):
                if not isinstance(row, Bad):
                    example = example or (file, row)
                    if empty and kind == "tables" and set(row) != set(example[1]):
                        has, expected = (", ".join(name for name in each if name != WHERE) for each in (row, example[1]))
                        raise DataError(
                            f"{self.source}: {file.where} has the fields {has}, but {example[0].where} has {expected}; "
                            "select files with the same fields with a glob"
                        )
                    row = {**row, "document": next(numbers)} if kind == "texts" else row
                else:
                    bad = bad or row
                empty = False
                yield row
            if empty and len(files) > 1:
                yield Bad(file.where, "no rows; remove the file")
        if example is None and bad is not None:
            raise DataError(f"{bad.where}: {bad.what}; no row can be read")
        if example is None:
            raise DataError(f"{files[0].where if len(files) == 1 else self.source}: no rows")

    def _read(self, file: File, kind: str) -> Iterator[Row | Bad]:
        try:
            for part in places.members(file) if file.is_archive else (file,):
                if part.name in self.parts:
                    label = self._label(part.name, kind)
                    for row in formats.find(part.name, part.where).read(part):
                        yield row if isinstance(row, Bad) else {**label, **row}
        except DAMAGE as error:
            yield Bad(file.where, f"damaged or truncated: {error or 'unexpected end of file'}; the rows before that are good")
        except OSError as error:
            raise DataError(f"{file.where}: {error.strerror or error}") from error

    def _label(self, name: str, kind: str) -> Row:
        label = _folder(name) if self.classes and kind in ("images", "audio") else None
        if label is None and kind == "audio" and "_" in PurePosixPath(name).name:
            label = PurePosixPath(name).name.partition("_")[0]
        return {} if label is None else {"label": label}


@dataclass(frozen=True)
class HeldOut:
    """About a tenth of the rows, chosen by a hash (`out`), or the other rows (not `out`).

    Rows with a document are held out by whole documents; other rows are held out separately for each label. The first document or
    row is never held out and the second always is, so that a label with two rows is in both splits.
    """

    rows: FileRows
    label: str | None
    "name of the label field, if it is read"
    document: str | None
    "name of the document field, if it is read"
    out: bool
    "whether to yield the held-out rows"

    def check(self) -> str:
        return self.rows.check()

    def __iter__(self) -> Iterator[Row | Bad]:
        counts: Counter[str | int | float | None] = Counter()
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
                label = label if isinstance(label, str | int | float) else None
                position, key = counts[label], str(counts[label])
                counts[label] += 1
            key_hash = zlib.crc32(key.encode("utf-8", "surrogatepass"))
            is_out = position == 1 or (position != 0 and key_hash % HELD_OUT_ONE_IN == 0)
            found |= is_out
            if is_out == self.out:
                yield row
        if self.out and not found:
            if bad:  # bad rows may be why too few are left
                raise DataError(f"{bad.where}: {bad.what}")
            unit = "row" if not counts.keys() - {None} else f"row per {self.label}"
            raise DataError(
                f"{self.rows.source}: only one {'document' if documents else unit}, so none can be held out; "
                "add data, or use --data.splits train=FILE,validation=FILE"
            )


def _split(name: str) -> str | None:
    """Return the split named by the first matching folder, else by the file name."""
    match = _SPLIT.search(name)
    return SPLITS[match.lastindex - 1] if match and match.lastindex else None


def _folder(name: str) -> str | None:
    """Return the name of the file's parent folder, unless it names a split."""
    folders = _SPLIT.sub("", name.rpartition("/")[0], count=1)
    return folders.rpartition("/")[2] or None


def source(argument: str) -> Files:
    """Raises DataError if the path is empty."""
    if not argument:
        raise DataError("data.source files: the path is missing; use files:PATH with a file, a folder or a glob")
    return Files(argument)
