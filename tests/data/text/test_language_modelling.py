"""From files to rows: token order, draws that depend only on the index, and caching."""

import json
import unicodedata
from dataclasses import dataclass, replace

import chex
import numpy as np
import pytest

from data.errors import DataError
from data.loader import Batches
from data.sources.files import Files
from data.text.cleaning import Cleaning
from data.text.documents import documents
from data.text.language_modelling import Text

DOCUMENTS = [" ".join(f"word{i * j % 97} and some{j} text." for j in range(5 + 7 * i)) for i in range(12)]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMODELS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "book.txt"
    file.write_text("\n\n".join(DOCUMENTS))
    return file


def built(path, **changes):
    return Text(**{"source": f"files:{path}", "length": 24, "vocab_size": 300, "batch_size": 4, **changes}).build()


def rows_of(examples) -> dict[str, np.ndarray]:
    return examples[np.arange(len(examples))]


def texts_of(path) -> list[str]:
    """Return the cleaned texts of the training split."""
    return list(documents(Text(source=f"files:{path}")).texts("train"))


def test_windows_contain_every_token_once_in_order(path):
    dataset = built(path)
    vocabulary = dataset.codec.vocabulary
    train = rows_of(dataset.splits["train"])["tokens"]
    assert (train[:, 0] == vocabulary.special["cls"]).all() and (train[:, -1] == vocabulary.special["sep"]).all()
    stream = [token for text in texts_of(path) for token in [*vocabulary.encode([text])[0][0], vocabulary.special["sep"]]]
    inner = train[:, 1:-1].reshape(-1)
    np.testing.assert_array_equal(inner, stream[: len(inner)])
    assert 0 <= len(stream) - len(inner) < 22


def test_word_indices_group_subwords_and_mark_special_tokens(path):
    dataset = built(path)
    vocabulary, rows = dataset.codec.vocabulary, rows_of(dataset.splits["train"])
    for tokens, words in zip(rows["tokens"], rows["words"], strict=True):
        special = np.isin(tokens, vocabulary.special_ids)
        np.testing.assert_array_equal(words < 0, special)
        for at in range(2, 23):
            if special[at] or special[at - 1]:
                continue
            continues = vocabulary.token(int(tokens[at])).startswith("##")
            assert words[at] - words[at - 1] == (0 if continues else 1)


def test_pairs_have_two_segments_and_half_are_consecutive(path):
    dataset = built(path, layout="pairs")
    vocabulary, rows = dataset.codec.vocabulary, rows_of(dataset.splits["train"])
    random = rows["is_random"]
    assert abs(random.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(random))
    texts = [vocabulary.encode([text])[0][0].tolist() for text in texts_of(path)]
    follows = []
    for tokens, segments, mask in zip(rows["tokens"], rows["segments"], rows["mask"], strict=True):
        assert tokens[0] == vocabulary.special["cls"] and (tokens[~mask] == vocabulary.special["pad"]).all()
        ends = np.flatnonzero(tokens == vocabulary.special["sep"])
        assert len(ends) == 2 and segments[: ends[0] + 1].max() == 0 and (segments[ends[0] + 1 : ends[1] + 1] == 1).all()
        first, second = tokens[1 : ends[0]].tolist(), tokens[ends[0] + 1 : ends[1]].tolist()
        assert first and second
        joined = first + second
        follows.append(any(joined == text[i : i + len(joined)] for text in texts for i in range(len(text))))
    assert all(f for f, r in zip(follows, random, strict=True) if not r)
    assert np.mean([f for f, r in zip(follows, random, strict=True) if r]) < 0.1


def test_examples_depend_only_on_their_index(path):
    a, b = (built(path, layout="pairs").splits["train"] for _ in range(2))
    chosen = np.array([5, 0, len(a) - 1, 5])
    chex.assert_trees_all_equal(a[chosen], b[chosen])
    chex.assert_trees_all_equal(a[chosen[::-1]], {name: x[::-1] for name, x in a[chosen].items()})


def test_fingerprint_covers_the_splits_tokenizer_and_rows(path):
    first, longer = built(path).fingerprint, built(path, length=32).fingerprint
    assert set(first) == {"train", "validation", "tokenizer", "rows"}
    assert {name for name in first if first[name] != longer[name]} == {"rows"}


@pytest.mark.parametrize("layout", ["windows", "stream", "packed", "pairs"])
def test_batches_match_the_spec(path, layout):
    config = Text(source=f"files:{path}", length=24, vocab_size=300, batch_size=4, layout=layout)
    batch = Batches(config.build().splits["train"], 4, 0)[0]
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        name: (s.shape, np.dtype(s.dtype)) for name, s in config.spec().items()
    }


@pytest.mark.parametrize("kind", ["characters", "bpe", "unigram", "wordpiece"])
@pytest.mark.parametrize("layout", ["stream", "packed"])
def test_every_byte_of_a_text_counts_once(tmp_path, layout, kind):
    texts = [f"Straße {i}: “naïve” — 水火,  don't {'x' * (i % 7)}\n" for i in range(60)]
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": "a"}))
    source, size = f"files:{tmp_path}/*.jsonl", None if kind == "characters" else 400
    config = Text(source=source, layout=layout, length=64, tokenizer_kind=kind, vocab_size=size)
    rows, texts = rows_of(config.build().splits["train"]), list(documents(config).texts("train"))
    normal = [" " + " ".join(unicodedata.normalize("NFKC", text).split()) for text in texts] if kind == "unigram" else texts
    assert len(texts) == 60
    assert rows["bytes"].sum() == (0 if kind == "wordpiece" else sum(len(text.encode()) for text in normal))


def test_a_second_build_does_not_read_the_source(path, monkeypatch):
    first = built(path)
    monkeypatch.setattr("data.sources.files.Files.splits", lambda *_: pytest.fail("the source was read again"))
    assert built(path).fingerprint == first.fingerprint


def test_a_changed_source_is_read_again_with_a_new_fingerprint(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("\n".join(DOCUMENTS))
    before = built(file).fingerprint
    file.write_text("\n".join([*DOCUMENTS, "one more of them"]))
    after = built(file).fingerprint
    assert before["train"] != after["train"]


def test_mixtures_keep_their_proportions_and_do_not_mix_sources_in_a_row(tmp_path):
    for name in ("q", "z"):
        (tmp_path / f"{name}.txt").write_text("\n".join(f"{name * 3} {text.replace('word', name * 3)}" for text in DOCUMENTS))
    source = f"mixture:0.75*files:{tmp_path / 'q.txt'}+0.25*files:{tmp_path / 'z.txt'}"
    for layout in ("windows", "stream", "packed", "pairs"):
        dataset = Text(source=source, length=24, vocab_size=300, batch_size=40, layout=layout).build()
        token = dataset.codec.vocabulary.token
        batches = Batches(dataset.splits["train"], 40, 0)
        for n in range(3):
            text = [" ".join(token(int(i)) for i in row) for row in batches[n]["tokens"]]
            has_q, has_z = (np.array([f" {letter}" in row or f"##{letter}" in row for row in text]) for letter in "qz")
            if layout != "pairs":
                assert not (has_q & has_z).any()
                assert 29 <= has_q.sum() <= 31


def test_rows_of_one_document_are_joined(tmp_path):
    rows = [{"text": "a", "document": "1"}, {"text": "b", "document": "1"}, {"text": "c", "document": "2"}, {"text": "d"}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "validation.jsonl").write_text('{"text": "e"}')
    found = documents(Text(source=f"files:{tmp_path}"))
    assert list(found.texts("train")) == ["a b", "c", "d"] and list(found.texts("validation")) == ["e"]


def test_cut_texts_are_reported(path):
    batch, notes = built(path).codec.encode([{"text": DOCUMENTS[-1]}, {"text": "short"}])
    assert batch["tokens"].shape == (2, 24)
    assert notes == ["1 of 2 texts are longer than data.length 24 and are truncated"]


def codec_with(path, **changes):
    codec = built(path).codec
    return replace(codec, config=replace(codec.config, **changes))


def test_prediction_cleans_texts_like_training(path):
    """Normalization, control characters and the limit of characters."""
    codec = codec_with(path, cleaning=Cleaning(max_characters=30))
    clean, odd = "som\u00e9 word1 and some1 text", "some\u0301 wor\0d1\r\nand some1 text"
    (expected, _), (found, notes) = (codec.encode([{"text": text}]) for text in (clean, odd))
    np.testing.assert_array_equal(found["tokens"], expected["tokens"])
    assert notes == []
    found, notes = codec.encode([{"text": clean}, {"text": f"{clean} and more of it"}])
    np.testing.assert_array_equal(found["tokens"][1], codec.encode([{"text": f"{clean} and more of it"[:30]}])[0]["tokens"][0])
    assert notes == ["1 of 2 texts are longer than data.cleaning.max_characters 30 and are truncated"]


def test_a_text_that_cleaning_drops_is_predicted(path):
    codec = codec_with(path, cleaning=Cleaning(min_characters=10, max_characters=20, too_long="drop"))
    rows = [{"text": text} for text in ("word1", "word1 and some", "word1 and some1 and some2 text")]
    batch, notes = codec.encode(rows)
    expected = codec.vocabulary.encode([row["text"] for row in rows])
    for tokens, mask, (ids, _) in zip(batch["tokens"], batch["mask"], expected, strict=True):
        assert tokens[mask][1:-1].tolist() == ids.tolist()
    assert notes == [
        "data.cleaning drops such texts from training (1 too long, 1 too short of 3); they are predicted nevertheless"
    ]


def test_a_text_that_is_blank_after_cleaning_is_an_error(path):
    with pytest.raises(DataError, match="row 1: expected text, not "):
        built(path).codec.encode([{"text": "a"}, {"text": "\0\u0001"}])


def test_prediction_prepares_texts_like_the_source(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(DOCUMENTS))

    @dataclass(frozen=True)
    class Renamed(Files):
        def prepared(self, text):
            return text.replace("number", "word")

    codec = codec_with(tmp_path / "a.txt", source=Renamed(str(tmp_path / "a.txt")))
    found, expected = codec.encode([{"text": "number1"}, {"text": "word1"}])[0]["tokens"]
    np.testing.assert_array_equal(found, expected)


def test_a_mask_includes_the_space_before_it(tmp_path):
    """A byte-level token of a word begins with its space, so training never shows a space before a mask."""
    (tmp_path / "a.txt").write_text("\n".join(["the dog barks at noon", "the cat sleeps at noon"] * 20))
    cleaning = Cleaning(duplicates="keep")
    codec = built(tmp_path / "a.txt", tokenizer_kind="bpe", cleaning=cleaning).codec
    batch, _ = codec.encode([{"text": "the dog barks at noon"}, {"text": "the dog [MASK] at noon"}])
    whole, masked = ([codec.token(i) for i in tokens[mask]] for tokens, mask in zip(batch["tokens"], batch["mask"], strict=True))
    assert whole == ["[CLS]", "the", "\u0120dog", "\u0120barks", "\u0120at", "\u0120noon", "[SEP]"]
    assert masked == ["[CLS]", "the", "\u0120dog", "[MASK]", "\u0120at", "\u0120noon", "[SEP]"]


def test_names_of_special_tokens_in_a_corpus_are_words(tmp_path):
    """Otherwise padding and the ends of texts would appear within texts."""
    lines = [f"the word [CLS] number{i} and [SEP] or [PAD] and [MASK] cls sep pad mask" for i in range(40)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    dataset = built(tmp_path / "a.txt", layout="packed", length=64)
    rows, special = rows_of(dataset.splits["train"]), dataset.codec.vocabulary.special
    count = {role: int((rows["tokens"] == special[role]).sum()) for role in ("cls", "sep", "mask", "unknown")}
    assert count == {"cls": rows_texts(rows), "sep": rows_texts(rows), "mask": 0, "unknown": 0}
    np.testing.assert_array_equal(rows["tokens"] == special["pad"], rows["sequences"] == 0)


def rows_texts(rows) -> int:
    """Return the number of texts in packed rows."""
    return int(rows["sequences"].max(axis=1).sum())


def test_prompts_are_prepared_like_training_texts(path):
    dataset = built(path, layout="stream")
    codec, (first, *_) = dataset.codec, texts_of(path)
    (ids,), notes = codec.prompts([{"prompt": f"\0{first[:70]}\a"}], "prompt")
    row = rows_of(dataset.splits["train"])["tokens"][0]
    assert notes == [] and len(ids) > 8
    np.testing.assert_array_equal(ids[:-1], row[1 : len(ids)])  # the last word may be cut
    short = replace(codec, config=replace(codec.config, cleaning=Cleaning(max_characters=20)))
    (cut,), notes = short.prompts([{"prompt": first}], "prompt")
    assert len(cut) < len(ids) and "1 of 1 texts are longer than data.cleaning.max_characters 20" in notes[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": ""}, "row 0: prompt is empty"),
        ({"prompt": " \n"}, "row 0: prompt is empty"),
        ({"prompt": 3}, "row 0: prompt must be text, not 3"),
        ({"text": "a"}, "row 0: prompt must be text, not null"),
    ],
    ids=str,
)
def test_bad_prompts_are_errors(path, row, message):
    with pytest.raises(DataError, match=f"^{message}$"):
        built(path, layout="stream").codec.prompts([row], "prompt")


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram", "characters"])
def test_the_text_of_more_ids_begins_with_that_of_fewer(tmp_path, kind):
    texts = [f"The naïve café no. {i}, isn't it: 😀 costs {i * i} €." for i in range(40)]
    (tmp_path / "cafe.txt").write_text("\n".join(texts))
    codec = built(tmp_path / "cafe.txt", tokenizer_kind=kind, vocab_size=320).codec
    prompts, _ = codec.prompts([{"prompt": text} for text in (texts[0], "The naïve café", "The na")], "prompt")
    whole = prompts[0]
    for prompt in prompts[1:]:
        following = whole[len(prompt) :].tolist()
        text = codec.continuation(prompt, following)
        assert codec.continuation(prompt, []) == "" and text.endswith(("€.", "€ ."))
        for count in range(len(following)):
            assert text.startswith(codec.continuation(prompt, following[:count]).rstrip("\ufffd"))
        if (whole[: len(prompt)] == prompt).all() and kind in ("bpe", "characters"):
            assert codec.continuation(prompt, following) in texts[0]
