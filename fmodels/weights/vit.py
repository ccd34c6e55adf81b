"""Conversion of ViT parameters from and to Hugging Face (HF) `transformers`.

Shapes, in the order of HF: T positions, D model width, F hidden width, C colours, P patch, L classes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fmodels.weights.rules import BARE, DENSE, NORM, Table

TABLE = Table(
    "ViT",
    (
        ("vit.embeddings.cls_token", "model/class_embedding", BARE, "D"),
        ("vit.embeddings.position_embeddings", "model/position_embedding", BARE, "TD"),
        ("vit.embeddings.patch_embeddings.projection", "model/patch_embedding", DENSE, "DCPP"),
        ("vit.encoder.layer.#.layernorm_before", "model/encoder/layer_#/attention_norm", NORM, "D"),
        ("vit.encoder.layer.#.attention.attention.query", "model/encoder/layer_#/attention/query", DENSE, "DD"),
        ("vit.encoder.layer.#.attention.attention.key", "model/encoder/layer_#/attention/key", DENSE, "DD"),
        ("vit.encoder.layer.#.attention.attention.value", "model/encoder/layer_#/attention/value", DENSE, "DD"),
        ("vit.encoder.layer.#.attention.output.dense", "model/encoder/layer_#/attention/out", DENSE, "DD"),
        ("vit.encoder.layer.#.layernorm_after", "model/encoder/layer_#/mlp_norm", NORM, "D"),
        ("vit.encoder.layer.#.intermediate.dense", "model/encoder/layer_#/mlp/up", DENSE, "FD"),
        ("vit.encoder.layer.#.output.dense", "model/encoder/layer_#/mlp/down", DENSE, "DF"),
        ("vit.layernorm", "model/encoder/final_norm", NORM, "D"),
        ("classifier", "head/classifier/dense", DENSE, "LD"),
    ),
)

TOKEN, POSITIONS = "vit.embeddings.cls_token", "vit.embeddings.position_embeddings"  # with leading dimensions of 1 in HF


def from_hf(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Convert an HF checkpoint of `ViTForImageClassification` to {"model": …, "head": …} in float32, with unscanned layers.

    Raises ValueError for a tensor that is unknown, missing or of an inconsistent shape.
    """
    squeezed = lambda name, x: np.asarray(x).squeeze({TOKEN: (0, 1), POSITIONS: 0}[name]) if name in (TOKEN, POSITIONS) else x
    return TABLE.from_hf({name: squeezed(name, x) for name, x in tensors.items()})


def to_hf(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Convert parameters to an HF checkpoint: the inverse of `from_hf`."""
    found = TABLE.to_hf(params)
    return {**found, TOKEN: found[TOKEN][None, None], POSITIONS: found[POSITIONS][None]}
