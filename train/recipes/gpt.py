"""GPT-2 pretraining (Radford et al. 2019) at every published size, and a small GPT on the characters of Shakespeare.

The GPT-2 recipes use the built-in corpus and the batch and schedule of nanoGPT: half a million tokens per step. Run them on
accelerators with a corpus of your own:

    fmodels run gpt2-small --data.source files:CORPUS.txt --run.precision bf16 --run.accumulation 8

The logits are computed in chunks. The step of GPT-2 small on 8 x 1,024 tokens in float32 needs 23,110 MiB of temporaries on CPU,
and 28,290 MiB with whole logits (`--objective.logits-chunk None`):

    fmodels run gpt2-small --dry-run --mesh.data 1 --data.batch-size 8 --data.source files:CORPUS.txt
"""

from data.text.cleaning import Cleaning
from data.text.language_modelling import Text
from fmodels.gpt import GptConfig, gpt
from train.experiment import Experiment, Run
from train.objectives.causal_lm import CausalLM
from train.optim import Optimizer


def _pretrain(size: str, learning_rate: float) -> Experiment:
    return Experiment(
        model=gpt(f"gpt2-{size}", dropout=0.0, attention_dropout=0.0),
        objective=CausalLM(logits_chunk=128),
        data=Text(layout="stream", length=1024, batch_size=512, tokenizer_kind="bpe", vocab_size=50_257),
        optimizer=Optimizer(
            learning_rate=learning_rate, schedule="cosine", warmup_steps=2000, final_learning_rate=0.1, weight_decay=0.1, b2=0.95
        ),
        run=Run(steps=600_000, log_every=100, evaluate_every=10_000, checkpoint_every=10_000),
    )


def gpt2_small() -> Experiment:
    """Pretrain GPT-2 small: 12 layers, width 768."""
    return _pretrain("small", 6e-4)


def gpt2_medium() -> Experiment:
    """Pretrain GPT-2 medium: 24 layers, width 1024."""
    return _pretrain("medium", 3e-4)


def gpt2_large() -> Experiment:
    """Pretrain GPT-2 large: 36 layers, width 1280."""
    return _pretrain("large", 2.5e-4)


def gpt2_xl() -> Experiment:
    """Pretrain GPT-2 XL: 48 layers, width 1600."""
    return _pretrain("xl", 2e-4)


def shakespeare_char() -> Experiment:
    """Train a small GPT on the characters of Shakespeare's plays, with nanoGPT's settings for a CPU.

    `fmodels run shakespeare-char`: four minutes on two busy CPU cores; loss 1.879 on the validation split, which is the last
    tenth of the text, as in nanoGPT (its README: 1.88). Needs `tiny_shakespeare` of TFDS below $TFDS_DATA_DIR.
    """
    return Experiment(
        model=GptConfig(
            layers=4, width=128, heads=4, max_length=64, vocab_size=128, bias=False, norm="layer_no_bias",
            activation="gelu", dropout=0.0, attention_dropout=0.0,
        ),
        objective=CausalLM(),
        data=Text(
            source="tfds:tiny_shakespeare",
            splits="train=train,validation=validation+test",
            layout="stream", length=64, batch_size=12, tokenizer_kind="characters",
            cleaning=Cleaning(duplicates="keep"),
        ),
        optimizer=Optimizer(
            learning_rate=1e-3, schedule="cosine", warmup_steps=100, final_learning_rate=0.1, weight_decay=0.1, b2=0.99
        ),
        run=Run(steps=2000, evaluate_every=500, checkpoint_every=1000),
    )  # fmt: skip
