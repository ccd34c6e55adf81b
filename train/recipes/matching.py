"""Pairs of English and German image captions: Multi30k (Elliott et al. 2016).

Reads the data set that TFDS prepared under $TFDS_DATA_DIR.
"""

from dataclasses import replace

from data.text.related import RelatedTexts
from data.text.sentence_pairs import SentencePairs
from train.experiment import Experiment, Run
from train.objectives.classification import Classification
from train.objectives.sentence_embedding import SentenceEmbedding
from train.optim import Optimizer
from train.recipes.pydocs import ENCODER, HEAD_RULES

FIELDS = "text=en,second=de"


def translation_pairs() -> Experiment:
    """Tell whether a German caption translates an English one (half of the pairs do); --init-from RUN fine-tunes.

    Accuracy on test:

        0.963   fmodels run translation-pairs --init-from runs/translation-retrieval
        0.667   fmodels run translation-pairs
        0.642   fmodels run translation-pairs --init-from runs/pydocs      with a tokenizer of English
        0.518   python -m train.baseline translation-pairs                 TF-IDF and logistic regression
        0.500   python -m train.baseline translation-pairs                 the most frequent label
    """
    return Experiment(
        model=ENCODER,
        objective=Classification(),
        data=SentencePairs(source="pairing:tfds:multi30k_de_en", fields=FIELDS, length=64, batch_size=32, vocab_size=4096),
        optimizer=Optimizer(
            name="adamw", learning_rate=1e-3, schedule="linear", warmup_steps=150, weight_decay=0.01, rules=HEAD_RULES
        ),
        run=Run(steps=3000, evaluate_every=1000, checkpoint_every=3000),
    )


def translation_retrieval() -> Experiment:
    """Embed English and German captions so that translations are near each other; --init-from RUN fine-tunes.

    Share of the 1,000 captions of test (of both languages) whose translation is nearest; chance is 0.001:

        0.947   fmodels run translation-retrieval
        0.917   fmodels run translation-retrieval --init-from runs/pydocs      with a tokenizer of English
    """
    return Experiment(
        model=replace(ENCODER, dropout=0.1),
        objective=SentenceEmbedding(),
        data=RelatedTexts(source="tfds:multi30k_de_en", fields=FIELDS, length=48, batch_size=64, vocab_size=4096),
        optimizer=Optimizer(name="adamw", learning_rate=2e-3, schedule="linear", warmup_steps=150, weight_decay=0.01),
        run=Run(steps=1500, evaluate_every=500, checkpoint_every=1500),
    )
