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

    `fmodels run sst2 --init-from runs/quickstart/pretrain --run.seed N`, on Python 3.11: accuracy 78.7 ± 0.4 % on the
    validation split (mean and standard deviation over seeds 0, 1 and 2). From scratch, with
    `--data.tokenizer runs/quickstart/pretrain/tokenizer.json` instead of `--init-from`: 76.6 ± 0.7 %.
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
