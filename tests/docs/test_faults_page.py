"""Each cell of the page of faults names its tests, and each test of the matrix is in its cells."""

from pathlib import Path

import pytest
from fault_matrix import PAGE, cells, link_text, marked_tests, problems
from pages import ROOT

pytestmark = pytest.mark.engines()

#: what can happen to a program that sends; the page has them all
ERRNOS = {"EAGAIN", "EINTR", "ENOBUFS", "ENOMEM", "ECONNREFUSED", "EMSGSIZE", "EPIPE", "ECONNRESET"}
NETWORK = {"link down", "route gone", "device gone", "namespace gone", "receiver stopped"}
LIMITS = {"CQ overflow", "SQ full", "table full", "no descriptors", "no threads", "no memory"}
PROCESS = {"fork in flight", "exec in flight", "thread exit", "signal storm", "mapped file truncated"}
FAULTS = {*ERRNOS, *NETWORK, *LIMITS, *PROCESS, "socket closed by another thread"}


def test_each_cell_has_its_tests_and_each_test_its_cells() -> None:
    assert problems(PAGE.read_text(), marked_tests(ROOT / "tests")) == []


TEST = """
import pytest
from marks import only_io_uring

@pytest.mark.cell("EPIPE", "UdpSender")
def test_it(cell): ...

@only_io_uring
@pytest.mark.cell("EPIPE", "Scheduler", "TcpSender")
def test_both(cell): ...
"""


def page(*texts: str) -> str:
    return f"| fault | a | b | c |\n|---|---|---|---|\n| **EPIPE**: it | {' | '.join(texts)} |\n"


def test_a_cell_or_a_test_without_the_other_is_found(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(TEST)
    (both, _) = tests = sorted(marked_tests(tmp_path))
    tests = [test._replace(file="tests/test_x.py") for test in tests]
    it, two = "[test](../tests/test_x.py#test_it)", "[io_uring](../tests/test_x.py#test_both)"
    assert both.columns == ("Scheduler", "TcpSender")
    assert problems(page(f"a {two}", f"b {it}", f"c {two}"), tests) == []
    assert problems(page("a", f"b {it}", f"c {two}"), tests) == [
        "EPIPE, Scheduler: no test",
        "EPIPE, Scheduler: test_both of tests/test_x.py is not on the page",
    ]
    assert problems(page(f"a {two}", f"b {it}", "cannot occur: why"), tests) == [
        "EPIPE, TcpSender: test_both of tests/test_x.py is not on the page"
    ]
    wrong = page(f"a {two}", f"b {it.replace('test_it', 'test_its')}", f"c {two.replace('io_uring', 'test')}")
    assert problems(wrong, tests) == [
        "EPIPE, UdpSender: tests/test_x.py has no test_its with this mark",
        "EPIPE, TcpSender: test_both runs on io_uring, not test",
        "EPIPE, UdpSender: test_it of tests/test_x.py is not on the page",
    ]
    without = [test._replace(uses_cell=False) for test in tests]
    assert len(problems(page(f"a {two}", f"b {it}", f"c {two}"), without)) == 2


def test_a_row_that_lacks_a_cell_is_found() -> None:
    with pytest.raises(AssertionError, match="EPIPE: 2 cells"):
        cells(page("a", "b"))


def test_the_words_of_a_link_are_the_engines() -> None:
    assert link_text(("io_uring", "msg_zerocopy", "copy")) == "test"
    assert link_text(("io_uring", "msg_zerocopy", "copy", "packet", "af_xdp")) == "test, packet, af_xdp"
    assert link_text(("io_uring", "msg_zerocopy")) == "io_uring, msg_zerocopy"
    assert link_text(()) == "test"


def test_every_fault_has_its_row() -> None:
    assert {cell.fault for cell in cells(PAGE.read_text())} == FAULTS
