"""Parity of every transformer family with independent implementations, on the random weights of
tests/goldens/make_transformers.py, and weight conversion."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from fmodels import bert
from fmodels.axes import split
from fmodels.bert import BertConfig
from fmodels.gpt import GptConfig
from fmodels.nn.heads import MaskedLMHead
from fmodels.nn.transformer import stack_layers
from fmodels.t5 import T5Config
from fmodels.transformer import Seq2SeqConfig
from fmodels.weights import gpt, roberta, t5
from train.objectives.causal_lm import CausalLM

GOLDENS = Path(__file__).parents[1] / "goldens"


class Family(NamedTuple):
    config: Callable[..., Any]
    from_hf: Callable[[dict], dict]
    to_hf: Callable[[dict], dict] | None = None


ours = lambda weights: {"model": unflatten_dict(weights, sep="/")}
FAMILIES = {
    "gpt2": Family(GptConfig, gpt.from_hf, gpt.to_hf),
    "llama": Family(GptConfig, gpt.from_hf, gpt.to_hf),
    "t5": Family(T5Config, t5.from_hf, t5.to_hf),
    "t5_1_1": Family(T5Config, t5.from_hf, t5.to_hf),
    "transformer": Family(Seq2SeqConfig, ours),
    "roberta": Family(BertConfig, roberta.from_hf, roberta.to_hf),
    "modern_bert": Family(lambda **fields: BertConfig(**{**bert.MODERN, **fields}), ours),
}
CONVERTED = [name for name, family in FAMILIES.items() if family.to_hf]


@cache
def golden(name: str) -> tuple[Any, dict[str, dict[str, np.ndarray]]]:
    """Return the config and {"weights": …, "inputs": …, "outputs": …, "gradients": …}."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    with np.load(GOLDENS / f"{name}.npz") as file:
        for key in file.files:
            if key != "config":
                group, _, rest = key.partition("/")
                groups.setdefault(group, {})[rest] = file[key]
        fields = json.loads(str(file["config"]))
    return FAMILIES[name].config(**fields, dropout=0.0, attention_dropout=0.0), groups


def arrays(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)


def scanned(params: dict) -> dict:
    return {name: stack_layers(part) if "layer_0" in part else part for name, part in params.items()}


def outputs(config: Any, params: dict, batch: dict) -> dict[str, jax.Array]:
    out, state = config.build().apply(params["model"], {}, batch)
    assert state == {}
    return {"hidden": out["hidden"], "logits": out["hidden"] @ out["embedding"].T}


@pytest.mark.parametrize("scan", [False, True], ids=["loop", "scan"])
@pytest.mark.parametrize("name", FAMILIES)
def test_outputs_match(name, scan):
    config, groups = golden(name)
    params, batch, wanted = FAMILIES[name].from_hf(groups["weights"]), groups["inputs"], dict(groups["outputs"])
    if scan:
        config = type(config)(**{**vars(config), "scan": True})
        params = {"model": scanned(params["model"])}
    found = jax.tree.map(np.asarray, outputs(config, arrays(params), arrays(batch)))
    real = batch.get("mask", batch.get("targets", np.zeros(batch["tokens"].shape)) >= 0)
    for output in wanted.keys() & found.keys():
        every = 9 if "targets" in batch else 1  # long rows are saved in part
        assert np.std(wanted[output]) > 0.2
        np.testing.assert_allclose(
            found[output][:, ::every][real[:, ::every]], wanted[output][real[:, ::every]], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_loss_and_gradients_match(name, chunk):
    config, groups = golden(name)
    objective, family = CausalLM(logits_chunk=chunk), FAMILIES[name]
    batch = arrays({**groups["inputs"], "valid": np.ones(len(groups["inputs"]["tokens"]), np.float32)})

    def loss(params):
        sums, _ = objective.loss(config.build().apply, params, {}, batch, jax.random.key(0), True)
        return sums.terms["causal_lm"][0] / sums.terms["causal_lm"][1]

    found, gradients = jax.jit(jax.value_and_grad(loss))(arrays(family.from_hf(groups["weights"])))
    np.testing.assert_allclose(found, groups["outputs"]["loss"], rtol=1e-5)
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * max(1, np.abs(y).max()))
    jax.tree.map(close, gradients, family.from_hf(groups["gradients"]))


def test_masked_lm_head_of_roberta_matches():
    """The epsilon of our norm in the head is BERT's, 1e-12 instead of 1e-5, hence the larger tolerance."""
    config, groups = golden("roberta")
    params = arrays(roberta.from_hf(groups["weights"]))
    out, _ = config.build().apply(params["model"], {}, arrays(groups["inputs"]))
    logits = MaskedLMHead().apply({"params": params["head"]["masked_lm"]}, out["hidden"], out["embedding"], train=False)
    real = groups["inputs"]["mask"]
    np.testing.assert_allclose(np.asarray(logits)[real], groups["outputs"]["masked_lm"][real], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", CONVERTED)
def test_converted_tree_matches_initialised_tree(name):
    config, groups = golden(name)
    fresh, _ = split(jax.eval_shape(config.build().init, jax.random.key(0), groups["inputs"])[0])
    converted = FAMILIES[name].from_hf(groups["weights"])["model"]
    assert jax.tree.map(jnp.shape, converted) == jax.tree.map(lambda leaf: leaf.shape, fresh)


@pytest.mark.parametrize("name", CONVERTED)
def test_round_trip(name):
    family, hf = FAMILIES[name], golden(name)[1]["weights"]
    back = family.to_hf(family.from_hf(hf))
    copies = {"lm_head.decoder.weight", "lm_head.decoder.bias", *t5.COPIES} if name != "llama" else set()
    assert set(hf) - set(back) <= copies and not set(back) - set(hf)
    for tensor in back:
        unused = roberta.UNUSED if tensor == roberta.POSITIONS else 0
        np.testing.assert_array_equal(back[tensor][unused:], hf[tensor][unused:])
        assert back[tensor].flags.c_contiguous  # required by safetensors
    chex.assert_trees_all_equal(family.from_hf(back), family.from_hf(hf))


def test_bare_models_and_buffers():
    hf = golden("gpt2")[1]["weights"]
    bare = {name.removeprefix("transformer."): x for name, x in hf.items() if name != "lm_head.weight"}
    bare |= {"h.0.attn.bias": np.ones((1, 1, 19, 19)), "h.0.attn.masked_bias": np.ones(())}
    chex.assert_trees_all_equal(gpt.from_hf(bare), gpt.from_hf(hf))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gpt2", {"transformer.h.0.attn.c_attn.weight": np.ones((20, 57))}, r"attn.query.weight has shape \[19, 20\]"),
        ("gpt2", {"transformer.h.1.ln_1.bias": None}, "transformer.h.1.ln_1.bias is missing"),
        ("gpt2", {"transformer.h.1.ln_3.bias": np.ones(20)}, "transformer.h.1.ln_3.bias is not a parameter of GPT-2"),
        ("llama", {"model.layers.0.self_attn.q_proj.bias": np.ones(48)}, "q_proj.bias is not a parameter of Llama"),
        (
            "llama",
            {"model.layers.0.self_attn.k_proj.weight": np.ones((48, 24))},
            r"v_proj.weight has shape \[16, 24\]; .* \[48, 24\]",
        ),
        ("t5", {**dict.fromkeys(t5.COPIES), "shared.weight": None}, "shared.weight is missing"),
        ("t5_1_1", {"decoder.block.1.layer.2.DenseReluDense.wi_0.weight": None}, "wi_0.weight is missing"),
        ("roberta", {"lm_head.decoder.bias": np.ones(37)}, "lm_head.decoder.bias differs from lm_head.bias"),
    ],
)
def test_invalid_checkpoints_are_errors(name, change, message):
    hf = golden(name)[1]["weights"] | change
    with pytest.raises(ValueError, match=message):
        FAMILIES[name].from_hf({tensor: x for tensor, x in hf.items() if x is not None})


def test_parameters_without_an_hf_counterpart_are_errors():
    params = gpt.from_hf(golden("gpt2")[1]["weights"])
    with pytest.raises(ValueError, match="model/decoder/layers/attention/key/bias is not a parameter of GPT-2"):
        gpt.to_hf({"model": scanned(params["model"])})
