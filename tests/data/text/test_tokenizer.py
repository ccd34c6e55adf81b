"""Tokenizers: deterministic training, word boundaries, and agreement with published tokenizers."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.text.tokenizer import ROLES, SPECIAL, Tokenizer

KINDS = ("wordpiece", "bpe", "unigram")
TEXTS = [
    " ".join(f"word{i * j % 97} and some{j} text, isn't it, Dr. Who? Zürich {chr(97 + j % 26) * 3}" for j in range(9 + i))
    for i in range(40)
]
CORPUS = Path(os.environ.get("FMODELS_DATA", ""), "tiny_shakespeare", "input.txt")
needs_corpus = pytest.mark.skipif(not CORPUS.is_file(), reason="FMODELS_DATA has no tiny_shakespeare")


@pytest.fixture(scope="module")
def trained():
    cached = {}

    def train(kind):
        if kind == "unigram":
            pytest.importorskip("sentencepiece", reason="the extra sentencepiece is not installed")
        return cached.setdefault(kind, cached.get(kind) or Tokenizer.train(TEXTS, 400, kind))

    return train


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_come_first_and_the_vocabulary_has_the_requested_size(trained, kind):
    tokenizer = trained(kind)
    assert tokenizer.tokens[:5] == SPECIAL and tokenizer.special == {role: i for i, role in enumerate(ROLES)}
    assert tokenizer.special_ids == (0, 1, 2, 3, 4) and tokenizer.random_ids == (5, tokenizer.vocab_size)
    assert len(set(tokenizer.tokens)) == tokenizer.vocab_size <= 400 and (kind != "bpe" or tokenizer.vocab_size == 400)


TRAIN = """
import sys
from data.text.tokenizer import Tokenizer
texts = [line for line in sys.stdin.read().split("\\n") if line]
print(Tokenizer.train(iter(texts), 700, sys.argv[1]).json)
"""


@pytest.mark.parametrize("kind", [*KINDS, "characters"])
def test_another_process_trains_the_same_tokenizer(trained, kind):
    """Also with another hash seed and more threads, on a text with many ties."""
    trained(kind)
    words = np.random.default_rng(0).choice([*"abcdefghijklmnopqrst"], (3000, 5))
    texts = "\n".join(" ".join("".join(word) for word in words[i : i + 10]) for i in range(0, 3000, 10))

    def run(seed, threads):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
        command = [sys.executable, "-c", TRAIN, kind]
        root = Path(__file__).parents[3]
        return subprocess.run(command, input=texts, env=environment, cwd=root, text=True, capture_output=True, check=True).stdout

    first = run("0", "1")
    assert json.loads(first) and first == run("1", "4") == run("2", "2")


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \n\t'aé[]"), max_size=40))
def test_byte_level_bpe_restores_the_text_exactly(trained, text):
    (ids, words), *_ = trained("bpe").encode([text])
    assert text_of(trained("bpe"), ids) == text and trained("bpe").special["unknown"] not in ids
    assert ids.dtype == words.dtype == np.int32 and len(ids) == len(words)


def test_characters_are_tokens_in_code_point_order_and_restore_the_text():
    text = "isn't it? [SEP]\n\n\tZürich 😀  "
    tokenizer = Tokenizer.train([text, "b"], 300, "characters")
    assert list(tokenizer.tokens) == [*SPECIAL, *sorted({*text, "b"})]
    (ids, words), (other, _) = tokenizer.encode([text, "bxb"])
    assert text_of(tokenizer, ids) == text and words.tolist() == list(range(len(text)))
    assert [tokenizer.token(int(i)) for i in other] == ["b", "[UNK]", "b"]
    with pytest.raises(DataError, match="vocab_size must be at least 25 for characters"):
        Tokenizer.train([text], 10, "characters")


def text_of(tokenizer, ids):
    return tokenizer.implementation.decode(ids.tolist(), skip_special_tokens=False)


def pieces(tokenizer, text):
    """Return the text of each word, and the word indices in order."""
    ids, words = tokenizer.encode([text])[0]
    numbers = list(dict.fromkeys(words.tolist()))
    return [text_of(tokenizer, ids[words == number]) for number in numbers], numbers


@pytest.mark.parametrize("text", ["isn't this unbelievable, Dr. Who?", "Zürich word5 zzz", "x"])
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_words_are_separated_by_whitespace(trained, kind, text):
    words, numbers = pieces(trained(kind), text)
    assert [word.strip() for word in words] == text.split() and numbers == list(range(len(words)))
    if kind == "bpe":
        assert "".join(words) == text, "a word includes the space before it"


@pytest.mark.parametrize("text", ["isn't this unbelievable, Dr. Who?", "##a # #"])
def test_wordpiece_words_agree_with_the_library(trained, text):
    tokenizer = trained("wordpiece")
    expected = tokenizer.implementation.encode(text, add_special_tokens=False).word_ids
    np.testing.assert_array_equal(tokenizer.encode([text])[0][1], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_mask_in_a_text_is_the_mask_token_and_not_a_word(trained, kind):
    tokenizer = trained(kind)
    ids, words = tokenizer.encode_masked(["some [MASK]text it"])[0]
    assert (ids == tokenizer.special["mask"]).sum() == 1
    np.testing.assert_array_equal(words == -1, ids == tokenizer.special["mask"])
    at = int(np.flatnonzero(words == -1)[0])
    assert words[at + 1] == words[at - 1] + 1 == words[:at].max() + 1


@pytest.mark.parametrize(
    "template", ["word1 {} it", "word1 {}, it", "word1  {}\n{} it", "{} word1", " it\n{}", "it ({}).", "it {} "]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_stands_for_a_word_with_the_space_before_it(trained, kind, template):
    """The other tokens are those of the text with a word in place of the mask, which is what training shows."""
    tokenizer = trained(kind)
    ids = tokenizer.encode([template.replace("{}", "zzz")])[0][0]
    parts, numbers = tokenizer.encode_masked([template.replace("{}", "[MASK]")])[0]
    mask, is_mask = tokenizer.special["mask"], parts == tokenizer.special["mask"]
    assert is_mask.sum() == template.count("{}") and (numbers[is_mask] == -1).all()
    ids_of = lambda text: tuple(tokenizer.encode([text])[0][0].tolist())
    hidden = [ids_of(f"word1{before}zzz")[len(ids_of(f"word1{before.rstrip()}")) :] for before in (" ", " (")] + [ids_of("zzz")]
    expected, at = [], 0
    while at < len(ids):
        word = next((word for word in hidden if tuple(ids[at : at + len(word)]) == word), None)
        expected.append(int(ids[at]) if word is None else mask)
        at += 1 if word is None else len(word)
    assert parts.tolist() == expected


@pytest.mark.parametrize("text", ["[CLS] the [SEP] [PAD] it", "it [UNK] [MASK]", "x[SEP]y", "[MASK]"])
@pytest.mark.parametrize("kind", KINDS)
def test_names_of_special_tokens_in_a_text_are_ordinary_text(trained, kind, text):
    tokenizer = Tokenizer.train([*TEXTS, "[ CLS SEP PAD UNK MASK ] cls sep pad unk mask"], 420, kind)
    ids, words = tokenizer.encode([text])[0]
    assert not set(ids.tolist()) & set(tokenizer.special_ids) and (words >= 0).all()
    assert text_of(tokenizer, ids).replace(" ", "").lower() == text.replace(" ", "").lower()
    filled = tokenizer.encode_masked([text])[0][0]
    assert set(filled.tolist()) & set(tokenizer.special_ids) == ({tokenizer.special["mask"]} if "[MASK]" in text else set())


def test_names_of_special_tokens_are_ordinary_text_in_every_kind_of_model(tmp_path):
    """Also where the model has them in its vocabulary, and the file does not mark them as special."""
    from tokenizers import Tokenizer as Implementation
    from tokenizers import models, pre_tokenizers

    vocabulary = {token: i for i, token in enumerate([*SPECIAL, "a", "[", "CLS]", "SEP]"])}
    for marked in (SPECIAL, []):
        tokenizer = Implementation(models.WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.add_special_tokens(list(marked))
        tokenizer.save(str(tmp_path / "t.json"))
        loaded = Tokenizer.load(str(tmp_path / "t.json"))
        assert [loaded.token(i) for i in loaded.encode(["a [CLS] a"])[0][0]] == ["a", "[", "CLS]", "a"]
        assert [loaded.token(i) for i in loaded.encode_masked(["a [MASK] [SEP]"])[0][0]] == ["a", "[MASK]", "[", "SEP]"]


@pytest.mark.parametrize("kind", KINDS)
def test_encoding_does_not_depend_on_the_chunk_size(trained, kind, monkeypatch):
    whole = trained(kind).encode(["", *TEXTS])
    monkeypatch.setattr("data.text.tokenizer.CHUNK", 3)
    for (ids, words), (chunk_ids, chunk_words) in zip(whole, trained(kind).encode(["", *TEXTS]), strict=True):
        np.testing.assert_array_equal(ids, chunk_ids)
        np.testing.assert_array_equal(words, chunk_words)
    assert len(whole[0][0]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_saved_tokenizer_can_be_loaded(trained, kind, tmp_path):
    tokenizer = trained(kind)
    (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.json), indent=7), "utf-8")
    loaded = Tokenizer.load(str(tmp_path / "tokenizer.json"))
    assert (
        loaded.hash == tokenizer.hash
        and len(loaded.hash) == 16
        and loaded.encode(TEXTS[:1])[0][0].tolist() == tokenizer.encode(TEXTS[:1])[0][0].tolist()
    )
    assert loaded.hash != trained("bpe" if kind == "wordpiece" else "wordpiece").hash


def test_truncation_and_padding_settings_of_a_file_are_ignored(trained, tmp_path):
    published = trained("wordpiece").implementation.from_str(trained("wordpiece").json)
    published.enable_truncation(4)
    published.enable_padding(length=100)
    published.save(str(tmp_path / "t.json"))
    for (ids, _), (expected, _) in zip(
        Tokenizer.load(str(tmp_path / "t.json")).encode(TEXTS), trained("wordpiece").encode(TEXTS), strict=True
    ):
        np.testing.assert_array_equal(ids, expected)


BERT = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "zurich", "un", "##able", ",", "the"]


@pytest.mark.parametrize(
    ("more", "text", "expected"), [([], "The Zürich", [10, 6]), (["The"], "The zurich unable", [11, 6, 7, 8])]
)
def test_bert_vocabulary_is_cased_if_it_has_capitals(tmp_path, more, text, expected):
    (tmp_path / "vocab.txt").write_text("\n".join([*BERT, *more, ""]), "utf-8")
    tokenizer = Tokenizer.load(str(tmp_path / "vocab.txt"))
    assert tokenizer.encode([text])[0][0].tolist() == expected
    assert tokenizer.special == {"pad": 0, "unknown": 2, "cls": 3, "sep": 4, "mask": 5}
    assert tokenizer.random_ids == (6, len(BERT) + len(more)), "the longest range without a special token"


@pytest.mark.parametrize(
    ("more", "text", "expected"),
    [
        (["f\u00fcr", "m\u00f6chte"], "F\u00fcr m\u00f6chte Zurich", ["f\u00fcr", "m\u00f6chte", "zurich"]),
        (["F\u00fcr"], "F\u00fcr un", ["F\u00fcr", "un"]),
        (["stra\u00dfe"], "Stra\u00dfe Z\u00fcrich", ["stra\u00dfe", "zurich"]),
    ],
    ids=["uncased with accents", "cased with accents", "uncased without accents"],
)
def test_bert_vocabulary_keeps_accents_if_it_has_accents(tmp_path, more, text, expected):
    (tmp_path / "vocab.txt").write_text("\n".join([*BERT, *more]), "utf-8")
    tokenizer = Tokenizer.load(str(tmp_path / "vocab.txt"))
    assert [tokenizer.token(i) for i in tokenizer.encode([text])[0][0]] == expected


def roberta(folder, names):
    """Save a byte-level BPE with special tokens `names`, the mask being the last token, and return its path."""
    from tokenizers import Tokenizer as Implementation
    from tokenizers import decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    first, last = [name for name in names if "mask" not in name.lower()], [name for name in names if "mask" in name.lower()]
    tokenizer = Implementation(models.BPE({token: i for i, token in enumerate((*first, *letters, *last))}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(names)
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


def test_special_tokens_are_found_by_their_aliases(tmp_path):
    tokenizer = Tokenizer.load(roberta(tmp_path, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]))
    assert tokenizer.special == {"cls": 0, "pad": 1, "sep": 2, "unknown": 3, "mask": 260} and tokenizer.random_ids == (4, 260)
    for text in ("a b<mask>", "a b [MASK]"):
        ids, words = tokenizer.encode_masked([text])[0]
        assert words.tolist() == [0, 1, 1, -1] and ids[-1] == 260


def test_words_are_found_by_end_of_word_suffixes(tmp_path):
    """As in CLIP's tokenizer."""
    from tokenizers import Tokenizer as Implementation
    from tokenizers import models, pre_tokenizers

    tokens = ["<s>", "</s>", "<mask>", "<pad>", "<unk>", "a", "b", "a</w>", "b</w>"]
    bpe = models.BPE({token: i for i, token in enumerate(tokens)}, [], end_of_word_suffix="</w>")
    tokenizer = Implementation(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(tokens[:5])
    tokenizer.save(str(tmp_path / "t.json"))
    ids, words = Tokenizer.load(str(tmp_path / "t.json")).encode_masked(["ab a <mask> ba"])[0]
    assert [tokens[i] for i in ids] == ["a", "b</w>", "a</w>", "<mask>", "b", "a</w>"] and words.tolist() == [0, 0, 1, -1, 2, 2]


def test_missing_special_tokens_are_reported(tmp_path):
    with pytest.raises(DataError, match=r"tokenizer.json lacks the special token\(s\) \[CLS\], \[MASK\] and their aliases"):
        Tokenizer.load(roberta(tmp_path, ["<pad>", "</s>", "<unk>"]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.json", None, "tokenizer .*none.json: No such file"),
        ("t.bin", "", "name must end in .json"),
        ("t.json", "{}", "t.json is not a tokenizer.json: "),
        ("vocab.txt", "[PAD]\na\n[PAD]\n", "vocab.txt is not a BERT vocab.txt: lines 1 and 3 are both"),
        ("vocab.txt", "[PAD]\n\na", "line 2 is empty"),
        ("vocab.txt", "a\nb\n[UNK]\n", r"vocab.txt lacks the special token\(s\) \[PAD\], \[CLS\], \[SEP\], \[MASK\]"),
    ],
)
def test_invalid_tokenizer_files_are_reported(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as raised:
        Tokenizer.load(str(tmp_path / name))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"no protocol buffer"])
def test_invalid_sentencepiece_models_are_reported(tmp_path, content):
    pytest.importorskip("sentencepiece", reason="the extra sentencepiece is not installed")
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(DataError, match=r"spiece.model is not a SentencePiece model: \w"):
        Tokenizer.load(str(tmp_path / "spiece.model"))


@pytest.mark.parametrize("kind", KINDS)
def test_vocab_size_too_small_for_the_characters_is_reported(trained, kind):
    trained(kind)
    with pytest.raises(DataError, match=rf"vocab_size must be at least \d+ for {kind}, .*, not 12") as raised:
        Tokenizer.train(TEXTS, 12, kind)
    least = int(str(raised.value).split()[5])
    assert Tokenizer.train(TEXTS, least, kind).vocab_size <= least


def test_unpaired_surrogate_is_reported(trained):
    with pytest.raises(DataError, match=r"text 'a\\ud800' has an unpaired surrogate"):
        trained("bpe").encode(["fine", "a\ud800"])


def test_missing_sentencepiece_is_reported_with_the_install_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    monkeypatch.setitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", None)
    (tmp_path / "spiece.model").write_bytes(b"")
    for attempt in (lambda: Tokenizer.load(str(tmp_path / "spiece.model")), lambda: Tokenizer.train(TEXTS, 400, "unigram")):
        with pytest.raises(DataError, match=r"pip install 'fmodels\[sentencepiece\]'"):
            attempt()


@pytest.mark.parametrize("fields", [{}, {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}])
@pytest.mark.parametrize("kind", ["unigram", "bpe", "bytes"])
def test_converted_sentencepiece_model_gives_the_same_ids(tmp_path, kind, fields):
    library = pytest.importorskip("sentencepiece", reason="the extra sentencepiece is not installed")
    written, has_bytes = io.BytesIO(), kind == "bytes"
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=written, vocab_size=400, model_type="bpe" if has_bytes else kind,
        byte_fallback=has_bytes, hard_vocab_limit=False, pad_id=3, control_symbols=["<mask>"], minloglevel=2, **fields,
    )  # fmt: skip
    (tmp_path / "spiece.model").write_bytes(written.getvalue())
    original = library.SentencePieceProcessor(model_proto=written.getvalue())
    tokenizer = Tokenizer.load(str(tmp_path / "spiece.model"))
    assert tokenizer.vocab_size == original.get_piece_size()
    assert tokenizer.special == {"unknown": 0, "cls": 1, "sep": 2, "pad": 3, "mask": 4}
    texts = [
        *TEXTS,
        "unheard-of: WORDS!",
        "word1 <s> </s><mask> text <pad>it",
        "\ufb01ne \uff37ide\tword1 ",
        "日本 語 word2",
        "",
        *(CORPUS.read_text().split("\n\n")[:500] if CORPUS.is_file() else []),
    ]
    for text, (ids, words) in zip(texts, tokenizer.encode(texts), strict=True):
        assert ids.tolist() == original.encode(text), text
        if not fields:
            assert 0 in ids or text_of(tokenizer, ids) == original.decode(ids.tolist())
            assert len(words) == 0 or words.max() + 1 == len(text.split())


@needs_corpus
@pytest.mark.parametrize("kind", KINDS)
def test_a_corpus_is_encoded_without_unknown_tokens(trained, kind):
    trained(kind)
    texts = [text for text in CORPUS.read_text("utf-8").split("\n\n") if text]
    tokenizer = Tokenizer.train(texts, 1000, kind)
    assert tokenizer.vocab_size == 1000
    encoded = tokenizer.encode(texts)
    assert all((ids != tokenizer.special["unknown"]).all() and (words >= 0).all() for ids, words in encoded)
    if kind == "bpe":
        assert [text_of(tokenizer, ids) for ids, _ in encoded] == texts
    if kind == "unigram":
        assert [words.max() + 1 for _, words in encoded] == [len(text.split()) for text in texts]
