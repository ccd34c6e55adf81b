"""Spans of tags: by hand, and against seqeval."""

import random

import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from train.objectives.spans import Span, span_scores, spans


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", []),
        ("B-x I-x O B-x", [Span("x", 0, 2), Span("x", 3, 4)]),
        ("B-x B-x I-y", [Span("x", 0, 1), Span("x", 1, 2), Span("y", 2, 3)]),
        ("O I-x I-x I-y O I-y", [Span("x", 1, 3), Span("y", 3, 4), Span("y", 5, 6)]),
        ("B-x I-x E-x S-x I-x", [Span("x", 0, 3), Span("x", 3, 4), Span("x", 4, 5)]),
        ("B-x I-x L-x U-y", [Span("x", 0, 3), Span("y", 3, 4)]),
        ("noun noun verb O Base-form", [Span("noun", 0, 2), Span("verb", 2, 3), Span("Base-form", 4, 5)]),
        ("B-creative-work I-creative-work", [Span("creative-work", 0, 2)]),
    ],
)
def test_spans_of_a_sentence(tags, expected):
    assert spans(tags.split()) == expected


def test_spans_and_scores_equal_those_of_seqeval():
    rng = random.Random(0)
    tags = ["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in ("person", "place"))]
    sentences = [[rng.choices(tags, k=rng.randint(1, 12)) for _ in range(300)] for _ in range(2)]
    correct = [[a if rng.random() < 0.7 else b for a, b in zip(*pair, strict=False)] for pair in zip(*sentences, strict=True)]
    predicted = [found[: len(sentence)] for found, sentence in zip(sentences[0], correct, strict=True)]
    for sentence in correct + predicted:
        assert [(span.type, span.start, span.end - 1) for span in spans(sentence)] == get_entities(sentence)
    expected = [score(correct, predicted) for score in (precision_score, recall_score, f1_score)]
    assert list(span_scores(predicted, correct).values()) == pytest.approx(expected, abs=1e-12)
    assert 0.3 < expected[2] < 0.9


def test_scores_without_spans_are_zero():
    assert span_scores([["O"]], [["O"]]) == {"span_precision": 0.0, "span_recall": 0.0, "span_f1": 0.0}
