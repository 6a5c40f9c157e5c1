"""Draws the pictures of how-it-works.md, for light and dark pages: `python docs/pictures.py`."""

from pathlib import Path

FOLDER = Path(__file__).parent / "pictures"

#: classes of shapes, with their colours in light and in dark
STYLE = """\
.paper { fill: #ffffff; }
text { fill: #1f2328; font: 13px system-ui, sans-serif; }
.small { font-size: 12px; fill: #57606a; }
.strong { font-weight: 600; }
.line { stroke: #57606a; fill: none; }
.tip { fill: #57606a; }
.yours { fill: #d7f0dd; stroke: #2c7a45; }
.kernel { fill: #fbdcc4; stroke: #b4540a; }
.held { fill: #d9e8fb; stroke: #2f6db5; }
.quiet { fill: #eaeef2; stroke: #6e7781; }
@media (prefers-color-scheme: dark) {
  .paper { fill: #131416; }
  text { fill: #e6edf3; }
  .small { fill: #a3acb5; }
  .line { stroke: #a3acb5; }
  .tip { fill: #a3acb5; }
  .yours { fill: #173d24; stroke: #4cae6b; }
  .kernel { fill: #4d2a10; stroke: #e58a3e; }
  .held { fill: #16324f; stroke: #5ea0e6; }
  .quiet { fill: #2a3037; stroke: #8b949e; }
}
"""


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> str:
    """Words, around a point or from it on."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{f" class={kind!r}" if kind else ""}>{words}</text>'


def box(x: float, y: float, width: float, height: float, kind: str, *lines: str) -> str:
    """A box with lines of words; the first one is strong."""
    top = y + height / 2 + 4.5 - 8.5 * (len(lines) - 1)
    words = [
        text(x + width / 2, top + 17 * i, line, "small" if i else "strong") for i, line in enumerate(lines)
    ]
    shape = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" class="{kind}"/>'
    return "\n".join([shape, *words])


def arrow(path: str) -> str:
    """A line with a tip at its end."""
    return f'<path d="{path}" class="line" marker-end="url(#tip)"/>'


def line(path: str, dashed: bool = False) -> str:
    """A line."""
    return f'<path d="{path}" class="line"{" stroke-dasharray=" + repr("4 4") if dashed else ""}/>'


def completions() -> str:
    """Two completions, on a time line."""
    marks = {150: ("submit",), 330: ("completion", "IORING_CQE_F_MORE"), 610: ("notification", "F_NOTIF")}
    parts = [text(20, 64, "you", "strong", "start"), text(20, 224, "kernel", "strong", "start")]
    parts += [line("M90 60H740", dashed=True), line("M90 220H740", dashed=True)]
    parts += [arrow("M150 60V216"), arrow("M330 220V64"), arrow("M610 220V64")]
    parts += [text(x, 38 if len(words) == 1 else 22, words[0], "strong") for x, words in marks.items()]
    parts += [text(x, 40, words[1], "small") for x, words in marks.items() if len(words) > 1]
    parts += [
        box(90, 122, 60, 36, "yours", "yours"),
        box(152, 122, 456, 36, "kernel", "the kernel may read this memory: do not write to it"),
        box(612, 122, 128, 36, "yours", "yours again"),
        text(240, 244, "takes or refuses the bytes", "small"),
        text(472, 244, "queue, device, the peer's acknowledgement", "small"),
    ]
    return picture(760, 262, *parts)


def slots() -> str:
    """A slot, its notifiers, and what they post."""
    parts = [text(20, 62, "slot 0", "strong", "start"), text(20, 79, "tag 0xA", "small", "start")]
    parts += [
        box(100, 34, 290, 108, "quiet"),
        text(245, 55, "notifier, sequence 0", "strong"),
        *(box(114 + 90 * i, 74, 82, 52, "kernel", f"send {i + 1}", "in flight") for i in range(3)),
        box(440, 34, 200, 108, "quiet"),
        text(540, 55, "notifier, sequence 1", "strong"),
        *(box(454 + 90 * i, 74, 82, 52, "kernel", f"send {i + 4}", "in flight") for i in range(2)),
        text(415, 26, "flush(0)", "strong"),
        line("M415 34V142", dashed=True),
        text(665, 26, "flush(0)", "strong"),
        line("M665 34V142", dashed=True),
        arrow("M245 142V188"),
        arrow("M540 142V188"),
        text(256, 170, "when all three are free", "small", "start"),
        text(551, 170, "when both are free", "small", "start"),
        box(100, 192, 290, 50, "yours", "one notification", "tag 0xA, sequence 0, 3 requests"),
        box(440, 192, 200, 50, "yours", "one notification", "tag 0xA, sequence 1, 2 requests"),
    ]
    return picture(760, 262, *parts)


def lifetime() -> str:
    """The states of memory that is sent."""
    parts = [
        box(20, 70, 130, 56, "yours", "yours", "write as you like"),
        box(230, 70, 130, 56, "held", "queued", "held by the library"),
        box(440, 70, 130, 56, "kernel", "in flight", "held by the library"),
        box(440, 190, 130, 56, "quiet", "parked", "held, with a warning"),
        arrow("M150 98H226"),
        text(188, 88, "send"),
        arrow("M360 98H436"),
        text(398, 88, "submit"),
        arrow("M505 70V40Q505 28 493 28H97Q85 28 85 40V66"),
        text(295, 20, "notification"),
        arrow("M505 126V186"),
        text(516, 152, "close(), and the kernel", "small", "start"),
        text(516, 168, "is not done in time", "small", "start"),
        arrow("M440 218H97Q85 218 85 206V130"),
        text(262, 210, "notification, later"),
    ]
    return picture(660, 262, *parts)


def picture(width: int, height: int, *parts: str) -> str:
    """The SVG."""
    size = 'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">',
        "<!-- drawn by docs/pictures.py -->",
        f"<style>\n{STYLE}</style>",
        f'<defs><marker id="tip" {size} orient="auto"><path d="M0 0L8 4L0 8z" class="tip"/></marker></defs>',
        f'<rect width="{width}" height="{height}" class="paper"/>',
        *parts,
        "</svg>\n",
    ]
    return "\n".join(lines)


DRAWN = {"completions.svg": completions, "slots.svg": slots, "lifetime.svg": lifetime}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in DRAWN.items():
        (FOLDER / name).write_text(draw())
