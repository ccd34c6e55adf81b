"""Files: a path, a folder or a glob, on this machine or wherever fsspec reaches (`gs://`, `s3://`, `hf://`).

    files:notes.txt              `text`: a document a line, or, where there are blank lines, one between each two of them
    files:raw/*.en.gz            `text`: a sentence a line; the suffix is the code of a language
    files:reviews.jsonl          the fields of the objects; so .csv and .tsv, whose first line names them, and .parquet
    files:photos                 `image` as encoded, `label`: photos/CLASS/NAME.jpg; so .png, .bmp and .webp
    files:digits                 `audio`, `sample_rate`, `label`: CLASS/NAME.wav, or digits/CLASS_….wav
    files:mnist                  `image` uint8 [28, 28, 1], `label`: train-images-idx3-ubyte and train-labels-idx1-ubyte

Texts, .csv, .tsv, .jsonl and idx may be packed (.gz, .xz, .zst); images and sounds may be in a .tar, packed or not, which is
read as a stream. Folders are classes where there are at least two. Within a folder or an archive, hidden files and those called
README, LICENSE or COPYING are not data.

Splits are what names say: train.tsv, dev.tsv and test_2016.tsv, or train/CLASS/NAME.jpg. Where no name says anything, about one
row in ten is held out as `validation`, or one in ten of the documents, each with all its rows. In data.splits, a split may also
be a file or a glob within the folder or archive: train=reviews.tsv,validation=more/*.tsv.
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
        """The size and the time of each file, or what its file system tells it by. Raises DataError if there is none."""
        files = self._files()
        names = [(file, PurePosixPath(file.path).name) for file in files]
        labels = [file.beside(formats.labels_of(name)) for file, name in names if formats.labels_of(name) != name]
        return {file.where: file.stamp() for file in [*files, *labels]}

    def splits(self, wanted: Mapping[str, str], names: Mapping[str, str]) -> Mapping[str, Rows]:
        """Raises DataError where there is nothing that can be read, or some files are of a split and others of none."""
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
                f"data.source {self}: {next(iter(unnamed))} is of no split, but {next(iter(files))} is of {split}; a glob leaves "
                "files out, and data.splits says which is which: train=FILE,validation=FILE"
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
            elif re.fullmatch(r"[^[+]*[/*?.][^[+]*", name):  # which is no name of a split
                raise DataError(f"data.splits: there is no file {name!r} in {self}{near(name, parts)}")
        # A path or a glob is no name of a split such as `choose` looks for.
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
            raise DataError(f"data.source {self}: there is no data in it, only {found[0].name} and the like")
        # The members of the one archive that was asked for are named as the files of a folder are.
        return [replace(kept[0], name="")] if len(kept) == 1 and kept[0].is_archive else kept

    def _parts(self) -> dict[str, File]:
        """For the name of each file or member of an archive: the file that it is, or is in."""
        parts: dict[str, File] = {}
        for file in self._files():
            parts |= dict.fromkeys(_members(file), file) if file.is_archive else {file.name: file}
        labels = {formats.labels_of(name) for name in parts if formats.labels_of(name) != name}
        return {name: file for name, file in parts.items() if name not in labels}


def _members(archive: File) -> list[str]:
    names: list[str] = []
    try:
        names.extend(member.name for member in places.members(archive) if not _NO_DATA.search(member.name))
    except (*DAMAGE, OSError) as error:  # which is told when the members before it have been read, if there are
        if not names:
            raise DataError(f"{archive.where}: no archive that can be read: {error}") from None
    if not names:
        raise DataError(f"{archive.where}: there is no file in it")
    return names


@dataclass(frozen=True)
class FileRows:
    """The rows of files and members of archives, file after file."""

    source: str
    parts: Mapping[str, File]
    "by name"
    classes: bool
    "whether folders are classes"

    def check(self) -> str:
        """The kind of all of them. Raises DataError for a name that does not say what is in it, and where they are of several."""
        first: dict[str, str] = {}
        for name, file in self.parts.items():
            format = formats.find(name, f"{file.where}, {name}" if file.is_archive else file.where)
            first.setdefault(format.kind, name)
            if file.is_archive and not format.streamed:
                raise DataError(f"{file.where}, {name}: only images and sounds are read from an archive; unpack it")
        if len(first) > 1:
            (kind, name), (other, another) = list(first.items())[:2]
            raise DataError(f"{self.source}: there are {kind} ({name}) and {other} ({another}); a glob takes those of one kind")
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
                        has, had = (", ".join(name for name in each if name != WHERE) for each in (row, example[1]))
                        raise DataError(
                            f"{self.source}: {file.where} has the fields {has}, but {example[0].where} has {had}; "
                            "a glob takes those that are alike"
                        )
                    row = {**row, "document": next(numbers)} if kind == "texts" else row
                else:
                    bad = bad or row
                empty = False
                yield row
            if empty and len(files) > 1:
                yield Bad(file.where, "there is no row in it; take it away")
        if example is None and bad is not None:
            raise DataError(f"{bad.where}: {bad.what}; there is no good row")
        if example is None:
            raise DataError(f"{files[0].where if len(files) == 1 else self.source}: there is no row in it")

    def _read(self, file: File, kind: str) -> Iterator[Row | Bad]:
        try:
            for part in places.members(file) if file.is_archive else (file,):
                if part.name in self.parts:
                    label = self._label(part.name, kind)
                    for row in formats.find(part.name, part.where).read(part):
                        yield row if isinstance(row, Bad) else {**label, **row}
        except DAMAGE as error:
            yield Bad(file.where, f"damaged, or cut short: {error or 'it ends too early'}; what is before that is good")
        except OSError as error:
            raise DataError(f"{file.where}: {error.strerror or error}") from error

    def _label(self, name: str, kind: str) -> Row:
        label = _folder(name) if self.classes and kind in ("images", "sounds") else None
        if label is None and kind == "sounds" and "_" in PurePosixPath(name).name:
            label = PurePosixPath(name).name.partition("_")[0]
        return {} if label is None else {"label": label}


@dataclass(frozen=True)
class HeldOut:
    """About one in ten of the documents, or of the rows of each label, or of all that have none, or all but these.

    The first is never held out, and the second always is, so that a rare label is in both where it can be.
    """

    rows: FileRows
    label: str | None
    document: str | None
    "the fields that have them, if they are read"
    out: bool

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
                # Of these two only: a document may come back, and there may be more of them than memory holds.
                if len(documents) < 2 and document not in documents:
                    documents.append(document)
                place, key = documents.index(document) if document in documents else None, str(document)
            else:
                label = row.get(self.label) if self.label else None
                label = label if isinstance(label, str | int | float) else None
                place, key = counts[label], str(counts[label])
                counts[label] += 1
            is_out = place == 1 or (place != 0 and zlib.crc32(key.encode("utf-8", "surrogatepass")) % HELD_OUT_ONE_IN == 0)
            found |= is_out
            if is_out == self.out:
                yield row
        if self.out and not found:
            if bad:  # which is why there are so few
                raise DataError(f"{bad.where}: {bad.what}")
            what = "row only" if not counts.keys() - {None} else f"row only of each {self.label}"
            raise DataError(
                f"{self.rows.source}: there is one {'document only' if documents else what}, and none can be held out; "
                "more are needed, or data.splits that says what is held out: train=FILE,validation=FILE"
            )


def _split(name: str) -> str | None:
    """The split that the first of the folders, or else the file, is named for."""
    match = _SPLIT.search(name)
    return SPLITS[match.lastindex - 1] if match and match.lastindex else None


def _folder(name: str) -> str | None:
    """The folder that a file is in, if that is not a split's."""
    folders = _SPLIT.sub("", name.rpartition("/")[0], count=1)
    return folders.rpartition("/")[2] or None


def source(argument: str) -> Files:
    """Raises DataError without a path."""
    if not argument:
        raise DataError("data.source files: the path is missing: files:PATH, of a file, a folder or a glob")
    return Files(argument)
