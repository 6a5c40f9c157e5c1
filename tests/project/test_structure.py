"""Python folders are layers that import only lower ones; stubs, constants and compiled modules agree."""

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import uringzc
from uringzc import _send, _uring, errors, notif
from uringzc.senders import udp_setup

pytestmark = pytest.mark.engines()
PACKAGE = Path(uringzc.__file__).parent
HEADER = (PACKAGE / "_native" / "uringzc.h").read_text()

#: a layer may import only what stands before it; _build, which setup.py runs, none of it
ORDER = [
    *("errors", "records", "address", "compiled", "kernel", "memory", "notif", "testing"),
    *("engines", "calibration", "ring", "scheduler", "senders", "doctor", "__init__"),
    *("aio", "jobs", "report", "cli", "__main__"),
]
COMPILED = {
    "_uring": {"kernel", "memory", "notif", "engines"},
    "_send": {
        *(
            "notif",
            "engines",
            "compiled",
            "memory",
            "records",
            "ring",
            "scheduler",
            "senders",
            "__init__",
            "aio",
        )
    },
}
#: what a module may have that is neither its own package's nor the standard library's
INSTALLED = {
    "testing": {"pytest", "pyroute2"},
    "engines": {"pyroute2"},
    "doctor": {"pyroute2"},
    "jobs": {"numpy", "dpkt"},
    "report": {"jinja2", "matplotlib", "msgspec", "numpy"},
    "cli": {"click", "rich"},
    "_build": {"cffi"},
}


class Import(NamedTuple):
    importer: str  # "memory", "cli.demo", "__init__"
    imported: str  # the same of ours, else as it is written
    line: int
    ours: bool
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: imports {self.imported}"


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).replace(".__init__", "")


def top(name: str) -> str:
    return name.partition(".")[0]


def named(node: ast.ImportFrom, file: Path) -> list[str]:
    """The modules that ``from ... import ...`` names, dotted."""
    package = ("uringzc", *file.relative_to(PACKAGE).parts[:-1])
    above = package[: len(package) - node.level + 1] if node.level else ()
    module = ".".join([*above, *([node.module] if node.module else [])])
    if top(module) != "uringzc":
        return [module]
    folder = PACKAGE.joinpath(*module.split(".")[1:])
    return [
        f"{module}.{alias.name}" if list(folder.glob(f"{alias.name}.py*")) else module for alias in node.names
    ]


def imports(file: Path) -> Iterator[Import]:
    tree = ast.parse(file.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = named(node, file)
        for name in names:
            ours = top(name) == "uringzc"
            imported = (name.partition(".")[2] or "__init__") if ours else name
            yield Import(name_of(file), imported, getattr(node, "lineno", 0), ours, id(node) in for_types)


EVERY = [found for file in sorted(PACKAGE.rglob("*.py")) for found in imports(file)]


def test_every_module_has_a_layer() -> None:
    assert {top(name_of(file)) for file in PACKAGE.rglob("*.py")} == {*ORDER, "_build"}


def test_each_module_imports_only_those_before_it() -> None:
    def wrong(found: Import) -> bool:
        importer, imported = top(found.importer), top(found.imported)
        if not found.ours or imported in COMPILED or importer == imported:
            return False
        return importer == "_build" or ORDER.index(imported) >= ORDER.index(importer)

    assert [str(found) for found in EVERY if wrong(found)] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for found in EVERY:
        if found.ours:
            graph.setdefault(found.importer, set()).add(found.imported)
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


@pytest.mark.parametrize("compiled", COMPILED)
def test_only_these_layers_import_the_compiled_modules(compiled: str) -> None:
    touching = {
        top(found.importer) for found in EVERY if found.imported == compiled and not found.typing_only
    }
    assert touching == COMPILED[compiled]


def test_the_library_needs_nothing_but_the_standard_library() -> None:
    def wrong(found: Import) -> bool:
        allowed = {*sys.stdlib_module_names, *INSTALLED.get(top(found.importer), ())}
        return not (found.ours or found.typing_only or top(found.imported) in allowed)

    assert [str(found) for found in EVERY if wrong(found)] == []


# -- what the compiled modules have


def stub(module: str, name: str) -> dict[str, ast.stmt]:
    """The members of a class in a stub."""
    tree = ast.parse((PACKAGE / f"{module}.pyi").read_text())
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    members: dict[str, ast.stmt] = {}
    for node in found.body:
        if isinstance(node, ast.FunctionDef):
            members[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            members[node.target.id] = node
    return members


def test_the_stub_of_lib_has_what_lib_has() -> None:
    declared = stub("_uring", "_Lib")
    assert set(declared) == set(dir(_uring.lib))
    for name, node in declared.items():
        member = getattr(_uring.lib, name)
        if isinstance(node, ast.FunctionDef):
            takes = [argument.arg for argument in node.args.posonlyargs + node.args.args]
            assert len(takes) - 1 == len(_uring.ffi.typeof(member).args), name
        else:
            assert isinstance(member, int), name


@pytest.mark.parametrize(
    "name", ["Queue", "Memory", "UdpBatcher", "TcpStream", "DatagramReceiver", "DatagramWriter"]
)
def test_the_stub_of_send_has_what_send_has(name: str) -> None:
    inherited = set(dir(object))
    there = set(dir(getattr(_send, name)))
    assert set(stub("_send", name)) - inherited == there - inherited - {"__module__"}


def defines(prefix: str) -> dict[str, int]:
    """The numbers that the header defines."""
    lines = [line.split() for line in HEADER.splitlines() if line.startswith(f"#define {prefix}")]
    return {line[1].removeprefix(prefix): int(line[2], 0) for line in lines}


def test_refusals_have_the_numbers_of_the_header() -> None:
    ours = {name[2:]: value for name, value in vars(errors).items() if name.startswith("E_")}
    assert ours == defines("UZC_E_")
    assert max(ours.values()) < -4095  # no errno: C and Python tell them apart by that


@pytest.mark.parametrize("code", defines("UZC_E_").values())
def test_every_refusal_is_raised(code: int) -> None:
    with pytest.raises((errors.UringzcError, BlockingIOError)) as caught:
        errors.refuse(code)
    assert str(caught.value)


def test_constants_have_the_numbers_of_the_header() -> None:
    numbers = defines("UZC_")
    assert numbers["MAX_SLOTS"] == notif.MAX_SLOTS
    assert {name.upper(): value for name, value in notif.COMPLETIONS.items()} == {
        name: numbers[name] for name in ("NONE", "FAILED", "ALL")
    }
    assert numbers["RAW"] == notif.RAW


def test_one_submission_holds_a_batch_of_trains() -> None:
    header = (PACKAGE / "_native/udp/batcher.h").read_text()
    (size,) = (line.split()[2] for line in header.splitlines() if line.startswith("#define BATCH_SIZE "))
    assert int(size.removesuffix("u")) <= udp_setup.BATCH


@pytest.mark.parametrize(
    ("struct", "record"), [("uzc_completion", notif.COMPLETION), ("uzc_notification", notif.NOTIFICATION)]
)
def test_records_have_the_layout_of_the_structs(struct: str, record: "notif.Record[tuple[int, ...]]") -> None:
    kind = _uring.ffi.typeof(struct)
    assert _uring.ffi.sizeof(struct) == record.size
    assert [name for name, _ in kind.fields] == [name for name, _ in record.dtype]
    offset = 0
    for (_, field), (_, code) in zip(kind.fields, record.dtype, strict=True):
        assert (field.offset, _uring.ffi.sizeof(field.type)) == (offset, int(code[-1]))
        offset += int(code[-1])
