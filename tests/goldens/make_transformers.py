"""Write the goldens of decoders, encoder-decoders and other encoders: random weights of odd shapes, inputs, and the outputs of
independent implementations, in float32.

    python tests/goldens/make_transformers.py

Needs torch and transformers, which the tests do not need. The files in this folder were made with torch 2.13.0 (CPU) and
transformers 5.24.0. Keys: `config/…` (our field names), `weights/…` (names of the implementation), `inputs/…`, `outputs/…`, and
`gradients/…` of the loss by the weights.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import transformers

VOCABULARY, ROWS, LENGTH, SOURCE = 37, 3, 11, 13
REAL, REAL_SOURCE = torch.tensor([11, 7, 2]), torch.tensor([4, 13, 9])
MASK, SOURCE_MASK = torch.arange(LENGTH) < REAL[:, None], torch.arange(SOURCE) < REAL_SOURCE[:, None]
PAD = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
EAGER = {"attn_implementation": "eager"}


def randomize(model: torch.nn.Module, generator: torch.Generator, std: float = 0.3) -> None:
    """Draw large weights, so that no term of the computation is lost in rounding."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # tied parameters appear once
            parameter.normal_(std=std, generator=generator)
            if parameter.ndim == 1 and name.endswith("weight"):  # a norm
                parameter.add_(1)


def draw(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, shape, generator=generator)


def saved(name: str, config: dict, model: torch.nn.Module, inputs: dict, outputs: dict, gradients: bool = False, weights=None):
    weights = weights or dict(model.state_dict())
    arrays = {f"weights/{k}": v.detach().numpy() for k, v in weights.items()}
    if gradients:
        arrays |= {f"gradients/{k}": p.grad.numpy() for k, p in model.named_parameters()}
    arrays |= {f"inputs/{k}": v.numpy().astype(bool if "mask" in k else np.int32) for k, v in inputs.items()}
    arrays |= {f"outputs/{k}": v.detach().numpy() for k, v in outputs.items()}
    path = Path(__file__).with_name(f"{name}.npz")
    np.savez_compressed(path, config=np.array(json.dumps({"vocab_size": VOCABULARY, **config})), **arrays)
    spread = {k: round(float(v.detach().std()), 2) for k, v in outputs.items() if v.ndim}
    print(f"{path.name}: {path.stat().st_size} bytes, std of the outputs {spread}")


STOP, FILL = [17, 21], 1
METHODS = {
    "greedy": {},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "beams": {"num_beams": 4},
    "beams_long": {"num_beams": 3, "length_penalty": 2.5},
    "beams_short": {"num_beams": 5, "length_penalty": -1.0},
}


def generated(name: str, model: torch.nn.Module, prompts: dict[str, torch.Tensor]) -> None:
    """Save what `transformers` generates: at most 10 tokens, fewer if one of STOP comes, then FILL.

    Prompts have no padding with a repetition penalty, which would count the padding as a token.
    """
    arrays = {f"inputs/{k}": v.numpy().astype(bool if "mask" in k else np.int32) for k, v in prompts.items()}
    tokens, mask = prompts.get("tokens", prompts.get("source")), prompts.get("mask", prompts.get("source_mask"))
    for method, options in METHODS.items():
        real = torch.ones_like(mask) if "repetition" in method else mask
        options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": STOP, "pad_token_id": FILL, **options}
        found = model.generate(tokens, attention_mask=real.long(), **options)
        new = found[:, tokens.shape[1] :] if "tokens" in prompts else found[:, 1:]
        arrays[f"outputs/{method}"] = torch.nn.functional.pad(new, (0, 10 - new.shape[1]), value=FILL).numpy().astype(np.int32)
    np.savez_compressed(Path(__file__).with_name(f"{name}_generated.npz"), **arrays)


def causal_loss(logits: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the next real token."""
    targets = torch.where(mask[:, 1:], tokens[:, 1:], -100)
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100)


def gpt2(generator: torch.Generator) -> None:
    sizes = {"n_layer": 3, "n_embd": 20, "n_head": 5, "n_inner": 44, "n_positions": 19}
    config = transformers.GPT2Config(vocab_size=VOCABULARY, **sizes, **PAD, **EAGER)
    model = transformers.GPT2LMHeadModel(config).eval()
    randomize(model, generator)
    tokens = draw(generator, ROWS, LENGTH)
    out = model(tokens, attention_mask=MASK.long())
    loss = causal_loss(out.logits, tokens, MASK)
    loss.backward()
    ours = {"layers": 3, "width": 20, "heads": 5, "hidden": 44, "max_length": 19}
    generated("gpt2", model, {"tokens": tokens[:, :8], "mask": torch.arange(8) >= torch.tensor([[0], [3], [6]])})
    saved("gpt2", ours, model, {"tokens": tokens, "mask": MASK}, {"logits": out.logits, "loss": loss}, gradients=True)


def llama(generator: torch.Generator) -> None:
    """Mistral is Llama with a sliding window."""
    sizes = {
        "num_hidden_layers": 2,
        "hidden_size": 24,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "intermediate_size": 34,
    }
    config = transformers.MistralConfig(
        vocab_size=VOCABULARY, **sizes, head_dim=8, sliding_window=4, max_position_embeddings=32, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0}, tie_word_embeddings=False, **PAD, **EAGER,
    )  # fmt: skip
    model = transformers.MistralForCausalLM(config).eval()
    randomize(model, generator)
    tokens = draw(generator, ROWS, LENGTH)
    out = model(tokens, attention_mask=MASK.long())
    ours = {"layers": 2, "width": 24, "heads": 6, "kv_heads": 2, "hidden": 34, "head_size": 8, "max_length": 32, "window": 3}
    ours |= {"norm": "rms", "activation": "swiglu", "position": "rotary", "rotary_base": 500.0, "bias": False, "tied": False}
    ours |= {"norm_epsilon": 1e-6}
    generated("llama", model, {"tokens": tokens[:, :8], "mask": torch.arange(8) >= torch.tensor([[0], [3], [6]])})
    saved("llama", ours, model, {"tokens": tokens, "mask": MASK}, {"logits": out.logits})


def t5(generator: torch.Generator, name: str, more: dict, ours: dict, gradients: bool) -> None:
    """The source is long enough for distances beyond the exact buckets, and for the last bucket."""
    length = 150
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=20, d_kv=6, d_ff=34, num_layers=2, num_decoder_layers=2, num_heads=3, dropout_rate=0.0,
        decoder_start_token_id=0, **more, **{**PAD, **EAGER},
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config).eval()
    if not ours.get("tied", True):  # transformers ties them always
        model.lm_head = torch.nn.Linear(20, VOCABULARY, bias=False)
    randomize(model, generator, std=0.2)  # attention that is not scaled amplifies rounding
    source, targets = draw(generator, 2, length), draw(generator, 2, 140)
    source_mask = torch.arange(length) < torch.tensor([[length], [31]])
    targets = torch.where(torch.arange(140) < torch.tensor([[12], [140]]), targets, -100)
    out = model(source, attention_mask=source_mask.long(), labels=targets)
    out.loss.backward()
    tokens = torch.nn.functional.pad(targets.clamp(min=0)[:, :-1], (1, 0))
    inputs = {"source": source, "source_mask": source_mask, "tokens": tokens, "targets": targets.clamp(min=-1)}
    if name == "t5_1_1":
        generated(name, model, {"source": source[:, :12], "source_mask": torch.arange(12) < torch.tensor([[12], [5]])})
    config_fields = {"layers": 2, "width": 20, "head_size": 6, "hidden": 34, "heads": 3, **ours}
    saved(name, config_fields, model, inputs, {"logits": out.logits[:, ::9], "loss": out.loss}, gradients)


def sinusoidal(length: int, width: int) -> torch.Tensor:
    """Vaswani et al. 2017, §3.5, term by term."""
    table = torch.zeros(length, width)
    for position in range(length):
        for i in range(0, width, 2):
            angle = position / 10_000 ** (i / width)
            table[position, i], table[position, i + 1] = math.sin(angle), math.cos(angle)
    return table


def transformer(generator: torch.Generator) -> None:
    """Layers of PyTorch. Their weights are saved under our names."""
    layers, width, heads, hidden = 2, 20, 5, 34
    options = {"d_model": width, "nhead": heads, "dim_feedforward": hidden, "dropout": 0.0, "layer_norm_eps": 1e-6}
    stacks = torch.nn.ModuleDict()
    for side, family in (("encoder", torch.nn.TransformerEncoderLayer), ("decoder", torch.nn.TransformerDecoderLayer)):
        stacks[side] = torch.nn.ModuleList(family(**options, batch_first=True) for _ in range(layers))
    stacks["embedding"] = torch.nn.Embedding(VOCABULARY, width)
    stacks.train()  # without dropout; PyTorch's fused inference path has other masks
    randomize(stacks, generator)
    embed = lambda tokens: stacks["embedding"](tokens) * width**0.5 + sinusoidal(tokens.shape[1], width)
    source, tokens = draw(generator, ROWS, SOURCE), draw(generator, ROWS, LENGTH)
    memory, hidden_states = embed(source), embed(tokens)
    for layer in stacks["encoder"]:
        memory = layer(memory, src_key_padding_mask=~SOURCE_MASK)
    causal = torch.ones(LENGTH, LENGTH).triu(1).bool()
    for layer in stacks["decoder"]:
        hidden_states = layer(hidden_states, memory, causal, None, ~MASK, ~SOURCE_MASK)
    logits = hidden_states @ stacks["embedding"].weight.T
    weights = {"token_embedding/embedding": stacks["embedding"].weight}
    for side in ("encoder", "decoder"):
        for i, layer in enumerate(stacks[side]):
            weights |= {f"{side}/layer_{i}/{name}": x for name, x in our_layer(layer, side == "decoder").items()}
    inputs = {"source": source, "source_mask": SOURCE_MASK, "tokens": tokens, "mask": MASK}
    config = {"layers": layers, "width": width, "heads": heads, "hidden": hidden, "norm_epsilon": 1e-6}
    saved("transformer", config, stacks, inputs, {"logits": logits}, weights=weights)


def our_layer(layer: torch.nn.Module, is_decoder: bool) -> dict[str, torch.Tensor]:
    attentions = {"attention": layer.self_attn} | ({"source_attention": layer.multihead_attn} if is_decoder else {})
    found = {}
    for name, attention in attentions.items():
        parts = zip(attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3), strict=True)
        dense = dict(zip(("query", "key", "value"), parts, strict=True))
        dense["out"] = attention.out_proj.weight, attention.out_proj.bias
        found |= {f"{name}/{part}/kernel": weight.T for part, (weight, _) in dense.items()}
        found |= {f"{name}/{part}/bias": bias for part, (_, bias) in dense.items()}
    for name, dense in (("up", layer.linear1), ("down", layer.linear2)):
        found |= {f"mlp/{name}/kernel": dense.weight.T, f"mlp/{name}/bias": dense.bias}
    norms = (layer.norm1, layer.norm2, layer.norm3) if is_decoder else (layer.norm1, layer.norm2)
    for name, norm in zip((*attentions, "mlp"), norms, strict=True):
        found |= {f"{name}_norm/scale": norm.weight, f"{name}_norm/bias": norm.bias}
    return found


def roberta(generator: torch.Generator) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 20, "num_attention_heads": 5, "intermediate_size": 34}
    config = transformers.RobertaConfig(
        vocab_size=VOCABULARY, **sizes, max_position_embeddings=18, type_vocab_size=1, layer_norm_eps=1e-5,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, **EAGER,
    )  # fmt: skip
    model = transformers.RobertaForMaskedLM(config).eval()
    randomize(model, generator)
    tokens = torch.where(MASK, draw(generator, ROWS, LENGTH), 1)
    out = model.roberta(tokens, attention_mask=MASK.long())
    logits = model.lm_head(out.last_hidden_state)
    ours = {"layers": 2, "width": 20, "heads": 5, "hidden": 34, "max_length": 16, "segments": 1, "norm_epsilon": 1e-5}
    ours |= {"pooling": "mean"}  # the checkpoint has no pooler
    saved("roberta", ours, model, {"tokens": tokens, "mask": MASK}, {"hidden": out.last_hidden_state, "masked_lm": logits})


def modern_bert(generator: torch.Generator) -> None:
    """The first layer has a norm before its attention, which the published model omits. Weights are saved under our names."""
    sizes = {"num_hidden_layers": 4, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 20}
    config = transformers.ModernBertConfig(
        vocab_size=VOCABULARY, **sizes, local_attention=6, global_attn_every_n_layers=3, max_position_embeddings=32,
        **PAD, cls_token_id=1, sep_token_id=2, **EAGER,
    )  # fmt: skip
    model = transformers.ModernBertModel(config)
    model.layers[0].attn_norm = torch.nn.LayerNorm(24, eps=config.norm_eps, bias=False)
    model.eval()
    randomize(model, generator)
    tokens = draw(generator, ROWS, LENGTH)
    out = model(tokens, attention_mask=MASK.long())
    weights = {"token_embedding/embedding": model.embeddings.tok_embeddings.weight}
    weights |= {"embedding_norm/scale": model.embeddings.norm.weight, "encoder/final_norm/scale": model.final_norm.weight}
    for i, layer in enumerate(model.layers):
        parts = dict(zip(("query", "key", "value"), layer.attn.Wqkv.weight.chunk(3), strict=True)) | {"out": layer.attn.Wo.weight}
        found = {f"attention/{name}/kernel": x.T for name, x in parts.items()}
        parts = dict(zip(("gate", "up"), layer.mlp.Wi.weight.chunk(2), strict=True)) | {"down": layer.mlp.Wo.weight}
        found |= {f"mlp/{name}/kernel": x.T for name, x in parts.items()}
        found |= {"attention_norm/scale": layer.attn_norm.weight, "mlp_norm/scale": layer.mlp_norm.weight}
        weights |= {f"encoder/layer_{i}/{name}": x for name, x in found.items()}
    ours = {"layers": 4, "width": 24, "heads": 3, "hidden": 20, "window": 3, "global_every": 3, "max_length": 32}
    saved("modern_bert", ours, model, {"tokens": tokens, "mask": MASK}, {"hidden": out.last_hidden_state}, weights=weights)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    seeded = lambda seed: torch.Generator().manual_seed(seed)
    gpt2(seeded(0))
    llama(seeded(1))
    t5(seeded(2), "t5", {"tie_word_embeddings": True}, {}, gradients=True)
    gated = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    t5(seeded(3), "t5_1_1", gated, {"activation": "geglu_tanh", "tied": False}, gradients=False)
    transformer(seeded(4))
    roberta(seeded(5))
    modern_bert(seeded(6))
