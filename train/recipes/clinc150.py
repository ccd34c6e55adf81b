"""Intents of user queries: CLINC150 (Larson et al. 2019), 150 intents without the out-of-scope queries.

Reads the data set that `fmodels data prepare tfds:clinc150 --from FOLDER` prepared under $TFDS_DATA_DIR.
"""

from dataclasses import replace

from data.text.labelled import LabelledText
from train.experiment import Experiment, Run
from train.objectives.classification import Classification
from train.optim import Optimizer
from train.recipes.pydocs import ENCODER, HEAD_RULES


def clinc150_intents() -> Experiment:
    """Classify user queries by intent (150 classes); --init-from RUN fine-tunes.

    Accuracy on test, mean and standard deviation of seeds 0 to 2 (--run.seed):

        0.905 ± 0.003   fmodels run clinc150-intents --init-from runs/pydocs
        0.914 ± 0.003   fmodels run clinc150-intents
        0.910           python -m train.baseline clinc150-intents      TF-IDF and logistic regression
        0.007           python -m train.baseline clinc150-intents      the most frequent label

    The tokenizer of the documentation of Python libraries costs more than pretraining on it gains.
    """
    return Experiment(
        model=replace(ENCODER, dropout=0.1),
        objective=Classification(dropout=0.1),
        data=LabelledText(source="tfds:clinc150", length=32, batch_size=32),
        optimizer=Optimizer(
            name="adamw", learning_rate=1e-3, schedule="linear", warmup_steps=150, weight_decay=0.01, rules=HEAD_RULES
        ),
        run=Run(steps=3000, evaluate_every=1000, checkpoint_every=3000),
    )
