"""Readers of rows, one per file format. The suffix determines the format."""

import csv
import io
import json
import math
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from pathlib import PurePosixPath
from posixpath import splitext
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np

from data.errors import DataError
from data.sources import WHERE, Bad, Row
from data.sources.files.places import DAMAGE, PACKED, Damaged, File

PARQUET_ROWS = 256  # rows in memory at a time
STREAMED = 2**32 - 1  # size in the header of a WAV file of unknown length

# ISO 639-1 codes: the suffixes of parallel texts, such as train.en
_LANGUAGES = frozenset(
    (
        "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo "
        "es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg "
        "ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn "
        "no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta "
        "te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
    ).split()
)
_IDX = re.compile(r"[-.]idx(\d)-ubyte$")


def language(name: str) -> str | None:
    """Return the language code in the suffix of a file name, if any."""
    plain, suffix = splitext(name.lower())
    suffix = splitext(plain)[1] if suffix in PACKED else suffix
    return suffix[1:] if suffix[1:] in _LANGUAGES else None


class Part(Protocol):
    """A File or a Member of an archive."""

    @property
    def name(self) -> str: ...
    @property
    def where(self) -> str: ...
    def open(self) -> AbstractContextManager[BinaryIO]: ...


@dataclass(frozen=True)
class Format:
    kind: Literal["texts", "objects", "tables", "images", "audio"]
    read: Callable[[Any], Iterator[Row | Bad]]
    "yields the rows of a Part (a File unless `streamed`); raises one of DAMAGE after the good rows of a damaged file"
    packed: bool = False
    "also readable from .gz, .xz and .zst"
    streamed: bool = False
    "also readable from archives"


def find(name: str, where: str) -> Format:
    """Return the format of a file by its name. Raises DataError if the suffix is unknown."""
    plain, suffix = splitext(name.lower())
    packed = suffix if suffix in PACKED else ""
    if packed:
        plain, suffix = splitext(plain)
    if _IDX.search(plain + suffix):
        found = _IDX_FORMAT
    else:
        found = _SENTENCES if suffix[1:] in _LANGUAGES else FORMATS.get(suffix)
    if found is None or (packed and not found.packed):
        suffix += packed
        raise DataError(
            f"{where}: unknown format {suffix or '(no suffix)'}; "
            f"supported: {', '.join(FORMATS)}, …-idx3-ubyte, a language code (.en) for one sentence per line, .tar; "
            f"texts and archives may be compressed ({', '.join(PACKED)})"
        )
    return found


def lines(stream: BinaryIO, where: str) -> Iterator[tuple[str, str | Bad]]:
    """Yield the location (`FILE, line N`) and the text of each line; Bad if it is not UTF-8."""
    offset = 0
    for number, line in enumerate(stream, 1):
        at = f"{where}, line {number}"
        try:
            text = line.decode().removeprefix("\ufeff" if number == 1 else "").rstrip("\r\n")
        except UnicodeDecodeError as error:
            byte = f"byte {offset + error.start} (0x{line[error.start]:02x})"
            text = Bad(at, f"{byte} is not UTF-8; convert the file")
        yield at, text
        offset += len(line)


def sentences(part: Part) -> Iterator[Row | Bad]:
    """Yield `text`, one sentence per line."""
    with part.open() as stream:
        for at, line in lines(stream, part.where):
            if isinstance(line, Bad):
                yield line
            elif line.strip():
                yield {"text": line.strip(), WHERE: at}


def documents(part: Part) -> Iterator[Row | Bad]:
    """Yield `text`, one document per line, or documents separated by blank lines if there are any.

    A bad line makes its whole document bad.
    """
    if not _has_blank_lines(part):
        yield from sentences(part)
        return
    with part.open() as stream:
        document: list[str] = []
        bad, begin = None, ""
        for at, line in lines(stream, part.where):
            if isinstance(line, Bad):
                bad = bad or line
            elif line.strip():
                begin = begin if document else at
                document.append(line.strip())
            elif bad or document:
                yield bad or {"text": "\n".join(document), WHERE: begin}
                document, bad = [], None
        if bad or document:
            yield bad or {"text": "\n".join(document), WHERE: begin}


def _has_blank_lines(part: Part) -> bool:
    """Return whether there is a blank line between other lines. Reads no further than needed."""
    above = blank = False
    with part.open() as stream:
        try:
            for line in stream:
                if not line.strip():
                    blank = above
                elif blank:
                    return True
                above = above or bool(line.strip())
        except DAMAGE:  # reported later, after the good rows
            pass
    return False


def columns(part: Part) -> Iterator[Row | Bad]:
    """Yield `tokens` and `tags`, the first and the last column of the lines of a sentence (CoNLL).

    Columns are separated by tabs, or by spaces if a line has no tab. Blank lines end a sentence. Skipped are `-DOCSTART-` lines,
    `# name = value`, and a single column that begins with `#`. A bad line makes its whole sentence bad.
    """
    with part.open() as stream:
        rows: list[tuple[str, str]] = []
        bad, begin = None, ""
        for at, line in lines(stream, part.where):
            found = [] if isinstance(line, Bad) else line.strip().split("\t" if "\t" in line.strip() else None)
            if isinstance(line, Bad):
                bad = bad or line
            elif not line.strip():
                if bad or rows:
                    yield bad or _tagged(rows, begin)
                rows, bad = [], None
            elif found[0] == "-DOCSTART-" or re.match(r"#\S*$|# \S+ = ", line.strip()):
                continue
            elif len(found) > 1:
                begin = begin if rows else at
                rows.append((found[0].strip(), found[-1].strip()))
            else:
                bad = bad or Bad(at, f"expected a word and its tag, not {line.strip()!r}")
        if bad or rows:
            yield bad or _tagged(rows, begin)


def _tagged(rows: list[tuple[str, str]], begin: str) -> Row:
    return {"tokens": [token for token, _ in rows], "tags": [tag for _, tag in rows], WHERE: begin}


def json_lines(part: Part) -> Iterator[Row | Bad]:
    """Yield the fields of one JSON object per line. A string is a `text`."""
    with part.open() as stream:
        for at, line in lines(stream, part.where):
            if isinstance(line, Bad):
                yield line
            elif line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    row = Bad(at, f"not JSON: {str(error).replace('line 1 ', '')}")
                row = {"text": row} if isinstance(row, str) else row
                if isinstance(row, dict):
                    row[WHERE] = at
                yield row if isinstance(row, dict | Bad) else Bad(at, "not a JSON object {…} or string")


def squad(part: Part) -> Iterator[Row | Bad]:
    """Yield `id`, `question`, `context` and `answers` of a JSON file in the format of SQuAD 1.1 or 2.0."""
    with part.open() as stream:
        try:
            articles = json.loads(stream.read().decode("utf-8-sig"))["data"]
            for article in articles:
                for paragraph in article["paragraphs"]:
                    for question in paragraph["qas"]:
                        found = {name: question[name] for name in ("id", "question", "answers")}
                        yield {**found, "context": paragraph["context"], WHERE: f"{part.where}, question {found['id']}"}
        except (ValueError, RecursionError) as error:
            yield Bad(part.where, f"not JSON in UTF-8: {error}")
        except (KeyError, TypeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            yield Bad(part.where, f"not in the format of SQuAD: {what}; for other objects, use one per line in a .jsonl file")


def tsv(part: Part) -> Iterator[Row | Bad]:
    """Yield the fields named in the header line. Quotes have no special meaning."""
    with part.open() as stream:
        header: list[str] = []
        for at, line in lines(stream, part.where):
            if line and not header:
                header = _header(at, line if isinstance(line, Bad) else line.split("\t"))
            elif isinstance(line, Bad):
                yield line
            elif line:
                yield _record(at, header, line.split("\t"))


def comma_separated(part: Part) -> Iterator[Row | Bad]:
    """Yield the fields named in the header line. Fields that contain a comma, a quote or a newline must be quoted."""
    undecoded: list[Bad] = []

    def decoded(stream: BinaryIO) -> Iterator[str]:
        for _, line in lines(stream, part.where):
            if isinstance(line, Bad):
                undecoded.append(line)
            yield "\n" if isinstance(line, Bad) else line + "\n"

    with part.open() as stream:
        reader = csv.reader(decoded(stream), strict=True)
        header: list[str] = []
        while True:
            begin, problem = reader.line_num + 1, ""
            fields: list[str] | Bad = []
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                problem = f"not CSV: {error}; close all quotes, and store very long fields as .jsonl"
            at = f"{part.where}, line {begin}" + (f" to {reader.line_num}" if reader.line_num > begin else "")
            if undecoded:
                fields = undecoded[0]
                undecoded.clear()
            elif problem:
                fields = Bad(at, problem)
            if not header:
                header = _header(at, fields)
            elif isinstance(fields, Bad):
                yield fields
            elif fields:
                yield _record(at, header, fields)


def _header(at: str, names: list[str] | Bad) -> list[str]:
    if isinstance(names, Bad):
        raise DataError(f"{at}: {names.what}")
    duplicates = [name for name in names if names.count(name) > 1]
    if duplicates:
        raise DataError(f"{at}: the header repeats {duplicates[0]!r}; field names must be unique")
    return names


def _record(at: str, header: list[str], fields: list[str]) -> Row | Bad:
    if len(fields) == len(header):
        return {**dict(zip(header, fields, strict=True)), WHERE: at}
    return Bad(at, f"{len(fields)} fields, but the header has {len(header)}: {', '.join(header)}")


def parquet(file: File) -> Iterator[Row | Bad]:
    """Yield the columns as Python objects."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{file.where}: needs the package pyarrow; pip install pyarrow") from None
    with file.open() as stream:
        try:
            table, number = pyarrow.parquet.ParquetFile(stream), count()
            _header(file.where, table.schema_arrow.names)
            for batch in table.iter_batches(PARQUET_ROWS):
                for row in _plain(batch, file.where):
                    yield {**row, WHERE: f"{file.where}, row {next(number)}"}
        except (pyarrow.ArrowException, OSError) as error:
            raise Damaged(error) from None


def _plain(batch: Any, where: str) -> list[Row]:
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError) as error:  # for example a date after the year 9999, or invalid UTF-8 in a string column
        what = " ".join(str(error).split())
        raise DataError(f"{where}: a value cannot be converted to Python: {what}; write the file without it") from None


def image(part: Part) -> Iterator[Row | Bad]:
    """Yield the encoded `image`, after checking that it can be decoded."""
    import PIL.Image

    with part.open() as stream:
        data = stream.read()
    try:
        PIL.Image.open(io.BytesIO(data)).load()
    except Exception as error:  # Pillow's decoders raise many types of error
        reason = str(error).partition(" <_io")[0]
        yield Bad(part.where, f"cannot decode the image: {reason}")
    else:
        yield {"image": data, WHERE: part.where}


def wav(part: Part) -> Iterator[Row | Bad]:
    """Yield `audio`, float32 [samples], averaged over channels, and `sample_rate` in Hz. Integers are scaled to [-1, 1]."""
    import soundfile

    with part.open() as stream:
        data = stream.read()
    try:
        audio, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        yield Bad(part.where, f"cannot decode the audio: {error.error_string}")
        return
    size = int.from_bytes(data[4:8], "little")
    if data.startswith(b"RIFF") and size != STREAMED and len(data) < 8 + size:
        yield Bad(part.where, f"truncated: {len(data)} bytes of {8 + size}")
    elif not np.isfinite(audio).all():
        yield Bad(part.where, "the audio has non-finite values")
    else:
        yield {"audio": audio.mean(axis=1), "sample_rate": rate, WHERE: part.where}


def idx(file: File) -> Iterator[Row | Bad]:
    """Yield `image`, uint8 [height, width, 1], and `label`, from …-images-idx3-ubyte and the labels file next to it
    (http://yann.lecun.com/exdb/mnist)."""
    beside = file.beside(labels_of(PurePosixPath(file.name).name))
    with file.open() as images, beside.open() as labels:
        (rows, *shape), (labelled,) = _idx_shape(images, 3), _idx_shape(labels, 1)
        if rows != labelled:
            raise DataError(f"{file.where}: {rows} images, but {labelled} labels in {beside.where}")
        for number in range(rows):
            pixels, label = images.read(math.prod(shape)), labels.read(1)
            if len(pixels) < math.prod(shape) or not label:
                raise Damaged(f"too few bytes for {rows} images and labels")
            image = np.frombuffer(pixels, np.uint8).reshape(*shape, 1)
            yield {"image": image, "label": str(label[0]), WHERE: f"{file.where}, image {number}"}


def labels_of(name: str) -> str:
    """Return the name of the labels file of an idx images file, or any other name unchanged."""
    return name.replace("images", "labels").replace("idx3-ubyte", "idx1-ubyte") if "idx3-ubyte" in name else name


def _idx_shape(stream: BinaryIO, dimensions: int) -> tuple[int, ...]:
    head = stream.read(4 + 4 * dimensions)
    if len(head) < 4 + 4 * dimensions or head[:4] != bytes((0, 0, 8, dimensions)):
        raise Damaged(f"not an idx file of bytes with {dimensions} dimensions")
    return struct.unpack_from(f">{dimensions}I", head, 4)


_SENTENCES = Format("texts", sentences, packed=True)
_IDX_FORMAT = Format("images", idx, packed=True)
_IMAGE = Format("images", image, streamed=True)
FORMATS = {
    ".txt": Format("texts", documents, packed=True),
    ".jsonl": Format("objects", json_lines, packed=True),
    ".json": Format("objects", squad, packed=True),
    ".csv": Format("tables", comma_separated, packed=True),
    ".tsv": Format("tables", tsv, packed=True),
    **dict.fromkeys((".conll", ".bio", ".iob", ".iob2"), Format("objects", columns, packed=True)),
    ".parquet": Format("tables", parquet),
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"), _IMAGE),
    ".wav": Format("audio", wav, streamed=True),
}
