"""Translation of image captions: Multi30k (Elliott et al. 2016).

Reads the data set that TFDS prepared under $TFDS_DATA_DIR, or the original files:

    fmodels run multi30k-en-de
    fmodels run multi30k-en-de --data.source files:FOLDER_WITH_train.en.gz_AND_train.de.gz
"""

from data.text.parallel import ParallelText
from fmodels.transformer import Seq2SeqConfig
from train.experiment import Experiment, Run
from train.objectives.seq2seq import Seq2Seq
from train.optim import Optimizer


def multi30k_en_de() -> Experiment:
    """Translate English captions to German with a Transformer of width 128.

    Scores of the split test (test_2016), after 79 minutes on two busy CPU cores:

        BLEU 38.0, chrF 62.7   fmodels evaluate runs/multi30k-en-de
        BLEU 38.7, chrF 63.4   fmodels evaluate runs/multi30k-en-de --how objective.beams=5

    Wu et al. 2021 report about 41 for a Transformer of this size, with another tokenization and about three times as many tokens.
    """
    return Experiment(
        model=Seq2SeqConfig(layers=4, width=128, heads=4, hidden=256, dropout=0.3, max_length=64),
        objective=Seq2Seq(label_smoothing=0.1),
        data=ParallelText(
            source="tfds:multi30k_de_en", fields="source=en,target=de",
            length=64, batch_size=64, tokenizer_kind="bpe", vocab_size=10_000,
        ),
        optimizer=Optimizer(name="adam", learning_rate=4e-3, schedule="linear", warmup_steps=1000, b2=0.98),
        run=Run(steps=6000, evaluate_every=1000, checkpoint_every=1000),
    )  # fmt: skip
