"""Extractive question answering on data in the format of SQuAD.

Without options it reads the English part of XQuAD (Artetxe et al. 2020), which TFDS prepared under $TFDS_DATA_DIR, and holds out
the last articles:

    fmodels data prepare tfds:xquad_json --from FOLDER
    fmodels run squad

The original files of SQuAD are read by

    fmodels run squad --data.source files:FOLDER --data.splits "train=train-v1.1.json,validation=dev-v1.1.json"
"""

from dataclasses import replace

from data.text.squad import SquadText
from train.experiment import Experiment, Run
from train.objectives.question_answering import QuestionAnswering
from train.optim import Optimizer
from train.recipes.pydocs import ENCODER, HEAD_RULES


def squad() -> Experiment:
    """Answer questions by a part of a text; --init-from RUN fine-tunes.

    Exact match and F1 on the held-out articles of XQuAD, 0 to 1:

        0.012, 0.029   fmodels run squad --init-from runs/pydocs
        0.012, 0.034   fmodels run squad

    946 questions teach a small encoder nothing that holds for other articles: from scratch, it answers 53 % of them exactly
    (`fmodels evaluate runs/squad --split train`). Use SQuAD, and an encoder that is pretrained on general text.
    """
    return Experiment(
        model=replace(ENCODER, dropout=0.1),
        objective=QuestionAnswering(dropout=0.1),
        data=SquadText(
            source="tfds:xquad_json", splits="train=en[:949],validation=en[949:]",
            length=192, stride=96, question_length=40, batch_size=16,
        ),
        optimizer=Optimizer(
            name="adamw", learning_rate=1e-3, schedule="linear", warmup_steps=60, weight_decay=0.01, rules=HEAD_RULES
        ),
        run=Run(steps=600, evaluate_every=300, checkpoint_every=600),
    )  # fmt: skip
