"""Write the BERT goldens: random weights of odd shapes, inputs, and the outputs of Hugging Face's implementation, in float32.

    python tests/goldens/make_bert.py

Needs torch and transformers, which the tests do not need. The files in this folder were made with torch 2.13.0 (CPU),
transformers 5.23.0 and numpy 2.4.6. Keys: `config/…` (our field names), `weights/…` (Hugging Face names), `inputs/…`,
`outputs/…`.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

CASES = {
    # (layers, width, heads, hidden, activation), vocabulary, positions, length, real tokens per row, classes (None: pretraining)
    "pretraining_padded": ((3, 20, 5, 44, "gelu"), 37, 19, 13, (13, 9, 2), None),
    "pretraining_full": ((1, 12, 1, 31, "gelu"), 51, 16, 16, None, None),
    "classification_padded": ((2, 18, 3, 50, "gelu"), 41, 23, 11, (4, 11, 7, 1), 5),
    "classification_full": ((1, 8, 2, 12, "relu"), 29, 7, 7, None, 3),
}


def randomize(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Draw large weights, so that no term of the computation is lost in rounding."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # tied parameters appear once
            parameter.normal_(std=0.3, generator=generator)
            if name.endswith("LayerNorm.weight"):
                parameter.add_(1)


def make(seed: int, sizes: tuple, vocabulary: int, positions: int, length: int, real: tuple | None, classes: int | None) -> dict:
    layers, width, heads, hidden, activation = sizes
    generator = torch.Generator().manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=hidden,
        hidden_act=activation,
        max_position_embeddings=positions,
        type_vocab_size=2,
        num_labels=classes or 2,
        attn_implementation="eager",
    )
    family = transformers.BertForPreTraining if classes is None else transformers.BertForSequenceClassification
    model = family(config).eval()
    randomize(model, generator)

    rows = len(real) if real else 2
    draw = lambda high, *shape: torch.randint(high, shape, generator=generator)
    tokens, inputs = draw(vocabulary, rows, length), {}
    if real:
        inputs["attention_mask"] = (torch.arange(length) < torch.tensor(real)[:, None]).long()
        inputs["token_type_ids"] = draw(2, rows, length)
    if classes is None:
        chosen = torch.rand(rows, length, generator=generator) < 0.4
        chosen[:, 0] = True
        labels = {
            "labels": torch.where(chosen, draw(vocabulary, rows, length), -100),
            "next_sentence_label": draw(2, rows),
        }
    else:
        labels = {"labels": draw(classes, rows)}

    with torch.no_grad():
        bare = model.bert(tokens, **inputs)
        out = model(tokens, **inputs, **labels)
    outputs = {"hidden": bare.last_hidden_state, "pooled": bare.pooler_output, "loss": out.loss}
    if classes is None:
        outputs |= {"masked_lm": out.prediction_logits, "next_sentence": out.seq_relationship_logits}
    else:
        outputs |= {"classifier": out.logits}

    our_names = {
        "attention_mask": "mask",
        "token_type_ids": "segments",
        "labels": "labels",
        "next_sentence_label": "next_sentence_label",
    }
    config_fields = {
        **dict(zip(("layers", "width", "heads", "hidden", "activation"), sizes, strict=True)),
        "vocab_size": vocabulary,
        "max_length": positions,
        "segments": 2,
    }
    inputs = {"tokens": tokens, **{our_names.get(k, k): v for k, v in (inputs | labels).items()}}
    return {
        **{f"config/{k}": np.array(v) for k, v in config_fields.items()},
        **{f"weights/{k}": v.numpy() for k, v in model.state_dict().items()},
        **{f"inputs/{k}": v.numpy().astype(bool if k == "mask" else np.int32) for k, v in inputs.items()},
        **{f"outputs/{k}": v.numpy() for k, v in outputs.items()},
    }


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    for seed, (name, case) in enumerate(CASES.items()):
        path = Path(__file__).with_name(f"bert_{name}.npz")
        arrays = make(seed, *case)
        np.savez_compressed(path, **arrays)
        spread = {k.removeprefix("outputs/"): round(float(v.std()), 2) for k, v in arrays.items() if k.startswith("outputs/")}
        print(f"{path.name}: {path.stat().st_size} bytes, std of the outputs {spread}")
