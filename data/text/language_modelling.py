"""Token batches of fixed shapes for language modelling.

Shapes: B batch, T length.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from data import labels as labelling
from data.cache import cached, read_json
from data.dataset import Batch, Dataset, Examples, Spec, fingerprint
from data.errors import DataError
from data.mixture import weighted
from data.sources import WHERE
from data.store import Stored, Writer
from data.text import packing, show
from data.text.cleaning import left_out
from data.text.documents import Documents, FromText, documents
from data.text.pairs import VARIANTS, Pairs, assemble
from data.text.tokenizer import CLS, MASK, SEP, SPECIAL, TOKENIZER_FILE, Kind, Tokenizer

VOCAB_SIZE = 4096  # of a tokenizer that is trained
MAX_VOCAB_SIZE = 2**24
COUNTED = {"stream": "targets", "packed": "tokens"}  # layouts with `bytes`, and the ids that are counted


@dataclass(frozen=True, kw_only=True)
class FromTokens(FromText):
    """Fields shared by the configs of tokenized data."""

    length: int = 128
    "tokens per row, T"
    vocab_size: int | None = None
    "vocabulary size of a tokenizer trained on the source (None: 4096)"
    tokenizer_kind: Kind | None = None
    "algorithm of a tokenizer trained on the source (None: wordpiece)"
    tokenizer: str | None = None
    "path of a tokenizer.json, vocab.txt or SentencePiece model (None: from --init-from, or trained on the source)"

    def __post_init__(self):
        super().__post_init__()
        if self.length < 8:
            raise ValueError(f"length must be at least 8, not {self.length}")
        if self.vocab_size is not None and self.vocab_size < 300:
            raise ValueError(f"vocab_size must be at least 300, to hold all characters, not {self.vocab_size}")
        if self.vocab_size is not None and self.vocab_size > MAX_VOCAB_SIZE:
            raise ValueError(f"vocab_size must be at most {MAX_VOCAB_SIZE}, not {self.vocab_size}")
        if self.tokenizer == "":
            raise ValueError("tokenizer must be a path, or None")

    def assumed(self) -> dict[str, Any]:
        """Assume the vocabulary size of the config, or the default one. That of characters is not known: assume the least."""
        size = len(SPECIAL) if self.tokenizer_kind == "characters" else self.vocab_size or VOCAB_SIZE
        ids = {name: SPECIAL.index(token) for name, token in (("mask_id", MASK), ("start_id", CLS), ("end_id", SEP))}
        return {**super().assumed(), "vocab_size": size, **ids, "random_ids": (len(SPECIAL), size)}

    def inherits(self, folder: Path, resumes: bool) -> Self:
        """Return this config with the tokenizer of the run in `folder`.

        Unless the run is resumed, raises ValueError if `tokenizer` is another one, and DataError if a field that trains a
        tokenizer contradicts it.
        """
        saved, fields = folder / TOKENIZER_FILE, _saved_fields(folder)
        if not saved.exists() and "tokenizer" not in fields:  # the run is not on text
            return self
        if not saved.exists():
            raise ValueError(f"{saved} is missing; restore it, since the parameters of the run fit no other tokenizer")
        if not resumes:
            found = Tokenizer.load(str(saved))
            if self.tokenizer and Tokenizer.load(self.tokenizer).hash != found.hash:
                raise ValueError(f"data.tokenizer {self.tokenizer} differs from {saved}; unset data.tokenizer to use the latter")
            trained_as = {name: value for name, value in fields.items() if value == getattr(self, name, None)}
            self.check_training(found, saved, ignore=trained_as)
        return replace(self, tokenizer=str(saved), vocab_size=None, tokenizer_kind=None)

    def check_training(self, found: Tokenizer, path: object, ignore: Collection[str] = ()) -> None:
        """Raises DataError if a field that trains a tokenizer is set, is not in `ignore`, and does not fit `found`."""
        for name, value in (("vocab_size", found.vocab_size), ("tokenizer_kind", found.kind)):
            wanted = getattr(self, name)
            if name not in ignore and wanted not in (None, value):
                raise DataError(
                    f"data.{name} is {wanted}, but that of the tokenizer {path} is {value}; unset it to use this tokenizer: "
                    f"--data.{name.replace('_', '-')} None"
                )

    def amount(self, batch: Batch) -> tuple[str, int]:
        """Count the tokens that are not padding."""
        real = batch.get("mask", batch.get("sequences"))
        return "tokens", int(batch["tokens"].size if real is None else np.count_nonzero(real))

    def show(self, batch: Batch, seen: Mapping[str, Any], codec: "TextCodec", stem: Path) -> Sequence[Any]:
        return show.lines(batch, seen, codec.vocabulary)


def _saved_fields(folder: Path) -> dict[str, Any]:
    """Return the data fields of the run in `folder`, or none if its experiment cannot be read, which is reported elsewhere."""
    try:
        return dict(json.loads((folder / "experiment.json").read_text("utf-8"))["data"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


@dataclass(frozen=True, kw_only=True)
class Text(FromTokens):
    """Text for language modelling.

    Every batch has `tokens` and `words` [B, T] (index of the word within its row, -1 at special tokens). The layouts:

    - `windows`: [CLS] text [SEP]: consecutive windows of the documents, concatenated with [SEP] between them; no padding.
    - `stream`: consecutive tokens of the documents [CLS] text [SEP], concatenated; `targets` [B, T] is the next token of each
      (-1: none, at the padding of the last row). `bytes` [B] is the number of UTF-8 bytes of the targets (WordPiece: 0).
    - `packed`: several [CLS] text [SEP] per row, each from one document. `sequences` [B, T] numbers them from 1 (0: padding), and
      `positions` [B, T] counts from 0 in each. `bytes` [B] is the number of UTF-8 bytes of the tokens (WordPiece: 0).
    - `pairs`: [CLS] A [SEP] B [SEP], with `segments` and `mask` [B, T] (True at tokens, False at padding). A and B are
      consecutive in a document, except in half of the rows, where B is from another document and `is_random` [B] is 1.
    """

    source: Any = "pydocs"
    batch_size: int = 64
    layout: Literal["windows", "stream", "packed", "pairs"] = "windows"
    sentinels: int = 0
    "ids for sentinels of span corruption, after those of the tokenizer, unless it has the tokens <extra_id_0>, …"

    def spec(self) -> dict[str, Spec]:
        rows = (self.batch_size,)
        both = Spec((self.batch_size, self.length), np.int32)
        more = {
            "windows": {},
            "stream": {"targets": both, "bytes": Spec(rows, np.int32)},
            "packed": {"sequences": both, "positions": both, "bytes": Spec(rows, np.int32)},
            "pairs": {"segments": both, "mask": Spec(both.shape, np.bool_), "is_random": Spec(rows, np.int32)},
        }[self.layout]
        return {"tokens": both, "words": both, **more, "example": Spec(rows, np.uint32), "valid": Spec(rows, np.float32)}

    def __post_init__(self):
        super().__post_init__()
        if self.sentinels < 0:
            raise ValueError(f"sentinels must be at least 0, not {self.sentinels}")

    def check(self, experiment: Any) -> None:
        """Raises ValueError if the layout is pairs and the model has fewer than two segments."""
        if self.layout == "pairs" and getattr(experiment.model, "segments", 2) < 2:
            raise ValueError(
                f"data.layout pairs needs two segments, but model.segments is {experiment.model.segments}: set it to 2"
            )

    def assumed(self) -> dict[str, Any]:
        found = super().assumed()
        return added(found, self.sentinels) if self.sentinels else found

    def build(self) -> Dataset:
        texts = documents(self)
        vocabulary = vocabulary_for(self, texts)
        rows = self.rows(texts, vocabulary)
        splits: dict[str, Examples] = {}
        for split in texts.splits:
            stored = Stored(rows / f"{split}.array_record", None if self.layout == "pairs" else self.spec())
            if not len(stored):
                raise DataError(f"data.source {self.source}: {split} has fewer tokens than data.length {self.length}")
            part = stored.column("part")
            splits[split] = stored
            if self.layout in COUNTED:
                splits[split] = WithBytes(stored, COUNTED[self.layout], vocabulary.sizes)
            if self.layout == "pairs":
                splits[split] = pairs = Pairs(stored, self.length, vocabulary, VARIANTS if split == "train" else 1)
                part = np.tile(part, pairs.variants)
            if split == "train":
                splits[split] = weighted(splits[split], part, texts.weights, self.source)
        topics = about(texts, rows)
        return Dataset(
            splits=splits,
            facts=with_sentinels(facts(vocabulary), vocabulary, self.sentinels),
            fingerprint={**texts.about["fingerprint"], "tokenizer": vocabulary.hash, "rows": f"{self.layout} of {self.length}"},
            codec=TextCodec(self, vocabulary),
            notes=notes(texts, topics),
            about=topics,
            bad_records=texts.about["bad"],
        )

    def rows(self, texts: Documents, vocabulary: Tokenizer) -> Path:
        """Return the cache folder with the tokenized rows of each split, building it if needed."""
        make: dict[str, MakeRows] = {
            "windows": lambda encoded, _: packing.windows(encoded, self.length, vocabulary),
            "stream": lambda encoded, _: packing.stream(encoded, self.length, vocabulary),
            "packed": lambda encoded, _: packing.packed(encoded, self.length, vocabulary),
            "pairs": lambda encoded, first: packing.stretches(encoded, self.length - 3, vocabulary.special["pad"], first),
        }
        token = np.uint16 if vocabulary.vocab_size <= 2**16 else np.int32
        index = np.int16 if self.length < 2**15 else np.int32
        size = self.length - 3 if self.layout == "pairs" else self.length
        columns = {"tokens": Spec((size,), token), "words": Spec((size,), index), "part": Spec((), np.int16)}
        columns |= {
            "windows": {},
            "stream": {"targets": Spec((size,), np.int32)},
            "packed": {"sequences": Spec((size,), index), "positions": Spec((size,), index)},
            "pairs": {"size": Spec((), np.int32), "document": Spec((), np.int32)},
        }[self.layout]

        def write(folder: Path) -> None:
            tallies = write_rows(folder, texts, vocabulary, columns, size, make[self.layout])
            counted = {split: tally.about() for split, tally in tallies.items()}
            (folder / "about.json").write_text(json.dumps(counted), "utf-8")

        return cached(f"rows/{fingerprint(texts.folder.name, vocabulary.hash, self.layout, self.length)}", write)

    def codec(self, folder: Path) -> "TextCodec":
        return TextCodec(self, Tokenizer.load(str(folder / TOKENIZER_FILE)))


class WithBytes:
    """Examples with the array `bytes` added: the sum of `sizes` over the token ids in an array (-1: none)."""

    def __init__(self, examples: Examples, ids: str, sizes: np.ndarray):
        self.examples, self.ids, self.sizes = examples, ids, np.append(sizes, np.int32(0))

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, indices: np.ndarray, /) -> Batch:
        batch = self.examples[indices]
        return {**batch, "bytes": self.sizes[batch[self.ids]].sum(1, dtype=np.int32)}


MakeRows = Callable[[Iterator[packing.Encoded], int], Iterator[packing.Row]]
"""Function (encoded documents, number of documents before them) -> rows."""


def write_rows(
    folder: Path, texts: Documents, vocabulary: Tokenizer, columns: Mapping[str, Spec], size: int, make: MakeRows
) -> dict[str, packing.Tally]:
    """Write one store of rows of `size` tokens per split, and return the statistics of each split."""
    tallies = {split: packing.Tally(vocabulary, size) for split in texts.splits}
    for split, tally in tallies.items():
        with Writer(folder / f"{split}.array_record", columns) as writer:
            for part in range(len(texts.weights)):  # rows do not cross parts of a mixture
                encoded = tally.texts(one for chunk in texts.chunks(split, part) for one in vocabulary.encode(chunk))
                for row in tally.made(make(encoded, tally.documents)):
                    writer.append({**row, "part": part})
    return tallies


def vocabulary_for(config: FromTokens, texts: Documents) -> Tokenizer:
    """Load the tokenizer of `config.tokenizer`, or train one on the training split of `texts`."""
    return vocabulary_of(config, texts.folder.name, lambda: texts.texts("train"))


def vocabulary_of(config: FromTokens, key: str, texts: Callable[[], Iterable[str]]) -> Tokenizer:
    """Load the tokenizer of `config.tokenizer`, or train one on `texts()`, which `key` identifies in the cache."""
    if config.tokenizer:
        found = Tokenizer.load(config.tokenizer)
        config.check_training(found, config.tokenizer)
        return found
    size, kind = config.vocab_size or VOCAB_SIZE, config.tokenizer_kind or "wordpiece"

    def train(folder: Path) -> None:
        vocabulary = Tokenizer.train(texts(), size, kind)
        (folder / TOKENIZER_FILE).write_text(vocabulary.json, "utf-8")

    return Tokenizer.load(str(cached(f"tokenizers/{fingerprint(key, size, kind)}", train) / TOKENIZER_FILE))


@dataclass(frozen=True)
class TextCodec:
    """Converts texts to [CLS] text [SEP] of `config.length` tokens, and ids to tokens."""

    config: FromTokens
    vocabulary: Tokenizer
    labels: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        return self.config.length

    @property
    def fingerprint(self) -> dict[str, str]:
        return {"tokenizer": self.vocabulary.hash}

    @property
    def files(self) -> dict[str, str]:
        return {TOKENIZER_FILE: self.vocabulary.json} | ({labelling.FILE: json.dumps(self.labels)} if self.labels else {})

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Batch, list[str]]:
        """Return `tokens`, `words`, `segments` and `mask` [rows, T], and notes on texts truncated or dropped in training.

        Texts are prepared and cleaned as in training, but not dropped. `[MASK]` is the mask token, except in labelled texts, for
        which training has no masks. Names of other special tokens are ordinary text. Raises DataError for a row without text.
        """
        texts, counts, notes = [], Counter[str](), []
        for i, row in enumerate(rows):
            if "text" not in row:
                raise DataError(f"row {i} has no text; its fields: {', '.join(row) or 'none'}")
            text, done = self.config.prepared(row["text"]) if isinstance(row["text"], str) else ("", {})
            if not text.strip():
                raise DataError(f"{row.get(WHERE, f'row {i}')}: expected text, not {json.dumps(row['text'])[:50]}")
            texts.append(text)
            counts.update(done)
        encoded = self.vocabulary.encode(texts) if self.labels else self.vocabulary.encode_masked(texts)
        if why := left_out(counts):
            notes.append(f"data.cleaning drops such texts from training ({why} of {len(rows)}); they are predicted nevertheless")
        notes += self.cut_notes(counts, len(rows))
        if long := sum(len(ids) > self.length - 2 for ids, _ in encoded):
            notes.append(f"{long} of {len(rows)} texts are longer than data.length {self.length} and are truncated")
        return stacked([self.row(text) for text in encoded]), [*notes, *self.unknown_notes(ids for ids, _ in encoded)]

    def cut_notes(self, counts: Mapping[str, int], rows: int) -> list[str]:
        limit = self.config.cleaning.max_characters
        note = f"{counts['cut']} of {rows} texts are longer than data.cleaning.max_characters {limit} and are truncated"
        return [note] if counts["cut"] else []

    def unknown_notes(self, texts: Iterable[np.ndarray]) -> list[str]:
        """Return a note if at least 1 % of the ids of these texts, without padding, are unknown tokens."""
        ids = np.concatenate([text.ravel() for text in texts])
        special = self.vocabulary.special
        note = unknown_note(int(np.sum(ids == special["unknown"])), int(np.sum(ids != special["pad"])))
        return [note] if note else []

    def prompts(self, rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[np.ndarray], list[str]]:
        """Return the ids of the text in the field `name` of each row, without special tokens, and notes on the texts.

        Texts are prepared and cleaned as in training. Raises DataError for a row without text.
        """
        texts, counts = [], Counter[str]()
        for i, row in enumerate(rows):
            if not isinstance(row.get(name), str):
                raise DataError(f"{row.get(WHERE, f'row {i}')}: {name} must be text, not {json.dumps(row.get(name))[:50]}")
            text, done = self.config.prepared(row[name])
            texts.append(text)
            counts.update(done)
        encoded = [ids for ids, _ in self.vocabulary.encode(texts)]
        for i, (row, ids) in enumerate(zip(rows, encoded, strict=True)):
            if not len(ids):
                raise DataError(f"{row.get(WHERE, f'row {i}')}: {name} is empty")
        return encoded, [*self.cut_notes(counts, len(rows)), *self.unknown_notes(encoded)]

    def continuation(self, prompt: np.ndarray, ids: Sequence[int]) -> str:
        """Return the text of `ids` after `prompt`, without special tokens."""
        decode = self.vocabulary.implementation.decode
        return decode([*map(int, prompt), *ids])[len(decode(prompt.tolist())) :]

    def row(self, text: packing.Encoded) -> dict[str, np.ndarray]:
        """Return the arrays [T] of one encoded text, truncated to fit."""
        ids, words = text
        return assemble([(ids[: self.length - 2], words[: self.length - 2])], self.length, self.vocabulary)

    def token(self, index: int) -> str:
        return self.vocabulary.token(index)

    def decoded(self, ids: np.ndarray) -> str:
        """Return the text of generated ids, up to the first [SEP], without special tokens."""
        ends = np.flatnonzero(ids == self.vocabulary.special["sep"])
        return self.vocabulary.implementation.decode(ids[: ends[0] if len(ends) else None].tolist()).strip()

    def text(self, ids: np.ndarray) -> str:
        """Return the text of a row, with its mask tokens numbered as [MASK 1], [MASK 2], …, and without [CLS] and padding."""
        special, number = self.vocabulary.special, count(1)
        shown = [int(index) for index in ids if index not in (special.get("cls"), special.get("pad"))]
        text = self.vocabulary.implementation.decode(shown, skip_special_tokens=False)
        return re.sub(re.escape(self.token(special["mask"])), lambda _: f"[MASK {next(number)}]", text)


def about(texts: Documents, rows: Path) -> dict[str, Any]:
    """Return the tables of `data inspect`."""
    counted = read_json(rows / "about.json")
    return {
        "source": {**texts.about["splits"], "fields": ", ".join(texts.about["fields"]), "bad records": len(texts.about["bad"])},
        "cleaning": texts.about["counts"],
        **{f"tokens of {split}": found for split, found in counted.items()},
    }


def notes(texts: Documents, topics: Mapping[str, Any]) -> list[str]:
    """Return notes on the documents removed by cleaning, and on splits with at least 1 % of tokens unknown."""
    counts = texts.about["counts"]
    why = left_out(counts)
    found = [f"cleaning removed {why}, of {counts['documents in']:,} documents"] if why else []
    for split in texts.splits:
        unknown, total = (topics[f"tokens of {split}"][name] for name in ("unknown tokens", "tokens"))
        if note := unknown_note(unknown, total):
            found.append(f"{split}: {note}; another one may fit the texts")
    return found


def unknown_note(unknown: int, total: int) -> str:
    """Return a note if at least 1 % of `total` tokens are unknown, and otherwise an empty string."""
    return f"{unknown:,} of {total:,} tokens are unknown to the tokenizer" if unknown and unknown >= total / 100 else ""


def stacked(rows: Sequence[Mapping[str, np.ndarray]]) -> Batch:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def facts(vocabulary: Tokenizer) -> dict[str, Any]:
    special = vocabulary.special
    return {
        "vocab_size": vocabulary.vocab_size,
        "mask_id": special["mask"],
        "random_ids": vocabulary.random_ids,
        "start_id": special["cls"],
        "end_id": special["sep"],
    }


def added(found: Mapping[str, Any], sentinels: int) -> dict[str, Any]:
    """Return facts with this number of sentinels after the vocabulary."""
    size = found["vocab_size"]
    return {**found, "vocab_size": size + sentinels, "sentinel_ids": (size, size + sentinels - 1)}


def with_sentinels(found: Mapping[str, Any], vocabulary: Tokenizer, count: int) -> dict[str, Any]:
    """Return facts with `sentinel_ids`, those of the first and of the last sentinel: the tokens of T5, or new ids.

    Raises DataError if the tokenizer has fewer sentinels than `count`.
    """
    if not count:
        return dict(found)
    names = {name: i for i, name in enumerate(vocabulary.tokens) if re.fullmatch(r"<extra_id_\d+>", name)}
    if not names:
        return added(found, count)
    if len(names) < count:
        raise DataError(f"data.sentinels is {count}, but the tokenizer has {len(names)}: set it to {len(names)}")
    return {**found, "sentinel_ids": (names["<extra_id_0>"], names[f"<extra_id_{len(names) - 1}>"])}
