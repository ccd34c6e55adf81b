"""Conversion of RoBERTa parameters from and to Hugging Face (HF) `transformers`. Shapes as in `fmodels.weights.bert`."""

import re
from typing import Any

import numpy as np

from fmodels.weights import bert
from fmodels.weights.rules import BIAS, DENSE, NORM, Table, without_copies

TABLE = Table(
    "RoBERTa",
    (
        *(
            (hf.replace("bert.", "roberta.", 1), ours, parts, shape)
            for hf, ours, parts, shape in bert.MODULES
            if hf.startswith("bert.")
        ),
        ("lm_head.dense", "head/masked_lm/dense", DENSE, "DD"),
        ("lm_head.layer_norm", "head/masked_lm/norm", NORM, "D"),
        ("lm_head", "head/masked_lm", BIAS, "V"),
    ),
    optional=r"head/\w+|model/pooler",
)
POSITIONS = "roberta.embeddings.position_embeddings.weight"
UNUSED = 2  # rows of the position table before the first position: HF numbers positions from the padding id + 1
BUFFERS = re.compile(r"roberta\.embeddings\.(position|token_type)_ids")
TIED = {"lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight", "lm_head.decoder.bias": "lm_head.bias"}


def from_hf(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Convert an HF checkpoint to {"model": …, "head": {"masked_lm": …}} in float32, with unscanned layers.

    Also reads a bare `RobertaModel` (names without `roberta.`). Skips buffers, the tied copies in the decoder and the position
    rows that HF does not use. Raises ValueError for a tensor that is unknown, missing or of an inconsistent shape, and for a
    decoder that is not tied.
    """
    named = {re.sub(r"^(?=(embeddings|encoder|pooler)\.)", "roberta.", name): x for name, x in tensors.items()}
    kept = without_copies({name: x for name, x in named.items() if not BUFFERS.fullmatch(name)}, TIED)
    return TABLE.from_hf({name: x[UNUSED:] if name == POSITIONS else x for name, x in kept.items()})


def to_hf(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Convert parameters to an HF checkpoint: the inverse of `from_hf`, with zeros in the unused position rows.

    Tied copies are omitted. Raises ValueError for a parameter that HF's RoBERTa does not have, that is missing, or that has an
    inconsistent shape.
    """
    tensors = TABLE.to_hf(params)
    return {name: np.pad(x, [(UNUSED, 0), (0, 0)]) if name == POSITIONS else x for name, x in tensors.items()}
