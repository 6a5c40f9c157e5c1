"""Draws layers.svg, the layers of the library, from the imports and includes of its files.

    python docs/layers.py            writes docs/layers.svg

A box is a folder or a module, an arrow an import or an include. An arrow that follows from others is left
out. Dashed: C code that calls another layer through a table of functions (uzc_calls),
and does not include it.
"""

import ast
import graphlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "uringzc"
NATIVE = PACKAGE / "_native"
SVG = HERE / "layers.svg"

#: layers of C that each compiled module is entered through: what is called from Python
COMPILED = {"_send": {"_native/module.c"}, "_uring": {"_native/engines/", "_native/slots/"}}
#: runs at build time, or only hands over
LEFT_OUT = {"_build", "__main__"}

Graph = dict[str, set[str]]


class Layers(NamedTuple):
    """What stands on what: by imports and includes, and by calls through a table of functions."""

    arrows: Graph
    tables: Graph


def layers() -> Layers:
    """The layers as the files have them now."""
    arrows: Graph = {"_send": set(COMPILED["_send"]), "_uring": set(COMPILED["_uring"])}
    tables: Graph = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        layer = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if layer not in LEFT_OUT:
            arrows.setdefault(_python(layer), set()).update(map(_python, _imports(file)))
    for file in sorted(NATIVE.rglob("*.[ch]")):
        layer, code = _native(file), file.read_text()
        found = arrows.setdefault(layer, set())
        found.update(_native(NATIVE / name) for name in re.findall(r'^#include "(.+)"', code, re.MULTILINE))
        if "->calls->" in code:
            tables.setdefault(layer, set()).add("_native/engines/")
    for graph in (arrows, tables):
        for layer, below in graph.items():
            below.discard(layer)
    return Layers(arrows, tables)


def _python(layer: str) -> str:
    if layer == "__init__":
        return "uringzc (public names)"
    return f"{layer}/" if (PACKAGE / layer).is_dir() else layer if layer.startswith("_") else f"{layer}.py"


def _native(file: Path) -> str:
    inside = file.relative_to(NATIVE)
    if len(inside.parts) > 1:
        return f"_native/{inside.parts[0]}/"
    return "_native/uringzc.h" if inside.name in ("uringzc.h", "native.h") else "_native/module.c"


def _imports(file: Path) -> Iterator[str]:
    """The layers that a Python file imports, but for what only a type checker reads."""
    tree = ast.parse(file.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names if node not in for_types else []:
            top, _, rest = name.partition(".")
            if top == "uringzc":
                layer = rest.partition(".")[0]
                yield layer if list(PACKAGE.glob(f"{layer}*")) and layer else "__init__"


def needed(arrows: Graph) -> Graph:
    """Without the arrows that follow from others."""

    def below(layer: str) -> set[str]:
        return arrows.get(layer, set()).union(*map(below, arrows.get(layer, ())))

    return {layer: to - set().union(*map(below, to)) for layer, to in arrows.items()}


def ranks(arrows: Graph) -> dict[str, int]:
    """How high each layer stands: above all that it needs."""
    rank: dict[str, int] = {}
    for layer in graphlib.TopologicalSorter(arrows).static_order():
        rank[layer] = 1 + max((rank[to] for to in arrows.get(layer, ())), default=-1)
    return rank


class Drawing(NamedTuple):
    """Rows of boxes, the lowest first; and the way of each arrow, which has a place in the rows it passes."""

    rows: list[list[str]]
    ways: list[list[str]]
    near: dict[str, list[str]]  #: what a box or a place on a way is joined to

    def crossings(self) -> int:
        """How many pairs of lines cross, between neighbouring rows."""
        total = 0
        for upper, lower in zip(self.rows[1:], self.rows, strict=False):
            place = {name: index for index, name in enumerate(lower)}
            ends = [sorted(place[to] for to in self.near[name] if to in place) for name in upper]
            flat = [end for one in ends for end in one]
            total += sum(left > right for i, left in enumerate(flat) for right in flat[i + 1 :])
        return total

    def order(self) -> None:
        """Orders each row by the middle of its neighbours above, then below; keeps what crosses least."""
        best, fewest = [row[:] for row in self.rows], self.crossings()
        for turn in range(40):
            pairs = list(zip(self.rows, self.rows[1:], strict=False))
            for fixed, moved in pairs if turn % 2 else [(b, a) for a, b in reversed(pairs)]:
                place = {name: float(index) for index, name in enumerate(fixed)}
                old = {name: float(index) for index, name in enumerate(moved)}
                moved.sort(
                    key=lambda name: _mean([place[to] for to in self.near[name] if to in place], old[name])
                )
            if self.crossings() < fewest:
                best, fewest = [row[:] for row in self.rows], self.crossings()
        self.rows[:] = best

    def places(self, wide: dict[str, float]) -> dict[str, float]:
        """The middle of each box: near its neighbours, and beside the others of its row."""
        at = {name: 300.0 for row in self.rows for name in row}
        for _ in range(60):
            for row in self.rows:
                wanted = [_mean([at[to] for to in self.near[name]], at[name]) for name in row]
                for _ in range(len(row)):
                    for i in range(len(row) - 1):
                        missing = (wide[row[i]] + wide[row[i + 1]]) / 2 + GAP - (wanted[i + 1] - wanted[i])
                        if missing > 0:
                            wanted[i] -= missing / 2
                            wanted[i + 1] += missing / 2
                at.update(zip(row, wanted, strict=True))
        left = min(at[name] - wide[name] / 2 for name in at) - GAP
        return {name: x - left for name, x in at.items()}


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _lay_out(arrows: Graph, rank: dict[str, int]) -> Drawing:
    rows: list[list[str]] = [[] for _ in range(max(rank.values()) + 1)]
    for layer in sorted(rank):
        rows[rank[layer]].append(layer)
    ways = []
    for layer, below in sorted(arrows.items()):
        for to in sorted(below):
            points = [f"{layer}>{to}:{level}" for level in range(rank[to] + 1, rank[layer])]
            for level, point in enumerate(points, rank[to] + 1):
                rows[level].append(point)
            ways.append([to, *points, layer])
    near: dict[str, list[str]] = {name: [] for row in rows for name in row}
    for way in ways:
        for one, other in itertools.pairwise(way):
            near[one].append(other)
            near[other].append(one)
    return Drawing(rows, ways, near)


#: of each colour, what stands for it on dark pages
DARK = {
    "#fff": "#131416",
    "#567": "#a3acb5",
    "#fde8d0": "#4d2a10",
    "#e4e4e4": "#2a3037",
    "#d8e8f8": "#16324f",
}
ROW, GAP, HEIGHT, LETTER = 66, 26, 30, 7.6


def draw(found: Layers) -> str:
    """The SVG. CycleError, a ValueError, where layers stand on each other in a circle."""
    ranks(found.arrows)
    ground: set[str] = set()  #: modules that need nothing, or nothing but such
    for _ in found.arrows:
        ground |= {name for name, to in found.arrows.items() if name.endswith(".py") and to <= ground}
    arrows = needed({layer: to - ground for layer, to in found.arrows.items() if layer not in ground})
    rank = ranks(arrows)
    rows, ways, _ = drawing = _lay_out(arrows, rank)
    drawing.order()
    wide = {name: 4.0 if ">" in name else len(name) * LETTER + 22 for row in rows for name in row}
    at = {name: (x, 0.0) for name, x in drawing.places(wide).items()}
    width = max(x + wide[name] / 2 for name, (x, _) in at.items()) + GAP
    for level, row in enumerate(rows):
        for name in row:
            at[name] = (at[name][0], (len(rows) - 1 - level) * ROW + 24)
    bar = f"{', '.join(sorted(ground))}: for every layer"
    at[bar], wide[bar] = (width / 2, len(rows) * ROW + 10), width - 2 * GAP
    height = (len(rows) + 1) * ROW - 14
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="monospace" font-size="12">',
        "<!-- drawn by docs/layers.py -->",
        "<style>@media (prefers-color-scheme: dark) { text { fill: #e6edf3; }",
        *(f'[fill="{light}"] {{ fill: {dark}; }}' for light, dark in DARK.items()),
        f'[stroke="#567"] {{ stroke: {DARK["#567"]}; }}',
        '[stroke="#a40"] { stroke: #e58a3e; } }</style>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#567"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height}" fill="#fff"/>',
    ]
    for way in ways:
        points = [at[name] for name in reversed(way)]
        path = f"M{points[0][0]:.0f} {points[0][1] + HEIGHT / 2:.0f}"
        for (x, y), (to_x, to_y) in itertools.pairwise(points):
            middle = (y + to_y) / 2
            path += f"C{x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} {to_x:.0f} {to_y - HEIGHT / 2:.0f}"
            if (to_x, to_y) != points[-1]:
                path += f"L{to_x:.0f} {to_y + HEIGHT / 2:.0f}"
        lines.append(f'<path d="{path}" fill="none" stroke="#567" marker-end="url(#tip)"/>')
    for layer, below in sorted(found.tables.items()):
        for to in sorted(below - {layer}):
            (x, y), (to_x, to_y) = at[layer], at[to]
            side = 1 if to_x > x else -1
            start, end = x + side * wide[layer] / 2, to_x - side * wide[to] / 2
            lines.append(
                f'<path d="M{start:.0f} {y:.0f}L{end:.0f} {to_y:.0f}" fill="none" stroke="#a40" '
                'stroke-dasharray="5 4" marker-end="url(#tip)"/>'
            )
    native = {_native(file) for file in NATIVE.rglob("*.[ch]")}
    for name, (x, y) in sorted(at.items()):
        if ">" in name:
            continue
        fill = "#fde8d0" if name in native else "#e4e4e4" if name in COMPILED else "#d8e8f8"
        lines.append(
            f'<rect x="{x - wide[name] / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{wide[name]:.0f}" '
            f'height="{HEIGHT}" rx="5" fill="{fill}" stroke="#345"/>'
            f'<text x="{x:.0f}" y="{y + 4:.0f}" text-anchor="middle">{name}</text>'
        )
    return "\n".join([*lines, "</svg>\n"])


if __name__ == "__main__":
    SVG.write_text(draw(layers()))
