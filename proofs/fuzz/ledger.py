"""What has to arrive, what may, and what must not: per receiver, from what calls have returned."""

from collections import Counter
from dataclasses import dataclass, field

from proofs.fuzz.memory import WRITTEN, content, number_of
from proofs.fuzz.network import Connection, Network


@dataclass
class Account:
    """The datagrams of one object. `lost`: how many of them it has reported; `unknown`: nothing says."""

    taken: list[tuple[int | None, bytes]] = field(default_factory=list)
    perhaps: list[tuple[int | None, bytes]] = field(default_factory=list)
    lost: int = 0
    unknown: bool = False


class Ledger:
    """Of one program."""

    def __init__(self) -> None:
        self.accounts: dict[int, Account] = {}
        self.lost_by_dropped = 0  #: datagrams, by UdpSenders that were dropped, and have warned

    def of(self, number: int) -> Account:
        """The account of an object."""
        return self.accounts.setdefault(number, Account())

    def compare(self, network: Network, first: int) -> list[str]:
        """What is wrong. `first`: content of a lower number is from an earlier program."""
        must: list[Counter[bytes]] = [Counter() for _ in network.came]
        may: list[Counter[bytes]] = [Counter() for _ in network.came]
        for account in self.accounts.values():
            for place, data in account.taken:
                if place is not None:
                    (may if account.unknown else must)[place][data] += 1
            for place, data in account.perhaps:
                if place is not None:
                    may[place][data] += 1
        found = []
        missing = 0
        for place, came in enumerate(network.came):
            got = Counter(came)
            for data, times in got.items():
                if times > must[place][data] + may[place][data] and not _stale(data, first):
                    found.append(_wrong(place, data, times, must[place][data] + may[place][data], must, may))
            missing += sum((must[place] - got).values())
        lost = self.lost_by_dropped + sum(account.lost for account in self.accounts.values())
        if missing > lost and not network.lost_at_receivers():
            found.append(f"lost: datagrams: {missing} have not come, {lost} were reported")
        found += [
            f"wrong receiver: a descriptor that was reused: {len(data)} bytes" for data in network.trapped
        ]
        for connection in network.connections:
            found += _stream(connection)
        return found


def _stale(data: bytes, first: int) -> bool:
    return len(data) < 4 or (number_of(data) <= first and data == content(number_of(data), len(data)))


def _wrong(
    place: int, data: bytes, times: int, sent: int, must: list[Counter[bytes]], may: list[Counter[bytes]]
) -> str:
    shown = f"{len(data)} bytes, {data[:12].hex(' ')}, to receiver {place}"
    if sent:
        return f"duplicate: in a datagram: {shown}: {times} came, {sent} sent"
    if data.count(WRITTEN) > min(7, len(data) - 1) and bytes([WRITTEN]) * min(8, len(data)) in data:
        return f"wrong bytes: memory that was written after it was said to be free: {shown}"
    elsewhere = [at for at in range(len(must)) if must[at][data] or may[at][data]]
    if elsewhere:
        return f"wrong receiver: not where it was sent: {shown}, but {elsewhere}"
    return f"wrong bytes: nobody has sent that: {shown}"


def _stream(connection: Connection) -> list[str]:
    came, expected = bytes(connection.came), bytes(connection.expected)
    if bytes([WRITTEN]) * 8 in came:
        return ["wrong bytes: memory that was written after it was said to be free: in a stream"]
    if not connection.order_known:
        return []
    if came != expected[: len(came)]:
        at = next((i for i, (a, b) in enumerate(zip(came, expected, strict=False)) if a != b), len(expected))
        return [f"wrong bytes: a stream differs: from byte {at} on, of {len(came)} and {len(expected)}"]
    if len(came) < len(expected) and not connection.broken:
        return [f"lost: of a stream: {len(came)} of {len(expected)} bytes have come"]
    return []
