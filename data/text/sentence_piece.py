"""SentencePiece models (Kudo & Richardson 2018): training, and conversion to the `tokenizers` library."""

import io
import re
from collections.abc import Iterable
from importlib import import_module
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # piece types; the others are UNUSED and BYTE
UNIGRAM, BPE = 1, 2  # supported model types; the others are WORD and CHAR
SPACE = "▁"


class TooSmall(ValueError):
    """A vocabulary size below the number of characters. The argument is the minimum size."""


def train(texts: Iterable[str], vocab_size: int, pad: str, unknown: str, begin: str, end: str, mask: str) -> bytes:
    """Train a unigram model and return it serialized. Its first pieces are the special tokens.

    Raises TooSmall, or ImportError if sentencepiece is not installed.
    """
    trainer = import_module("sentencepiece").SentencePieceTrainer
    written = io.BytesIO()
    try:
        trainer.train(
            sentence_iterator=(line for text in texts for line in text.splitlines() if line.strip()),
            model_writer=written,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,  # allow fewer pieces if there are few texts
            character_coverage=1.0,
            max_sentence_length=1 << 30,  # bytes; longer lines are silently skipped
            num_threads=16,  # fixed: float sums, and thus the pieces, depend on it
            minloglevel=2,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            pad_piece=pad,
            unk_piece=unknown,
            bos_piece=begin,
            eos_piece=end,
            control_symbols=[mask],
        )
    except RuntimeError as error:
        if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error)):
            raise TooSmall(int(found[1])) from None
        raise
    return written.getvalue()


def converted(content: bytes, special: Iterable[str]) -> Any:
    """Convert a model to a `tokenizers.Tokenizer` with the same ids. Unknown, control and `special` pieces are special tokens.

    Raises ValueError if the model is neither unigram nor BPE, or ImportError if sentencepiece is not installed.
    """
    from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Regex as Pattern
    from tokenizers import Tokenizer as Implementation

    model = import_module("sentencepiece.sentencepiece_model_pb2").ModelProto.FromString(content)
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    unknown = next((i for i, piece in enumerate(model.pieces) if piece.type == UNKNOWN), None)
    if unknown is None:
        raise ValueError("the model has no unknown piece")
    has_bytes = bool(model.trainer_spec.byte_fallback)
    if model.trainer_spec.model_type == UNIGRAM:
        tokenizer = Implementation(models.Unigram(pieces, unknown, has_bytes))
    elif model.trainer_spec.model_type == BPE:
        ids = {piece: i for i, (piece, _) in enumerate(pieces)}
        merges = _merges([piece for piece, entry in zip(pieces, model.pieces, strict=True) if entry.type == NORMAL], ids)
        tokenizer = Implementation(models.BPE(ids, merges, unk_token=pieces[unknown][0], fuse_unk=True, byte_fallback=has_bytes))
    else:
        raise ValueError("the model is neither unigram nor BPE")
    spec = model.normalizer_spec
    steps = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Pattern(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    prepend = "always" if spec.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=prepend)
    metaspace = decoders.Metaspace(SPACE, prepend_scheme=prepend)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), metaspace]) if has_bytes else metaspace
    of_type = lambda *types: [entry.piece for entry in model.pieces if entry.type in types]
    named = [piece for piece, _ in pieces if piece in set(special)]
    tokenizer.add_special_tokens([*of_type(UNKNOWN, CONTROL), *named])
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in of_type(USER_DEFINED) if piece not in named])
    return tokenizer


def _merges(pieces: list[tuple[str, float]], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Return the BPE merges: all splits of each piece into two pieces, by descending score of the piece."""
    ranked = sorted(pieces, key=lambda piece: -piece[1])
    halves = [[(piece[:i], piece[i:]) for i in range(1, len(piece))] for piece, _ in ranked]
    return [half for found in halves for half in found if half[0] in ids and half[1] in ids]
