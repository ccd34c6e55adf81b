"""Generation in batches: rows do not depend on their batch, few programs, long texts, sources, and texts as they grow."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.text.tokenizer import Tokenizer
from fmodels.gpt import GptConfig
from fmodels.nn.decoding import Decoding, generate
from fmodels.t5 import T5Config
from tests.train.experiments import SIZES, gpt, program, translation
from train.errors import UserError
from train.experiment import Experiment
from train.generation import Generated, Generator, Growing, Options, bucket
from train.objectives.prompts import Prompts
from train.runs.trained import Predictor
from train.sharding import Mesh

END, LETTERS = 39, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ"
ONE = Mesh()


def letters(prompt: np.ndarray, ids: Sequence[int]) -> str:
    return "".join(LETTERS[i] for i in ids)


def prompts(tokens: Sequence[Sequence[int]], stop: tuple[int, ...] = (END,), **options) -> Prompts:
    return Prompts([np.array(ids, np.int32) for ids in tokens], letters, stop, 0, 40, **options)


def decoder(**changes) -> Experiment:
    return replace(gpt(), model=GptConfig(**{**SIZES, "max_length": 32, "tied": False, **changes}))


def predictor(experiment: Experiment, mesh: Mesh = ONE, devices: int = 1) -> Predictor:
    experiment, built = replace(experiment, mesh=mesh), program(experiment, mesh, devices)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0.05, 0.2, leaf.shape).astype(np.float32), built.shapes.params)
    return Predictor(experiment, cast(Any, None), built, jax.device_put(params, built.shardings.params), {})


def texts(
    trained: Predictor, given: Prompts, chosen: Sequence[int] | None = None, rows: int = 4, **options
) -> Mapping[int, Generated]:
    names = [f"text {i}" for i in range(len(given.tokens))]
    generator = Generator(trained, given, names, Options(**{"new_tokens": 12, **options}), rows)
    return dict(generator(range(len(names)) if chosen is None else chosen))


PROMPTS = [[3, 9, 27, 4], [7, 8], [20, 21, 22], [5] * 4, [1, 2], [8, 30, 31], [11, 12], [2, 2, 2]]


@pytest.fixture(scope="module")
def trained() -> Predictor:
    return predictor(decoder())


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"beams": 2}], ids=str)
def test_a_text_depends_on_the_seed_and_its_index_not_on_its_batch(trained, options):
    together = texts(trained, prompts(PROMPTS), **options)
    assert list(together) != sorted(together) and len(set(together.values())) == len(PROMPTS)
    assert texts(trained, prompts(PROMPTS), [6, 0, 3], rows=1, **options) == {i: together[i] for i in (6, 0, 3)}
    other = texts(trained, prompts(PROMPTS), seed=1, **options)
    assert (other == together) == ("beams" in options)


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"beams": 2}], ids=str)
def test_texts_on_eight_devices_equal_those_on_one(trained, options):
    sharded = predictor(decoder(), Mesh(data=2, fsdp=2, tensor=2), 8)
    assert texts(sharded, prompts(PROMPTS), **options) == texts(trained, prompts(PROMPTS), **options)


@pytest.mark.parametrize(("mesh", "devices"), [(ONE, 1), (Mesh(data=2, fsdp=2, tensor=2), 8)], ids=["1", "8"])
def test_each_length_compiles_two_programs(caplog, mesh, devices):
    """Nine prompts of lengths 1, 2, 4 and 8, in batches of 4, with 20 tokens in three blocks. 20 and 8 exceed a context of 24."""
    model = predictor(decoder(max_length=24), mesh, devices)

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        texts(model, prompts([[1], [2], [3, 3], [4] * 3, [5] * 4, [6] * 3, [7] * 4, [8] * 3, [9] * 4], ()), new_tokens=20)
        compiled = [record.message.split()[1] for record in caplog.records if record.message.startswith("Compiling")]
    names = [name for name in compiled if "prefill" in name or "decode" in name]
    assert sorted(names) == ["jit(decode)"] * 3 + ["jit(prefill)"] * 3


def test_prompts_are_padded_to_few_lengths():
    lengths = [bucket(n, 20, 128) for n in range(1, 128)]
    assert all(n <= length <= 127 for n, length in enumerate(lengths, 1))
    assert sorted(set(lengths)) == [1, 2, 4, 8, 16, 32, 64, 108, 112, 127]  # 108: with 20, the context
    assert [bucket(n, 100, 128) for n in (20, 28, 29, 33)] == [28, 28, 32, 48]


def test_a_long_text_goes_on_from_its_last_half_context(trained):
    """Compare with the whole context at every step, without a cache. The length of the prompt is a power of two: no padding."""
    model, params = trained.experiment.model.build(), trained.params["model"]
    apply = jax.jit(lambda tokens: model.apply(params, {}, {"tokens": tokens})[0])
    context, wanted = [3, 9, 27, 4], list[int]()
    while len(wanted) < 60:
        out = apply(np.array([context + [0] * (32 - len(context))]))
        wanted.append(int(jnp.argmax(out["hidden"][0, len(context) - 1] @ out["embedding"].T)))
        context.append(wanted[-1])
        context = context if len(context) < 32 else context[-16:]
    shown = []
    given = prompts([[3, 9, 27, 4]], stop=(), is_continued=True)
    generator = Generator(trained, given, ["text"], Options(new_tokens=60), 1)
    ((_, found),) = generator([0], shown.append)
    assert found == Generated(letters(np.array([]), wanted), "length") and len(set(wanted[-16:])) > 3
    assert "".join(shown) == found.text and len(shown) >= 60 // 8
    assert "the model reads 32 tokens: a longer text goes on from its last 16" in generator.notes()


def test_sources_are_padded_on_the_right():
    """Each text equals the one generated for its source alone, without padding."""
    model = replace(translation(), model=T5Config(**SIZES, tied=False))
    sources = [np.array(ids, np.int32) for ids in ([5, 6, 7], [9, 3, 4, 5, 11], [8, 30, 31], [30, 31, 5])]
    loaded = predictor(model)
    given = prompts([[2]] * 4, sources={"source": sources})
    for options in ({}, {"beams": 3}):
        found = texts(loaded, given, new_tokens=8, **options)
        decoding = Decoding(new_tokens=8, stop=(END,), vocab_size=40, **options)
        alone = jax.jit(
            lambda source, decoding=decoding: generate(
                model.model.build().apply, loaded.params["model"], {}, {"source": source, "tokens": jnp.array([[2]])},
                decoding, jax.random.key(0),
            )
        )  # fmt: skip
        for i, source in enumerate(sources):
            ids = [int(token) for token in alone(source[None])[0]]
            ids = ids[: ids.index(END)] if END in ids else ids
            assert found[i].text == letters(np.array([]), ids)


def growing(text_of, stop: tuple[str, ...] = (), new_tokens: int = 99) -> Growing:
    given = Prompts([np.array([1], np.int32)], text_of, (0,), 0, 300)
    return Growing(given, 0, Options(stop=stop, new_tokens=new_tokens))


def test_half_a_character_is_not_shown():
    tokenizer = Tokenizer.train(["abc"] * 3, 300, "bpe")
    text = "a€b😀c"
    ids = [int(i) for i in tokenizer.encode([text])[0][0]]
    grows = growing(lambda prompt, ids: tokenizer.implementation.decode(ids))
    pieces = [grows.add([i]) for i in ids]
    assert len(ids) == len(text.encode()) and pieces == ["a", "", "", "€", "b", "", "", "", "😀", "c"]
    assert growing(grows.prompts.text, new_tokens=2).add(ids[:2]) == "a\ufffd", "the last token is half a character"


def test_texts_end_before_a_text_to_stop_at():
    def run(*stops: str) -> tuple[list[str], str]:
        grows, pieces = growing(lambda prompt, ids: "".join(map(chr, ids)), stops), []
        for i in range(0, 12, 3):
            if not grows.ended_by:
                pieces.append(grows.add([ord(c) for c in "abcabdabcdab"[i : i + 3]]))
        assert grows.shown == "".join(pieces)
        return pieces, grows.ended_by

    assert run() == (["abc", "abd", "abc", "dab"], "")
    assert run("abcd", "zzz") == (["", "abcabd", "", ""], "stop")
    assert run("bda", "abcd") == (["", "abca", ""], "stop")


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (prompts([[1], [1] * 40], is_continued=True), {}, "text 1: the prompt has 40 tokens; the model can read 31"),
        (prompts([[1]], sources={"source": [np.ones(33)]}), {}, "text 0: the source has 33 tokens; the model can read 32"),
    ],
    ids=["prompt", "source"],
)
def test_prompts_that_do_not_fit_are_errors(trained, given, options, message):
    with pytest.raises(UserError, match=message):
        texts(trained, given, **options)


@pytest.mark.parametrize(("is_continued", "beams"), [(False, 1), (True, 2)], ids=["target", "beams"])
def test_a_text_that_cannot_go_on_ends_with_the_context(trained, is_continued, beams):
    given = prompts([[1] * 9, [2] * 7], is_continued=is_continued)
    generator = Generator(trained, given, ["a", "b"], Options(new_tokens=30, beams=beams), 2)
    assert generator.notes() == ["the model reads 32 tokens: a text has at most 23 new ones"]
    assert dict(generator([0, 1])) == texts(trained, given, new_tokens=23, beams=beams)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"stop": ("a", "")}, "stop must not be empty"),
        ({"seed": -1}, r"seed must be in \[0, 2\*\*32\), not -1"),
        ({"top_k": 3}, "top_k, top_p and min_p select tokens to sample from: set temperature above 0"),
    ],
    ids=str,
)
def test_bad_options_are_errors(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Options(**options)
