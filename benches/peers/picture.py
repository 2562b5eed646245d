"""The result as a picture: a bar for each competitor, a block for each figure, each block on a scale of its own.

Readable on light and dark pages: no background, and text in the page's scheme where the viewer tells it."""

from html import escape

from figures import shown

WIDTH, LABEL, BAR = 760, 210, 380
LINE, TITLE, GAP = 18, 20, 12
STYLE = """text{font:12px system-ui,sans-serif;fill:#24292f}.t{font-weight:600}.n{fill:#57606a}
.o{fill:#2da44e}.p{fill:#8c959f}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.n{fill:#9198a1}.o{fill:#3fb950}.p{fill:#6e7681}}"""


def block(it, top):
    """The lines of one figure, and where the next begins."""
    bars = [("ratoon", it["ratoon"], "o"), *((name, value, "p") for name, value in it["beside"])]
    bars = [bar for bar in bars if isinstance(bar[1], (int, float))]
    longest = max([value for _, value, _ in bars] + [1e-9])
    title = it["what"] + (f"; to reach: {it['reach']}" if it["reach"] else "")
    drawn = [f'<text class="t" x="0" y="{top + 14}">{escape(title)}</text>']
    top += TITLE
    for name, value, kind in bars:
        length = max(value / longest * BAR, 1)
        drawn.append(f'<text class="n" x="{LABEL - 8}" y="{top + 13}" text-anchor="end">{escape(name)}</text>')
        drawn.append(f'<rect class="{kind}" x="{LABEL}" y="{top + 3}" width="{length:.1f}" height="12" rx="2"/>')
        drawn.append(f'<text x="{LABEL + length + 6:.1f}" y="{top + 13}">{escape(shown(value, it["unit"]))}</text>')
        top += LINE
    return drawn, top + GAP


def draw(result):
    drawn, top = [], 4
    for it in result["figures"]:
        # Nothing beside it, nothing to see.
        if it["beside"]:
            lines, top = block(it, top)
            drawn += lines
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}" role="img">'
    title = "<title>Ratoon beside the machine's floor and its peers, in one run; shorter is better but for throughput</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *drawn, "</svg>", ""])
