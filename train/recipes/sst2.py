"""Sentiment of film reviews: GLUE's SST-2 (Socher et al. 2013).

Reads the data set that TFDS prepared under $TFDS_DATA_DIR, or the original files:

    fmodels run pydocs
    fmodels run sst2 --init-from runs/pydocs
    fmodels run sst2 --data.source files:SST2_FOLDER
"""

from data.text.labelled import LabelledText
from train.experiment import Experiment, Run
from train.objectives.classification import Classification
from train.optim import Optimizer
from train.recipes.pydocs import ENCODER, HEAD_RULES


def sst2() -> Experiment:
    """Classify sentences of film reviews as positive or negative; --init-from RUN fine-tunes.

    A fair baseline of fine-tuning is `fmodels run sst2`, from scratch with a tokenizer trained on the reviews. With
    `--data.tokenizer runs/pydocs/tokenizer.json`, training from scratch differs from fine-tuning in the initial parameters only.
    """
    return Experiment(
        model=ENCODER,
        objective=Classification(),
        data=LabelledText(source="tfds:glue/sst2", fields="text=sentence,label=label", length=64, batch_size=32),
        optimizer=Optimizer(
            name="adamw", learning_rate=1e-3, schedule="linear", warmup_steps=100, weight_decay=0.01, rules=HEAD_RULES
        ),
        run=Run(steps=2000, evaluate_every=500, checkpoint_every=500),
    )
