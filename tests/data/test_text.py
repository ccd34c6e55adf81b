"""Windows and pairs: every token in its place, and every draw a function of the index."""

import numpy as np
import pytest

from data.errors import DataError
from data.sources.files import Files
from data.text import Text, joined
from data.tokenizer import CLS, PAD, SEP, SPECIAL, Tokenizer

pytestmark = pytest.mark.quick
DOCUMENTS = [" ".join(f"word{i * j % 97} and some{j} text." for j in range(5 + 7 * i)) for i in range(12)]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "book.txt"
    file.write_text("\n\n".join(DOCUMENTS))
    return file


def built(path, **changes):
    return Text(**{"source": f"files:{path}", "length": 24, "vocab_size": 300, "batch_size": 4, **changes}).build()


def test_windows_are_the_documents_in_order_each_token_once(path):
    dataset = built(path)
    vocabulary = Tokenizer(dataset.codec.files["tokenizer.json"])
    train = dataset.splits["train"].columns["tokens"]
    assert (train[:, 0] == vocabulary.id(CLS)).all() and (train[:, -1] == vocabulary.id(SEP)).all()
    texts = [row["text"] for row in Files(str(path)).load()["train"]]
    separator = [vocabulary.id(SEP)]
    stream = [token for text in texts for token in [*vocabulary.implementation.encode(text).ids, *separator]]
    inner = train[:, 1:-1].reshape(-1)
    np.testing.assert_array_equal(inner, stream[: len(inner)])
    assert 0 <= len(stream) - len(inner) < 22


def test_words_number_the_pieces_of_a_word_alike_and_mark_special_tokens(path):
    dataset = built(path)
    vocabulary = Tokenizer(dataset.codec.files["tokenizer.json"])
    for i in range(len(dataset.splits["train"])):
        row = dataset.splits["train"][i]
        special = np.isin(row["tokens"], [vocabulary.id(token) for token in SPECIAL])
        np.testing.assert_array_equal(row["words"] < 0, special)
        for at in range(2, 23):
            if special[at] or special[at - 1]:
                continue
            continues = vocabulary.token(int(row["tokens"][at])).startswith("##")
            assert row["words"][at] - row["words"][at - 1] == (0 if continues else 1)


def test_pairs_are_two_segments_half_of_them_of_one_document(path):
    dataset = built(path, layout="pairs")
    vocabulary = Tokenizer(dataset.codec.files["tokenizer.json"])
    examples = dataset.splits["train"]
    rows = [examples[i] for i in range(len(examples))]
    random = np.array([row["is_random"] for row in rows])
    assert abs(random.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(rows))
    texts = [vocabulary.encode([row["text"]])[0][0].tolist() for row in Files(str(path)).load()["train"]]
    follows = []
    for row in rows:
        tokens, segments, mask = (row[name] for name in ("tokens", "segments", "mask"))
        assert tokens[0] == vocabulary.id(CLS) and (tokens[~mask] == vocabulary.id(PAD)).all()
        ends = np.flatnonzero(tokens == vocabulary.id(SEP))
        assert len(ends) == 2 and segments[: ends[0] + 1].max() == 0 and (segments[ends[0] + 1 : ends[1] + 1] == 1).all()
        first, second = tokens[1 : ends[0]].tolist(), tokens[ends[0] + 1 : ends[1]].tolist()
        assert first and second
        joined_up = first + second
        follows.append(any(joined_up == text[i : i + len(joined_up)] for text in texts for i in range(len(text))))
    assert all(f for f, r in zip(follows, random, strict=True) if not r)
    assert np.mean([f for f, r in zip(follows, random, strict=True) if r]) < 0.1


def test_an_example_is_a_function_of_its_index(path):
    a, b = built(path, layout="pairs"), built(path, layout="pairs")
    assert a.fingerprint == b.fingerprint != built(path, layout="pairs", length=32).fingerprint
    for i in (0, 5, len(a.splits["train"]) - 1):
        for left, right in zip(a.splits["train"][i].values(), b.splits["train"][i].values(), strict=True):
            np.testing.assert_array_equal(left, right)


def test_training_the_tokenizer_twice_gives_the_same_one():
    assert Tokenizer.train(DOCUMENTS, 300).json == Tokenizer.train(DOCUMENTS, 300).json


def test_batches_have_the_shapes_that_the_spec_promises(path):
    from data.loader import training_batches

    for layout in ("windows", "pairs"):
        config = Text(source=f"files:{path}", length=24, vocab_size=300, batch_size=4, layout=layout)
        batch = next(training_batches(config.build().splits["train"], 4, 0))
        assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
            name: (s.shape, np.dtype(s.dtype)) for name, s in config.spec().items()
        }


def test_rows_of_one_document_are_joined():
    rows = [
        {"text": "a", "document": "1"},
        {"text": "b", "document": "1"},
        {"text": "c", "document": "2"},
        {"text": "d"},
        {"text": "e"},
    ]
    assert joined(rows) == ["a b", "c", "d", "e"]


def test_texts_that_are_cut_are_told(path):
    batch, notes = built(path).codec.encode([{"text": DOCUMENTS[-1]}, {"text": "short"}])
    assert batch["tokens"].shape == (2, 24)
    assert notes == ["1 of 2 texts are longer than data.length 24 and are cut to it"]


def test_a_tokenizer_without_special_tokens_is_refused(tmp_path):
    from tokenizers import Tokenizer as Implementation
    from tokenizers import models

    Implementation(models.WordPiece({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(tmp_path / "t.json"))
    with pytest.raises(DataError, match=r"lacks the special token\(s\) \[CLS\], \[SEP\], \[MASK\]"):
        Tokenizer.load(str(tmp_path / "t.json"))
