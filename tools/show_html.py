"""`llmc show` as one page that works offline: nested tables, a filter box, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .describe import Description, NodeRow, Part
from .terminal import big, bytes_text, count

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; font: 14px/1.45 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { margin: 0; font-size: 1.6rem; } p.summary { margin: .2rem 0 1.2rem; opacity: .75; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .6rem; margin: 0 0 1rem; }
dl div { border: 1px solid #8885; border-radius: 6px; padding: .5rem .8rem; }
dt { opacity: .7; } dd { margin: 0; font-weight: 600; }
details { border: 1px solid #8885; border-radius: 6px; margin: .6rem 0; padding: .4rem .8rem; overflow-x: auto; }
summary { cursor: pointer; font-weight: 600; } summary span { font-weight: 400; opacity: .75; margin-left: .8rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
th, td { text-align: left; padding: .15rem .7rem .15rem 0; white-space: nowrap; border-top: 1px solid #8883; }
th { border: 0; opacity: .7; font-weight: 500; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
code { font: 12.5px ui-monospace, monospace; }
input { font: inherit; padding: .3rem .6rem; width: 20rem; max-width: 100%; }
"""
_SCRIPT = """
document.getElementById('filter').addEventListener('input', event => {
  const wanted = event.target.value.toLowerCase();
  for (const row of document.querySelectorAll('tr[data-text]'))
    row.hidden = !row.dataset.text.includes(wanted);
});
"""


def html(found: Description) -> str:
    """The page. Every text from the spec is escaped; a policy in its head forbids all but its own style and script."""
    facts = {
        "parameters": count(found.parameters),
        "FLOPs per token": big(found.flops),
        "context": f"{count(found.context)} tokens",
        "state at full context": f"{bytes_text(found.state_bytes)} in float32",
    }
    cards = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    params = _rows([[name, str(value)] for name, value in found.params.items()])
    parts = "\n".join(_part(part) for part in found.parts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(found.name)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(found.name)}</h1>
<p class="summary">{escape(found.summary)}</p>
<dl>{cards}</dl>
<p><input id="filter" type="search" placeholder="filter nodes" aria-label="filter nodes"></p>
{parts}
<details><summary>params</summary><table>{params}</table></details>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _part(part: Part) -> str:
    times = len(part.instances)
    cost = f"{count(sum(node.parameters for node in part.nodes))} parameters{f' x{times}' if times > 1 else ''}"
    head = "".join(
        f"<th>{name}</th>"
        for name in ("node", "op", "inputs", "fields", "type", "parameters", "FLOPs", "state", "line")
    )
    rows = "\n".join(_node(node) for node in part.nodes)
    title = f"{escape(part.name)}<span>{escape(part.label)}</span><span>{escape(cost)}</span>"
    return f"<details open><summary>{title}</summary>\n<table><tr>{head}</tr>\n{rows}</table></details>"


def _node(node: NodeRow) -> str:
    fields = ", ".join(f"{name}={value}" for name, value in node.fields.items())
    numbers = (count(node.parameters) if node.parameters else "", big(node.flops) if node.flops else "")
    state = f"{node.state} {bytes_text(node.state_bytes)}" if node.state else ""
    cells = [
        f"<td><code>{escape(text)}</code></td>"
        for text in (node.path, node.op, ", ".join(node.inputs), fields, node.type)
    ]
    cells += [f'<td class="n">{escape(text)}</td>' for text in numbers]
    cells += [f"<td>{escape(text)}</td>" for text in (state, node.place)]
    return f'<tr data-text="{escape(f"{node.path} {node.op} {fields}".lower())}">{"".join(cells)}</tr>'


def _rows(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(
        "<tr>" + "".join(f"<td><code>{escape(cell)}</code></td>" for cell in row) + "</tr>" for row in rows
    )
