"""An authoritative DNS server for a small zone: it answers through a UdpSender on its socket.

    dns_server.py                                          # a zone to try, on port 5353 of this machine
    dns_server.py --zone example.com.zone --host 192.0.2.1 --port 53
    dns_server.py --plain                                  # the same with socket.sendto, to compare

It needs dnslib (pip install dnslib). The socket receives, and `send(answer, to)` takes the place of its
`sendto`: a lone answer leaves at once, and those to a burst of queries gather, until no query is left.
The zone is a file of records as in RFC 1035, with one SOA. There are no wildcards and no delegations, and
nothing answers over TCP: what does not fit a datagram is only marked as truncated.
"""

import argparse
import contextlib
import functools
import socket
import sys
from collections.abc import Callable
from typing import Any

import uringzc

try:
    from dnslib import EDNS0, OPCODE, QTYPE, RCODE, RR, DNSError, DNSHeader, DNSLabel, DNSRecord
except ImportError:
    sys.exit(
        "dns_server.py reads and writes messages with dnslib, which is not installed: pip install dnslib"
    )

ZONE = """
$TTL 300
$ORIGIN example.com.
@    IN SOA   ns1 hostmaster 1 3600 600 86400 60
@    IN NS    ns1
@    IN MX    10 mail
ns1  IN A     192.0.2.1
www  IN A     192.0.2.80
www  IN AAAA  2001:db8::80
mail IN CNAME www
@    IN TXT   "answered by uringzc"
"""
LARGEST = 1232  # bytes of an answer that pass anywhere without fragments


class Zone:
    """The records of a zone, and the answers to queries about them."""

    def __init__(self, text: str) -> None:
        """ValueError if it is no zone."""
        self.records: dict[DNSLabel, list[RR]] = {}
        try:
            for record in RR.fromZone(text):
                self.records.setdefault(record.rname, []).append(record)
                for above in range(1, len(record.rname.label)):  # names that only have others below them
                    self.records.setdefault(DNSLabel(record.rname.label[above:]), [])
        except Exception as error:  # dnslib raises whatever the text leads to
            raise ValueError(error) from error
        soa = [record for each in self.records.values() for record in each if record.rtype == QTYPE.SOA]
        if len(soa) != 1:
            raise ValueError(f"it has {len(soa)} SOA records, not one")
        self.soa = soa[0]
        self.answer_to = functools.lru_cache(maxsize=10_000)(self._answer_to)

    def answer(self, query: bytes) -> bytes:
        """The message to send back; empty if there is none. Queries that differ in their id share one."""
        rest = self.answer_to(query[2:])
        return rest and query[:2] + rest

    def _answer_to(self, query: bytes) -> bytes:
        if len(query) < 10 or query[0] & 0x80:  # no header, or an answer: two servers would never end
            return b""
        try:
            request = DNSRecord.parse(b"\0\0" + query)
        except (DNSError, ValueError):
            return bytes(DNSRecord(DNSHeader(qr=1, rcode=RCODE.FORMERR)).pack())[2:]
        reply = request.reply(ra=0)
        reply.header.rcode = self._fill(reply)
        room = 512
        for record in request.ar:
            if record.rtype == QTYPE.OPT:
                room = min(max(room, record.rclass), LARGEST)
                reply.add_ar(EDNS0(udp_len=LARGEST))
        packed = bytes(reply.pack())
        return (packed if len(packed) <= room else bytes(reply.truncate().pack()))[2:]

    def _fill(self, reply: DNSRecord) -> int:
        """Adds the records that answer the question, and returns the RCODE."""
        if reply.header.opcode != OPCODE.QUERY:
            return int(RCODE.NOTIMP)
        if len(reply.questions) != 1:
            return int(RCODE.FORMERR)
        name, kind = reply.q.qname, reply.q.qtype
        if not name.matchSuffix(self.soa.rname):
            reply.header.aa = 0
            return int(RCODE.REFUSED)
        for _ in range(8):  # names that an alias leads to
            there = self.records.get(name, [])
            found = [record for record in there if kind in (record.rtype, QTYPE.ANY)]
            alias = [] if found else [record for record in there if record.rtype == QTYPE.CNAME]
            reply.add_answer(*found, *alias)
            if not alias:
                break
            name = alias[0].rdata.label
        if not found and name.matchSuffix(self.soa.rname):
            reply.add_auth(self.soa)
        return int(RCODE.NOERROR if reply.rr or name in self.records else RCODE.NXDOMAIN)


def main() -> None:
    """Answers until Ctrl-C."""
    options = parse()
    zone = read(options.zone)
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind((options.host, options.port))
        host, port, *_ = sock.getsockname()
        print(f"{zone.soa.rname} on {host}, port {port}", flush=True)
        if options.plain:
            serve(sock, zone, sock.sendto, lambda: None)
            return
        with uringzc.UdpSender(sock=sock, on_error=lambda error: print(error, file=sys.stderr)) as tx:
            serve(sock, zone, tx.send, tx.flush)
            tx.drain(timeout=5)
            stats = tx.stats
            print(f"{stats.datagrams} answers to {stats.destinations} clients, {stats.lost} lost")
            print(tx.explain())


def serve(
    sock: socket.socket, zone: Zone, send: Callable[[bytes, Any], int], flush: Callable[[], object]
) -> None:
    """Answers each query as it comes, until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            try:
                query, client = sock.recvfrom(4096, socket.MSG_DONTWAIT)
            except BlockingIOError:
                flush()  # the answers to all that had come: nobody has to wait for those of the next
                query, client = sock.recvfrom(4096)
            if answer := zone.answer(query):
                send(answer, client)


def read(path: str | None) -> Zone:
    """The zone of that file."""
    if path is None:
        return Zone(ZONE)
    try:
        with open(path, encoding="utf-8") as file:
            return Zone(file.read())
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}")
    except ValueError as error:
        sys.exit(f"{path} is no zone: {error}")


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--zone", help="a file of records (one to try, example.com)")
    parser.add_argument("--host", default="127.0.0.1", help="own address (127.0.0.1)")
    parser.add_argument("--port", type=int, default=5353, help="own port (5353); 0: a free one")
    parser.add_argument("--plain", action="store_true", help="answer with socket.sendto, to compare")
    options = parser.parse_args()
    if not 0 <= options.port < 65536:
        parser.error(f"--port is 0 to 65535, not {options.port}")
    return options


if __name__ == "__main__":
    try:
        main()
    except OSError as error:  # an address, a permission
        sys.exit(str(error))
