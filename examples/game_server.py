"""A game server: a protocol receives what players do, and a Group sends the state of the world to them all.

    game_server.py                                         # on port 7777 of this machine, 30 ticks per second
    game_server.py --bots 500 --hz 60                      # a world that takes five datagrams
    game_server.py --bots 500 --plain --loop asyncio       # the same with transport.sendto, to compare

A player is a dot, and says how it moves. What players send comes through an ordinary asyncio protocol; the
state goes out through an awaitable UdpSender on the same socket: each of its datagrams is one piece of memory
for all players. Integers are big-endian, and every message begins with a letter:

    J token        join. The server answers C token, which has to be sent back: else whoever forges a source
                   address could direct the state to it. Then it answers W id
    M number x y   move by x and y in each tick; the state has the number of the last one that counted
    L              leave; so does who has sent nothing for --timeout seconds
    S tick part parts (id number x y)...                   the state, in as many datagrams as it takes
"""

import argparse
import asyncio
import contextlib
import hashlib
import itertools
import math
import random
import secrets
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import uringzc.aio

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uringzc": uringzc.aio.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
}

MOVE = struct.Struct("!xIbb")
WELCOME = struct.Struct("!cH")
STATE = struct.Struct("!cIBB")
PLAYER = struct.Struct("!HIHH")
PLAYERS = (1200 - STATE.size) // PLAYER.size  # in a datagram, which fits any path
EVERYONE = 255 * PLAYERS  # in a state


@dataclass
class Player:
    """One dot."""

    ident: int
    x: int = 0
    y: int = 0
    dx: int = 0
    dy: int = 0
    number: int = 0  # of the last move
    heard: float = math.inf  # when it last sent something: bots are always there

    def step(self) -> bytes:
        """Moves it; what the state has of it."""
        self.x = (self.x + self.dx) & 0xFFFF
        self.y = (self.y + self.dy) & 0xFFFF
        return PLAYER.pack(self.ident, self.number, self.x, self.y)


class Game(asyncio.DatagramProtocol):
    """The world, and what players say; the group has the address of each, or is None with --plain."""

    transport: asyncio.DatagramTransport

    def __init__(self, group: "uringzc.aio.Group | None", bots: int, timeout: float) -> None:
        self.group = group
        self.timeout = timeout
        self.players: dict[Any, Player] = {}
        self.idents = itertools.count(1)
        self.bots = [self.add_bot() for _ in range(bots)]
        self.secret = secrets.token_bytes(16)
        self.tick = self.datagrams = 0

    def add_bot(self) -> Player:
        """A player that nobody plays."""
        x, y = random.randrange(1 << 16), random.randrange(1 << 16)
        return Player(next(self.idents), x, y, random.randint(-9, 9), random.randint(-9, 9))

    # -- what players say

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        """Answers leave through it."""
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        """A message of a player, or of somebody who wants to be one."""
        player = self.players.get(address)
        if player:
            player.heard = time.monotonic()
        if data[:1] == b"J":
            self.join(address, data[1:])
        elif data[:1] == b"L":
            self.leave(address)
        elif player and data[:1] == b"M" and len(data) == MOVE.size:
            number, dx, dy = MOVE.unpack(data)
            if number > player.number:  # UDP may deliver an old one late
                player.number, player.dx, player.dy = number, dx, dy

    def join(self, address: Any, token: bytes) -> None:
        """Lets it in if it has proved that it receives at that address."""
        expected = hashlib.blake2b(repr(address).encode(), key=self.secret, digest_size=8).digest()
        if not secrets.compare_digest(token, expected):
            self.transport.sendto(b"C" + expected, address)
            return
        if address not in self.players:
            if len(self.players) + len(self.bots) == EVERYONE:
                return
            self.players[address] = Player(next(self.idents) & 0xFFFF, heard=time.monotonic())
            if self.group is not None:
                self.group.add(address)
        self.transport.sendto(WELCOME.pack(b"W", self.players[address].ident), address)

    def leave(self, address: Any) -> None:
        """It gets nothing any more."""
        if self.players.pop(address, None) and self.group is not None:
            self.group.remove(address)

    # -- what the server says

    def step(self) -> list[bytes]:
        """Goes on by one tick; the datagrams of the state."""
        now = time.monotonic()
        for address in [where for where, who in self.players.items() if now - who.heard > self.timeout]:
            self.leave(address)
        self.tick += 1
        dots = [player.step() for player in (*self.players.values(), *self.bots)]
        parts = [dots[at : at + PLAYERS] for at in range(0, len(dots), PLAYERS)]
        return [
            STATE.pack(b"S", self.tick, number, len(parts)) + b"".join(part)
            for number, part in enumerate(parts)
        ]

    async def broadcast(self, state: list[bytes]) -> None:
        """To all players. It leaves at the end of the loop's turn; the stock transport sends at once."""
        self.datagrams += len(state) * len(self.players)
        if self.group is not None:
            await self.group.send_many(state)
            return
        for address in self.players:
            for datagram in state:
                self.transport.sendto(datagram, address)

    async def play(self, hz: float, ticks: float) -> None:
        """So many ticks; one that is late does not make the next ones come faster."""
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGINT, stop.set)
        due, began, stepping = loop.time(), time.process_time(), 0.0
        while self.tick < ticks and not stop.is_set():
            before = time.process_time()
            state = self.step()
            stepping += time.process_time() - before
            await self.broadcast(state)
            due = max(due + 1 / hz, loop.time())
            await asyncio.sleep(due - loop.time())
        each = 1e6 / max(1, self.tick)
        print(f"{self.tick} ticks, {self.datagrams} datagrams")
        print(
            f"CPU per tick: {(time.process_time() - began) * each:.0f} us, "
            f"{stepping * each:.0f} of them to make the state"
        )


async def serve(options: argparse.Namespace) -> None:
    """Plays until Ctrl-C, or for --ticks."""
    loop = asyncio.get_running_loop()

    def on_error(error: uringzc.SendError) -> None:
        loop.call_soon(game.leave, error.to)  # not now, because the group is sending

    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((options.host, options.port))
        async with uringzc.aio.UdpSender(sock=sock, on_error=on_error) as tx:
            game = Game(None if options.plain else tx.group(), options.bots, options.timeout)
            transport, _ = await loop.create_datagram_endpoint(lambda: game, sock=sock)
            host, port, *_ = sock.getsockname()
            print(f"a world of {options.bots} bots on {host}, port {port}", flush=True)
            await game.play(options.hz, options.ticks)
            if not options.plain:
                print(tx.explain())
        transport.close()


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--host", default="127.0.0.1", help="own address (127.0.0.1)")
    parser.add_argument("--port", type=int, default=7777, help="own port (7777); 0: a free one")
    parser.add_argument("--hz", type=float, default=30, help="ticks per second (30)")
    parser.add_argument("--ticks", type=int, default=math.inf, help="how many (until Ctrl-C)")
    parser.add_argument("--bots", type=int, default=0, help="dots that nobody plays (0)")
    parser.add_argument("--timeout", type=float, default=10, help="seconds that a player may be silent (10)")
    parser.add_argument("--plain", action="store_true", help="send with transport.sendto, to compare")
    parser.add_argument("--loop", choices=LOOPS, default="uringzc", help="whose event loop (uringzc)")
    options = parser.parse_args()
    if not 0 <= options.port < 65536:
        parser.error(f"--port is 0 to 65535, not {options.port}")
    if not 0 < options.hz <= 1000:
        parser.error(f"--hz is more than 0 and at most 1000, not {options.hz:g}")
    if not 0 <= options.bots < EVERYONE:
        parser.error(f"--bots is 0 to {EVERYONE - 1}, not {options.bots}")
    return options


if __name__ == "__main__":
    options = parse()
    try:
        with contextlib.closing(LOOPS[options.loop]()) as loop:
            loop.run_until_complete(serve(options))
    except OSError as error:  # an address, a permission
        sys.exit(str(error))
