"""Parity of our BERT with Hugging Face's, on the random weights of tests/goldens/make_bert.py, and weight conversion."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmodels.bert import BertConfig
from fmodels.nn.heads import ClassifierHead, MaskedLMHead
from fmodels.nn.transformer import stack_layers
from fmodels.weights.bert import BUFFERS, TABLE, TIED, from_hf, to_hf

GOLDENS = Path(__file__).parents[1] / "goldens"
CASES = ("pretraining_padded", "pretraining_full", "classification_padded", "classification_full")


def golden(case: str) -> dict[str, dict[str, np.ndarray]]:
    """Return the arrays of one case: {"config": …, "weights": …, "inputs": …, "outputs": …}."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    with np.load(GOLDENS / f"bert_{case}.npz") as file:
        for key in file.files:
            group, name = key.split("/")
            groups.setdefault(group, {})[name] = file[key]
    return groups


def forward(config: BertConfig, params: dict, batch: dict) -> dict[str, jax.Array]:
    """Return the outputs of our model and of the heads in `params`."""
    out, state = config.build().apply(params["model"], {}, batch)
    assert state == {}
    heads = {
        "masked_lm": lambda p: MaskedLMHead().apply({"params": p}, out["hidden"], out["embedding"], train=False),
        "next_sentence": lambda p: ClassifierHead(2).apply({"params": p}, out["pooled"], train=False),
        "classifier": lambda p: ClassifierHead(len(p["dense"]["bias"])).apply({"params": p}, out["pooled"], train=False),
    }
    return {"hidden": out["hidden"], "pooled": out["pooled"], **{name: heads[name](p) for name, p in params["head"].items()}}


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean cross entropy over labels other than -100."""
    log_z = np.log(np.exp(logits).sum(-1))
    picked = np.take_along_axis(logits, np.maximum(labels, 0)[..., None], -1)[..., 0]
    return (log_z - picked)[labels >= 0].mean()


@pytest.mark.parametrize(
    ("case", "scan"),
    [
        ("pretraining_padded", False),
        ("pretraining_padded", True),
        ("pretraining_full", False),
        ("classification_padded", False),
        ("classification_full", False),
        ("classification_full", True),
    ],
)
def test_outputs_match_transformers(case, scan):
    arrays = golden(case)
    config = BertConfig(**{k: v.item() for k, v in arrays["config"].items()}, scan=scan)
    params = from_hf(arrays["weights"])
    if scan:
        params["model"]["encoder"] = stack_layers(params["model"]["encoder"])
    batch = {k: jnp.asarray(v) for k, v in arrays["inputs"].items() if k in ("tokens", "segments", "mask")}
    ours = jax.tree.map(np.asarray, jax.jit(forward, static_argnums=0)(config, params, batch))

    assert set(ours) == set(arrays["outputs"]) - {"loss"}
    for name, logits in ours.items():
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, arrays["outputs"][name], rtol=0, atol=1e-5, err_msg=name)
    if "classifier" in ours:
        loss = cross_entropy(ours["classifier"], arrays["inputs"]["labels"])
    else:
        loss = cross_entropy(ours["masked_lm"], arrays["inputs"]["labels"])
        loss += cross_entropy(ours["next_sentence"], arrays["inputs"]["next_sentence_label"])
    np.testing.assert_allclose(loss, arrays["outputs"]["loss"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_converted_tree_matches_initialised_tree(case):
    arrays = golden(case)
    model = BertConfig(**{k: v.item() for k, v in arrays["config"].items()}).build()
    fresh, _ = jax.eval_shape(model.init, jax.random.key(0), {"tokens": arrays["inputs"]["tokens"]})
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    unboxed = jax.tree.map(lambda leaf: leaf.unbox(), fresh, is_leaf=lambda leaf: hasattr(leaf, "unbox"))
    assert shapes(from_hf(arrays["weights"])["model"]) == jax.tree.map(lambda leaf: leaf.shape, unboxed)


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case):
    hf = golden(case)["weights"]
    back = to_hf(from_hf(hf))
    assert set(back) == set(hf) - set(TIED)
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, hf[name])
        assert tensor.flags.c_contiguous  # required by safetensors


def test_each_tensor_has_one_rule():
    ours = "model/encoder/layer_10/mlp/down/kernel"
    assert [rule.names[0] for rule in TABLE.rules if rule.match(ours, 1)] == ["bert.encoder.layer.#.output.dense.weight"]
    for name in golden("pretraining_padded")["weights"] | golden("classification_full")["weights"]:
        assert sum(rule.match(name, 0) is not None for rule in TABLE.rules) == (name not in TIED)


def test_old_names_and_bare_models():
    hf = golden("pretraining_padded")["weights"]
    want = from_hf(hf)

    old = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v for k, v in hf.items()}
    buffers = {"bert.embeddings.position_ids": np.arange(19)[None], "bert.embeddings.token_type_ids": np.zeros((1, 19), int)}
    assert all(BUFFERS.fullmatch(name) for name in buffers)
    chex.assert_trees_all_equal(from_hf(old | buffers), want)

    bare = {k.removeprefix("bert."): v for k, v in (hf | buffers).items() if k.startswith("bert.")}
    chex.assert_trees_all_equal(from_hf(bare), {"model": want["model"]})
    del bare["pooler.dense.weight"], bare["pooler.dense.bias"]
    assert set(want["model"]) - set(from_hf(bare)["model"]) == {"pooler"}

    half = from_hf({k: v.astype(np.float16) for k, v in hf.items()})
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {np.dtype("float32")}


KEY = "bert.encoder.layer.1.attention.self.key.weight"
DOWN = "bert.encoder.layer.2.output.dense.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"bert.encoder.layer.1.crossattention.key.weight": np.ones((20, 20))},
            "layer.1.crossattention.key.weight is not a parameter of BERT",
        ),
        ({KEY: np.ones((20, 21))}, rf"{KEY} has shape \[20, 21\]; the other tensors require \[20, 20\]"),
        ({DOWN: np.ones((44, 20))}, rf"{DOWN} has shape \[44, 20\]; the other tensors require \[20, 44\]"),
        ({KEY: np.ones((1, 20, 20))}, rf"{KEY} has shape \[1, 20, 20\]"),
        ({"cls.seq_relationship.weight": np.ones((3, 20))}, r"cls.seq_relationship.weight has shape \[3, 20\]; .* \[2, 20\]"),
        ({KEY: None}, f"{KEY} is missing"),
        ({"bert.embeddings.word_embeddings.weight": None}, "bert.embeddings.word_embeddings.weight is missing"),
        ({"bert.pooler.dense.bias": None}, "bert.pooler.dense.bias is missing"),
        ({"cls.predictions.bias": None}, "cls.predictions.bias is missing"),
        ({"cls.predictions.decoder.bias": np.ones(37)}, "cls.predictions.decoder.bias differs from cls.predictions.bias"),
        ({"pooler.dense.bias": np.ones(20)}, "pooler.dense.bias and bert.pooler.dense.bias are the same tensor"),
    ],
)
def test_invalid_checkpoints_are_errors(change, message):
    hf = golden("pretraining_padded")["weights"] | change
    with pytest.raises(ValueError, match=message):
        from_hf({name: tensor for name, tensor in hf.items() if tensor is not None})


def test_parameters_without_an_hf_counterpart_are_errors():
    ours = from_hf(golden("pretraining_padded")["weights"])
    scanned = {"model": {**ours["model"], "encoder": stack_layers(ours["model"]["encoder"])}}
    with pytest.raises(ValueError, match="model/encoder/layers/attention/key/bias is not a parameter of BERT"):
        to_hf(scanned)
    without = {"model": {k: v for k, v in ours["model"].items() if k != "position_embedding"}}
    with pytest.raises(ValueError, match="model/position_embedding/embedding is missing"):
        to_hf(without)
    ours["model"]["encoder"]["layer_0"]["mlp"]["down"]["kernel"] = np.ones((20, 44))
    with pytest.raises(ValueError, match=r"model/encoder/layer_0/mlp/.*/kernel has shape .* require"):
        to_hf(ours)
