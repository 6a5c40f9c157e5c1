"""A market data publisher: each symbol belongs to a channel, and each channel to its receivers.

    market_data.py 239.1.2.1:9000 239.1.2.2:9000 239.1.2.3:9000 --ttl 2 --interface eth0
    market_data.py 192.0.2.7:9001,192.0.2.8:9001 192.0.2.7:9002 192.0.2.8:9003 --pps 50kpps

A channel is one address, as of a multicast group, or several with commas between them: where no network
carries multicast, a Group sends each message to every one of them from one piece of memory. The channel of a
symbol is found by its hash (CRC-32), so a receiver needs only the channels of its symbols. Messages of all
channels are interleaved, and gather in a train for each destination. A message is 36 bytes: its number in the
channel, the time in ns, a symbol, a price in 1/10000, a quantity.
"""

import argparse
import contextlib
import functools
import itertools
import random
import socket
import struct
import sys
import time
import zlib
from collections.abc import Callable

import uringzc

MESSAGE = struct.Struct("!QQ8sqI")
SYMBOLS = [f"{letter * 3}.X".encode() for letter in "ABCDEFGHIJKLMNOP"]
Send = Callable[[bytearray], int]


def channel(tx: uringzc.UdpSender, addresses: list[tuple[str, int]]) -> Send:
    """A function that sends a message to all of them."""
    if len(addresses) > 1:
        return tx.group(addresses).send
    return functools.partial(tx.send, to=addresses[0])


def publish(channels: list[Send], count: int) -> None:
    """Sends messages, each to the channel of its symbol, as fast as the sender takes them."""
    message = bytearray(MESSAGE.size)
    prices = dict.fromkeys(SYMBOLS, 100_0000)
    numbers = [itertools.count() for _ in channels]
    for _ in range(count):
        symbol = random.choice(SYMBOLS)
        prices[symbol] += random.randint(-5, 5)
        at = zlib.crc32(symbol) % len(channels)
        MESSAGE.pack_into(message, 0, next(numbers[at]), time.time_ns(), symbol, prices[symbol], 100)
        channels[at](message)


def main() -> None:
    """Publishes until --count messages were sent, or Ctrl-C."""
    options = parse()
    refused: set[object] = set()

    def on_error(error: uringzc.SendError) -> None:
        if error.to not in refused:  # once each: the others do not wait for it
            refused.add(error.to)
            print(error, file=sys.stderr)

    hosts = [host for addresses in options.channels for host, _ in addresses]
    family = socket.AF_INET6 if any(":" in host for host in hosts) else socket.AF_INET
    with uringzc.UdpSender(
        family=family, ttl=options.ttl, interface=options.interface, pps=options.pps, on_error=on_error
    ) as tx:
        with contextlib.suppress(KeyboardInterrupt):
            publish([channel(tx, addresses) for addresses in options.channels], options.count)
        tx.drain(timeout=5)
        stats = tx.stats
        print(f"{stats.datagrams} datagrams, {stats.nbytes} bytes, {stats.lost} lost")
        print(tx.explain())


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "channels",
        type=receivers,
        nargs="+",
        metavar="HOST:PORT[,HOST:PORT...]",
        help="the receivers of a channel",
    )
    parser.add_argument("--pps", default="100kpps", help="datagrams/s (100kpps)")
    parser.add_argument("--count", type=int, default=sys.maxsize, help="messages (until Ctrl-C)")
    parser.add_argument("--ttl", type=int, help="hops that the messages live")
    parser.add_argument("--interface", help="that multicast leaves by: a name, or its IPv4 address")
    options = parser.parse_args()
    if options.count < 0:
        parser.error(f"--count is 0 or more, not {options.count}")
    return options


def receivers(text: str) -> list[tuple[str, int]]:
    """Addresses with commas between them; brackets around an IPv6 host."""
    pairs = [each.rpartition(":") for each in text.split(",")]
    return [(host.strip("[]"), int(port)) for host, _, port in pairs]


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:  # an address, an interface, a rate
        sys.exit(str(error))
