"""Simple baselines of the tasks: the most frequent answer, TF-IDF with logistic regression, the most frequent tag of a word.

python -m train.baseline clinc150-intents
python -m train.baseline wnut17-ner
"""

import sys
from collections import Counter, defaultdict

import numpy as np

from data.dataset import Dataset
from data.errors import DataError
from data.text.records import records
from data.text.tagged import TaggedText
from train import cli
from train.errors import UserError
from train.objectives.spans import span_scores


def tfidf(dataset: Dataset, split: str) -> np.ndarray:
    """Fit logistic regression to TF-IDF features of words and word pairs, with the same training rows as the network. Return the
    confusion matrix of a split, [labels, predictions]."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import confusion_matrix
    from sklearn.pipeline import make_pipeline

    labels = {name: labels_of(dataset, name) for name in dataset.splits}
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), LogisticRegression(C=10.0, max_iter=2000))
    model.fit(dataset.shown["train"], labels["train"])
    return confusion_matrix(labels[split], model.predict(dataset.shown[split]), labels=np.arange(len(dataset.codec.labels)))


def labels_of(dataset: Dataset, split: str) -> np.ndarray:
    rows = dataset.splits[split]
    return rows[np.arange(len(rows))]["label"]


def majority(dataset: Dataset, split: str) -> float:
    """Return the accuracy of the label that is most frequent in train."""
    return float(np.mean(labels_of(dataset, split) == np.bincount(labels_of(dataset, "train")).argmax()))


def most_frequent_tags(data: TaggedText, split: str) -> dict[str, float]:
    """Give each word of a split its most frequent tag in train, and `O` if it does not occur there. Return the span scores."""
    found, seen = records(data), defaultdict[str, Counter[str]](Counter)
    for record in found.rows("train"):
        for word, tag in zip(record["words"], record["tags"], strict=True):
            seen[word][tag] += 1
    tag_of = {word: tags.most_common(1)[0][0] for word, tags in seen.items()}
    predicted = [[tag_of.get(word, "O") for word in record["words"]] for record in found.rows(split)]
    return span_scores(predicted, list(found.rows(split, data.reference)))


def main(arguments: list[str]) -> int:
    """Print the baselines of a recipe on its test split, or on validation if there is none."""
    data = cli.parse_recipe(arguments, "baseline")[0].data
    if isinstance(data, TaggedText):
        split = records(data).splits[-1]
        print(
            f"{split}: most frequent tag of each word:",
            *(f"{name} {x:.4f}" for name, x in most_frequent_tags(data, split).items()),
        )
        return 0
    if "label" not in data.spec():
        raise UserError(f"{arguments[0]}: there is a baseline for labels and tags only")
    dataset = data.build()
    split = "test" if "test" in dataset.splits else "validation"
    print(f"{split}: most frequent label: accuracy {majority(dataset, split):.4f}")
    if "image" in data.spec():
        return 0
    confusion = tfidf(dataset, split)
    print(f"{split}: TF-IDF and logistic regression: accuracy {confusion.diagonal().sum() / confusion.sum():.4f}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (UserError, DataError) as error:
        sys.exit(f"error: {error}")
