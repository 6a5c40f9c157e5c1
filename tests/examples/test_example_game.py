"""examples/game_server.py: each player gets every tick, whole and in order, with what all players did."""

import re
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from typing import NamedTuple

import pytest
from test_examples_udp import Program, finish, started

pytestmark = [pytest.mark.slow, pytest.mark.engines()]
PROGRAM = "game_server.py"


class Dot(NamedTuple):
    number: int
    x: int
    y: int


class State(NamedTuple):
    tick: int
    dots: dict[int, Dot]  # by id


class Client:
    """A player, with a socket of its own."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.settimeout(10)
        self.sock.connect((host, port))
        self.parts: list[bytes] = []  # that came

    def __enter__(self) -> "Client":
        self.sock.send(b"J")
        challenge = self.receive(b"C")
        self.sock.send(b"J" + challenge[1:])
        (self.ident,) = struct.unpack("!xH", self.receive(b"W"))
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def receive(self, kind: bytes) -> bytes:
        """The next datagram that is no part of a state."""
        while (data := self.sock.recv(2048))[:1] == b"S":
            self.parts.append(data)
        assert data[:1] == kind
        return data

    def move(self, number: int, dx: int, dy: int) -> None:
        self.sock.send(struct.pack("!cIbb", b"M", number, dx, dy))

    def state(self) -> State:
        """The next one. Its parts have to come in their order, behind those of the tick before."""
        dots: dict[int, Dot] = {}
        for expected in range(256):
            data = self.parts.pop(0) if self.parts else self.sock.recv(2048)
            kind, tick, part, parts = struct.unpack_from("!cIBB", data)
            assert (kind, part) == (b"S", expected)
            for ident, *dot in struct.iter_unpack("!HIHH", data[7:]):
                assert ident not in dots
                dots[ident] = Dot(*dot)
            if part == parts - 1:
                return State(tick, dots)
        raise AssertionError

    def states_until(self, ident: int, number: int) -> list[State]:
        """Up to the one that has that move of that player."""
        states = [self.state()]
        while ident not in states[-1].dots or states[-1].dots[ident].number < number:
            states.append(self.state())
        return states


@contextmanager
def playing(*options: object) -> Iterator[tuple[int, Program]]:
    with started(PROGRAM, "--port", 0, *options) as process:
        assert process.stdout
        line = process.stdout.readline()
        found = re.fullmatch(r"a world of \d+ bots on [\d.:]+, port (\d+)\n", line)
        assert found, line + process.communicate()[1]
        yield int(found[1]), process


def check_ticks(states: list[State]) -> None:
    """None is missing, and nobody moved but by a known move."""
    for before, after in pairwise(states):
        assert after.tick == before.tick + 1
        for ident in before.dots.keys() & after.dots.keys():
            was, now = before.dots[ident], after.dots[ident]
            if was.number == now.number:
                moved = (now.x - was.x + 128) % 65536 - 128, (now.y - was.y + 128) % 65536 - 128
                assert moved == MOVES.get(was.number, moved)  # bots have moves of their own


MOVES = {number: (number % 100, -number % 100) for number in range(1, 1000)}


def check_game(*options: object, clients: int = 6, host: str = "127.0.0.1") -> None:
    world = playing("--hz", 100, "--bots", 300, "--host", host, *options)
    with world as (port, process), ExitStack() as stack:
        players = [stack.enter_context(Client(port, host)) for _ in range(clients)]
        numbers = {player.ident: number for number, player in enumerate(players, 1)}
        assert len(numbers) == clients
        for player in players:
            player.move(numbers[player.ident], *MOVES[numbers[player.ident]])
        rounds = [[player.state() for player in players]]
        while any(rounds[-1][0].dots[ident].number < number for ident, number in numbers.items()):
            rounds.append([player.state() for player in players])
        rounds += [[player.state() for player in players] for _ in range(20)]
        for states in zip(*rounds, strict=True):  # of one player
            check_ticks(list(states))
            assert numbers.items() <= {ident: dot.number for ident, dot in states[-1].dots.items()}.items()
            assert len(states[-1].dots) == 300 + clients  # in three datagrams
        process.send_signal(signal.SIGINT)
        assert re.match(r"\d+ ticks, \d+ datagrams\nCPU per tick: \d+ us", finish(process))


def test_every_player_gets_every_state() -> None:
    check_game()


@pytest.mark.engines("copy")
def test_every_player_gets_every_state_over_ipv6() -> None:
    check_game(host="::1")


@pytest.mark.engines("copy")
@pytest.mark.parametrize("options", [["--plain"], ["--loop", "asyncio"], ["--plain", "--loop", "asyncio"]])
def test_every_player_gets_every_state_whatever_sends_it(options: list[str]) -> None:
    check_game(*options)


@pytest.mark.engines("copy")
def test_players_join_and_leave() -> None:
    with playing("--hz", 100) as (port, process), Client(port) as first, Client(port) as second:
        first.move(1, *MOVES[1])
        second.states_until(first.ident, 1)
        first.states_until(second.ident, 0)
        second.sock.send(b"L")
        while second.ident in (state := first.state()).dots:
            pass
        with Client(port) as third:
            assert third.ident not in (first.ident, second.ident)
            third.move(5, *MOVES[5])
            states = first.states_until(third.ident, 5)
            third.move(4, *MOVES[4])  # an old one that comes late
            third.move(6, *MOVES[6])
            states += first.states_until(third.ident, 6)
            numbers = [state.dots[third.ident].number for state in states if third.ident in state.dots]
            assert set(numbers) <= {0, 5, 6}
            check_ticks(states)
            assert second.ident not in states[-1].dots
        second.sock.setblocking(False)
        with suppress(BlockingIOError):
            while under_way := second.sock.recv(2048):  # when it left
                assert struct.unpack_from("!xI", under_way)[0] < state.tick
        process.send_signal(signal.SIGINT)
        finish(process)


@pytest.mark.engines("copy")
def test_who_is_silent_has_left() -> None:
    with (
        playing("--hz", 100, "--timeout", 0.2) as (port, process),
        Client(port) as gone,
        Client(port) as here,
    ):
        while gone.ident in here.state().dots:
            here.move(1, 1, 1)
        process.send_signal(signal.SIGINT)
        finish(process)


@pytest.mark.engines("copy")
def test_only_who_receives_at_its_address_can_join() -> None:
    with playing("--hz", 100) as (port, process), Client(port) as other:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
            forger.connect(("127.0.0.1", port))
            for token in (b"", b"guessed!", bytes(8)):
                forger.send(b"J" + token)
                answer = forger.recv(2048)
                assert (answer[:1], len(answer)) == (b"C", 9)
            forger.send(b"M" + bytes(6))  # nor does anything else make it a player
        assert [set(other.state().dots) for _ in range(5)] == [{other.ident}] * 5
        process.send_signal(signal.SIGINT)
        finish(process)
