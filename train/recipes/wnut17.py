"""Named entities in user-generated text: WNUT 2017 (Derczynski et al. 2017)."""

from dataclasses import replace

from data.text.tagged import TaggedText
from train.experiment import Experiment, Run
from train.objectives.token_classification import TokenClassification
from train.optim import Optimizer
from train.recipes.pydocs import ENCODER, HEAD_RULES


def wnut17_ner() -> Experiment:
    """Tag persons, places, groups, corporations, products and creative works; --init-from RUN fine-tunes."""
    return Experiment(
        model=replace(ENCODER, dropout=0.1),
        objective=TokenClassification(dropout=0.1),
        data=TaggedText(source="tfds:wnut17", length=96, batch_size=32),
        optimizer=Optimizer(
            name="adamw", learning_rate=1e-3, schedule="linear", warmup_steps=60, weight_decay=0.01, rules=HEAD_RULES
        ),
        run=Run(steps=600, evaluate_every=200, checkpoint_every=600),
    )
