"""Classification of words, such as named-entity recognition (Devlin et al. 2019, §5.3).

Shapes: B batch, T length, D model width, C tags.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmodels.model import Model
from fmodels.nn.heads import ClassifierHead
from train.objectives import Sums, means
from train.objectives.classification import other_labels
from train.objectives.cross_entropy import cross_entropy
from train.objectives.spans import span_scores, spans
from train.parts import Rendering


@dataclass(frozen=True, kw_only=True)
class TokenClassification:
    """Cross-entropy of the tag of each word, by a dense head on the hidden state of its first token."""

    classes: int | None = None
    "number of tags (None: from the data)"
    dropout: float = 0.0
    "dropout rate of the hidden states"

    def __post_init__(self):
        if self.classes is not None and self.classes < 2:
            raise ValueError(f"classes must be at least 2, not {self.classes}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")

    panels = ("span_f1", "tag_accuracy")
    scores = ("span_precision", "span_recall", "span_f1")

    def check(self, experiment: Any) -> None:
        if "tags" not in experiment.data.spec():
            name = type(experiment.data).__name__
            raise ValueError(f"objective TokenClassification needs a tag for each word, but data {name} has none")

    def unfit(self, folder: Path, codec: Any) -> dict[str, str]:
        """Return the head, unless the other run has the same tags in the same order."""
        return other_labels(folder, codec)

    @property
    def head(self) -> Model:
        assert self.classes is not None, "an experiment is resolved before it runs"
        return Model(ClassifierHead(self.classes, self.dropout))

    def init(self, model: Model, rng: jax.Array, batch: dict) -> tuple[dict, dict]:
        model_rng, head_rng = jax.random.split(rng)
        params, state = model.init(model_rng, batch)
        outputs, _ = model.apply(params, state, batch)
        return {"model": params, "head": {"classifier": self.head.init(head_rng, outputs["hidden"])[0]}}, state

    def loss(self, apply, params, state, batch, rng, train: bool) -> tuple[Sums, Any]:
        model_rng, head_rng = jax.random.split(rng)
        head_rng = jax.random.fold_in(head_rng, batch["example"][0])  # so that it differs between microbatches
        outputs, state = apply(params["model"], state, batch, rng=model_rng, train=train)
        logits_BTC, _ = self.head.apply(params["head"]["classifier"], {}, outputs["hidden"], rng=head_rng, train=train)
        losses_BT, hits_BT = cross_entropy(logits_BTC, jnp.maximum(batch["tags"], 0))
        weights_BT = (batch["tags"] >= 0) * batch["valid"][:, None]
        count = weights_BT.sum()
        terms = {"token_classification": ((losses_BT * weights_BT).sum(), count)}
        return Sums(terms, {"tag_accuracy": ((hits_BT * weights_BT).sum(), count)}), state

    def summarize(self, sums: Sums) -> dict[str, float]:
        return means(sums)

    def predict(self, apply, params, state, batch) -> dict[str, jax.Array]:
        """Return the most probable tag at every position, `tags`, with the inputs `tokens`, `starts` and `mask`, all [B, T]."""
        outputs, _ = apply(params["model"], state, batch)
        logits_BTC, _ = self.head.apply(params["head"]["classifier"], {}, outputs["hidden"])
        return {"tags": logits_BTC.argmax(-1), **{name: batch[name] for name in ("tokens", "starts", "mask")}}

    def describe(self, outputs: dict[str, np.ndarray], codec) -> list[dict]:
        """Return {"words": [text, …], "tags": [tag, …], "spans": [{"type": …, "text": …}, …]} for each row, from its tokens."""
        rows = []
        for tags_T, tokens_T, starts_T, mask_T in zip(*(outputs[n] for n in ("tags", "tokens", "starts", "mask")), strict=True):
            places = [*np.flatnonzero(starts_T), int(mask_T.sum()) - 1]
            text = lambda a, b, tokens_T=tokens_T, places=places: codec.decoded(tokens_T[places[a] : places[b]])
            tags = [codec.labels[tag] for tag in tags_T[starts_T]]
            found = [{"type": span.type, "text": text(span.start, span.end)} for span in spans(tags)]
            rows.append({"words": [text(i, i + 1) for i in range(len(tags))], "tags": tags, "spans": found})
        return rows

    def score(self, predictions: Sequence[Mapping[str, Any]], references: Sequence[Sequence[str]]) -> dict[str, float]:
        """Words that a truncated row lacks have the tag `O`."""
        whole = [[*p["tags"], *["O"] * (len(tags) - len(p["tags"]))] for p, tags in zip(predictions, references, strict=True)]
        return span_scores(whole, references)

    def render(self, described: Mapping[str, Any], reference: Sequence[str] | None = None) -> Rendering:
        """Show the spans and their types, and those of the reference if it is known and differs."""
        shown = lambda found: ", ".join(f"{text} ({kind})" for kind, text in found) or "no spans"
        line = shown((span["type"], span["text"]) for span in described["spans"])
        if reference is None:
            return Rendering([line])
        words = described["words"]
        wanted = [(span.type, " ".join(words[span.start : span.end])) for span in spans(reference[: len(words)])]
        is_right = list(reference[: len(words)]) == described["tags"]
        return Rendering([line] if is_right else [line, f"reference: {shown(wanted)}"], is_right)
