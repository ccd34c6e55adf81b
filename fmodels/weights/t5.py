"""Conversion of T5 parameters from and to Hugging Face (HF) `transformers`.

Shapes, in the order of HF: V vocabulary, D model width, F hidden width, Q all heads, N heads, R buckets of distances.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fmodels.weights.rules import EMBED, KERNEL, PLAIN, SCALE, Module, Table

MLP = {"wi": "up", "wo": "down"}
GATED_MLP = {"wi_0": "gate", "wi_1": "up", "wo": "down"}
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")


def _modules(mlp: dict[str, str]) -> Iterator[Module]:
    yield "shared", "model/token_embedding", EMBED, "VD"
    yield "lm_head", "model/output", PLAIN, "VD"
    for side, attentions in (("encoder", ["SelfAttention"]), ("decoder", ["SelfAttention", "EncDecAttention"])):
        hf, ours = f"{side}.block.#.layer", f"model/{side}/layer_#"
        yield f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias", f"model/{side}/relative_bias", EMBED, "RN"
        for i, attention in enumerate(attentions):
            name = "source_attention" if i else "attention"
            yield f"{hf}.{i}.layer_norm", f"{ours}/{name}_norm", SCALE, "D"
            for part, our_part in (("q", "query"), ("k", "key"), ("v", "value")):
                yield f"{hf}.{i}.{attention}.{part}", f"{ours}/{name}/{our_part}", KERNEL, "QD"
            yield f"{hf}.{i}.{attention}.o", f"{ours}/{name}/out", KERNEL, "DQ"
        last = len(attentions)
        yield f"{hf}.{last}.layer_norm", f"{ours}/mlp_norm", SCALE, "D"
        for part, our_part in mlp.items():
            yield f"{hf}.{last}.DenseReluDense.{part}", f"{ours}/mlp/{our_part}", KERNEL, "DF" if part == "wo" else "FD"
        yield f"{side}.final_layer_norm", f"model/{side}/final_norm", SCALE, "D"


V1_0, V1_1 = (Table("T5", _modules(mlp), optional="model/output") for mlp in (MLP, GATED_MLP))


def from_hf(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Convert an HF checkpoint of T5 1.0 or 1.1 to {"model": …} in float32.

    The layers are unscanned (see `fmodels.nn.transformer.stack_layers`). Skips copies of the embedding. Raises ValueError for a
    tensor that is unknown, missing or of an inconsistent shape.
    """
    shared = tensors.get("shared.weight")
    kept = {name: x for name, x in tensors.items() if name not in COPIES or shared is None or not np.array_equal(x, shared)}
    return (V1_1 if any(".wi_0." in name for name in kept) else V1_0).from_hf(kept)


def to_hf(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Convert parameters to an HF checkpoint: the inverse of `from_hf`. Copies of the embedding are omitted.

    Raises ValueError for a parameter that HF's T5 does not have, that is missing, or that has an inconsistent shape.
    """
    gated = any("gate" in layer.get("mlp", {}) for layer in params["model"]["encoder"].values())
    return (V1_1 if gated else V1_0).to_hf(params)
