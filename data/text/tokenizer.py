"""Tokenizers of the `tokenizers` library, trained on the source or loaded from a file."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from data.errors import DataError

TOKENIZER_FILE = "tokenizer.json"  # in a run directory
PAD, UNKNOWN, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROLES = {
    "pad": (PAD, "<pad>"),
    "unknown": (UNKNOWN, "<unk>"),
    "cls": (CLS, "<cls>", "<s>", "<bos>", "<|endoftext|>"),
    "sep": (SEP, "<sep>", "</s>", "<eos>", "<|endoftext|>"),
    "mask": (MASK, "<mask>"),
}
"""Names of special tokens in published tokenizers, by role. The first one in the vocabulary is used."""

Kind = Literal["wordpiece", "bpe", "unigram", "characters"]
METASPACE = "▁"  # SentencePiece's space
BYTE_SPACES = tuple(chr(256 + byte) for byte in b"\t\n\v\f\r ")  # whitespace in the alphabet of byte-level BPE
CHUNK = 1024  # texts encoded at a time; their encodings are large


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer, defined by the text of a `tokenizer.json`. The names of special tokens in a text are ordinary text."""

    json: str

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, kind: Kind = "wordpiece") -> "Tokenizer":
        """Train a tokenizer, deterministically for any number of threads. Special tokens have the first ids.

        wordpiece: lower-cased and without accents, as in BERT (Schuster & Nakajima 2012; Devlin et al. 2019); tokens in
        alphabetical order. Reads the texts twice, so an iterator is first read into memory.
        bpe: byte-level, as in GPT-2 and RoBERTa (Radford et al. 2019); tokens in merge order. It has no unknown tokens, and
        decoding is exact.
        unigram: SentencePiece (Kudo 2018); tokens in order of probability. Few texts may give fewer tokens. Trained by the
        SentencePiece library, because the trainer of the `tokenizers` library is not deterministic.
        characters: one token per character, in code point order; decoding restores the text exactly.

        Raises DataError if `vocab_size` is too small for the characters of the texts.
        """
        assert kind in get_args(Kind), kind
        tokenizer = {"wordpiece": _wordpiece, "bpe": _bpe, "unigram": _unigram, "characters": _characters}[kind](
            texts, vocab_size
        )
        if (least := tokenizer.get_vocab_size()) > vocab_size:
            raise _too_small(vocab_size, least, kind)
        return cls(tokenizer.to_str())

    @classmethod
    def load(cls, path: str) -> "Tokenizer":
        """Load a `tokenizer.json`, a BERT `vocab.txt` (one token per line), or a SentencePiece `.model`.

        Raises DataError if the file is missing or invalid, or lacks a special token.
        """
        kinds = {".json": _from_json, ".txt": _from_vocabulary, ".model": _from_sentencepiece}
        if (suffix := Path(path).suffix) not in kinds:
            raise DataError(f"tokenizer {path}: name must end in .json, .txt (BERT vocab.txt) or .model (SentencePiece)")
        try:
            content = Path(path).read_bytes()
            implementation = kinds[suffix](content)
        except OSError as error:
            raise DataError(f"tokenizer {path}: {error.strerror}") from None
        except ImportError:
            raise DataError(
                f"tokenizer {path}: reading a .model file requires SentencePiece: pip install 'fmodels[sentencepiece]'"
            ) from None
        except Exception as error:  # the libraries raise Exception itself
            form = {".json": "tokenizer.json", ".txt": "BERT vocab.txt", ".model": "SentencePiece model"}[suffix]
            raise DataError(f"tokenizer {path} is not a {form}: {' '.join(str(error).split())}") from None
        has = implementation.token_to_id
        missing = [names[0] for names in ROLES.values() if all(has(name) is None for name in names)]
        if missing:
            raise DataError(f"tokenizer {path} lacks the special token(s) {', '.join(missing)} and their aliases")
        if suffix == ".json":
            return cls(content.decode("utf-8"))  # the library does not preserve every float when it writes
        return cls(implementation.to_str())

    @cached_property
    def implementation(self) -> Any:
        return _implementation(self.json)

    @cached_property
    def _filling(self) -> Any:
        """The implementation for texts with masks. It encodes text next to a mask like text next to a word."""
        parts, mask = json.loads(self.json), self.special["mask"]
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        others = [token for token in parts["added_tokens"] if token["id"] != mask]
        added = sorted([*others, {"id": mask, "content": self.token(mask), **flags}], key=lambda token: token["id"])
        return _implementation(json.dumps({**_without_edges(parts), "added_tokens": added}))

    @cached_property
    def hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of the JSON, independent of formatting."""
        canonical = json.dumps(json.loads(self.json), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The token of each id. Unused ids, which published vocabularies may have, are shown as `[ID]`."""
        known = {i: token for token, i in self.implementation.get_vocab().items()}
        return tuple(known.get(i, f"[{i}]") for i in range(max(known) + 1))

    @property
    def kind(self) -> str:
        """The algorithm, named as in `train`."""
        return json.loads(self.json)["model"]["type"].lower()

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    def id(self, token: str) -> int:
        found = self.implementation.token_to_id(token)
        assert found is not None, token
        return found

    def token(self, index: int) -> str:
        return self.tokens[index] if 0 <= index < self.vocab_size else f"[{index}]"

    @cached_property
    def special(self) -> dict[str, int]:
        """The ids of the special tokens, by role in ROLES."""
        ids = {role: [self.implementation.token_to_id(name) for name in names] for role, names in ROLES.items()}
        return {role: next(i for i in found if i is not None) for role, found in ids.items() if any(i is not None for i in found)}

    @cached_property
    def special_ids(self) -> tuple[int, ...]:
        """The ids of all special tokens, with or without a role, ascending."""
        added = self.implementation.get_added_tokens_decoder()
        return tuple(sorted({*self.special.values(), *(i for i, token in added.items() if token.special)}))

    @property
    def random_ids(self) -> tuple[int, int]:
        """The longest range of ids without special tokens, as (first, past-the-last)."""
        edges = (-1, *self.special_ids, self.vocab_size)
        return max(((low + 1, high) for low, high in pairwise(edges)), key=lambda ids: ids[1] - ids[0])

    @cached_property
    def _form(self) -> tuple[bool, str | None, str | None]:
        """Return (whether tokens are bytes, the prefix of WordPiece's continuations, the suffix of the ends of words)."""
        parts = json.loads(self.json)
        model = parts["model"]
        prefix, suffix = (model.get(name) or None for name in ("continuing_subword_prefix", "end_of_word_suffix"))
        byte_level = "ByteLevel" in json.dumps([parts.get("pre_tokenizer"), parts.get("decoder")])
        return byte_level, prefix if model["type"] == "WordPiece" else None, suffix

    @cached_property
    def sizes(self) -> np.ndarray:
        """The number of UTF-8 bytes of the text of each token, int32 [V]: 0 for special tokens, 1 for the unknown token.

        All are 0 in WordPiece, whose tokens do not tell where the text has spaces.
        """
        byte_level, prefix, suffix = self._form
        if prefix:
            return np.zeros(self.vocab_size, np.int32)

        def size(token: str) -> int:
            if byte_level:
                return len(token)
            if re.fullmatch("<0x[0-9A-F]{2}>", token):
                return 1
            whole = token.removesuffix(suffix) + " " if suffix and token.endswith(suffix) else token
            return len(whole.replace(METASPACE, " ").encode(errors="replace"))

        sizes = np.array([size(token) for token in self.tokens], np.int32)
        sizes[list(self.special_ids)] = 0
        sizes[self.special["unknown"]] = 1
        return sizes

    @cached_property
    def _word_marks(self) -> tuple[np.ndarray, bool]:
        """Return (marks, at_end). Marks are int8 [V]: 1 if a token begins a word, 0 if it continues one, -1 if it is special.

        The unknown token does not count as special. If `at_end`, 1 means that a token ends a word, as in the original BPE
        (Sennrich et al. 2016).
        """
        byte_level, prefix, suffix = self._form
        marked: Callable[[str], bool] = lambda token: token.startswith(BYTE_SPACES if byte_level else METASPACE)
        if prefix:
            marked = lambda token: not token.startswith(prefix)
        elif suffix:
            marked = lambda token: token.endswith(suffix)
        marks = np.array([marked(token) for token in self.tokens], np.int8)
        special = list(self.special_ids)
        if not np.delete(marks, special).any():
            marks[:] = 1  # words are not marked: each token is a word
        marks[[i for i in special if i != self.special.get("unknown")]] = -1
        return marks, bool(suffix)

    def words(self, ids: np.ndarray) -> np.ndarray:
        """Return the word index of each token of ids [T], int32 [T]; -1 for special tokens except the unknown token.

        Words are separated by whitespace and include the whitespace before them. WordPiece, which marks continuations by ##, also
        separates punctuation. The unknown token is a whole word in WordPiece, and part of a word otherwise.
        """
        table, at_end = self._word_marks
        marks = table[ids]
        before = np.concatenate([[-1], marks[:-1]])
        begins = (before != 0) if at_end else (marks == 1) | (before == -1)  # a word also begins after a special token
        return np.where(marks == -1, -1, np.cumsum(begins & (marks != -1)) - 1).astype(np.int32)

    def encode(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (ids, words) of each text, both int32 [T]. Raises DataError for a text with unpaired surrogates."""
        return self._encode(self.implementation, texts)

    def encode_with_offsets(self, texts: list[str]) -> list[tuple[np.ndarray, ...]]:
        """Return (ids, words, begins, ends) of each text, all int32 [T]: token t comes from text[begins[t]:ends[t]].

        White space before a word is not a part of it.
        """
        found = []
        for text, encoding in zip(texts, self.implementation.encode_batch(texts, add_special_tokens=False), strict=True):
            ids, ends = np.array(encoding.ids, np.int32), [end for _, end in encoding.offsets]
            spaces = [len(part) - len(part.lstrip()) for part in (text[begin:end] for begin, end in encoding.offsets)]
            begins = [min(begin + space, end) for (begin, end), space in zip(encoding.offsets, spaces, strict=True)]
            found.append((ids, self.words(ids), np.array(begins, np.int32), np.array(ends, np.int32)))
        return found

    def encode_masked(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Encode like `encode`, but `[MASK]`, or the tokenizer's own name for it, is the mask token.

        It replaces a word and the space before it, as in training.
        """
        name = self.token(self.special["mask"])
        masks = re.compile(rf" ?(?:{re.escape(MASK)}|{re.escape(name)})")
        if '"Strip"' in self.json:  # `_filling` does not strip
            texts = [" ".join(text.split()) for text in texts]
        return self._encode(self._filling, [masks.sub(lambda _: name, text) for text in texts])

    def _encode(self, implementation: Any, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        encoded = []
        for at in range(0, len(texts), CHUNK):
            try:
                encodings = implementation.encode_batch_fast(texts[at : at + CHUNK], add_special_tokens=False)
            except TypeError:
                bad = next(text for text in texts[at : at + CHUNK] if any("\ud800" <= c <= "\udfff" for c in text))
                raise DataError(
                    f"text {bad[:40]!r} has an unpaired surrogate; set data.cleaning.strip_control to remove it"
                ) from None
            encoded += [np.array(encoding.ids, np.int32) for encoding in encodings]
        return [(ids, self.words(ids)) for ids in encoded]


def _implementation(content: str) -> Any:
    """Return the tokenizer of a `tokenizer.json`, changed to encode names of special tokens in a text as ordinary text."""
    from tokenizers import Regex, pre_tokenizers
    from tokenizers import Tokenizer as Implementation

    implementation = Implementation.from_str(content)
    implementation.no_truncation()  # published files may enable them
    implementation.no_padding()
    implementation.encode_special_tokens = True
    special = {token.content for token in implementation.get_added_tokens_decoder().values() if token.special}
    special |= {name for names in ROLES.values() for name in names if implementation.token_to_id(name) is not None}
    found = set(implementation.encode(" ".join(special), add_special_tokens=False).tokens)
    if special & found - set(ROLES["unknown"]):  # the model encodes them as one token: split them after their first bracket
        halves = [found.groups() for name in sorted(special) if (found := re.fullmatch(r"(\W+|.)(.+)", name))]
        inside = "|".join(f"{re.escape(first)}(?={re.escape(second)})" for first, second in halves)
        split = pre_tokenizers.Split(Regex(inside), "merged_with_previous")
        before = [implementation.pre_tokenizer] if implementation.pre_tokenizer is not None else []
        implementation.pre_tokenizer = pre_tokenizers.Sequence([*before, split])
    return implementation


def _without_edges(part: Any) -> Any:
    """Return a part of a `tokenizer.json` without stripping, and with a space inserted only at the start of a text."""
    if isinstance(part, list):
        return [_without_edges(one) for one in part if not (isinstance(one, dict) and one.get("type") == "Strip")]
    if isinstance(part, dict):
        first = {"prepend_scheme": "first"} if part.get("prepend_scheme") == "always" else {}
        return {name: _without_edges(one) for name, one in part.items()} | first
    return part


def _too_small(vocab_size: int, least: int, kind: Kind) -> DataError:
    return DataError(f"vocab_size must be at least {least} for {kind}, to cover the characters of the texts, not {vocab_size}")


def _bert(vocabulary: dict[str, int], lowercase: bool, strip_accents: bool | None = None) -> Any:
    """Return a BERT tokenizer. By default, accents are stripped if the text is lower-cased."""
    from tokenizers import Tokenizer as Implementation
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    unknown = next((name for name in ROLES["unknown"] if name in vocabulary), UNKNOWN)
    tokenizer = Implementation(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([name for names in ROLES.values() for name in names if name in vocabulary])
    return tokenizer


def _wordpiece(texts: Iterable[str], vocab_size: int) -> Any:
    """Train WordPiece twice: first to find the letters, then with the letters in sorted order.

    A single training is not deterministic: the trainer numbers continuation letters in hash table order and breaks ties between
    equally frequent pairs by these numbers.
    """
    from tokenizers import trainers

    def trained(size: int, first: list[str]) -> dict[str, int]:
        tokenizer = _bert({}, lowercase=True)
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=first, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        return tokenizer.get_vocab()

    texts = list(texts) if isinstance(texts, Iterator) else texts
    letters = sorted(trained(0, []))
    ordinary = sorted(trained(vocab_size, [*SPECIAL, *letters]).keys() - set(SPECIAL))
    return _bert({token: i for i, token in enumerate((*SPECIAL, *ordinary))}, lowercase=True)


def _bpe(texts: Iterable[str], vocab_size: int) -> Any:
    from tokenizers import Tokenizer as Implementation
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = Implementation(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _characters(texts: Iterable[str], vocab_size: int) -> Any:
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Implementation

    found = sorted(set[str]().union(*texts))
    tokenizer = Implementation(models.WordLevel({token: i for i, token in enumerate((*SPECIAL, *found))}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def _from_json(content: bytes) -> Any:
    from tokenizers import Tokenizer as Implementation

    return Implementation.from_str(content.decode("utf-8"))


def _from_vocabulary(content: bytes) -> Any:
    """Return a BERT tokenizer. It is cased if any token has a capital letter, and keeps accents if any token has one.

    Special tokens and tokens in brackets, such as `[unused0]`, do not count. A cased tokenizer always keeps accents.
    """
    tokens = content.decode("utf-8").removesuffix("\n").split("\n")
    tokens = [token.removesuffix("\r") for token in tokens]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    for i, token in enumerate(tokens):
        if not token or vocabulary[token] != i:
            raise ValueError(
                f"line {i + 1} is empty" if not token else f"lines {i + 1} and {vocabulary[token] + 1} are both {token}"
            )
    names = {name for names in ROLES.values() for name in names}
    ordinary = [token for token in tokens if token not in names and token[:1] + token[-1:] != "[]"]
    cased = any(token != token.lower() for token in ordinary)
    accented = any(unicodedata.category(c) == "Mn" for token in ordinary for c in unicodedata.normalize("NFD", token))
    return _bert(vocabulary, lowercase=not cased, strip_accents=False if accented else None)


def _unigram(texts: Iterable[str], vocab_size: int) -> Any:
    from data.text import sentence_piece

    try:
        return _from_sentencepiece(sentence_piece.train(texts, vocab_size, *SPECIAL))
    except sentence_piece.TooSmall as error:
        raise _too_small(vocab_size, error.args[0], "unigram") from None
    except ImportError:
        raise DataError("training a unigram tokenizer requires SentencePiece: pip install 'fmodels[sentencepiece]'") from None


def _from_sentencepiece(content: bytes) -> Any:
    from data.text import sentence_piece

    return sentence_piece.converted(content, [name for names in ROLES.values() for name in names])
