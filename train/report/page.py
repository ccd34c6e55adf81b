"""The pieces of a report, as HTML without scripts and external resources.

Each function returns a piece of HTML; `page` assembles the pieces. `objective.sections` builds its sections with the same
functions, so that all sections look alike. Colours of figures are CSS variables, so they follow the reader's light or dark theme.
"""

import base64
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from train.parts import Rendering
from train.report.curves import CHANCE_LOOK, THEME, number, svg
from train.runs.progress import distinct

TEXT_SHOWN = 480  # characters of a passage


def page(title: str, summary: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return a complete page. `sections` are (title, HTML). `title`, `summary` and the section titles are plain text."""
    links = "".join(f'<a href="#section-{i}">{escape(name)}</a>' for i, (name, _) in enumerate(sections))
    body = "\n".join(
        f'<section id="section-{i}" aria-labelledby="title-{i}"><h2 id="title-{i}">{escape(name)}</h2>\n{html}\n</section>'
        for i, (name, html) in enumerate(sections)
    )
    light, dark = (";".join(f"--{name}:{pair[i]}" for name, pair in THEME.items()) for i in (0, 1))
    style = f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n{CSS}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p>{escape(summary)}</p><nav>{links}</nav></header>
<main>
{body}
</main>
</body>
</html>
"""


def headline(result: Mapping[str, Any]) -> str:
    """Show the scalars of a result in large type, without copies of the loss."""
    tiles = (f"<div><dt>{escape(name)}</dt><dd>{number(value)}</dd></div>" for name, value in distinct(result).items())
    return f'<dl class="headline">{"".join(tiles)}</dl>'


def facts(values: Mapping[str, str]) -> str:
    """Return a list of names and texts."""
    lines = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="about">{lines}</dl>'


def warning(text: str) -> str:
    return f'<p class="warning">{escape(text)}</p>'


def beside(*pieces: str) -> str:
    """Place pieces side by side if the screen is wide enough."""
    return f'<div class="beside">{"".join(pieces)}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], emphasised: int | None = None) -> str:
    """Return a table. The first column labels the rows; columns of numbers, also of formatted ones, are aligned right."""
    numeric = [j > 0 and all(_isnumber(row[j]) for row in rows) for j in range(len(header))]
    mark = [' class="n"' if n else "" for n in numeric]
    head = "".join(f'<th scope="col"{mark[j]}>{escape(name)}</th>' for j, name in enumerate(header))
    body = []
    for i, row in enumerate(rows):
        first, *rest = (escape(cell) if isinstance(cell, str) else number(cell) for cell in row)
        cells = "".join(f"<td{m}>{cell}</td>" for m, cell in zip(mark[1:], rest, strict=True))
        best = ' class="best"' if i == emphasised else ""
        body.append(f'<tr{best}><th scope="row">{first}</th>{cells}</tr>')
    return _scroll(f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>", ", ".join(header))


def confusion(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Return a heat map of counts [labels, predictions]. The colour of a cell shows its share of the row."""
    labels = _named(labels, len(matrix))
    head = "".join(f'<th scope="col"><span>{escape(label)}</span></th>' for label in labels)
    body = []
    for i, (label, counts) in enumerate(zip(labels, matrix, strict=True)):
        cells = []
        for j, count in enumerate(counts):
            depth = 0.15 + 0.85 * math.sqrt(count / max(sum(counts), 1))  # so that rare errors are visible
            kind = ("hit" if i == j else "miss") + (" deep" if depth > 0.75 else "") if count else "none"
            cells.append(f'<td class="{kind}" style="--depth:{depth:.0%}">{count}</td>')
        body.append(f'<tr><th scope="row">{escape(label)}</th>{"".join(cells)}</tr>')
    kind = "heat long" if max(map(len, labels)) > 3 else "heat"
    heat = f'<table class="{kind}"><thead><tr><td class="corner"></td>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    total, right = sum(map(sum, matrix)), sum(row[i] for i, row in enumerate(matrix))
    key = '<b class="key hit deep">right</b> <b class="key miss deep">wrong</b>'
    caption = f"{right:,} of {total:,} right. Rows: labels. Columns: predictions. Darker: larger share of the row. {key}"
    return f"<figure>{_scroll(heat, 'confusion matrix')}<figcaption>{caption}</figcaption></figure>"


def reliability(rows: Sequence[tuple[float, float, int]], caption: str) -> str:
    """Return the reliability diagram of (mean confidence, accuracy, count) of ranges of confidence, beside its table."""

    def draw(axes: Any) -> None:
        confidence, accuracy, counts = zip(*rows, strict=True)
        axes.plot([0, 1], [0, 1], **CHANCE_LOOK)
        axes.plot(confidence, accuracy, color=THEME["c0"][0], linewidth=1.2)
        area = 6 + 80 * np.array(counts) / max(counts)
        axes.scatter(confidence, accuracy, s=area, color=THEME["c0"][0], zorder=3, clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set_xlabel("confidence", loc="right")
        axes.set_title("accuracy", loc="left")

    described = "; ".join(f"{number(c)}: {number(a)} of {n:,} rows" for c, a, n in rows)
    drawing = svg(draw, f"accuracy by confidence. {described}", (3.4, 3.4))
    listed = table(("confidence", "accuracy", "rows"), [(f"{c:.3f}", f"{a:.3f}", f"{n:,}") for c, a, n in rows])
    figure = f'<div class="panels" style="--columns:1">{drawing}</div>'
    return beside(f'<figure class="square">{figure}<figcaption>{escape(caption)}</figcaption></figure>', listed)


def predictions(rows: Sequence[tuple[Any, Rendering]], caption: str = "") -> str:
    """Return a card for each row: the example (a text, or an image [H, W, 1 or 3]) and its rendered prediction.

    The default caption counts the right ones.
    """
    cards = []
    for shown, rendering in rows:
        lines = [f"<span>{escape(line.strip())}</span>" for line in rendering.lines]
        kind = {True: "right", False: "wrong", None: ""}[rendering.is_right]
        if kind:
            lines.insert(0, f'<span class="verdict">{"✓" if rendering.is_right else "✗"} {kind}</span>')
        example = _image(shown) if isinstance(shown, np.ndarray) else _passage(str(shown))
        long = " long" * any(len(line) > 40 for line in rendering.lines)
        cards.append(f'<li class="{kind}">{example}<p class="facts{long}">{"".join(lines)}</p></li>')
    verdicts = [rendering.is_right for _, rendering in rows if rendering.is_right is not None]
    caption = caption or (f"{sum(verdicts)} of these {len(verdicts)} are right." if verdicts else "")
    figcaption = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    kind = "images" if rows and isinstance(rows[0][0], np.ndarray) else "texts"
    return f'<figure><ul class="cards {kind}">{"".join(cards)}</ul>{figcaption}</figure>'


def details(experiment_json: Mapping[str, Any], environment_json: Mapping[str, Any]) -> str:
    """Return both files as folded tables, one line per value, named as on the command line."""
    folded = []
    for name, values in (("experiment.json", experiment_json), ("environment.json", environment_json)):
        lines = "".join(f'<tr><th scope="row">{escape(key)}</th><td>{escape(value)}</td></tr>' for key, value in _flat(values))
        table = f'<table class="settings"><tbody>{lines}</tbody></table>'
        folded.append(f"<details><summary>{name}</summary>{table}</details>" if lines else "")
    return "".join(folded)


def folded(file: Path) -> str:
    """Return a folded text file."""
    text = _scroll(f"<pre>{escape(file.read_text('utf-8'))}</pre>", file.name)
    return f"<details><summary>{escape(file.name)}</summary>{text}</details>"


def _isnumber(cell: Any) -> bool:
    return not isinstance(cell, str) or bool(re.match(r"[+-]?[\d.,]*\d|-?$", cell))


def _named(labels: Sequence[Any], count: int) -> list[str]:
    if labels and len(labels) != count:
        raise ValueError(f"{len(labels)} labels for {count} classes")
    return [str(label) for label in labels or range(count)]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif name:
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _scroll(html: str, name: str) -> str:
    return f'<div class="scroll" role="region" aria-label="{escape(name)}" tabindex="0">{html}</div>'


def _passage(text: str) -> str:
    shown = text if len(text) <= TEXT_SHOWN else text[:TEXT_SHOWN].rsplit(maxsplit=1)[0]
    rest = f' <span class="muted">[… {len(text) - len(shown):,} more characters]</span>' if shown != text else ""
    return f"<blockquote>{escape(shown)}{rest}</blockquote>"


def _image(pixels: Any) -> str:
    from matplotlib.image import imsave

    array = np.asarray(pixels, np.float32)
    low, high = min(0.0, float(array.min())), float(array.max())
    grey = (array - low) / max(high - low, 1e-9)
    written = io.BytesIO()
    imsave(written, np.broadcast_to(grey, (*array.shape[:2], 3)), format="png")
    data = base64.b64encode(written.getvalue()).decode()
    alt = f"image of {array.shape[0]} by {array.shape[1]} pixels"
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'


CSS = """
*{box-sizing:border-box}
body{margin:0 auto;max-width:64rem;padding:2.5rem 1.25rem 4rem;background:var(--paper);color:var(--ink);font:1rem/1.55 system-ui,
  -apple-system,"Segoe UI",Roboto,sans-serif;font-variant-numeric:tabular-nums;-webkit-text-size-adjust:100%}
h1{margin:0;font-size:2rem;line-height:1.2;letter-spacing:-.02em;overflow-wrap:anywhere}h2{margin:0 0 1rem;font-size:1.2rem}
header p{margin:.35rem 0 0;color:var(--muted)}section{padding-top:2.25rem}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin-top:1.25rem;padding:.6rem 0;border:solid var(--line);border-width:1px 0;
  font-size:.9rem}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
figure{margin:0}figcaption,.muted{color:var(--muted)}figcaption{margin-top:.75rem;font-size:.9rem}
ul{list-style:none;margin:0;padding:0}
.headline div,.panels svg,.cards li,details{background:var(--card);border:1px solid var(--line);border-radius:.6rem}
.headline{display:flex;flex-wrap:wrap;gap:.75rem;margin:0}.headline div{flex:1 1 8rem;padding:.8rem 1rem}
dt{font-size:.85rem;color:var(--muted)}dd{margin:0;font-size:1.5rem;font-weight:600;line-height:1.3}
.about{flex:1 1 22rem;margin:0;font-size:.92rem}.about div{display:flex;gap:1rem;padding:.15rem 0}
.about dt{flex:0 0 6rem;font-size:inherit}.about dd{font-size:inherit;font-weight:400;line-height:inherit;overflow-wrap:anywhere}
.warning{margin:0 0 1rem;padding:.6rem 1rem;border-left:4px solid var(--wrong);background:var(--card);border-radius:.3rem}
.keys{display:flex;flex-wrap:wrap;gap:.25rem 1.5rem;margin-bottom:.75rem;font-size:.9rem}.swatch{margin-right:.5rem;fill:none}
.panels{display:grid;grid-template-columns:repeat(var(--columns),minmax(0,1fr));gap:1rem}
.panels svg{display:block;width:100%;height:auto;padding:.5rem;stroke-linejoin:round}.panels text{font-family:inherit!important}
.square{width:24rem}.scroll{overflow-x:auto}.beside{display:flex;flex-wrap:wrap;gap:2rem 3rem;align-items:flex-start}
.beside>*{min-width:0;max-width:100%}.beside figcaption{width:0;min-width:max(100%,17rem)}
table{border-collapse:collapse;font-size:.92rem}
th,td{padding:.45rem .8rem;text-align:left;border-bottom:1px solid var(--line)}
thead th{color:var(--muted);font-weight:500;vertical-align:bottom}tbody th{font-weight:500}.n{text-align:right;white-space:nowrap}
.best>*{font-weight:700;background:var(--card)}.best>:first-child{box-shadow:inset 3px 0 var(--c0)}
.heat th,.heat td{border:0}.heat thead th{padding:.3rem .4rem;text-align:center}
.heat tbody th{padding-left:0;text-align:right;white-space:nowrap}
.heat td{min-width:2.6rem;padding:.5rem .3rem;text-align:center;border:2px solid var(--paper);border-radius:.4rem}
.heat .corner{min-width:0}.long thead span{writing-mode:vertical-rl;transform:rotate(180deg)}
.hit{background:color-mix(in srgb,var(--hit) var(--depth,100%),var(--card))}
.miss{background:color-mix(in srgb,var(--miss) var(--depth,100%),var(--card))}
.deep{color:#fff}.none{color:var(--muted);background:var(--card)}.key{padding:.1rem .5rem;border-radius:.3rem;font-weight:500}
.cards{display:grid;gap:.75rem}.cards li{padding:.9rem 1rem;border-left-width:4px}
.cards .right{border-left-color:var(--right)}.cards .wrong{border-left-color:var(--wrong)}
.images{grid-template-columns:repeat(auto-fill,minmax(10rem,1fr))}
.images img{display:block;width:100%;max-width:7rem;margin-bottom:.6rem;border-radius:.3rem;image-rendering:pixelated}
blockquote{margin:0 0 .6rem;overflow-wrap:anywhere;white-space:pre-line}
.facts{display:flex;flex-wrap:wrap;gap:.1rem 1.25rem;margin:0;font-size:.9rem}.facts.long{flex-direction:column}
.right .verdict{color:var(--right)}.wrong .verdict{color:var(--wrong)}.verdict{font-weight:700}
details{margin-bottom:.6rem;padding:.6rem 1rem}summary{cursor:pointer;font-weight:500}
.settings{width:100%;margin-top:.6rem;font-size:.85rem}.settings tr:last-child>*{border:0}
.settings th{width:45%;color:var(--muted)}
.settings th,.settings td{padding:.25rem .5rem .25rem 0;vertical-align:top;overflow-wrap:anywhere}
@media (max-width:48rem){.panels{grid-template-columns:minmax(0,1fr)}}
@media (max-width:30rem){body{padding:1.5rem .9rem 3rem}h1{font-size:1.6rem}th,td{padding:.4rem .5rem}
  .settings th,.settings td{display:block;width:auto}.settings th{border:0;padding-bottom:0}
  .heat td{min-width:1.9rem;padding:.35rem .1rem}.images{grid-template-columns:1fr 1fr}}
@media print{.cards li,svg{break-inside:avoid}}
"""
