"""Compare the training step of BERT with that of a careful PyTorch user, on the CPU.

    python -m train.bench.torch_bert mini            # or 6x384, or base; needs torch and transformers

The peer is `BertForMaskedLM` of `transformers`, with its head at the masked positions only, gradient clipping and fused AdamW.
Its inputs are masked beforehand; ours are masked within the step. Both use float32, dropout 0.1, two threads and the same batch
shape. `train.bench.side_by_side` runs them in turns.
"""

from train.bench.side_by_side import THREADS, Step, main, training_step

# layers, width, heads, batch size
SIZES = {"mini": (4, 256, 4, 32), "6x384": (6, 384, 6, 16), "base": (12, 768, 12, 4)}
LENGTH, VOCAB, MASKED = 128, 30_522, 19


def ours(size: str) -> Step:
    """Return a function that does one step of masked-LM training."""
    from train.allocator import keep_freed_memory

    keep_freed_memory()
    import numpy as np

    from data.text.language_modelling import Text
    from fmodels.bert import BertConfig
    from train.experiment import Experiment
    from train.objectives.masked_lm import MaskedLM
    from train.optim import Optimizer

    layers, width, heads, batch_size = SIZES[size]
    experiment = Experiment(
        model=BertConfig(layers=layers, width=width, heads=heads, vocab_size=VOCAB),
        objective=MaskedLM(mask_id=103, random_ids=(1000, VOCAB)),
        data=Text(length=LENGTH, batch_size=batch_size),
        optimizer=Optimizer(name="adamw", learning_rate=1e-4, weight_decay=0.01),
    )
    tokens = np.random.default_rng(0).integers(1000, VOCAB, (batch_size, LENGTH), np.int32)
    rows = np.arange(batch_size, dtype=np.int32)
    batch = {"tokens": tokens, "words": np.broadcast_to(np.arange(LENGTH, dtype=np.int32), tokens.shape), "example": rows}
    batch["valid"] = np.ones(batch_size, np.float32)
    return training_step(experiment, batch)


def theirs(size: str) -> Step:
    """Return a function that does the same step in PyTorch."""
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import BertConfig, BertForMaskedLM  # pyright: ignore[reportMissingImports]

    layers, width, heads, batch_size = SIZES[size]
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    model = BertForMaskedLM(BertConfig(
        vocab_size=VOCAB, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width,
    )).train()  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    tokens = torch.randint(1000, VOCAB, (batch_size, LENGTH))
    rows = torch.arange(batch_size)[:, None]
    masked = torch.stack([torch.randperm(LENGTH)[:MASKED] for _ in range(batch_size)])
    corrupted = tokens.clone()
    corrupted[rows, masked] = 103

    def step() -> float:
        hidden = model.bert(corrupted).last_hidden_state[rows, masked]
        loss = torch.nn.functional.cross_entropy(model.cls(hidden).flatten(0, 1), tokens[rows, masked].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


if __name__ == "__main__":
    main("train.bench.torch_bert", __doc__ or "", list(SIZES), ours, theirs)
