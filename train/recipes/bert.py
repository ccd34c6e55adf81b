"""BERT pretraining (Devlin et al. 2019) at every published size, on the built-in corpus.

The schedule is the paper's million steps. Run it on an accelerator with a corpus of your own, or shorten it:

    fmodels run bert-base --data.source files:CORPUS.txt --run.precision bf16
    fmodels run bert-tiny --run.steps 2000 --optimizer.warmup-steps 200

To measure the speed on a GPU with the fused kernel (not measured yet):

    fmodels bench bert-base --json --run.precision bf16 --model.attention cudnn --model.attention-dropout 0
        --data.length 512 --data.batch-size 64
"""

from data.text.language_modelling import Text
from fmodels.bert import bert
from train.experiment import Experiment, Run
from train.objectives.masked_lm import MaskedLM
from train.optim import Optimizer


def _pretrain(size: str, learning_rate: float, vocab_size: int = 30_522, length: int = 128, batch_size: int = 256) -> Experiment:
    """Return an experiment with masked LM, next-sentence prediction and the optimizer of Devlin et al. 2019, appendix A.2."""
    return Experiment(
        model=bert(size, vocab_size=vocab_size),
        objective=MaskedLM(mask_rate=0.15, next_sentence=True),
        data=Text(layout="pairs", length=length, batch_size=batch_size, vocab_size=vocab_size),
        optimizer=Optimizer(name="adamw", learning_rate=learning_rate, warmup_steps=10_000, weight_decay=0.01, eps=1e-6),
        run=Run(steps=1_000_000, log_every=100, evaluate_every=10_000, checkpoint_every=10_000),
    )


def bert_tiny() -> Experiment:
    """Pretrain BERT-tiny: 2 layers, width 128."""
    return _pretrain("tiny", 5e-4)


def bert_mini() -> Experiment:
    """Pretrain BERT-mini: 4 layers, width 256."""
    return _pretrain("mini", 5e-4)


def bert_small() -> Experiment:
    """Pretrain BERT-small: 4 layers, width 512."""
    return _pretrain("small", 3e-4)


def bert_medium() -> Experiment:
    """Pretrain BERT-medium: 8 layers, width 512."""
    return _pretrain("medium", 3e-4)


def bert_base() -> Experiment:
    """Pretrain BERT-base: 12 layers, width 768."""
    return _pretrain("base", 1e-4)


def bert_large() -> Experiment:
    """Pretrain BERT-large: 24 layers, width 1024."""
    return _pretrain("large", 1e-4)
