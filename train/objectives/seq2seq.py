"""Sequence-to-sequence learning: translation, summarization (Sutskever et al. 2014; Vaswani et al. 2017).

Shapes: B batch, S source length, T target length, N new tokens, V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmodels.model import Model
from fmodels.nn.decoding import Decoding, generate
from train.objectives import Sums, means
from train.objectives.causal_lm import targets
from train.objectives.cross_entropy import check_chunk, sums_in_chunks, tied_logits
from train.objectives.prompts import Prompts, roles
from train.objectives.text_scores import Score, scores
from train.parts import Rendering


@dataclass(frozen=True, kw_only=True)
class Seq2Seq:
    """Cross-entropy of each target token, given the source and the target tokens before it.

    Evaluation also generates a target for each source and scores it against the reference.
    """

    label_smoothing: float = 0.0
    "share of the target probability spread over the vocabulary in training (Szegedy et al. 2016, §7)"
    metrics: tuple[Score, ...] = field(default=("bleu", "chrf"), metadata={"how": True})
    "scores of the generated texts, 0 to 100; (): evaluate without generating"
    beams: int = field(default=1, metadata={"how": True})
    "beams of the search in evaluation and prediction; 1: the most probable token at each step"
    length_penalty: float = field(default=1.0, metadata={"how": True})
    "beam search divides the log probability of a text by its length to this power"
    logits_chunk: int | None = field(default=None, metadata={"how": True})
    "positions per row with logits in memory at a time, recomputed in the backward pass (None: all)"
    vocab_size: int | None = None
    "tokens of the tokenizer (None: from the data)"
    start_id: int | None = None
    "token that begins a target (None: from the data)"
    end_id: int | None = None
    "token that ends a target (None: from the data)"

    def __post_init__(self):
        check_chunk(self.logits_chunk)
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), not {self.label_smoothing}")
        if len(set(self.metrics)) != len(self.metrics):
            raise ValueError(f"metrics must be distinct, not {', '.join(self.metrics)}")
        if self.beams < 1:
            raise ValueError(f"beams must be at least 1, not {self.beams}")

    minimized = ("perplexity",)
    generates_from = "source"

    @property
    def panels(self) -> tuple[str, ...]:
        return ("seq2seq_accuracy", *self.metrics)

    @property
    def scores(self) -> tuple[str, ...]:
        return self.metrics

    def check(self, experiment: Any) -> None:
        """Raises ValueError if the data has no sources, or the model does not read them."""
        if "source" not in experiment.data.spec():
            raise ValueError(f"objective Seq2Seq needs pairs of texts, but data {type(experiment.data).__name__} has none")
        if not hasattr(experiment.model, "SCALED_INPUT"):
            raise ValueError(f"objective Seq2Seq needs an encoder-decoder, not model {type(experiment.model).__name__}")

    def init(self, model: Model, rng: jax.Array, batch: dict) -> tuple[dict, dict]:
        params, state = model.init(rng, batch)
        return {"model": params}, state

    def loss(self, apply, params, state, batch, rng, train: bool) -> tuple[Sums, Any]:
        outputs, state = apply(params["model"], state, batch, rng=rng, train=train)
        targets_BT, weights_BT = targets(batch)
        weights_BT *= batch["valid"][:, None]
        logits = partial(tied_logits, embedding_VD=outputs["embedding"])
        smoothing = self.label_smoothing if train else 0.0
        loss, hits = sums_in_chunks(logits, outputs["hidden"], targets_BT, weights_BT, self.logits_chunk, smoothing)
        count = weights_BT.sum()
        return Sums({"seq2seq": (loss, count)}, {"seq2seq_accuracy": (hits, count)}), state

    def summarize(self, sums: Sums) -> dict[str, float]:
        result = means(sums)
        return {**result, "perplexity": math.exp(min(result["seq2seq"], 700))}

    def predict(self, apply, params, state, batch) -> dict[str, jax.Array]:
        """Return the generated `tokens` [B, N], at most as many as a target of the data has."""
        assert self.start_id is not None and self.end_id is not None, "an experiment is resolved before it runs"
        rows, length = batch["tokens"].shape
        prompt = {
            "source": batch["source"],
            "source_mask": batch["source_sequences"] == 1,
            "tokens": jnp.full((rows, 1), self.start_id, jnp.int32),
        }
        decoding = Decoding(
            new_tokens=length - 1, beams=self.beams, length_penalty=self.length_penalty, stop=(self.end_id,),
            pad=self.end_id, vocab_size=self.vocab_size,
        )  # fmt: skip
        return {"tokens": generate(apply, params["model"], state, prompt, decoding, jax.random.key(0))}

    def describe(self, outputs: dict[str, np.ndarray], codec) -> list[dict]:
        """Return {"text": …} for each row."""
        return [{"text": codec.decoded(tokens)} for tokens in outputs["tokens"]]

    def prompts(self, rows: Sequence[Mapping[str, Any]], codec) -> Prompts:
        """Generate the target of the text in the field `source` of each row."""
        texts, notes = codec.prompts(rows, self.generates_from)
        special = codec.vocabulary.special
        begin = np.array([special["cls"]], np.int32)
        sources = [np.concatenate([ids, [special["sep"]]]).astype(np.int32) for ids in texts]
        decoded = lambda first, ids: codec.decoded(np.array(ids, np.int32))
        return Prompts([begin] * len(rows), decoded, **roles(codec.vocabulary), sources={"source": sources}, notes=notes)

    def score(self, predictions: Sequence[Mapping[str, Any]], references: Sequence[str]) -> dict[str, float]:
        return scores(self.metrics, [found["text"] for found in predictions], list(references))

    def render(self, described: Mapping[str, Any], reference: str | None = None) -> Rendering:
        """Show the generated text, and the reference if there is one."""
        known = [f"reference: {reference}"] if reference else []
        return Rendering([described["text"], *known])
