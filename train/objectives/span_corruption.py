"""Span corruption: replace spans of a text by sentinels, and generate the spans (Raffel et al. 2020, §3.1.4).

Shapes: B batch, T tokens of a row, L = T - 2 of them ordinary, S source length, N target length, K spans.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmodels.axes import constrain
from fmodels.model import Model
from fmodels.nn.decoding import Decoding, generate
from train.objectives import Sums, means
from train.objectives.cross_entropy import check_chunk, sums_in_chunks, tied_logits
from train.parts import Rendering


class Ids(NamedTuple):
    first: int  # sentinel
    last: int  # sentinel
    start: int
    end: int
    mask: int


@dataclass(frozen=True, kw_only=True)
class SpanCorruption:
    """Cross-entropy of the corrupted spans of each row of `tokens` [B, T], [CLS] text [SEP], by an encoder-decoder.

    The source is the text with a sentinel for each span, and [SEP]. The target is each sentinel and its span, and [SEP]. Every
    row has the same number of corrupted tokens and of spans, so sources and targets have fixed lengths.
    """

    corruption_rate: float = 0.15
    "share of the tokens that are corrupted"
    mean_span: float = 3.0
    "mean number of tokens of a span"
    logits_chunk: int | None = field(default=None, metadata={"how": True})
    "positions per row with logits in memory at a time, recomputed in the backward pass (None: all)"
    sentinel_ids: tuple[int, int] | None = None
    "ids of the first and of the last sentinel (None: from the data)"
    start_id: int | None = None
    "token that begins a target (None: from the data)"
    end_id: int | None = None
    "token that ends a source and a target (None: from the data)"
    mask_id: int | None = None
    "token that stands for a span in a text to predict (None: from the data)"

    def __post_init__(self):
        check_chunk(self.logits_chunk)
        if not 0 < self.corruption_rate < 1:
            raise ValueError(f"corruption_rate must be in (0, 1), not {self.corruption_rate}")
        if not self.mean_span >= 1:
            raise ValueError(f"mean_span must be at least 1, not {self.mean_span}")

    panels = ("span_corruption_accuracy",)
    minimized = ("perplexity",)

    def check(self, experiment: Any) -> None:
        """Raises ValueError if the model has no encoder and decoder, the rows are not windows, or there are too few sentinels."""
        if not hasattr(experiment.model, "SCALED_INPUT"):
            raise ValueError(f"objective SpanCorruption needs an encoder-decoder, not model {type(experiment.model).__name__}")
        if (layout := getattr(experiment.data, "layout", None)) != "windows":
            raise ValueError(f"objective SpanCorruption needs data.layout windows, not {layout}")
        _, spans = self.sizes(experiment.data.length - 2)
        if experiment.data.sentinels < spans:
            raise ValueError(
                f"data.sentinels is {experiment.data.sentinels}, but rows have {spans} spans: set it to {spans} or more"
            )

    @property
    def ids(self) -> "Ids":
        found = (self.start_id, self.end_id, self.mask_id)
        assert self.sentinel_ids is not None and None not in found, "an experiment is resolved before it runs"
        return Ids(*self.sentinel_ids, *found)  # pyright: ignore[reportArgumentType]

    def sizes(self, length: int) -> tuple[int, int]:
        """Return the number of corrupted tokens and of spans among `length` tokens."""
        corrupted = min(max(round(length * self.corruption_rate), 1), length - 1)
        return corrupted, max(min(round(corrupted / self.mean_span), corrupted, length - corrupted), 1)

    def init(self, model: Model, rng: jax.Array, batch: dict) -> tuple[dict, dict]:
        params, state = model.init(rng, self.corrupt(batch, rng))
        return {"model": params}, state

    def loss(self, apply, params, state, batch, rng, train: bool) -> tuple[Sums, Any]:
        corruption_rng, dropout_rng = jax.random.split(rng)
        corrupted = self.corrupt(batch, corruption_rng)
        outputs, state = apply(params["model"], state, corrupted, rng=dropout_rng, train=train)
        targets_BN = corrupted["targets"]
        weights_BN = jnp.broadcast_to(batch["valid"][:, None], targets_BN.shape)
        logits = partial(tied_logits, embedding_VD=outputs["embedding"])
        loss, hits = sums_in_chunks(logits, outputs["hidden"], targets_BN, weights_BN, self.logits_chunk)
        count = weights_BN.sum()
        return Sums({"span_corruption": (loss, count)}, {"span_corruption_accuracy": (hits, count)}), state

    def corrupt(self, batch: Mapping[str, jax.Array], rng: jax.Array) -> dict[str, jax.Array]:
        """Return `source` [B, S], the decoder's input `tokens` [B, N], and `targets` [B, N]: the next token of each."""
        text_BL = batch["tokens"][:, 1:-1]
        starts_BL, spans_BL = jax.vmap(partial(self.spans, text_BL.shape[1]), (None, 0))(rng, batch["example"])
        sentinels_BL = self.sentinel(jnp.cumsum(starts_BL, axis=1) - 1)
        ends_B1 = jnp.full((len(text_BL), 1), self.ids.end, jnp.int32)
        corrupted, count = self.sizes(text_BL.shape[1])

        kept_BL = ~spans_BL | starts_BL
        source_BS = _compact(jnp.where(starts_BL, sentinels_BL, text_BL), kept_BL, text_BL.shape[1] - corrupted + count)
        both_B2L = jnp.stack([sentinels_BL, text_BL], axis=2).reshape(len(text_BL), -1)  # a sentinel precedes its span
        wanted_B2L = jnp.stack([starts_BL, spans_BL], axis=2).reshape(len(text_BL), -1)
        targets_BN = jnp.concatenate([_compact(both_B2L, wanted_B2L, corrupted + count), ends_B1], axis=1)
        tokens_BN = jnp.concatenate([jnp.full_like(ends_B1, self.ids.start), targets_BN[:, :-1]], axis=1)
        source_BS = jnp.concatenate([source_BS, ends_B1], axis=1)
        arrays = {"source": source_BS, "tokens": tokens_BN, "targets": targets_BN}
        return {name: constrain(x, "batch", "length") for name, x in arrays.items()}

    def spans(self, length: int, rng: jax.Array, example: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return [L]: True at the first token of each span, and at all its tokens. The text does not begin with a span.

        The lengths of the spans, and of the texts before them, are random compositions of their sums, as in T5's code.
        """
        corrupted, count = self.sizes(length)
        keys = jax.random.split(jax.random.fold_in(rng, example), 2)
        kept_K, spans_K = (
            _composition(key, total, count) for key, total in zip(keys, (length - corrupted, corrupted), strict=True)
        )
        ends_K = jnp.cumsum(kept_K + spans_K)
        starts_L = jnp.zeros(length, bool).at[ends_K - spans_K].set(True)
        changes_L = starts_L.astype(jnp.int32).at[ends_K].add(-1, mode="drop")
        return starts_L, jnp.cumsum(changes_L) > 0

    def sentinel(self, number: Any) -> Any:
        """Return the id of the sentinel with this number. Published sentinels have descending ids."""
        return self.ids.first + number * (1 if self.ids.last >= self.ids.first else -1)

    def summarize(self, sums: Sums) -> dict[str, float]:
        result = means(sums)
        return {**result, "perplexity": math.exp(min(result["span_corruption"], 700))}

    def predict(self, apply, params, state, batch) -> dict[str, jax.Array]:
        """Generate what the mask tokens of each row stand for: `tokens` [B, N] as in training, and the number of `masks` [B]."""
        is_mask_BT = batch["tokens"] == self.ids.mask
        source_BT = jnp.where(is_mask_BT, self.sentinel(jnp.cumsum(is_mask_BT, axis=1) - 1), batch["tokens"])
        mask_BT = batch["mask"] if "mask" in batch else jnp.ones(source_BT.shape, bool)
        prompt = {
            "source": source_BT[:, 1:],
            "source_mask": mask_BT[:, 1:],
            "tokens": jnp.full((len(source_BT), 1), self.ids.start, jnp.int32),
        }
        corrupted, count = self.sizes(source_BT.shape[1] - 2)
        decoding = Decoding(new_tokens=corrupted + count, stop=(self.ids.end,), pad=self.ids.end)
        tokens_BN = generate(apply, params["model"], state, prompt, decoding, jax.random.key(0))
        return {"tokens": tokens_BN, "masks": is_mask_BT.sum(1)}

    def describe(self, outputs: dict[str, np.ndarray], codec) -> list[dict]:
        """Return {"spans": [text, …]} for each row: the text for each of its mask tokens."""
        low, high = sorted(self.ids[:2])
        rows = []
        for ids_N, count in zip(outputs["tokens"], outputs["masks"], strict=True):
            ids_N = ids_N[: np.flatnonzero(np.append(ids_N, self.ids.end) == self.ids.end)[0]]
            pieces = np.split(ids_N, np.flatnonzero((ids_N >= low) & (ids_N <= high)))[1:]
            after = {int(piece[0]): piece[1:] for piece in reversed(pieces)}  # the first of equal sentinels counts
            spans = [after.get(self.sentinel(number), ids_N[:0]) for number in range(count)]
            rows.append({"spans": [codec.decoded(span) for span in spans]})
        return rows

    def questions(self, batch: Mapping[str, np.ndarray], codec) -> tuple[dict[str, Any], list[str], list[list[str]]]:
        """Replace the spans that an evaluation corrupts by mask tokens. The references are the spans."""
        length = batch["tokens"].shape[1] - 2
        spans = jax.vmap(partial(self.spans, length), (None, 0))(jax.random.key(0), jnp.asarray(batch["example"]))
        tokens_BT = np.full_like(batch["tokens"], self.ids.end)
        mask_BT, truths = np.zeros(tokens_BT.shape, bool), []
        for row, (text_T, starts_L, spans_L) in enumerate(zip(batch["tokens"], *map(np.asarray, spans), strict=True)):
            text_L = text_T[1:-1]
            parts = np.split(text_L, np.flatnonzero(starts_L))[1:]
            sizes = np.diff(np.append(np.flatnonzero(starts_L), length))
            inside = [spans_L[at : at + size].sum() for at, size in zip(np.flatnonzero(starts_L), sizes, strict=True)]
            truths.append([codec.decoded(part[:count]) for part, count in zip(parts, inside, strict=True)])
            source = [text_T[0], *np.where(starts_L, self.ids.mask, text_L)[~spans_L | starts_L], self.ids.end]
            tokens_BT[row, : len(source)], mask_BT[row, : len(source)] = source, True
        return {**batch, "tokens": tokens_BT, "mask": mask_BT}, [codec.text(row) for row in tokens_BT], truths

    def render(self, described: Mapping[str, Any], reference: Sequence[str] | None = None) -> Rendering:
        """Show one line per mask: the generated text, and the hidden text if it is known."""
        if reference is None:
            return Rendering([f"[MASK]: {text}" for text in described["spans"]] or ["no [MASK] to fill"])
        pairs = zip(described["spans"], reference, strict=True)
        return Rendering([f"{'✓' if text == truth else '✗'} {truth}: {text}" for text, truth in pairs])


def _composition(rng: jax.Array, total: int, parts: int) -> jax.Array:
    """Return a random composition of `total` into `parts` positive numbers, int32 [K], each composition equally probable."""
    cuts = jnp.sort(jax.random.permutation(rng, jnp.arange(1, total))[: parts - 1])
    edges = jnp.concatenate([jnp.zeros(1, cuts.dtype), cuts, jnp.full(1, total, cuts.dtype)])
    return jnp.diff(edges)


def _compact(values_BL: jax.Array, kept_BL: jax.Array, count: int) -> jax.Array:
    """Return the values [B, count] that are kept, in order. Every row keeps `count`."""
    order_BL = jnp.argsort(~kept_BL, axis=1, stable=True)[:, :count]
    return jnp.take_along_axis(values_BL, order_BL, axis=1)
