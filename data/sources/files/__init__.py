"""Files: a path, a folder or a glob, local or on any file system of fsspec (`gs://`, `s3://`, `hf://`).

    files:notes.txt              `text`: one document per line, or documents separated by blank lines if there are any
    files:raw/*.en.gz            `text`: one sentence per line; the suffix is a language code
    files:multi30k               train.en.gz and train.de.gz, of the same number of lines: fields named by the language codes,
                                 as in --data.fields source=en,target=de
    files:reviews.jsonl          the fields of the objects; also .csv and .tsv, with a header line, and .parquet;
                                 image=FIELD in data.fields may name image files, by paths relative to the table
    files:news.conll             `tokens` and `tags`: a word and its tag per line, blank lines between sentences; also .bio, .iob
    files:dev-v2.0.json          `id`, `question`, `context` and `answers`, in the format of SQuAD
    files:photos                 `image` (encoded), `label`: photos/CLASS/NAME.jpg; also .png, .bmp, .gif, .tif and .webp
    files:digits                 `audio`, `sample_rate`, `label`: CLASS/NAME.wav or digits/CLASS_….wav
    files:mnist                  `image` uint8 [28, 28, 1], `label`: train-images-idx3-ubyte and train-labels-idx1-ubyte

Text, .csv, .tsv, .jsonl and idx files may be compressed (.gz, .xz, .zst). Images and audio files may be in a .tar, compressed or
not, which is read as a stream. In a folder or an archive, hidden files and files named README, LICENSE or COPYING are ignored.

The class of an image or a sound is its top folder: day for day/monday/1.png, night for night/2.png. Folders that contain all
files, and folders of splits, are skipped: data/train/cat/1.png has the class cat. A single folder is not a class.

File and folder names determine the splits: train.tsv, dev.tsv and test_2016.tsv, or train/CLASS/NAME.jpg. If no name contains a
split, about one row in ten is held out as `validation`, or whole documents if rows have documents. In data.splits, a split may
also be a file or a glob in the folder or archive: train=reviews.tsv,validation=more/*.tsv.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, takewhile
from pathlib import PurePosixPath

from fsspec.utils import glob_translate

from data import held_out
from data.errors import DataError
from data.sources import SPLITS, WHERE, Bad, Row, Rows, choose, near
from data.sources.files import formats, parallel, places
from data.sources.files.places import DAMAGE, File

_SPLIT = re.compile(r"(?:^|/)(?:(train)|(valid|validation|val|dev)|(test|t10k))(?![^\W_])[^/]*", re.IGNORECASE)
NAMING = ("tables", "objects")  # kinds of files with rows that may name image files
_NO_DATA = re.compile(r"(^|/)(\.|__MACOSX/|(README|LICENSE|COPYING)(\.(md|rst|txt|html?))?$)", re.IGNORECASE)


@dataclass(frozen=True)
class Files:
    path: str

    def stamp(self) -> Mapping[str, str]:
        """Return the size and times of each file, or the checksum of a remote one. Raises DataError if there is no file."""
        files = self._files()
        names = [(file, PurePosixPath(file.path).name) for file in files]
        labels = [file.beside(formats.labels_of(name)) for file, name in names if formats.labels_of(name) != name]
        return {file.where: file.stamp() for file in [*files, *labels]}

    def named_files(self, names: Mapping[str, str]) -> Mapping[str, str]:
        """Return the states, as in `stamp`, of the image files that tables and objects name. Missing ones are empty."""
        found: dict[str, str] = {}
        with contextlib.suppress(*DAMAGE, OSError, DataError):  # reported when the rows are read
            for name, file in self._parts().items() if "image" in names else ():
                if formats.find(name, file.where).kind not in NAMING:
                    continue
                for row in formats.find(name, file.where).read(file):
                    if not isinstance(row, Bad) and (image := _named_image(row, file, names)):
                        found[image.where] = ""
                        with contextlib.suppress(DataError):
                            found[image.where] = image.stamp()
        return found

    def rows(self, names: Mapping[str, str]) -> "FileRows":
        """Return the rows of all files, not split."""
        parts = self._parts()
        return FileRows(self.path, parts, _classes(parts), names)

    def splits(self, wanted: Mapping[str, str], names: Mapping[str, str]) -> Mapping[str, Rows]:
        """Return the splits in `wanted`, or those in the file names, or a random `train` and `validation`.

        Raises DataError if there is no readable file, or if only some files belong to a split.
        """
        parts = self._parts()
        classes = _classes(parts)
        first, file = next(iter(parts.items()))
        has_classes = classes and formats.find(first, file.where).kind in ("images", "audio")
        if has_classes and (empty := places.empty_folders(self.path)):
            raise DataError(f"data.source {self}: the folder {empty[0]} has no files; remove it, or add images of its class")
        rows = lambda chosen: FileRows(f"data.source {self}", chosen, classes, names)
        named: dict[str | None, dict[str, File]] = {}
        for name, file in parts.items():
            named.setdefault(_split(name), {})[name] = file
        unnamed = named.pop(None, {})
        files = {split: rows(named[split]) for split in SPLITS if split in named}
        own: dict[str, Rows] = dict(files)
        if not named:
            files = {"train": rows(parts), "validation": rows(parts)}
            own = held_out.split(rows(parts), names, str(self))
        elif unnamed and not wanted:
            split, others = next(iter(named.items()))
            raise DataError(
                f"data.source {self}: {next(iter(unnamed))} belongs to no split, but {next(iter(others))} belongs to {split}; "
                "exclude files with a glob, or use --data.splits train=FILE,validation=FILE"
            )
        used = list(own)
        if wanted:
            used = [name for expression in wanted.values() for name in (expression, *re.split(r"\[[^]]*\]|\+", expression))]
        for name in filter(None, map(str.strip, used)):
            pattern = re.compile(glob_translate(name))
            if name not in own and (chosen := {part: parts[part] for part in parts if pattern.match(part)}):
                own[name] = files[name] = rows(chosen)
            if name in files:
                files[name].check()
            elif re.fullmatch(r"[^[+]*[/*?.][^[+]*", name):  # a path or a glob, not the name of a split
                raise DataError(f"data.splits: no file {name!r} in {self}{near(name, parts)}")
        return choose(own, wanted, self, _share_files)

    def __str__(self) -> str:
        return f"files:{self.path}"

    def _files(self) -> list[File]:
        found = places.find(self.path)
        kept = [file for file in found if self.path.endswith(file.name) or not _NO_DATA.search(file.name)]
        if not kept:
            raise DataError(f"data.source {self}: no data files, only ignored ones such as {found[0].name}")
        # Members of a single archive are named relative to it, like the files of a folder.
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
    except (*DAMAGE, OSError) as error:  # reading reports the damage after the intact members, if any
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
    classes: Mapping[str, str]
    "class of each part, if it has one"
    names: Mapping[str, str]
    "our field names and those of the source"

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
        if languages := parallel.languages(self.parts, self.names):
            yield from parallel.rows(self.source, self.parts, languages)
            return
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
                        row = row if isinstance(row, Bad) else {**label, **row}
                        yield self._with_image(row, file) if isinstance(row, dict) and kind in NAMING else row
        except DAMAGE as error:
            yield Bad(file.where, f"damaged or truncated: {error or 'unexpected end of file'}; earlier rows are intact")
        except OSError as error:
            raise DataError(f"{file.where}: {error.strerror or error}") from error

    def _with_image(self, row: Row, file: File) -> Row | Bad:
        """Return the row with the content of the image file that it names, if any."""
        image = _named_image(row, file, self.names)
        if image is None:
            return row
        try:
            found = next(iter(formats.image(image)))
        except (DataError, OSError) as error:
            return Bad(row[WHERE], str(error))
        if isinstance(found, Bad):
            return Bad(row[WHERE], f"{found.where}: {found.what}")
        return {**row, _image_field(row, self.names): found["image"]}

    def _label(self, name: str, kind: str) -> Row:
        label = self.classes.get(name) if kind in ("images", "audio") else None
        if label is None and kind == "audio" and "_" in PurePosixPath(name).name:
            label = PurePosixPath(name).name.partition("_")[0]
        return {} if label is None else {"label": label}


def _image_field(row: Row, names: Mapping[str, str]) -> str:
    return names["image"] if names.get("image") in row else "image"


def _named_image(row: Row, file: File, names: Mapping[str, str]) -> File | None:
    """Return the image file that a row of the table `file` names, if images are read."""
    name = row.get(_image_field(row, names)) if "image" in names else None
    return file.beside(name) if isinstance(name, str) and name.strip() else None


def _share_files(a: Rows, b: Rows) -> bool:
    """Return whether two different splits have a file in common, other than the two that are held out of the same files."""
    files = [set((rows.rows if isinstance(rows, held_out.HeldOut) else rows).parts) for rows in (a, b)]  # pyright: ignore
    return not all(isinstance(rows, held_out.HeldOut) for rows in (a, b)) and bool(files[0] & files[1])


def _split(name: str) -> str | None:
    """Return the split named by the first matching folder, else by the file name."""
    match = _SPLIT.search(name)
    return SPLITS[match.lastindex - 1] if match and match.lastindex else None


def _classes(parts: Mapping[str, File]) -> dict[str, str]:
    """Return the class of each part: its first folder below the folders that all parts share, ignoring splits and archives.

    Empty if there are fewer than two classes.
    """
    folders = {}
    for name, file in parts.items():
        skipped = ("", PurePosixPath(file.name).name if file.is_archive else "")
        inside = _SPLIT.sub("", name.rpartition("/")[0], count=1).split("/")
        folders[name] = [folder for folder in inside if folder not in skipped]
    levels = zip(*folders.values(), strict=False)
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    found = {name: path[shared] for name, path in folders.items() if len(path) > shared}
    return found if len(set(found.values())) > 1 else {}


def source(argument: str) -> Files:
    """Raises DataError if the path is empty."""
    if not argument:
        raise DataError("data.source files: the path is missing; use files:PATH with a file, a folder or a glob")
    return Files(argument)
