"""BERT's parameters under the names of Hugging Face `transformers`, both ways, from one table.

Shapes, as theirs are: V vocabulary, P positions, S segments, D model width, F hidden width, C classes. Their dense weights are
[out, in] and ours [in, out].
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

# What a module's parameters are called: theirs, ours.
DENSE = {"weight": "kernel", "bias": "bias"}
NORM = {"weight": "scale", "bias": "bias"}
EMBED = {"weight": "embedding"}
BIAS = {"bias": "bias"}
# Their module, our path (# is the number of the layer), its parameters, and the shape of the first one.
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
    """One parameter: its names and its shapes, theirs and ours."""

    names: tuple[str, str]
    shapes: tuple[str, str]

    def match(self, name: str, side: int) -> re.Match | None:
        return re.fullmatch(re.escape(self.names[side]).replace(r"\#", r"(0|[1-9]\d*)"), name)


def _rules() -> Iterator[Rule]:
    for theirs, ours, parameters, shape in MODULES:
        for a, b in parameters.items():
            size = shape if a == "weight" else shape[0]  # a bias has the first dimension of its weight
            yield Rule((f"{theirs}.{a}", f"{ours}/{b}"), (size, size[::-1] if b == "kernel" else size))


RULES = tuple(_rules())
OPTIONAL = re.compile(r"head/\w+|model/pooler")  # what a model may lack, as a whole
BUFFERS = re.compile(r"bert\.embeddings\.(position|token_type)_ids")
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def from_hf(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """{"model": …, "head": {"masked_lm": …, "next_sentence": …, "classifier": …}} in float32, with the heads (and the pooler)
    that the checkpoint has; layers are unscanned, see `fmodels.transformer.stack_layers`.

    A bare `BertModel`, whose names lack `bert.`, and norms with `gamma` and `beta` are read too. Buffers and the tied
    copies in the decoder are left out. Raises ValueError that names a tensor which is unknown, missing, there twice, of a
    shape that does not fit the others, or a decoder that is not tied after all.
    """
    renamed = {_today(name): tensor for name, tensor in tensors.items()}
    if twice := [name for name in tensors if name not in renamed and _today(name) in tensors]:
        raise ValueError(f"{twice[0]} and {_today(twice[0])} are the same tensor")
    for copy, original in TIED.items():
        if copy in renamed and original in renamed and not np.array_equal(renamed[copy], renamed[original]):
            raise ValueError(f"{copy} differs from {original}, to which our head is tied")
    kept = {k: np.asarray(v, np.float32) for k, v in renamed.items() if k not in TIED and not BUFFERS.fullmatch(k)}
    return unflatten_dict(_translate(kept, source=0), sep="/")


def to_hf(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `from_hf`: what `BertForPreTraining`, or with the head `classifier` `BertForSequenceClassification`,
    loads; names have the prefix `bert.`, and tied copies are left out.

    Raises ValueError that names a parameter which BERT does not have (of another norm, position or activation, or of a
    scanned stack), which it has and ours lack, or whose shape does not fit the others.
    """
    return _translate({k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()}, source=1)


def _today(name: str) -> str:
    """The name that `transformers` gives a tensor today, inside a model with heads."""
    name = re.sub(r"^(?=(embeddings|encoder|pooler)\.)", "bert.", name)
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _translate(tensors: dict[str, np.ndarray], source: int) -> dict[str, np.ndarray]:
    """Renames and transposes from one side (0 theirs, 1 ours) to the other, and checks that all fits and nothing lacks."""
    found, sizes, layers, groups = {}, {"2": 2}, 1, set()
    for name, tensor in tensors.items():
        matches = [(rule, match) for rule in RULES if (match := rule.match(name, source))]
        if len(matches) != 1:
            raise ValueError(f"{name} has {len(matches)} rules" if matches else f"{name} is no parameter of BERT")
        rule, match = matches[0]
        index, shape = "".join(match.groups()), rule.shapes[source]
        if tensor.ndim != len(shape) or any(sizes.setdefault(d, n) != n for d, n in zip(shape, tensor.shape, strict=True)):
            wanted = ", ".join(str(sizes.get(d, d)) for d in shape)
            raise ValueError(f"{name} has shape {list(tensor.shape)}, where the other tensors ask for [{wanted}]")
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
