"""The text classification baseline: TF-IDF and logistic regression."""

import numpy as np

from data.dataset import Dataset


def tfidf(dataset: Dataset, split: str) -> np.ndarray:
    """Fit logistic regression to TF-IDF features of words and word pairs, with the same training rows as the network. Return the
    confusion matrix of a split, [labels, predictions]."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import confusion_matrix
    from sklearn.pipeline import make_pipeline

    labels = {name: rows[np.arange(len(rows))]["label"] for name, rows in dataset.splits.items()}
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), LogisticRegression(C=10.0, max_iter=2000))
    model.fit(dataset.shown["train"], labels["train"])
    return confusion_matrix(labels[split], model.predict(dataset.shown[split]), labels=np.arange(len(dataset.codec.labels)))
