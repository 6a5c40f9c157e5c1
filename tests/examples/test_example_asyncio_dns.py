"""examples/asyncio_dns_server.py under dnsperf: no query is lost, on our loop and on the stock one."""

import functools
import re
from pathlib import Path

import pytest
from test_example_dns import ADDRESSES, QUERIES, needs, perf, question, serving

pytest.importorskip("dnslib")
from dnslib import RCODE

pytestmark = pytest.mark.engines()
PROGRAM = "asyncio_dns_server.py"

asyncio_serving = functools.partial(serving, program=PROGRAM)


@pytest.mark.slow
@pytest.mark.engines("copy")
@pytest.mark.parametrize("host", ADDRESSES)
def test_it_answers_what_the_zone_has(host: str) -> None:
    with asyncio_serving(host=host) as server:
        for name, found, code in [
            ("WWW.example.com", ["192.0.2.80"], "NOERROR"),
            ("mail.example.com", ["www.example.com.", "192.0.2.80"], "NOERROR"),
            ("none.example.com", [], "NXDOMAIN"),
            ("example.org", [], "REFUSED"),
        ]:
            reply = server.ask(question(name))
            assert (reply.header.id, RCODE[reply.header.rcode]) == (7, code)
            assert [str(record.rdata) for record in reply.rr] == found
        with pytest.raises(TimeoutError):
            server.ask(b"", timeout=0.1)  # no query, and the server goes on
        assert server.ask(question("www.example.com")).rr
        assert server.end().splitlines()[0] == "5 answers"


def check_dnsperf(loop: str, folder: Path) -> None:
    """With 200 queries under way, and with few."""
    queries = folder / "queries"
    lines = [query.format(number) for number in range(500) for query in QUERIES]
    queries.write_text("".join(f"{line}\n" for line in lines))
    with asyncio_serving("--loop", loop) as server:
        answered = 0
        for rounds, *options in ((4, "-q", 200), (1, "-Q", 2000)):
            said = perf(server, queries, "-n", rounds, "-c", 4, *options)
            count = rounds * len(lines)
            assert re.search(rf"Queries completed: +{count} \(100.00%\)", said), said
            assert re.search(r"Queries lost: +0 ", said), said
            assert re.search(rf"NOERROR {count * 2 // 3} .*NXDOMAIN {count // 3} ", said), said
            answered += count
        assert server.end().startswith(f"{answered} answers\n")


@pytest.mark.slow
@needs("dnsperf", "dnsperf")
def test_dnsperf_loses_no_query(tmp_path: Path) -> None:
    check_dnsperf("uringzc", tmp_path)


@pytest.mark.slow
@pytest.mark.engines("copy")
@needs("dnsperf", "dnsperf")
def test_dnsperf_loses_no_query_on_the_stock_loop(tmp_path: Path) -> None:
    check_dnsperf("asyncio", tmp_path)
