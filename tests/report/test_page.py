"""Pages of results in a browser: what they show, request and sort, and that nothing of a file runs."""

import json
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser, browser
from click.testing import CliRunner, Result
from samples import bench, came, limit, sent, write

from uringzc.cli import main

for name in ("jinja2", "matplotlib", "msgspec"):
    pytest.importorskip(name)
pytestmark = pytest.mark.engines()
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here")

#: that runs if it is put into a page as it is, wherever that is
HOSTILE = (
    "\"'></title></text></svg></style></script><script>document.title='ran'</script>"
    "<img src=x onerror=\"document.title='ran'\">$\\frac$ \N{HIRAGANA LETTER A}"
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all tests, as it takes a second to start."""
    with browser() as started:
        yield started


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments])


def made(folder: Path, *results: str) -> Path:
    """The page of some results."""
    path = folder / "page.html"
    done = invoke("report", *results, f"--html={path}")
    assert done.exit_code == 0, done.output
    assert done.output == ""
    return path


def rows(browser: Browser, table: str, column: int) -> list[str]:
    """The texts of a column, from above."""
    cells = f"[...document.getElementById('{table}').tBodies[0].rows].map(r => r.cells[{column}].dataset.by)"
    found: list[str] = browser.evaluate(cells)
    return found


@in_browser
def test_a_bench_in_a_browser(chromium: Browser, tmp_path: Path) -> None:
    result = write(
        tmp_path, "bench.json", bench(limit=limit(), failed=("it was slow",), command="uringzc bench x")
    )
    page = made(tmp_path, result)
    chromium.open(page.as_uri())
    assert chromium.evaluate("document.documentElement.dataset.ready") == "yes"
    assert chromium.evaluate("document.title").startswith("uringzc bench to 192.0.2.7")
    assert chromium.errors == []
    assert chromium.requests == [page.as_uri()]
    text = chromium.evaluate("document.body.innerText")
    for said in (
        "uringzc 0.1.0",
        "2026-11-22 18:30:00 UTC",
        "uringzc bench x",
        "Failed: it was slow.",
        "Intel Xeon",
    ):
        assert said in text
    headings = chromium.evaluate(
        "[...document.querySelectorAll('svg[role=img] > title')].map(t => t.textContent)"
    )
    assert len(headings) == 7
    assert {"CPU time of the sender for a datagram", "Rates that were tried"} <= set(headings)
    ids = chromium.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    labels = chromium.evaluate("[...document.querySelectorAll('svg text')].map(t => t.textContent)")
    assert {"io_uring, auto", "1,200", "32-63"} <= set(labels)


@in_browser
def test_tables_are_sorted_by_a_click_and_by_the_address(chromium: Browser, tmp_path: Path) -> None:
    page = made(tmp_path, write(tmp_path, "bench.json", bench()))
    chromium.open(page.as_uri())
    sizes = [float(size) for size in rows(chromium, "runs", 2)]
    assert sizes != sorted(sizes)
    click = "document.querySelectorAll('#runs thead button')[{}].click()"
    chromium.evaluate(click.format(2))
    assert [float(size) for size in rows(chromium, "runs", 2)] == sorted(sizes, reverse=True)
    assert chromium.evaluate("location.hash") == "#sort=runs,2,descending"
    assert chromium.evaluate("document.querySelector('#runs th:nth-child(3)').ariaSort") == "descending"
    chromium.evaluate(click.format(2))
    assert [float(size) for size in rows(chromium, "runs", 2)] == sorted(sizes)
    chromium.evaluate(click.format(0))
    assert rows(chromium, "runs", 0)[0] == "msg_zerocopy"
    chromium.open(f"{page.as_uri()}#sort=runs,0,ascending")
    assert rows(chromium, "runs", 0)[0] == "copy"
    for wrong in ("#sort=runs,99,ascending", "#sort=nothing,0,ascending", "#sort=%00"):
        chromium.open(page.as_uri() + wrong)
        assert [float(size) for size in rows(chromium, "runs", 2)] == sizes
        assert chromium.errors == []


@in_browser
def test_it_fits_a_phone_and_the_night(chromium: Browser, tmp_path: Path) -> None:
    page = made(
        tmp_path, write(tmp_path, "bench.json", bench()), write(tmp_path, "other.json", bench(faster=1.1))
    )
    background = "getComputedStyle(document.body).backgroundColor"
    line = "getComputedStyle(document.querySelector('#sent_pps-axes_1 path[style*=blue]')).stroke"
    found = {}
    for dark in (False, True):
        chromium.looks(360, dark)
        chromium.open(page.as_uri())
        assert chromium.evaluate("document.documentElement.scrollWidth") <= 360
        found[dark] = chromium.evaluate(background), chromium.evaluate(line)
    assert found == {
        False: ("rgb(255, 255, 255)", "rgb(0, 114, 178)"),
        True: ("rgb(19, 20, 22)", "rgb(75, 163, 227)"),
    }
    chromium.looks()


def hostile(folder: Path) -> list[str]:
    """Results of each kind with texts that want to run."""
    report = bench(
        sizes=(64, 1200), host=HOSTILE, at=HOSTILE, uringzc=HOSTILE, command=HOSTILE, failed=(HOSTILE,)
    )
    machine = replace(report.machine, cpu=HOSTILE)
    runs = tuple(replace(run, engine=HOSTILE + run.engine, zero_copy=HOSTILE) for run in report.runs)
    report = replace(
        report, machine=machine, runs=runs, limit=replace(limit(), engine=HOSTILE, bound=HOSTILE)
    )
    result = replace(sent(), engine=HOSTILE, stopped=HOSTILE, failed=(HOSTILE,), lost=1, errors={HOSTILE: 1})
    received = came(sent())
    stream = replace(received.streams[0], address=HOSTILE)
    received = replace(received, bind=HOSTILE, streams=(stream,), stopped=HOSTILE)
    return [
        write(folder, "<img src=x onerror=\"document.title='ran'\">.json", report),
        write(folder, "sent.json", result),
        write(folder, "came.json", received),
    ]


@in_browser
def test_nothing_of_a_file_runs(chromium: Browser, tmp_path: Path) -> None:
    page = made(tmp_path, *hostile(tmp_path))
    chromium.open(page.as_uri())
    title = chromium.evaluate("document.title")
    assert "<script>" in title  # as text
    assert chromium.evaluate("document.images.length") == 0
    assert chromium.evaluate("document.scripts.length") == 1
    assert chromium.errors == []
    assert chromium.requests == [page.as_uri()]
    assert chromium.evaluate("document.documentElement.dataset.ready") == "yes"


@in_browser
def test_the_policy_of_the_page_holds_where_a_text_is_not_escaped(chromium: Browser, tmp_path: Path) -> None:
    """And the control: without it the same page runs what is in it."""
    page = made(tmp_path, write(tmp_path, "bench.json", bench(sizes=(64,))))
    open_door = page.read_text().replace("192.0.2.7</h1>", f"{HOSTILE}</h1>")
    page.write_text(open_door)
    chromium.open(page.as_uri())
    assert chromium.evaluate("document.images.length") == 1
    assert chromium.evaluate("document.title") != "ran"
    without = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", open_door)
    page.write_text(without)
    chromium.open(page.as_uri())
    assert chromium.evaluate("document.title") == "ran"


@pytest.mark.slow
@in_browser
def test_what_was_received_in_a_browser(chromium: Browser, tmp_path: Path) -> None:
    """The page that recv writes of what came over loopback; of a sender beside it."""
    pages, results = tmp_path / "recv.html", tmp_path / "recv.json"
    command = [sys.executable, "-m", "uringzc", "recv", "--bind=127.0.0.1:0", "--json", f"--html={pages}"]
    with open(results, "w") as out:
        receiver = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
        assert receiver.stderr
        address = receiver.stderr.readline().split()[-1]
        done = invoke("send", address, "--count=200", "--rate=1kpps", "--json")
        assert receiver.wait(60) == 0
        receiver.stderr.close()
    (tmp_path / "send.json").write_text(done.stdout)
    chromium.open(pages.as_uri())
    assert chromium.errors == []
    text = chromium.evaluate("document.body.innerText")
    assert f"uringzc recv at {address}" in text
    assert f"uringzc recv --bind=127.0.0.1:0 --json --html={pages}" in text
    (stream,) = json.loads(results.read_text())["received"]["streams"]
    assert rows(chromium, "streams-0", 2) == [str(float(stream["datagrams"]))]
    assert chromium.evaluate("document.querySelectorAll('svg').length") == 2  # the rate, and latencies
    both = made(tmp_path, str(tmp_path / "send.json"), str(results))
    chromium.open(both.as_uri())
    assert f"uringzc send {address} --count=200 --rate=1kpps --json" in chromium.evaluate(
        "document.body.innerText"
    )
    assert chromium.evaluate("document.querySelectorAll('svg').length") == 3  # and trains
    assert chromium.errors == []


def test_results_without_anything_in_them(tmp_path: Path) -> None:
    """Nothing came; no run; a limit that was not found."""
    nothing = replace(came(sent()), datagrams=0, pps=0.0, counts=(), streams=(), start_ns=0, end_ns=0)
    none = write(tmp_path, "none.json", nothing)
    empty = write(tmp_path, "empty.json", bench(sizes=(), limit=replace(limit(), pps=0.0, tries=())))
    refused = write(
        tmp_path, "refused.json", replace(sent(), trains={}, counts=(), datagrams=0, failed=("x",))
    )
    text = made(tmp_path, none, empty, refused).read_text()
    assert "never" in text
    assert "none of the rates" in text


def test_numbers_that_nobody_measures(tmp_path: Path) -> None:
    most = (1 << 63) - 1
    counts = ((0, most, most), (most, 1, 1))
    values = json.loads(Path(write(tmp_path, "x.json", sent(seconds=1.0))).read_text())
    values["result"] |= {"counts": counts, "trains": {str(most): most, "-5": 1}, "end_ns": most, "pps": -1e18}
    (tmp_path / "x.json").write_text(json.dumps(values))
    assert "uringzc send" in made(tmp_path, str(tmp_path / "x.json")).read_text()


def test_pictures(tmp_path: Path) -> None:
    first, limits = (
        write(tmp_path, "a.json", bench()),
        write(tmp_path, "l.json", bench(sizes=(), limit=limit())),
    )
    for name, results in (("a.png", [first]), ("l.png", [limits]), ("two.png", [first, first])):
        done = invoke("report", *results, f"--picture={tmp_path / name}")
        assert (done.exit_code, done.output) == (0, "")
        assert struct.unpack(">II", (tmp_path / name).read_bytes()[16:24]) >= (900, 500)
    assert invoke("report", first, f"--picture={tmp_path / 'a.svg'}").exit_code == 0
    assert "io_uring" in (tmp_path / "a.svg").read_text()


@pytest.mark.slow
def test_bench_writes_both(tmp_path: Path) -> None:
    html, picture = tmp_path / "b.html", tmp_path / "b.png"
    options = ("--engine=copy", "--size=64", "--seconds=0.05", "--rounds=1", "--rate=1kpps")
    done = invoke("bench", "127.0.0.1", *options, f"--html={html}", f"--picture={picture}")
    assert "<title>uringzc bench to 127.0.0.1</title>" in html.read_text(), done.output
    assert picture.read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "what to write?"),
        (["--picture=x"], "x: a picture is FILE.png, FILE.svg or FILE.pdf."),
        (["--picture=x.docx"], "a picture is FILE.png"),
        (["--picture=/none/x.png"], "/none/x.png: No such file or directory."),
        (["--html=/none/x.html"], "/none/x.html: No such file or directory."),
        (["--html=x.html", *["a.json"] * 9], "no more than 8 results"),
    ],
)
def test_wrong_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "a.json", bench(sizes=(64,)))
    done = invoke("report", "a.json", *arguments)
    assert (done.exit_code, said in done.output) == (2, True), done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]


def test_a_picture_needs_a_bench(tmp_path: Path) -> None:
    done = invoke("report", write(tmp_path, "s.json", sent()), f"--picture={tmp_path}/x.png")
    assert (done.exit_code, "--html shows others too" in done.output) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["jinja2", "msgspec"])
def test_what_is_not_installed_is_named(tmp_path: Path, missing: str) -> None:
    path = write(tmp_path, "a.json", bench(sizes=(64,)))
    arguments = ["report", path, f"--html={tmp_path}/x.html"]
    program = f"""
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == {missing!r} else find(name, package)
sys.modules[{missing!r}] = None
from uringzc.cli import main
main({arguments!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert f"this needs {missing}: pip install 'uringzc[" in done.stderr
