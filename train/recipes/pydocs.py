"""The main job: a small modern encoder, pretrained on the documentation that is on every machine and fine-tuned on its topics."""

from data.labelled_text import LabelledText
from data.text import Text
from fmodels.bert import BertConfig
from train.experiment import Experiment, Run
from train.objectives.classification import Classification
from train.objectives.masked_lm import MaskedLM
from train.optim import Optimizer

VOCABULARY = 2048
ENCODER = BertConfig(
    layers=2, width=128, heads=8, activation="geglu", norm_position="pre", position="alibi",
    pooling="mean", vocab_size=VOCABULARY, max_length=512, dropout=0.0, attention_dropout=0.0,
)  # fmt: skip


def pydocs() -> Experiment:
    """Pretrain a small modern encoder by masked LM on the documentation of what is installed."""
    return Experiment(
        model=ENCODER,
        objective=MaskedLM(mask_rate=0.2),
        data=Text(source="pydocs", length=64, batch_size=64, vocab_size=VOCABULARY),
        optimizer=Optimizer(name="muon", learning_rate=4e-3, schedule="wsd", warmup_steps=100, weight_decay=0.01),
        run=Run(steps=1000, evaluate_every=250, checkpoint_every=250),
    )


def pydocs_topics() -> Experiment:
    """Say which of eight libraries a passage documents, from few labels; --init-from RUN fine-tunes, without is from scratch."""
    return Experiment(
        model=ENCODER,
        objective=Classification(),
        data=LabelledText(source="pydocs:topics", length=128, batch_size=32, labels_per_class=20, vocab_size=VOCABULARY),
        optimizer=Optimizer(name="adamw", learning_rate=3e-3, schedule="linear", warmup_steps=10, weight_decay=0.01),
        run=Run(steps=60, evaluate_every=20, checkpoint_every=60),
    )
