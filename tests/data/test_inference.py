"""The config that fits the fields of a source."""

import json

import pytest

from data.errors import DataError
from data.inference import config_for
from data.text.labelled import LabelledText
from data.text.language_modelling import Text
from data.text.multi_labelled import MultiLabelledText
from data.text.related import RelatedTexts
from data.text.scored import ScoredText
from data.text.sentence_pairs import SentencePairs

KINDS = {
    "text": (Text, None),
    "text label": (LabelledText, None),
    "text second label": (SentencePairs, None),
    "text second": (RelatedTexts, None),
    "text labels": (MultiLabelledText, False),
    "text second labels": (MultiLabelledText, True),
    "text score": (ScoredText, False),
    "text second score": (ScoredText, True),
}


@pytest.mark.parametrize(("fields", "kind", "pairs"), [(fields, *kind) for fields, kind in KINDS.items()])
def test_the_fields_of_the_first_row_choose_the_config(tmp_path, fields, kind, pairs):
    names, mapped = fields.split(), ",".join(f"{name}=my {name}" for name in fields.split())
    (tmp_path / "own.jsonl").write_text(json.dumps(dict.fromkeys(names, "1")))
    (tmp_path / "mapped.jsonl").write_text(json.dumps({f"my {name}": "1" for name in names}))
    for config in (config_for(f"files:{tmp_path}/own.jsonl"), config_for(f"files:{tmp_path}/mapped.jsonl", mapped)):
        assert type(config) is kind and getattr(config, "pairs", None) == pairs


def test_a_mapped_field_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("FMODELS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n' * 3)
    with pytest.raises(DataError, match="no field 'other'; available: text, label"):
        config_for(f"files:{tmp_path}/rows.jsonl", "second=other").build()
