"""Conversion of BERT parameters from and to Hugging Face (HF) `transformers`.

Shapes, in the order of HF: V vocabulary, P positions, S segments, D model width, F hidden width, C classes. Dense weights are
[out, in] in HF and [in, out] here.
"""

import re
from typing import Any

import numpy as np

from fmodels.weights.rules import BIAS, DENSE, EMBED, NORM, Table, without_copies

MODULES = (
    ("bert.embeddings.word_embeddings", "model/token_embedding", EMBED, "VD"),
    ("bert.embeddings.position_embeddings", "model/position_embedding", EMBED, "PD"),
    ("bert.embeddings.token_type_embeddings", "model/segment_embedding", EMBED, "SD"),
    ("bert.embeddings.LayerNorm", "model/embedding_norm", NORM, "D"),
    ("bert.encoder.layer.#.attention.self.query", "model/encoder/layer_#/attention/query", DENSE, "DD"),
    ("bert.encoder.layer.#.attention.self.key", "model/encoder/layer_#/attention/key", DENSE, "DD"),
    ("bert.encoder.layer.#.attention.self.value", "model/encoder/layer_#/attention/value", DENSE, "DD"),
    ("bert.encoder.layer.#.attention.output.dense", "model/encoder/layer_#/attention/out", DENSE, "DD"),
    ("bert.encoder.layer.#.attention.output.LayerNorm", "model/encoder/layer_#/attention_norm", NORM, "D"),
    ("bert.encoder.layer.#.intermediate.dense", "model/encoder/layer_#/mlp/up", DENSE, "FD"),
    ("bert.encoder.layer.#.output.dense", "model/encoder/layer_#/mlp/down", DENSE, "DF"),
    ("bert.encoder.layer.#.output.LayerNorm", "model/encoder/layer_#/mlp_norm", NORM, "D"),
    ("bert.pooler.dense", "model/pooler", DENSE, "DD"),
    ("cls.predictions.transform.dense", "head/masked_lm/dense", DENSE, "DD"),
    ("cls.predictions.transform.LayerNorm", "head/masked_lm/norm", NORM, "D"),
    ("cls.predictions", "head/masked_lm", BIAS, "V"),
    ("cls.seq_relationship", "head/next_sentence/dense", DENSE, "2D"),
    ("classifier", "head/classifier/dense", DENSE, "CD"),
)

TABLE = Table("BERT", MODULES, optional=r"head/\w+|model/pooler", sizes={"2": 2})
BUFFERS = re.compile(r"bert\.embeddings\.(position|token_type)_ids")
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def from_hf(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Convert an HF checkpoint to {"model": …, "head": {"masked_lm": …, "next_sentence": …, "classifier": …}} in float32.

    The result has the pooler and heads of the checkpoint, and unscanned layers (see `fmodels.nn.transformer.stack_layers`).
    Also reads a bare `BertModel` (names without `bert.`) and norms with `gamma` and `beta`. Skips buffers and the tied copies
    in the decoder. Raises ValueError for a tensor that is unknown, missing, duplicated or of an inconsistent shape, and for a
    decoder that is not tied.
    """
    renamed = {_current_name(name): tensor for name, tensor in tensors.items()}
    if duplicates := [name for name in tensors if name not in renamed and _current_name(name) in tensors]:
        raise ValueError(f"{duplicates[0]} and {_current_name(duplicates[0])} are the same tensor")
    kept = without_copies({name: x for name, x in renamed.items() if not BUFFERS.fullmatch(name)}, TIED)
    return TABLE.from_hf(kept)


def to_hf(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Convert parameters to an HF checkpoint: the inverse of `from_hf`.

    `BertForPreTraining` loads the result, or `BertForSequenceClassification` if there is a `classifier` head. Names start with
    `bert.`; tied copies are omitted. Raises ValueError for a parameter that HF's BERT does not have (another norm, position
    encoding or activation, or a scanned stack), that is missing, or that has an inconsistent shape.
    """
    return TABLE.to_hf(params)


def _current_name(name: str) -> str:
    """Return the name of a tensor in current `transformers`, with the `bert.` prefix."""
    name = re.sub(r"^(?=(embeddings|encoder|pooler)\.)", "bert.", name)
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
