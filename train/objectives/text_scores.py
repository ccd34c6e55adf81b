"""Scores of generated texts against references, 0 to 100, by the libraries of the field."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

Score = Literal["bleu", "chrf", "rouge1", "rouge2", "rougeL"]
Texts = Sequence[str]


def bleu(texts: Texts, references: Texts) -> float:
    """Return sacreBLEU (Papineni et al. 2002; Post 2018), with its default tokenization, 13a."""
    import sacrebleu

    return sacrebleu.corpus_bleu(texts, [references]).score


def chrf(texts: Texts, references: Texts) -> float:
    """Return chrF2 (Popović 2015) of sacreBLEU."""
    import sacrebleu

    return sacrebleu.corpus_chrf(texts, [references]).score


def rouge(kind: str) -> Callable[[Texts, Texts], float]:
    """Return the mean F1 of a ROUGE (Lin 2004), with stemming, as in the published figures of summarization."""

    def score(texts: Texts, references: Texts) -> float:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([kind], use_stemmer=True)
        found = [scorer.score(reference, text)[kind].fmeasure for text, reference in zip(texts, references, strict=True)]
        return 100 * sum(found) / len(found)

    return score


SCORES: Mapping[str, Callable[[Texts, Texts], float]] = {
    "bleu": bleu,
    "chrf": chrf,
    **{name: rouge(name) for name in ("rouge1", "rouge2", "rougeL")},
}


def scores(names: Collection[str], texts: Texts, references: Texts) -> dict[str, float]:
    return {name: SCORES[name](texts, references) for name in names}
