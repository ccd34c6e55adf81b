"""Compare the training step of GPT with that of a careful PyTorch user, on the CPU.

    python -m train.bench.torch_gpt shakespeare            # nanoGPT's settings for a CPU, or 6x384; needs torch

The peer is a GPT in plain PyTorch, as in nanoGPT: pre-norm, fused attention, no biases, tied embeddings, gradient clipping and
fused AdamW. Both use float32, no dropout, two threads and the same batch shape. `train.bench.side_by_side` runs them in turns.

`shakespeare --rounds 8 --steps 20` on two cores, time of PyTorch 2.13 / ours: 0.99 (quartiles 0.98 and 1.01) with JAX 0.12, and
0.91 (0.89 and 0.92) with JAX 0.10, whose small matrix products are slower.

Shapes: B batch, T length, D width, H heads.
"""

import numpy as np

from train.bench.side_by_side import THREADS, Step, main, training_step

# layers, width, heads, length, batch size, vocabulary
SIZES = {"shakespeare": (4, 128, 4, 64, 12, 128), "6x384": (6, 384, 6, 128, 16, 50_304)}


def ours(size: str) -> Step:
    """Return a function that does one step of causal-LM training."""
    from train.allocator import keep_freed_memory

    keep_freed_memory()
    from data.text.language_modelling import Text
    from fmodels.gpt import GptConfig
    from train.experiment import Experiment
    from train.objectives.causal_lm import CausalLM
    from train.optim import Optimizer

    layers, width, heads, length, batch_size, vocabulary = SIZES[size]
    experiment = Experiment(
        model=GptConfig(
            layers=layers, width=width, heads=heads, max_length=length, vocab_size=vocabulary, bias=False,
            norm="layer_no_bias", activation="gelu", dropout=0.0, attention_dropout=0.0,
        ),
        objective=CausalLM(),
        data=Text(layout="stream", length=length, batch_size=batch_size),
        optimizer=Optimizer(name="adamw", learning_rate=1e-3, weight_decay=0.1, b2=0.99),
    )  # fmt: skip
    ids = np.random.default_rng(0).integers(5, vocabulary, (batch_size, length + 1), np.int32)
    known = {
        "tokens": ids[:, :-1],
        "targets": ids[:, 1:],
        "words": np.zeros((batch_size, length), np.int32),
        "bytes": np.zeros(batch_size, np.int32),
        "example": np.arange(batch_size, dtype=np.uint32),
        "valid": np.ones(batch_size, np.float32),
    }
    batch = {name: known[name] for name in experiment.data.spec()}
    return training_step(experiment, batch)


def theirs(size: str) -> Step:
    """Return a function that does the same step in PyTorch."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]
    from torch.nn import functional  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    layers, width, heads, length, batch_size, vocabulary = SIZES[size]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
            shapes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width), "down": (4 * width, width)}
            self.dense = nn.ModuleDict({name: nn.Linear(*shape, bias=False) for name, shape in shapes.items()})

        def forward(self, x_BTD):
            split = lambda x: x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)
            q_BHTD, k_BHTD, v_BHTD = map(split, self.dense["qkv"](self.norms[0](x_BTD)).split(width, dim=2))
            mixed = functional.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)
            x_BTD = x_BTD + self.dense["out"](mixed.transpose(1, 2).reshape(x_BTD.shape))
            return x_BTD + self.dense["down"](functional.gelu(self.dense["up"](self.norms[1](x_BTD))))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
            self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
            self.norm = nn.LayerNorm(width, bias=False)

        def forward(self, tokens_BT):
            x_BTD = self.blocks(self.tokens(tokens_BT) + self.positions.weight)
            return self.norm(x_BTD) @ self.tokens.weight.T

    model = Gpt().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1, betas=(0.9, 0.99), fused=True)
    ids = torch.randint(5, vocabulary, (batch_size, length + 1))

    def step() -> float:
        loss = functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


if __name__ == "__main__":
    main("train.bench.torch_gpt", __doc__ or "", list(SIZES), ours, theirs)
