"""C folders are layers: a file includes, and calls, only what stands below it; a header belongs to its .c."""

import runpy
from collections import Counter
from pathlib import Path

import pytest
from c_sources import Tree, folder, unit

from uringzc import _build

pytestmark = pytest.mark.engines()
ROOT = Path(__file__).parents[2]
TREE = Tree.read(ROOT / _build.NATIVE)

#: folders and single files; one may include and call only what stands in an earlier row
ORDER = [
    ["uringzc.h"],
    ["native.h"],
    ["slots"],
    ["engines"],
    ["engines/frames"],
    ["engines/io_uring", "engines/msg_zerocopy", "engines/packet", "engines/af_xdp"],
    ["request"],
    ["udp", "tcp"],
    ["aio"],
    [""],  # module.c and delegate.c
]
PYTHON = {"request", "udp", "tcp", "aio", ""}  # folders that may include Python.h
INCLUDED_AT_MOST = 10
BOUNDARY = "uringzc.h"  # declares what Python calls, wherever it is defined


def misplaced(tree: Tree) -> list[str]:
    """The headers that declare functions of another file than the .c of their name; without one, of another
    folder.
    """
    found = []
    for file, source in tree.sources.items():
        homes = {tree.home(name, file) for name in source.declares} - {f"{unit(file)}.c"}
        if f"{unit(file)}.c" not in tree.sources:
            homes = {home for home in homes if folder(home) != folder(file) or home not in tree.sources}
        if homes and file != BOUNDARY:
            found.append(f"{file} declares functions of {', '.join(sorted(homes))}")
    return found


def crowded(tree: Tree, most: int = INCLUDED_AT_MOST) -> list[str]:
    """The headers that more files include themselves."""
    counts = Counter(included for source in tree.sources.values() for included in source.includes)
    return [f"{header} is included by {count} files" for header, count in counts.items() if count > most]


def test_every_file_has_a_layer() -> None:
    names = {name for names in ORDER for name in names}
    assert {file if file in names else folder(file) for file in TREE.sources} == names


def test_each_file_needs_only_what_stands_below_its_folder() -> None:
    assert [str(edge) for edge in TREE.upward(ORDER)] == []


def test_no_files_of_a_folder_need_each_other_in_a_circle() -> None:
    assert TREE.circles() == []


def test_no_header_is_included_by_more_than_a_few_files() -> None:
    assert crowded(TREE) == []


def test_what_a_header_declares_is_defined_in_the_file_of_its_name() -> None:
    assert misplaced(TREE) == []


def test_only_folders_that_define_python_types_include_its_header() -> None:
    including = {folder(file) for file, source in TREE.sources.items() if "Python.h" in source.system}
    assert including <= PYTHON


def test_every_c_file_is_built_into_one_of_the_two_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    built = Counter(_build.sources())
    monkeypatch.setattr("setuptools.setup", lambda **options: built.update(options["ext_modules"][0].sources))
    runpy.run_path("setup.py")
    assert built == Counter(f"{_build.NATIVE}/{file}" for file in TREE.sources if file.endswith(".c"))


# -- controls: what breaks a rule is found

CLEAN = {
    "low/a.h": "int a(int x);\nextern int counter;\n",
    "low/a.c": '#include "low/a.h"\nint counter = 1, other;\nint a(int x) {\n    return x + counter;\n}\n',
    "low/b.h": "int b(void);\n",
    "low/b.c": '#include "low/a.h"\n#include "low/b.h"\nint b(void) {\n    return a(1);\n}\n',
    "high/c.h": "int c(void);\nstruct point { int (*b)(void); };\n",
    "high/c.c": '#include "high/c.h"\n#include "low/b.h"\nint c(void) {\n    return b();\n}\n',
}


def changed(file: str, added: str) -> Tree:
    return Tree({**CLEAN, file: CLEAN.get(file, "") + added})


def upward(tree: Tree) -> list[str]:
    return [str(edge) for edge in tree.upward([["low"], ["high"]])]


def test_control_a_clean_tree_breaks_no_rule() -> None:
    tree = Tree(CLEAN)
    assert (upward(tree), tree.circles(), misplaced(tree), crowded(tree, 2)) == ([], [], [], [])
    assert [str(edge) for edge in tree.edges if edge.file == "high/c.c"] == [
        "high/c.c includes high/c.h",
        "high/c.c includes low/b.h",
        "high/c.c uses b of low/b.c",
    ]


def test_control_an_upward_include_is_found() -> None:
    assert upward(changed("low/a.h", '#include "high/c.h"\n')) == ["low/a.h includes high/c.h"]


@pytest.mark.parametrize(
    "code",
    [
        "static int call(void) {\n    return c();\n}\n",
        "static int (*pointer)(void) = c;\n",
        "static struct { int (*call)(void); } calls = {.call = c};\n",
        "#define CALL(x) \\\n    ((x) + c())\n",
        "static int declare(int x) {\n    int y = x;\n    return y ? c() : 0;\n}\n",
    ],
)
def test_control_an_upward_call_is_found(code: str) -> None:
    assert upward(changed("low/a.c", code)) == ["low/a.c uses c of high/c.c"]


@pytest.mark.parametrize(
    "code",
    [
        "/* calls c() */ // and c()\n",
        'static const char *text = "c()";\n',
        "static int c(void) {\n    return 1;\n}\nstatic int call(void) {\n    return c();\n}\n",
        "static int local(const char *c) {\n    return *c;\n}\n",
        "static int member(struct point *p) {\n    return p->c + p[0].c;\n}\n",
        "struct has { int c; };\ntypedef struct { int c; } Has;\nenum { c };\n",
    ],
)
def test_control_a_name_of_its_own_is_no_call(code: str) -> None:
    assert upward(changed("low/a.c", code)) == []


def test_control_a_name_of_two_modules_is_that_of_the_folder() -> None:
    tree = Tree(
        {**CLEAN, "high/d.c": "int a(int x) {\n    return x;\n}\nint d(void) {\n    return a(1);\n}\n"}
    )
    assert (upward(tree), tree.circles()) == ([], [])
    assert [str(edge) for edge in tree.edges if edge.why == "uses a"] == ["low/b.c uses a of low/a.c"]


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("low/a.c", "static int call(void) {\n    return b();\n}\n"),
        ("low/a.h", '#include "low/b.h"\n'),
        ("low/a.h", "static inline int call(void) {\n    return b();\n}\n"),
    ],
)
def test_control_a_circle_is_found(file: str, code: str) -> None:
    assert changed(file, code).circles() == ["low/a low/b"]


def test_control_a_longer_circle_is_found() -> None:
    third = "int d(void) {\n    return b();\n}\n"
    tree = Tree({**CLEAN, "low/d.c": third, "low/a.c": CLEAN["low/a.c"] + "static int (*f)(void) = d;\n"})
    assert tree.circles() == ["low/a low/b low/d"]


def test_control_a_declaration_elsewhere_is_found() -> None:
    assert misplaced(changed("low/b.h", "int a(int x);\n")) == ["low/b.h declares functions of low/a.c"]
    assert misplaced(changed("low/b.h", "int gone(void);\n")) == ["low/b.h declares functions of no file"]
    assert misplaced(changed("high/d.h", "int a(int x);\n")) == ["high/d.h declares functions of low/a.c"]


def test_control_a_header_without_a_c_file_is_of_its_folder() -> None:
    assert misplaced(changed("low/d.h", "int a(int x);\nint b(void);\n")) == []
    assert misplaced(changed("low/d.h", "int gone(void);\n")) == ["low/d.h declares functions of no file"]


def test_control_a_header_that_many_include_is_found() -> None:
    assert crowded(changed("high/c.c", '#include "low/a.h"\n'), 2) == ["low/a.h is included by 3 files"]
