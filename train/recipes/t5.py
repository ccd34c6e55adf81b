"""T5 pretraining by span corruption (Raffel et al. 2020) at the published sizes, on the built-in corpus.

The sizes are those of T5 1.0, and the learning rate is the paper's, 1/sqrt(step), with a linear warmup and RMSprop in place of
Adafactor. Run them on an accelerator with a corpus of your own:

    fmodels run t5-base --data.source files:CORPUS.txt --run.precision bf16
"""

from data.text.language_modelling import Text
from fmodels.t5 import t5
from train.experiment import Experiment, Run
from train.objectives.span_corruption import SpanCorruption
from train.optim import Optimizer


def _pretrain(size: str) -> Experiment:
    return Experiment(
        model=t5(f"t5-{size}", dropout=0.0, attention_dropout=0.0),
        objective=SpanCorruption(),
        data=Text(length=512, batch_size=128, tokenizer_kind="unigram", vocab_size=32_000, sentinels=100),
        optimizer=Optimizer(name="rmsprop", learning_rate=1e-2, schedule="rsqrt", warmup_steps=10_000),
        run=Run(steps=524_288, log_every=100, evaluate_every=10_000, checkpoint_every=10_000),
    )


def t5_small() -> Experiment:
    """Pretrain T5-small: 6 + 6 layers, width 512."""
    return _pretrain("small")


def t5_base() -> Experiment:
    """Pretrain T5-base: 12 + 12 layers, width 768."""
    return _pretrain("base")


def t5_large() -> Experiment:
    """Pretrain T5-large: 24 + 24 layers, width 1024."""
    return _pretrain("large")
