"""Compare the training step of BERT with that of a careful PyTorch user, on the CPU.

    python -m train.bench.torch_bert mini            # or 6x384, or base; needs torch and transformers

The peer is `BertForMaskedLM` of `transformers`, with its head at the masked positions only, gradient clipping and fused AdamW.
Its inputs are masked beforehand; ours are masked within the step. Both use float32, dropout 0.1, two threads and the same batch
shape. The workers are separate processes that take turns, with one untimed step at the beginning of each turn.
`same allocator` gives PyTorch the settings of malloc that `train/allocator.py` makes for ours.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

# layers, width, heads, batch size
SIZES = {"mini": (4, 256, 4, 32), "6x384": (6, 384, 6, 16), "base": (12, 768, 12, 4)}
LENGTH, VOCAB, MASKED, THREADS = 128, 30_522, 19, 2
TUNABLES = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=4294967296:glibc.malloc.arena_max=1"
WORKERS = {"fmodels": {}, "torch": {}, "torch, same allocator": {"GLIBC_TUNABLES": TUNABLES}}


def ours(layers: int, width: int, heads: int, batch_size: int) -> Callable[[], object]:
    """Return a function that does one step of masked-LM training."""
    from train.allocator import keep_freed_memory

    keep_freed_memory()
    import jax
    import numpy as np

    from data.text.language_modelling import Text
    from fmodels.bert import BertConfig
    from train.experiment import Experiment
    from train.objectives.masked_lm import MaskedLM
    from train.optim import Optimizer
    from train.step import build

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
    spec = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    program = build(experiment, spec, experiment.mesh.build())
    state, placed = program.init(), program.place(batch)

    def step() -> None:
        nonlocal state
        state, metrics = program.step(state, placed)
        jax.block_until_ready(metrics)

    return step


def theirs(layers: int, width: int, heads: int, batch_size: int) -> Callable[[], object]:
    """Return a function that does the same step in PyTorch."""
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import BertConfig, BertForMaskedLM  # pyright: ignore[reportMissingImports]

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


def work(name: str, size: str) -> None:
    """Answer each line `N` on stdin with the seconds of N steps, as JSON on stdout, after one untimed step."""
    step = (ours if name == "fmodels" else theirs)(*SIZES[size])
    step()
    print("ready", flush=True)
    for line in sys.stdin:
        step()
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds), flush=True)


def compare(size: str, rounds: int, steps: int) -> dict[str, object]:
    """Return the median seconds of each worker, and the ratios of theirs to ours: the median over the rounds, and quartiles."""
    workers = {}
    for name, variables in WORKERS.items():
        command = [sys.executable, "-m", "train.bench.torch_bert", size, "--worker", name]
        environment = {**os.environ, **variables, "OMP_NUM_THREADS": str(THREADS), "JAX_PLATFORMS": "cpu"}
        workers[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        if workers[name].stdout.readline() != "ready\n":
            raise SystemExit(f"error: the worker {name} failed")
    seconds: dict[str, list[list[float]]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            print(steps, file=worker.stdin, flush=True)
            seconds[name].append(json.loads(worker.stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    medians = {name: [statistics.median(turn) for turn in turns] for name, turns in seconds.items()}
    result: dict[str, object] = {"size": size, "rounds": rounds, "steps": steps}
    for name, turns in medians.items():
        result[f"seconds {name}"] = statistics.median(turns)
        if name != "fmodels":
            ratios = [their / our for their, our in zip(turns, medians["fmodels"], strict=True)]
            result[f"{name} / fmodels"] = statistics.median(ratios)
            result[f"{name} / fmodels, quartiles"] = statistics.quantiles(ratios, n=4)[::2]
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="timed steps per turn")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.size)
    else:
        print(json.dumps(compare(options.size, options.rounds, options.steps), indent=1))
