"""Named entities in user-generated text: WNUT 2017 (Derczynski et al. 2017)."""

from dataclasses import replace

from data.text.tagged import TaggedText
from train.experiment import Experiment, Run
from train.objectives.token_classification import TokenClassification
from train.optim import Optimizer
from train.recipes.pydocs import ENCODER, HEAD_RULES


def wnut17_ner() -> Experiment:
    """Tag persons, places, groups, corporations, products and creative works; --init-from RUN fine-tunes.

    Span F1 on test, mean and standard deviation of seeds 0 to 2 (--run.seed):

        0.112 ± 0.009   fmodels run wnut17-ner --init-from runs/pydocs
        0.101 ± 0.001   fmodels run wnut17-ner
        0.061           python -m train.baseline wnut17-ner      the most frequent tag of each word in train

    The entities of test do not occur in train, and 3,300 sentences are few for an encoder of 0.9 million parameters.
    """
    return Experiment(
        model=replace(ENCODER, dropout=0.1),
        objective=TokenClassification(dropout=0.1),
        data=TaggedText(source="tfds:wnut17", length=96, batch_size=32),
        optimizer=Optimizer(
            name="adamw", learning_rate=1e-3, schedule="linear", warmup_steps=60, weight_decay=0.01, rules=HEAD_RULES
        ),
        run=Run(steps=600, evaluate_every=200, checkpoint_every=600),
    )
