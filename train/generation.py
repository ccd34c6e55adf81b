"""Generate texts with a trained run, in batches of equal shapes.

Prompts are padded on the left to few lengths. Each length needs two compiled programs: `prefill` reads the prompts, and `decode`
chooses a block of tokens at a time, so that texts can be shown as they grow. Beam search chooses all tokens in one program.

Shapes: B batch, N tokens of a block.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from tyro.conf import arg

from fmodels import axes
from fmodels.nn import decoding
from fmodels.nn.decoding import Decoding, Sampling, Strategy
from train import sharding
from train.errors import UserError
from train.objectives.prompts import Prompts
from train.runs.trained import Predictor
from train.step import cast

BLOCK = 8  # tokens between two looks at the texts
UNFINISHED = "\ufffd"  # decoded from a token that is a part of a character


@dataclass(frozen=True, kw_only=True)
class Options(Strategy):
    new_tokens: Annotated[int, arg(name="max-new-tokens")] = Strategy.new_tokens
    "maximum number of tokens of a text; past the context of the model, texts of a decoder without beams go on from half of it"
    stop: tuple[str, ...] = ()
    "texts that end a generated text, and are left out of it"
    seed: int = 0
    "seed of the samples; that of a text also depends on its index"
    batch_size: int = 16
    "texts generated at a time"

    def __post_init__(self):
        if self.new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {self.new_tokens}")
        super().__post_init__()
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if not all(self.stop):
            raise ValueError("stop must not be empty")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in [0, 2**32), not {self.seed}")

    def decoding(self, prompts: Prompts) -> Decoding:
        strategy = {f.name: getattr(self, f.name) for f in fields(Strategy)}
        ids = {name: getattr(prompts, name) for name in ("stop", "pad", "vocab_size", "never")}
        return Decoding(**strategy, **ids)


class Generated(NamedTuple):
    text: str
    ended_by: str
    "end: the model ended the text; stop: one of the texts to stop at; length: the maximum number of tokens"


class Growing:
    """A text that grows. `add` returns the part that is new and that later tokens cannot change."""

    def __init__(self, prompts: Prompts, index: int, options: Options):
        self.prompts, self.prompt, self.options = prompts, prompts.tokens[index], options
        self.ids, self.shown, self.ended_by = list[int](), "", ""

    def add(self, ids: Sequence[int]) -> str:
        for token in ids:
            if token in self.prompts.stop:
                self.ended_by = "end"
                break
            self.ids.append(int(token))
        if not self.ended_by and len(self.ids) == self.options.new_tokens:
            self.ended_by = "length"
        text = self.prompts.text(self.prompt, self.ids)
        if found := [at for stop in self.options.stop if (at := text.find(stop)) >= 0]:
            text, self.ended_by = text[: min(found)], "stop"
        elif not self.ended_by:
            text = self.certain(text)
        piece = text[len(self.shown) :]
        self.shown += piece
        return piece

    def certain(self, text: str) -> str:
        """Return the text without half a character, or the beginning of a text to stop at, at its end."""
        text = text.rstrip(UNFINISHED)
        ends = [size for stop in self.options.stop for size in range(1, len(stop)) if text.endswith(stop[:size])]
        return text[: len(text) - max(ends, default=0)]


class Generator:
    """Generates the texts of prompts with a trained run. `rows` is the largest batch, which is rounded up to the devices.

    Past the context of the model, sampled texts of a decoder go on from their last half context. Others end.
    Raises UserError for a prompt that the model cannot read. `names` says where each prompt is from.
    """

    def __init__(self, predictor: Predictor, prompts: Prompts, names: Sequence[str], options: Options, rows: int):
        experiment, self.program = predictor.experiment, predictor.program
        self.prompts, self.max_length = prompts, experiment.model.max_length
        self.check(names)
        self.asked, self.goes_on = options.new_tokens, prompts.is_continued and options.beams == 1
        room = self.max_length - max(map(len, prompts.tokens))
        self.options = options = options if self.goes_on else replace(options, new_tokens=min(options.new_tokens, room))
        ways = sharding.batch_ways(self.program.mesh, experiment.mesh.rules)
        self.rows = ways * math.ceil(min(rows, len(names)) / ways)
        self.own = sharding.own_rows(self.program.batch_sharding, self.rows)
        self.trained = cast((predictor.params["model"], predictor.model_state), experiment.run.precision)
        self.decoders: dict[int, Callable] = {}
        apply, settings = experiment.model.build().apply, options.decoding(prompts)
        layout = sharding.activations(self.program.mesh, experiment.mesh.rules)[0]
        self.whole = whole = jax.NamedSharding(self.program.mesh, jax.P())

        def prefill(params, model_state, batch: dict[str, jax.Array], slots: int) -> tuple[Sampling, jax.Array]:
            index_B = batch.pop("index")
            with axes.traced_for(layout):
                logits_BV, cache = decoding.prefill(apply, params, model_state, batch, slots)
                state = decoding.begin(logits_BV, decoding.seen_in(batch, logits_BV.shape[1]), cache)
                return state, decoding.row_keys(jax.random.key(options.seed), index_B)

        def decode(
            params, model_state, state: Sampling, keys_B: jax.Array, is_done_B: jax.Array, room: int
        ) -> tuple[jax.Array, Sampling]:
            with axes.traced_for(layout):
                state = state._replace(is_done_B=is_done_B)
                return decoding.decode_block(apply, params, model_state, state, settings, keys_B, BLOCK, room)

        def search(params, model_state, state: Sampling, keys_B: jax.Array) -> jax.Array:
            with axes.traced_for(layout):
                logits_BV, seen_BV, cache = state.logits_BV, state.seen_BV, state.cache
                return decoding.decode(apply, params, model_state, logits_BV, seen_BV, cache, settings, keys_B)

        self.prefill, self.decode = jax.jit(prefill, static_argnames="slots"), decode
        self.search = jax.jit(search, out_shardings=whole)

    def check(self, names: Sequence[str]) -> None:
        for i, (name, ids) in enumerate(zip(names, self.prompts.tokens, strict=True)):
            for source, rows in self.prompts.sources.items():
                if len(rows[i]) > self.max_length:
                    raise UserError(f"{name}: the {source} has {len(rows[i])} tokens; the model can read {self.max_length}")
            if len(ids) >= self.max_length:
                raise UserError(f"{name}: the prompt has {len(ids)} tokens; the model can read {self.max_length - 1}")

    def notes(self) -> list[str]:
        """Return notes for the user, also on texts that lose their beginning, or must end early."""
        if max(map(len, self.prompts.tokens)) + self.asked <= self.max_length:
            return [*self.prompts.notes]
        limit = f"a longer text goes on from its last {self.max_length // 2}"
        if not self.goes_on:
            limit = f"a text has at most {self.options.new_tokens} new ones"
        return [*self.prompts.notes, f"the model reads {self.max_length} tokens: {limit}"]

    def __call__(self, chosen: Sequence[int], show: Callable[[str], Any] = lambda text: None) -> Iterator[tuple[int, Generated]]:
        """Yield the index and the text of each chosen prompt, batch by batch. `show` gets every new part of the texts."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for i in chosen:
            length = bucket(len(self.prompts.tokens[i]), self.options.new_tokens, self.max_length)
            sources = (min(power(len(rows[i])), self.max_length) for rows in self.prompts.sources.values())
            groups.setdefault((length, *sources), []).append(i)
        for lengths, members in groups.items():
            for start in range(0, len(members), self.rows):
                part = members[start : start + self.rows]
                yield from zip(part, self.batch(part, lengths, show), strict=True)

    def batch(self, chosen: list[int], lengths: tuple[int, ...], show: Callable[[str], Any]) -> list[Generated]:
        """Return the texts of a batch of prompts, padded to `lengths`. Missing rows repeat the first prompt."""
        texts = [Growing(self.prompts, i, self.options) for i in chosen]
        rows = [*chosen, *[chosen[0]] * (self.rows - len(chosen))]
        batch, new = self.arrays(rows, lengths), self.options.new_tokens
        slots, count = min(lengths[0] + new, self.max_length), 0
        state, keys_B = self.prefill(*self.trained, self.place(batch), slots)
        if self.options.beams > 1:
            for text, ids in zip(texts, np.asarray(self.search(*self.trained, state, keys_B)), strict=False):
                show(text.add(ids))
        used = lengths[0]
        while count < new and not all(text.ended_by for text in texts):
            if used == slots:
                used, slots = self.max_length // 2, self.max_length
                batch |= {name: batch[name][:, -used:] for name in ("tokens", "mask")}
                fresh, _ = self.prefill(*self.trained, self.place(batch), slots)
                state = state._replace(logits_BV=fresh.logits_BV, cache=fresh.cache)
            is_done_B = np.array([bool(text.ended_by) for text in texts] + [True] * (self.rows - len(texts)))
            room = min(BLOCK, new - count, slots - used)
            is_done = self.place({"is_done": is_done_B})["is_done"]
            tokens_BN, state = self.decoder(slots, state)(*self.trained, state, keys_B, is_done, room)
            tokens_BN = np.asarray(tokens_BN)[:, :room]
            count, used = count + room, used + room
            batch["tokens"] = np.concatenate([batch["tokens"], tokens_BN], axis=1)
            batch["mask"] = np.concatenate([batch["mask"], np.ones_like(tokens_BN, bool)], axis=1)
            for text, ids in zip(texts, tokens_BN, strict=False):
                if not text.ended_by:
                    show(text.add(ids))
        return [Generated(text.shown, text.ended_by) for text in texts]

    def decoder(self, slots: int, state: Sampling) -> Callable:
        """Return the compiled `decode` for a number of slots. The state keeps its shardings, so it fits the next call."""
        if slots not in self.decoders:
            placed = (self.whole, jax.tree.map(lambda x: x.sharding, state))
            self.decoders[slots] = jax.jit(self.decode, donate_argnums=2, out_shardings=placed)
        return self.decoders[slots]

    def arrays(self, rows: list[int], lengths: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Return a batch of prompts, with the `index` of each."""
        found = decoding.padded([self.prompts.tokens[i].tolist() for i in rows], lengths[0], self.prompts.pad)
        for (name, sources), length in zip(self.prompts.sources.items(), lengths[1:], strict=True):
            backwards = decoding.padded([sources[i][::-1].tolist() for i in rows], length, self.prompts.pad)
            found |= {name: backwards["tokens"][:, ::-1], f"{name}_mask": backwards["mask"][:, ::-1]}
        return {**found, "index": np.array(rows, np.uint32)}

    def place(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        own = {name: x[self.own] for name, x in batch.items()}
        return sharding.put_batch(own, self.program.batch_sharding, self.rows, self.own)


def power(length: int) -> int:
    """Return the smallest power of two that is at least `length`."""
    return 2 ** (length - 1).bit_length()


def bucket(length: int, new_tokens: int, max_length: int) -> int:
    """Return the length to which to pad a prompt, one of few: a power of two, or less if the new tokens fit only then.

    If they do not fit at all, it is a power of two or, if less, a multiple of an eighth of the context."""
    if length + new_tokens <= max_length:
        return min(power(length), max_length - new_tokens)
    eighth = max(max_length // 8, 1)
    return min(power(length), math.ceil(length / eighth) * eighth, max_length - 1)
