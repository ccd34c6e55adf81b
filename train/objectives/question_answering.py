"""Extractive question answering (Devlin et al. 2019, §4.2 and §4.3), with the metrics of SQuAD (Rajpurkar et al. 2016, 2018).

Shapes: B batch, T length, D model width, K most tokens of an answer.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmodels.model import Model
from fmodels.nn.heads import ClassifierHead
from train.objectives import Sums, means
from train.parts import Rendering

NEVER = -1e9


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering:
    """Cross-entropy of the first and of the last token of the answer, among the tokens of the context and [CLS].

    The score of an answer is the sum of the two logits; that of no answer, those of [CLS].
    """

    dropout: float = 0.0
    "dropout rate of the hidden states"
    answer_length: int = field(default=30, metadata={"how": True})
    "maximum number of tokens of a predicted answer"
    null_threshold: float | None = field(default=None, metadata={"how": True})
    "predict no answer if its score exceeds that of the best answer by more than this (None: always answer)"

    def __post_init__(self):
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")
        if self.answer_length < 1:
            raise ValueError(f"answer_length must be at least 1, not {self.answer_length}")

    panels = ("answer_f1", "exact_match")
    scores = ("exact_match", "answer_f1")

    def check(self, experiment: Any) -> None:
        if "begins" not in experiment.data.spec():
            name = type(experiment.data).__name__
            raise ValueError(f"objective QuestionAnswering needs answers in contexts, but data {name} has none")

    @property
    def head(self) -> Model:
        return Model(ClassifierHead(2, self.dropout, use_bias=False))  # a softmax over positions ignores a bias

    def init(self, model: Model, rng: jax.Array, batch: dict) -> tuple[dict, dict]:
        model_rng, head_rng = jax.random.split(rng)
        params, state = model.init(model_rng, batch)
        outputs, _ = model.apply(params, state, batch)
        return {"model": params, "head": {"classifier": self.head.init(head_rng, outputs["hidden"])[0]}}, state

    def logits(self, apply, params, state, batch, rng=None, train: bool = False) -> tuple[jax.Array, jax.Array, Any]:
        """Return the logits of the first and of the last token, [B, T], and the model state."""
        model_rng, head_rng = (None, None) if rng is None else jax.random.split(rng)
        if head_rng is not None:
            head_rng = jax.random.fold_in(head_rng, batch["example"][0])  # so that it differs between microbatches
        outputs, state = apply(params["model"], state, batch, rng=model_rng, train=train)
        logits_BT2, _ = self.head.apply(params["head"]["classifier"], {}, outputs["hidden"], rng=head_rng, train=train)
        allowed_BT = (batch["begins"] >= 0).at[:, 0].set(True)
        logits_BT2 = jnp.where(allowed_BT[..., None], logits_BT2, NEVER)
        return logits_BT2[..., 0], logits_BT2[..., 1], state

    def loss(self, apply, params, state, batch, rng, train: bool) -> tuple[Sums, Any]:
        *both, state = self.logits(apply, params, state, batch, rng, train)
        rows_B, losses_B, is_right_B = jnp.arange(len(batch["start"])), 0.0, True
        for logits_BT, wanted_B in zip(both, (batch["start"], batch["end"]), strict=True):
            losses_B -= jax.nn.log_softmax(logits_BT)[rows_B, wanted_B] / 2
            is_right_B &= logits_BT.argmax(1) == wanted_B
        total = batch["valid"].sum()
        terms = {"question_answering": ((losses_B * batch["valid"]).sum(), total)}
        return Sums(terms, {"window_accuracy": ((is_right_B * batch["valid"]).sum(), total)}), state

    def summarize(self, sums: Sums) -> dict[str, float]:
        return means(sums)

    def predict(self, apply, params, state, batch) -> dict[str, jax.Array]:
        """Return `begin` and `end`, the offsets of the best answer of each window, its `score` and `null_score`, all [B]."""
        start_BT, end_BT, _ = self.logits(apply, params, state, batch)
        null_B = start_BT[:, 0] + end_BT[:, 0]
        start_BT, end_BT = start_BT.at[:, 0].set(NEVER), end_BT.at[:, 0].set(NEVER)
        rows_B, length = jnp.arange(len(null_B)), start_BT.shape[1]
        wide_BT = jnp.pad(end_BT, ((0, 0), (0, self.answer_length)), constant_values=NEVER)
        by_size_BKT = jnp.stack([start_BT + wide_BT[:, k : k + length] for k in range(self.answer_length)], axis=1)
        best_B = by_size_BKT.reshape(len(null_B), -1).argmax(1)
        first_B = best_B % length
        return {
            "begin": batch["begins"][rows_B, first_B],
            "end": batch["ends"][rows_B, first_B + best_B // length],
            "score": by_size_BKT.reshape(len(null_B), -1).max(1),
            "null_score": null_B,
        }

    def describe(self, outputs: dict[str, np.ndarray], codec) -> list[dict]:
        """Return {"begin", "end", "score", "null_score"} for each window."""
        columns = zip(*(outputs[name] for name in ("begin", "end", "score", "null_score")), strict=True)
        return [
            {"begin": int(begin), "end": int(end), "score": float(score), "null_score": float(null)}
            for begin, end, score, null in columns
        ]

    def merged(self, predictions: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the best answer of the windows of a row, with its text as `answer`: "" if the context has none."""
        best = max(predictions, key=lambda found: found["score"])
        null = min(found["null_score"] for found in predictions)
        has_none = self.null_threshold is not None and null - best["score"] > self.null_threshold
        answer = "" if has_none else row["context"][best["begin"] : best["end"]]
        return {**best, "null_score": null, "answer": answer}

    def score(self, predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """Return the means over the questions, 0 to 1. The windows of a question follow each other."""
        exact, f1 = [], []
        pairs = zip(predictions, references, strict=True)
        for _, windows in groupby(pairs, key=lambda pair: pair[1]["id"]):
            found, (reference, *_) = zip(*windows, strict=True)
            answer = self.merged(found, reference)["answer"]
            correct = [answer["text"] for answer in reference["answers"] or ()] or [""]
            exact.append(max(float(normalized(answer) == normalized(text)) for text in correct))
            f1.append(max(overlap_f1(answer, text) for text in correct))
        return {"exact_match": float(np.mean(exact)), "answer_f1": float(np.mean(f1))}

    def render(self, described: Mapping[str, Any], reference: Mapping[str, Any] | None = None) -> Rendering:
        """Show the answer, and the correct answers if they are known."""
        if reference is None:
            return Rendering([described["answer"] or "no answer"])
        answer = self.merged([described], reference)["answer"]
        correct = [found["text"] for found in reference["answers"] or ()]
        is_right = normalized(answer) in map(normalized, correct or [""])
        return Rendering([answer or "no answer", f"reference: {' | '.join(correct) or 'no answer'}"], is_right)


def normalized(text: str) -> str:
    """Return the text in lower case, without punctuation, articles and extra white space, as in SQuAD's evaluation."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def overlap_f1(answer: str, correct: str) -> float:
    """Return the F1 of the words of an answer, as in SQuAD's evaluation: two texts without words are equal."""
    found, wanted = normalized(answer).split(), normalized(correct).split()
    if not found or not wanted:
        return float(found == wanted)
    hits = sum((Counter(found) & Counter(wanted)).values())
    return 2 * hits / (len(found) + len(wanted))
