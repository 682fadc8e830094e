"""A comparison as one HTML file that needs nothing else, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from foretaste import __version__
from foretaste.bundle import atomic_write
from foretaste.evaluation.statistics import number
from foretaste.experiments.comparison import Comparison
from foretaste.experiments.conclusion import conclusion
from foretaste.experiments.report.sections import Cell, Section, sections

STYLE = """
:root { --paper: #fcfcfa; --ink: #22303c; --quiet: #68747e; --line: #a9b3bb; --rule: #e3e6e6;
  --accent: #b4501f; --wash: #f6ede6;
  --letters: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181c; --ink: #e3e7ea; --quiet: #98a4ae;
  --line: #65727d; --rule: #2b333a; --accent: #ea9466; --wash: #2a211c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3.5rem 1.5rem 5rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 var(--letters); font-variant-numeric: tabular-nums; }
h1 { font-size: 2rem; line-height: 1.2; font-weight: 650; margin: 0 0 1.25rem;
  letter-spacing: -0.015em; }
h2 { font-size: 1.25rem; line-height: 1.3; font-weight: 650; margin: 3.25rem 0 0.5rem; }
p { margin: 0 0 0.5rem; max-width: 44rem; }
.verdict p:first-of-type { font-size: 1.25rem; line-height: 1.45; margin-bottom: 0.9rem; }
.note, small, th { color: var(--quiet); font-size: 0.8125rem; font-weight: 400; }
.note { margin: 0.35rem 0 0; }
.scroll { overflow-x: auto; margin-top: 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: 0.45rem 0.9rem 0.45rem 0; text-align: right; vertical-align: baseline;
  border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child, .prose th, .prose td { text-align: left; }
th:last-child, td:last-child { padding-right: 0.5rem; }
th:first-child, td:first-child { padding-left: 0.5rem; }
.prose td { white-space: normal; font-size: 0.875rem; overflow-wrap: anywhere; min-width: 6rem; }
td small { display: block; }
td:first-child small { display: inline; margin-left: 0.4rem; }
tr.marked td { background: var(--wash); }
tr.marked td:first-child { color: var(--accent); font-weight: 600; }
.hit { color: var(--accent); font-weight: 600; }
figure { margin: 1rem 0 0; max-width: 46rem; }
svg { width: 100%; height: auto; display: block; }
footer { margin-top: 4rem; }
@media (max-width: 40rem) { body { padding: 2rem 1rem 3rem; } figure { margin-inline: -0.75rem; } }
@media print { body { padding: 0; max-width: none; font-size: 10.5pt; }
  h2, figure, tr { break-inside: avoid; } h2 { break-after: avoid; margin-top: 1.75rem; }
  .scroll { overflow: visible; } th, td { padding-right: 0.4rem; white-space: normal; } }
"""


def write_report(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write comparison.html, .md and .json; each is there as a whole or not at all."""
    found = sections(comparison)
    texts = {
        "comparison.html": html(found),
        "comparison.md": markdown(found),
        "comparison.json": json.dumps(summary(comparison), indent=1, allow_nan=False, default=str),
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        atomic_write(folder / name, text)
    return [folder / name for name in texts]


def summary(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON values: every number of the report."""
    return {
        "data": comparison.parts.train.name,
        "protocol": comparison.parts.protocol,
        "metric": comparison.metric,
        "conclusion": conclusion(comparison),
        "ceilings": {name: number(value) for name, value in comparison.ceilings.items()},
        "baselines": comparison.baselines,
        "models": {
            label: {
                "model": comparison.models[label].name,
                "fields": comparison.models[label].hyperparameters(),
                "metrics": {name: m.summary() for name, m in found.items()},
            }
            for label, found in comparison.values.items()
        },
        "pairs": comparison.pairs.to_dicts(),
        "segments": comparison.segments().to_dicts(),
        "variety": comparison.variety().to_dicts(),
        "costs": comparison.costs().to_dicts(),
        "seeds": comparison.seeds().to_dicts(),
        "cold": {
            f"new {kind}": {"protocol": cold.protocol, "rows": cold.frame().to_dicts()}
            for kind, cold in comparison.cold.items()
        },
        "not_cold": {f"new {kind}": list(why) for kind, why in comparison.not_cold.items()},
        "failed": dict(comparison.failed),
        "left_out": list(comparison.left_out),
    }


def html(found: Sequence[Section]) -> str:
    """One page: styles and drawings inside, nothing fetched, every text escaped."""
    title = escape(found[0].title)
    body = "\n".join(_section(section, first=n == 0) for n, section in enumerate(found))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n"
        f'<footer class="note">Made by foretaste {__version__}: foretaste compare.</footer>\n'
        "</body>\n</html>\n"
    )


def _section(section: Section, first: bool) -> str:
    level = "h1" if first else "h2"
    lines = ['<section class="verdict">' if first else "<section>"]
    lines.append(f"<{level}>{escape(section.title)}</{level}>")
    lines += [f"<p>{escape(words)}</p>" for words in section.words]
    if section.rows:
        lines.append(_table(section))
    if section.picture:
        lines.append(f"<figure>{section.picture}</figure>")
    lines += [f'<p class="note">{escape(note)}</p>' for note in section.notes]
    return "\n".join([*lines, "</section>"])


def _table(section: Section) -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in section.header)
    rows = []
    for place, row in enumerate(section.rows):
        marked = ' class="marked"' if place in section.marked else ""
        cells = "".join(f"<td>{_cell(cell, section.prose)}</td>" for cell in row)
        rows.append(f"<tr{marked}>{cells}</tr>")
    kind = ' class="prose"' if section.prose else ""
    return (
        f'<div class="scroll"><table{kind}>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def _cell(cell: Cell, prose: bool) -> str:
    if isinstance(cell, str):
        return escape(cell)
    main, quiet = map(escape, cell)
    return f'<span class="hit">{main}</span>' if prose else f"{main}<small>{quiet}</small>"


def markdown(found: Sequence[Section]) -> str:
    """The same without the drawings."""
    lines = []
    for n, section in enumerate(found):
        if section.picture and not section.rows and not section.notes:
            continue
        lines += [f"{'#' * (1 if n == 0 else 2)} {_plain(section.title)}", ""]
        lines += [line for words in section.words for line in (_plain(words), "")]
        if section.rows:
            lines.append("| " + " | ".join(map(_plain, section.header)) + " |")
            lines.append(
                "|---" + ("|---" if section.prose else "|---:") * (len(section.header) - 1) + "|"
            )
            lines += [
                "| " + " | ".join(_words(c, section.prose) for c in r) + " |" for r in section.rows
            ]
            lines.append("")
        lines += [line for note in section.notes for line in (f"- {_plain(note)}",)]
        lines += [""] if section.notes else []
    return "\n".join(lines)


def _words(cell: Cell, prose: bool) -> str:
    if isinstance(cell, str):
        return _plain(cell)
    main, quiet = map(_plain, cell)
    return f"**{main}**" if prose else f"{main} ({quiet})"


def _plain(text: str) -> str:
    """Text of one line that Markdown takes for nothing but text."""
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
