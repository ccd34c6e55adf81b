"""WordPiece by the `tokenizers` library: trained on the source, or loaded from a `tokenizer.json`."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from data.errors import DataError

TOKENIZER_FILE = "tokenizer.json"  # in a run directory
PAD, UNKNOWN, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Tokenizer:
    """`json` is the text of a `tokenizer.json`, which is all there is to it."""

    json: str

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Lower-cased WordPiece, as BERT's (Wu et al. 2016): the special tokens first, then the others in alphabetical order.

        The trainer numbers tokens as its hash tables happen to hold them; sorted, the same texts give the same tokenizer."""
        from tokenizers import Tokenizer as Implementation
        from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

        tokenizer = Implementation(models.WordPiece(unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL), show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        ordinary = sorted(tokenizer.get_vocab().keys() - set(SPECIAL))
        vocabulary = {token: i for i, token in enumerate((*SPECIAL, *ordinary))}
        tokenizer.model = models.WordPiece(vocabulary, unk_token=UNKNOWN)
        return cls(tokenizer.to_str())

    @classmethod
    def load(cls, path: str) -> "Tokenizer":
        """Raises DataError if the file is missing, is no tokenizer, or lacks a special token."""
        try:
            tokenizer = cls(Path(path).read_text("utf-8"))
            missing = [token for token in SPECIAL if tokenizer.implementation.token_to_id(token) is None]
        except OSError as error:
            raise DataError(f"tokenizer {path}: {error.strerror}") from None
        except Exception as error:  # the library raises Exception itself
            raise DataError(f"tokenizer {path} is not a tokenizer.json: {error}") from None
        if missing:
            raise DataError(f"tokenizer {path} lacks the special token(s) {', '.join(missing)}")
        return tokenizer

    @cached_property
    def implementation(self):
        from tokenizers import Tokenizer as Implementation

        return Implementation.from_str(self.json)

    @property
    def vocab_size(self) -> int:
        return self.implementation.get_vocab_size()

    def id(self, token: str) -> int:
        found = self.implementation.token_to_id(token)
        assert found is not None, token
        return found

    def token(self, index: int) -> str:
        return self.implementation.id_to_token(index) or f"[{index}]"

    @property
    def random_ids(self) -> tuple[int, int]:
        """First and past-the-last id of the ordinary tokens, those after the special ones."""
        return max(map(self.id, SPECIAL)) + 1, self.vocab_size

    def encode(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each text its token ids, int32, and the number of the word that each belongs to. `[MASK]` in a text is the mask."""
        encodings = self.implementation.encode_batch(texts, add_special_tokens=False)
        return [(np.array(e.ids, np.int32), np.array([-1 if w is None else w for w in e.word_ids], np.int32)) for e in encodings]
