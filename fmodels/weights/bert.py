"""Conversion of BERT parameters from and to Hugging Face (HF) `transformers`, driven by one table.

Shapes, in the order of HF: V vocabulary, P positions, S segments, D model width, F hidden width, C classes. Dense weights are
[out, in] in HF and [in, out] here.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

# Parameter names of each module type: HF name -> our name.
DENSE = {"weight": "kernel", "bias": "bias"}
NORM = {"weight": "scale", "bias": "bias"}
EMBED = {"weight": "embedding"}
BIAS = {"bias": "bias"}
# HF module, our path (# is the layer number), parameter names, and the HF shape of the first parameter.
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


class Rule(NamedTuple):
    """Names and shapes of one parameter, each as (HF, ours)."""

    names: tuple[str, str]
    shapes: tuple[str, str]

    def match(self, name: str, side: int) -> re.Match | None:
        return re.fullmatch(re.escape(self.names[side]).replace(r"\#", r"(0|[1-9]\d*)"), name)


def _rules() -> Iterator[Rule]:
    for hf_module, our_path, parameters, shape in MODULES:
        for hf_name, our_name in parameters.items():
            size = shape if hf_name == "weight" else shape[0]  # a bias has the first dimension of its weight
            our_size = size[::-1] if our_name == "kernel" else size
            yield Rule((f"{hf_module}.{hf_name}", f"{our_path}/{our_name}"), (size, our_size))


RULES = tuple(_rules())
OPTIONAL = re.compile(r"head/\w+|model/pooler")  # modules that a checkpoint may omit as a whole
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
    for copy, original in TIED.items():
        if copy in renamed and original in renamed and not np.array_equal(renamed[copy], renamed[original]):
            raise ValueError(f"{copy} differs from {original}; the head requires tied weights")
    kept = {k: np.asarray(v, np.float32) for k, v in renamed.items() if k not in TIED and not BUFFERS.fullmatch(k)}
    return unflatten_dict(_translate(kept, source=0), sep="/")


def to_hf(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Convert parameters to an HF checkpoint: the inverse of `from_hf`.

    `BertForPreTraining` loads the result, or `BertForSequenceClassification` if there is a `classifier` head. Names start with
    `bert.`; tied copies are omitted. Raises ValueError for a parameter that HF's BERT does not have (another norm, position
    encoding or activation, or a scanned stack), that is missing, or that has an inconsistent shape.
    """
    return _translate({k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()}, source=1)


def _current_name(name: str) -> str:
    """Return the name of a tensor in current `transformers`, with the `bert.` prefix."""
    name = re.sub(r"^(?=(embeddings|encoder|pooler)\.)", "bert.", name)
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _translate(tensors: dict[str, np.ndarray], source: int) -> dict[str, np.ndarray]:
    """Rename and transpose tensors from side `source` (0: HF, 1: ours) to the other; check names, shapes and completeness."""
    found, sizes, layers, groups = {}, {"2": 2}, 1, set()
    for name, tensor in tensors.items():
        matches = [(rule, match) for rule in RULES if (match := rule.match(name, source))]
        if len(matches) != 1:
            raise ValueError(f"{name} matches {len(matches)} rules" if matches else f"{name} is not a parameter of BERT")
        rule, match = matches[0]
        index, shape = "".join(match.groups()), rule.shapes[source]
        if tensor.ndim != len(shape) or any(sizes.setdefault(d, n) != n for d, n in zip(shape, tensor.shape, strict=True)):
            expected = ", ".join(str(sizes.get(d, d)) for d in shape)
            raise ValueError(f"{name} has shape {list(tensor.shape)}; the other tensors require [{expected}]")
        layers = max(layers, int(index or 0) + 1)
        groups.update(OPTIONAL.findall(rule.names[1]))
        transposed = rule.names[1].endswith("/kernel")
        found[rule.names[1 - source].replace("#", index)] = np.ascontiguousarray(tensor.T if transposed else tensor)
    for rule in RULES:
        for index in map(str, range(layers if "#" in rule.names[0] else 1)):
            name, target = (rule.names[side].replace("#", index) for side in (source, 1 - source))
            if target not in found and groups.issuperset(OPTIONAL.findall(rule.names[1])):
                raise ValueError(f"{name} is missing")
    return found
