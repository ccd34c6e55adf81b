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

    Accuracy on validation, mean and standard deviation of seeds 0 to 2 (--run.seed), with all labels:

        79.4 ± 0.8 %   fmodels run sst2 --init-from runs/pydocs                                 pretrained on other text
        76.3 ± 0.4 %   fmodels run sst2 --data.tokenizer runs/pydocs/tokenizer.json             from scratch, same tokenizer
        80.8 ± 0.8 %   fmodels run sst2                                                         from scratch, own tokenizer
        82.4 ± 0.7 %   fmodels run sst2 --init-from runs/sst2-text                              pretrained on the reviews

    The last begins with `fmodels run pydocs --data.source tfds:glue/sst2 --data.fields text=sentence --run.dir runs/sst2-text`.
    Thus pretraining pays on text like that of the task. The documentation of Python libraries is not, and costs a tokenizer that
    fits the reviews. With 100 labels per class (--data.labels-per-class 100 --data.label-seed SEED --run.steps 300
    --optimizer.warmup-steps 30), the last reaches 59.6 ± 1.2 %, and training from scratch with its own tokenizer 57.0 ± 0.9 %.
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
