"""Conversion of GPT-2 and Llama parameters from and to Hugging Face (HF) `transformers`.

Shapes, in the order of HF: V vocabulary, P positions, D model width, F hidden width, Q all query heads, K all key heads.
"""

import re
from typing import Any

import numpy as np

from fmodels.weights.rules import DENSE, EMBED, KERNEL, NORM, PLAIN, SCALE, Table

GPT2 = Table(
    "GPT-2",
    (
        ("transformer.wte", "model/token_embedding", EMBED, "VD"),
        ("transformer.wpe", "model/position_embedding", EMBED, "PD"),
        ("transformer.h.#.ln_1", "model/decoder/layer_#/attention_norm", NORM, "D"),
        ("transformer.h.#.attn.query", "model/decoder/layer_#/attention/query", DENSE, "DD"),
        ("transformer.h.#.attn.key", "model/decoder/layer_#/attention/key", DENSE, "DD"),
        ("transformer.h.#.attn.value", "model/decoder/layer_#/attention/value", DENSE, "DD"),
        ("transformer.h.#.attn.c_proj", "model/decoder/layer_#/attention/out", DENSE, "DD"),
        ("transformer.h.#.ln_2", "model/decoder/layer_#/mlp_norm", NORM, "D"),
        ("transformer.h.#.mlp.c_fc", "model/decoder/layer_#/mlp/up", DENSE, "FD"),
        ("transformer.h.#.mlp.c_proj", "model/decoder/layer_#/mlp/down", DENSE, "DF"),
        ("transformer.ln_f", "model/decoder/final_norm", NORM, "D"),
        ("lm_head", "model/output", PLAIN, "VD"),
    ),
    optional="model/output",
)
LLAMA = Table(
    "Llama",
    (
        ("model.embed_tokens", "model/token_embedding", EMBED, "VD"),
        ("model.layers.#.input_layernorm", "model/decoder/layer_#/attention_norm", SCALE, "D"),
        ("model.layers.#.self_attn.q_proj", "model/decoder/layer_#/attention/query", KERNEL, "QD"),
        ("model.layers.#.self_attn.k_proj", "model/decoder/layer_#/attention/key", KERNEL, "KD"),
        ("model.layers.#.self_attn.v_proj", "model/decoder/layer_#/attention/value", KERNEL, "KD"),
        ("model.layers.#.self_attn.o_proj", "model/decoder/layer_#/attention/out", KERNEL, "DQ"),
        ("model.layers.#.post_attention_layernorm", "model/decoder/layer_#/mlp_norm", SCALE, "D"),
        ("model.layers.#.mlp.gate_proj", "model/decoder/layer_#/mlp/gate", KERNEL, "FD"),
        ("model.layers.#.mlp.up_proj", "model/decoder/layer_#/mlp/up", KERNEL, "FD"),
        ("model.layers.#.mlp.down_proj", "model/decoder/layer_#/mlp/down", KERNEL, "DF"),
        ("model.norm", "model/decoder/final_norm", SCALE, "D"),
        ("lm_head", "model/output", PLAIN, "VD"),
    ),
    optional="model/output",
)
EMBEDDINGS = ("transformer.wte.weight", "model.embed_tokens.weight")
BUFFERS = re.compile(r"transformer\.h\.\d+\.attn\.(masked_)?bias|.*rotary_emb\.inv_freq")
MATRIX = re.compile(r"transformer\.h\.\d+\.(attn|mlp)\.c_\w+\.weight")  # of HF's Conv1D: [in, out]
PARTS = ("query", "key", "value")  # of c_attn, side by side


def from_hf(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Convert an HF checkpoint of GPT-2, or of Llama, Mistral and other models with its names, to {"model": …} in float32.

    The layers are unscanned (see `fmodels.nn.transformer.stack_layers`). Also reads a bare `GPT2Model` (names without
    `transformer.`). Skips buffers, and an `lm_head` equal to the embedding. Raises ValueError for a tensor that is unknown,
    missing or of an inconsistent shape.
    """
    named = {re.sub(r"^(?=(wte|wpe|h|ln_f)\.)", "transformer.", name): np.asarray(x) for name, x in tensors.items()}
    table = GPT2 if EMBEDDINGS[0] in named else LLAMA
    embedding, head = (named.get(name) for name in (EMBEDDINGS[table is LLAMA], "lm_head.weight"))
    if embedding is not None and head is not None and np.array_equal(embedding, head):
        del named["lm_head.weight"]
    found = {}
    for name, x in named.items():
        if BUFFERS.fullmatch(name):
            continue
        if "attn.c_attn" in name:
            found |= {name.replace("c_attn", part): y.T for part, y in zip(PARTS, np.split(x, 3, axis=-1), strict=True)}
        else:
            found[name] = x.T if MATRIX.fullmatch(name) else x
    return table.from_hf(found)


def to_hf(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Convert parameters to an HF checkpoint: the inverse of `from_hf`. A tied `lm_head` is omitted.

    Parameters with learned positions are GPT-2's, others Llama's. Raises ValueError for a parameter that the family does not
    have, that is missing, or that has an inconsistent shape.
    """
    if "position_embedding" not in params["model"]:
        return LLAMA.to_hf(params)
    tensors, found = GPT2.to_hf(params), {}
    for name, x in tensors.items():
        if "attn.query" in name:
            parts = [tensors[name.replace("query", part)].T for part in PARTS]
            found[name.replace("query", "c_attn")] = np.ascontiguousarray(np.concatenate(parts, axis=-1))
        elif not re.search(r"attn\.(key|value)", name):
            found[name] = np.ascontiguousarray(x.T) if MATRIX.fullmatch(name) else x
    return found
