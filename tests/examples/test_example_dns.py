"""examples/dns_server.py under dnsperf: no query is lost; what it answers, dig and dnslib read."""

import itertools
import re
import shutil
import signal
import socket
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from test_examples_udp import Program, finish, started

pytest.importorskip("dnslib")
from dnslib import EDNS0, QTYPE, RCODE, DNSHeader, DNSRecord

pytestmark = pytest.mark.engines()
PROGRAM = "dns_server.py"
ADDRESSES = ["127.0.0.1", "::1"]


def needs(command: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(command), reason=f"needs {command}: apt-get install {package}")


class Server(NamedTuple):
    """A server that answers."""

    process: Program
    host: str
    port: int

    def ask(self, message: bytes, timeout: float = 5.0) -> DNSRecord:
        """The answer to one message."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(timeout)
            sock.sendto(message, (self.host, self.port))
            return DNSRecord.parse(sock.recv(4096))

    def end(self) -> str:
        """Ends it with Ctrl-C; what it printed."""
        self.process.send_signal(signal.SIGINT)
        return finish(self.process)


@contextmanager
def serving(*options: object, host: str = "127.0.0.1", program: str = PROGRAM) -> Iterator[Server]:
    with started(program, "--port", 0, "--host", host, *options) as process:
        assert process.stdout
        line = process.stdout.readline()
        found = re.fullmatch(rf"example\.com\. on {re.escape(host)}, port (\d+)\n", line)
        assert found, line + process.communicate()[1]
        yield Server(process, host, int(found[1]))


def question(name: str, kind: str = "A", ident: int = 7) -> bytes:
    query = DNSRecord.question(name, kind)
    query.header.id = ident
    return bytes(query.pack())


# -- what it answers


@pytest.mark.slow
@pytest.mark.parametrize("host", ADDRESSES)
def test_it_answers_what_the_zone_has(host: str) -> None:
    with serving(host=host) as server:
        for number, (name, kind, found, code) in enumerate(
            [
                ("www.example.com", "A", ["192.0.2.80"], "NOERROR"),
                ("WWW.Example.COM", "AAAA", ["2001:db8::80"], "NOERROR"),
                ("mail.example.com", "A", ["www.example.com.", "192.0.2.80"], "NOERROR"),
                ("example.com", "MX", ["10 mail.example.com."], "NOERROR"),
                ("www.example.com", "MX", [], "NOERROR"),
                ("none.example.com", "A", [], "NXDOMAIN"),
                ("example.org", "A", [], "REFUSED"),
            ]
        ):
            reply = server.ask(question(name, kind, number))
            assert (reply.header.id, reply.header.qr, RCODE[reply.header.rcode]) == (number, 1, code)
            assert reply.header.aa == (code != "REFUSED")
            assert [str(record.rdata) for record in reply.rr] == found
            assert (str(reply.q.qname).lower(), QTYPE[reply.q.qtype]) == (f"{name.lower()}.", kind)
            soa = [QTYPE[record.rtype] for record in reply.auth]
            assert soa == ["SOA"] * (not found and code != "REFUSED")  # how long that may be cached
        assert server.end().splitlines()[0] == "7 answers to 7 clients, 0 lost"


@pytest.mark.slow
@pytest.mark.engines("copy")
def test_it_reports_what_it_does_not_understand() -> None:
    with serving() as server:
        wrong = server.ask(b"\1\2" + bytes(3) + b"\1" + bytes(6))  # a question that is not there
        assert (wrong.header.id, RCODE[wrong.header.rcode]) == (0x102, "FORMERR")
        update = bytes(DNSRecord(DNSHeader(id=9, opcode=5)).pack())
        assert RCODE[server.ask(update).header.rcode] == "NOTIMP"
        answer = bytes(DNSRecord(DNSHeader(qr=1, id=3)).pack())
        for ignored in (answer, b"short", b""):
            with pytest.raises(TimeoutError):
                server.ask(ignored, timeout=0.1)
        server.end()


@pytest.mark.slow
@pytest.mark.engines("copy")
def test_it_truncates_what_does_not_fit(tmp_path: Path) -> None:
    """What does not fit 512 bytes, or with EDNS the room that the client has."""
    zone = tmp_path / "zone"
    texts = [letter * 200 for letter in "abcd"]
    records = [f'@ 60 IN TXT "{text}"' for text in texts]
    zone.write_text("\n".join(["$ORIGIN example.com.", "@ 60 IN SOA a b 1 2 3 4 5", *records, ""]))
    with serving("--zone", zone) as server:
        short = server.ask(question("example.com", "TXT"))
        assert (short.header.tc, short.rr) == (1, [])
        query = DNSRecord.question("example.com", "TXT")
        query.add_ar(EDNS0(udp_len=4096))
        whole = server.ask(bytes(query.pack()))
        assert (whole.header.tc, [str(record.rdata) for record in whole.rr]) == (0, [f'"{t}"' for t in texts])
        assert [QTYPE[record.rtype] for record in whole.ar] == ["OPT"]
        server.end()


@pytest.mark.slow
@pytest.mark.engines
@needs("dig", "bind9-dnsutils")
def test_dig_reads_its_answers() -> None:
    with serving() as server:

        def dig(*what: str) -> list[str]:
            command = ["dig", f"@{server.host}", "-p", str(server.port), "+short", "+tries=1", *what]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
            return done.stdout.splitlines()

        assert dig("www.example.com", "A") == ["192.0.2.80"]
        assert dig("mail.example.com", "AAAA") == ["www.example.com.", "2001:db8::80"]
        assert dig("example.com", "TXT") == ['"answered by uringzc"']
        assert dig("none.example.com") == []
        server.end()


# -- under load

QUERIES = {"www.example.com A": "NOERROR", "example.com MX": "NOERROR", "none{}.example.com A": "NXDOMAIN"}


def perf(server: Server, queries: Path, *options: object) -> str:
    command = ["dnsperf", "-s", server.host, "-p", server.port, "-d", queries, "-T", 1, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def load(server: Server, queries: Path) -> int:
    """With 50 queries under way, and with one in a millisecond, which shows what a lone answer waits."""
    lines = [query.format(number) for number in range(100) for query in QUERIES]
    queries.write_text("".join(f"{line}\n" for line in lines))
    said = perf(server, queries, "-n", 20, "-c", 4, "-q", 50)
    count = 20 * len(lines)
    assert re.search(rf"Queries completed: +{count} \(100.00%\)", said), said
    assert re.search(r"Queries lost: +0 ", said), said
    assert re.search(rf"NOERROR {count * 2 // 3} .*NXDOMAIN {count // 3} ", said), said

    alone = perf(server, queries, "-n", 1, "-Q", 1000, "-v")
    answers = re.findall(r"^> (\w+) (\S+ \S+) ([\d.]+)$", alone, re.MULTILINE)
    right = zip(lines, itertools.cycle(QUERIES.values()))
    assert sorted((what, code) for code, what, _ in answers) == sorted(right)
    latency = statistics.median(float(seconds) for _, _, seconds in answers)
    (rate,) = re.findall(r"Queries per second: +(\d+)", said)
    print(f"p50 of a lone answer: {latency * 1e6:.0f} us; with 50 under way {rate} queries/s")
    return count + len(lines)


@pytest.mark.slow
@needs("dnsperf", "dnsperf")
def test_dnsperf_loses_no_query(tmp_path: Path) -> None:
    with serving() as server:
        count = load(server, tmp_path / "queries")
        assert server.end().startswith(f"{count} answers to 5 clients, 0 lost\n")


@pytest.mark.slow
@pytest.mark.engines
@needs("dnsperf", "dnsperf")
def test_dnsperf_loses_no_query_of_a_plain_socket(tmp_path: Path) -> None:
    with serving("--plain") as server:
        load(server, tmp_path / "queries")
        server.end()
