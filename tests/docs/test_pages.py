"""What the pages name exists: commands, options, files, links, functions, names. Each check has a control."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pages
import pytest
from pages import PAGES, ROOT

import uringzc
from uringzc import testing
from uringzc.engines.contract import KernelInterface

pytestmark = pytest.mark.engines()

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_every_block_has_a_test(page: Path) -> None:
    assert pages.languages(page.read_text()) == []


def test_a_block_that_no_test_runs_is_found() -> None:
    assert pages.languages("text\n```python\npass\n```\n```rust\n```\n") == ["line 6: 'rust'"]
    assert pages.languages("```\nx\n```\n") == ["line 2: ''"]
    assert pages.languages("```sh\nmake\n") == ["line 2: 'not closed'"]


@each_page
def test_commands_are_there(page: Path) -> None:
    assert pages.wrong_commands(page.read_text()) == []


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("make tests", "no target tests"),
        ("make test ARG=-q", "no variable ARG"),
        ('make test ARGS="--no-such"', "no option --no-such"),
        ('make bench ARGS="--pair 3"', "no option --pair"),
        ('make soak ARGS="--counts 3"', "no option --counts"),
        ('make test ARGS="tests/slot -q"', "no file tests/slot"),
        ("uringzc doctors", "no command doctors"),
        ("uringzc doctor --xml 192.0.2.1", "no option --xml"),
        ("pip install '.[tests]'", "no extra tests"),
        ("pip install uringzc", "pip install uringzc"),
        ("sysctl kernel.io_uring=1", "sysctl kernel.io_uring=1"),
        ("python examples/none.py", "no file examples/none.py"),
        ("python examples/load.py --speed 3", "no option --speed"),
        ("cargo test", "no test knows cargo"),
    ],
)
def test_a_wrong_command_is_found(command: str, problem: str) -> None:
    assert pages.wrong_commands(f"```sh\n{command}   # why\n```\n") == [f"{command}   # why: {problem}"]
    assert pages.wrong_commands(f"```console\n$ {command}\noutput\n```\n") == [f"{command}: {problem}"]


def test_commands_in_sentences_are_checked() -> None:
    assert pages.wrong_commands("Run `make nothing`, or\n`uringzc\nnone`.") == [
        "make nothing: no target nothing",
        "uringzc none: no command none",
    ]


@each_page
def test_files_are_there(page: Path) -> None:
    assert pages.wrong_paths(page.read_text()) == []


def test_a_file_that_is_not_there_is_found() -> None:
    text = "`uringzc/notif.py`, `notif.py`, `uringzc/nobody.py`, `nobody.c`\n```sh\nmake x > docs/x.md\n```\n"
    assert pages.wrong_paths(text) == ["no file uringzc/nobody.py", "no file nobody.c", "no file docs/x.md"]


SOURCES = [
    file
    for folder in ("uringzc", "tests")
    for pattern in ("*.py", "*.c", "*.h")
    for file in (ROOT / folder).rglob(pattern)
]


def test_files_that_docstrings_and_comments_name_are_there() -> None:
    stale = {str(file.relative_to(ROOT)): pages.stale_paths(file) for file in SOURCES}
    assert {file: names for file, names in stale.items() if names} == {}


def test_a_stale_file_in_a_docstring_or_a_comment_is_found(tmp_path: Path) -> None:
    python, c = tmp_path / "some.py", tmp_path / "some.c"
    python.write_text(
        '"""As ``udp/send.c`` and ``_native/request/nobody.c``."""\nNAME = "no.py"  # see gone.h, notif.py\n'
    )
    c.write_text(
        '#include "x/no.h"\n/* batch.c\n * and udp/notif.py, <linux/udp.h> */\nint a; /* gone.md */\n'
    )
    assert pages.stale_paths(python) == ["_native/request/nobody.c", "gone.h"]
    assert pages.stale_paths(c) == ["gone.md", "udp/notif.py"]


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    assert pages.wrong_links(page.read_text(), page.parent) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = "# One `two`, three\n[a](README.md) [b](#one-two-three) [c](#four) [d](docs/no.md)\n"
    text += "[e](README.md#no) [f](setup.py#no) [g](docs/layers.py#draw)"
    assert pages.wrong_links(text, ROOT) == [
        "no heading #four",
        "no page docs/no.md",
        "no heading README.md#no",
        "no heading setup.py#no",
    ]


def test_every_page_is_linked_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in pages.links(index.read_text())}
    assert {page for page in PAGES if page != index} <= linked


@each_page
def test_functions_are_in_the_files_beside_them(page: Path) -> None:
    assert pages.wrong_functions(page.read_text()) == []


def test_a_function_that_is_elsewhere_is_found() -> None:
    there = "`batcher_send()` in `uringzc/_native/udp/send.c`, `choose()` in `uringzc/engines/choose.py`"
    assert pages.wrong_functions(there) == []
    assert pages.wrong_functions("`stage()` in `uringzc/_native/udp/send.c`") == ["stage() is not in send.c"]
    assert pages.wrong_functions("`auto_()` in `uringzc/engines/choose.py`") == [
        "auto_() is not in choose.py"
    ]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "architecture.md"], ids=lambda page: page.name
)
def test_calls_are_public(page: Path) -> None:
    assert pages.wrong_calls(page.read_text()) == []


def test_a_call_that_is_not_public_is_found() -> None:
    text = "`send_many(datagrams, to=None)` `UdpSender(..., scheduler=s)` `sent()` `UdpSender(schedule=s)`"
    assert pages.wrong_calls(text) == ["sent()", "UdpSender(schedule=s)"]


@each_page
def test_names_are_there(page: Path) -> None:
    assert pages.wrong_names(page.read_text()) == []


def test_a_name_that_is_not_there_is_found() -> None:
    text = "`uringzc.UdpSender` `uringzc.testing` `uringzc.nothing` `stats.waits` `tx.stats.nothing`"
    assert pages.wrong_names(text) == ["uringzc.nothing", "stats.nothing"]


# -- what else must agree


@pytest.mark.parametrize(
    ("page", "made"),
    [("udp.md", uringzc.UdpSender), ("tcp.md", uringzc.TcpSender), ("slots.md", uringzc.Scheduler)],
)
def test_the_table_of_options_is_the_signature(page: str, made: type) -> None:
    assert pages.options((ROOT / "docs" / page).read_text()) == pages.parameters(made)


def test_an_option_that_differs_from_the_signature_is_found() -> None:
    head = (
        "\n| option | type | default | meaning |\n|---|---|---|---|\n| `tags` | iterable | `(0,)` | u64s |\n"
    )
    assert pages.options(f"{head}| `sock` | socket | required | a stream |\n\nMore | text\n") == {
        "tags": (0,),
        "sock": ...,
    }
    assert pages.parameters(uringzc.Scheduler)["max_inflight"] == 8192
    assert pages.options(head) != pages.parameters(uringzc.Scheduler)


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def members_to_write() -> set[str]:
    """The functions of uzc_calls that an engine writes itself."""
    native = ROOT / "uringzc" / "_native"
    (table,) = re.findall(r"typedef struct \{([^}]*)\} uzc_calls;", (native / "uringzc.h").read_text())
    filled_in = (native / "slots" / "accounting.h").read_text().partition("#define UZC_SLOT_CALLS")[2]
    return set(re.findall(r"\(\*(\w+)\)", table)) - set(re.findall(r"\.(\w+) = ", filled_in))


def methods_of_an_engine() -> set[str]:
    """What a subclass of Engine has to have, or may."""
    return {name for name, value in vars(KernelInterface).items() if callable(value) and name[:2] != "__"}


def test_the_contract_of_an_engine_is_whole() -> None:
    described = set(re.findall(r"^\| `(\w+)\(engine", ARCHITECTURE, re.MULTILINE))
    assert described == members_to_write()
    assert {"queue", "enter"} <= described
    named = set(re.findall(r"`(\w+)\(\)`", ARCHITECTURE))
    assert methods_of_an_engine() - named == set()
    assert {"register", "_exit", "why_copied"} <= methods_of_an_engine()


DOCTOR = ("engines.md", "containers.md")  # pages with samples of it


def shown(text: str) -> list[str]:
    """The beginnings of the lines that the samples of `uringzc doctor` have, without what is of a machine."""
    lines = [line for b in pages.blocks(text) if b.language == "console" for line in b.text.splitlines()]
    return sorted({line.partition("  ")[0] for line in lines if line[:1].strip() and "  " in line})


def unknown(labels: list[str]) -> list[str]:
    """Those that the doctor does not have."""
    files = [*(ROOT / "uringzc").glob("doctor/*.py"), ROOT / "uringzc" / "cli" / "doctor.py"]
    files += [*(ROOT / "uringzc").glob("engines/*.py"), *(ROOT / "uringzc").glob("kernel/*.py")]
    sources = "".join(file.read_text() for file in files)
    return [label for label in labels if f'"{label}"' not in sources]


def test_what_the_doctor_prints_is_what_it_prints() -> None:
    labels = [label for page in PAGES for label in shown(page.read_text()) if page.name in DOCTOR]
    assert {"msg_zerocopy", "registered arena", "seccomp_eperm"} <= set(labels)
    assert unknown(labels) == []


def test_what_it_does_not_print_is_found() -> None:
    assert unknown(shown("```console\n$ uringzc doctor\n\nlocked memory   1\nlost memory   1\n```\n")) == [
        "lost memory"
    ]


def paragraph(text: str) -> str:
    """What a sender says in the sample, in one line, with N for numbers."""
    (said,) = re.findall(r"^A UdpSender says\n(.*?)\n\n", text, re.DOTALL | re.MULTILINE)
    return re.sub(r"\d+", "N", " ".join(said.split()))


@pytest.mark.engines("io_uring")
@testing.requires("net_admin")  # so that nothing is limited
def test_what_a_sender_says_is_what_it_says() -> None:
    with uringzc.UdpSender(("127.0.0.1", 9)) as sender:
        said = sender.explain()
    assert paragraph((ROOT / "docs" / "engines.md").read_text()) == re.sub(r"\d+", "N", said)
    assert paragraph("A UdpSender says\nio_uring, 12 trains.\nMore\n\n") == "io_uring, N trains. More"


def test_the_drawing_of_the_layers_is_current() -> None:
    tool = runpy.run_path(str(ROOT / "docs" / "layers.py"))
    layers = tool["layers"]()
    drawn = (ROOT / "docs" / "layers.svg").read_text()
    assert tool["draw"](layers) == drawn, "run: python docs/layers.py"
    layers.arrows["memory.py"].add("notif.py")
    assert tool["draw"](layers) != drawn


def test_a_circle_cannot_be_drawn() -> None:
    tool = runpy.run_path(str(ROOT / "docs" / "layers.py"))
    layers = tool["layers"]()
    layers.arrows["kernel/"].add("senders/")
    with pytest.raises(ValueError, match="cycle"):
        tool["draw"](layers)


def test_pages_and_what_they_link_to_are_in_the_source_distribution(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (sources,) = tmp_path.glob("*/SOURCES.txt")
    listed = {ROOT / name for name in sources.read_text().split()}
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in pages.links(page.read_text())
        if not link.startswith(("https:", "#"))
    }
    docs = {file for file in (ROOT / "docs").rglob("*.*") if file.is_file() and file.suffix != ".pyc"}
    assert {*PAGES, *linked, *docs} - listed == set()
    assert {ROOT / "docs" / "layers.svg", ROOT / "benchmarks" / "plots" / "headlines.svg"} <= linked
    assert ROOT / ".gitignore" not in listed  # it is not just everything
