"""A publisher of small messages: market data or telemetry, many of them to one address or group.

    publisher.py 192.0.2.7 9000 --rate 200000 --seconds 10
    publisher.py 239.1.2.3 9000 --ttl 2 --interface eth0

Each message is 36 bytes: a sequence number, the time in ns, a symbol, a price in 1/10000, a quantity. `send`
copies it, so all messages are packed into the same buffer. A message waits at most --max-delay for others to
leave with, also when the program does nothing more.
"""

import argparse
import contextlib
import random
import struct
import sys
import time

import uringzc

MESSAGE = struct.Struct("!QQ8sqI")
LATE = 1.1  # times --seconds: it does not keep up with --rate
SYMBOLS = [b"AAA.X", b"BBB.X", b"CCC.X", b"DDD.Y"]


def main() -> None:
    """Publishes until --seconds or --count is over, or Ctrl-C."""
    options = parse()
    reported: set[int] = set()

    def on_error(error: uringzc.SendError) -> None:
        if error.errno not in reported:  # once each: a receiver that is gone causes many
            reported.add(error.errno or 0)
            print(error.strerror, file=sys.stderr)

    with uringzc.UdpSender(
        (options.host, options.port),
        ttl=options.ttl,
        interface=options.interface,
        pps=options.rate,
        max_delay=options.max_delay,
        on_error=on_error,
    ) as tx:
        with contextlib.suppress(KeyboardInterrupt):
            publish(tx, options)
        tx.drain(timeout=5)
        stats = tx.stats
        print(f"{stats.datagrams} messages, {stats.nbytes} bytes, {stats.resent} resent, {stats.lost} lost")
        print(tx.explain())


def publish(tx: uringzc.UdpSender, options: argparse.Namespace) -> None:
    """Sends at the sender's pace, which `send` waits for, and prints a line once per second."""
    message = bytearray(MESSAGE.size)
    prices = dict.fromkeys(SYMBOLS, 100_0000)
    start = reported = time.monotonic()
    before = tx.stats
    for sequence in range(min(options.count, round(min(options.seconds * options.rate, sys.maxsize)))):
        symbol = SYMBOLS[sequence % len(SYMBOLS)]
        prices[symbol] += random.randint(-5, 5)
        MESSAGE.pack_into(message, 0, sequence, time.time_ns(), symbol, prices[symbol], 100)
        tx.send(message)
        now = time.monotonic()
        if now - reported >= 1:
            show(before, tx.stats, now - reported)
            before, reported = tx.stats, now
        if now - start >= options.seconds * LATE:
            return


def show(before: uringzc.UdpStats, after: uringzc.UdpStats, seconds: float) -> None:
    """One line: what these seconds did."""
    messages, nbytes = after.datagrams - before.datagrams, after.nbytes - before.nbytes
    calls = after.requests + after.syscalls - before.requests - before.syscalls
    print(
        f"{messages / seconds:.0f} messages/s, {nbytes / seconds / 1e6:.1f} MB/s, "
        f"{messages / max(calls, 1):.1f} messages together, waited {after.waits - before.waits} times, "
        f"{after.resent} resent, {after.reordered} overtaken, {after.lost} lost",
        flush=True,
    )


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("host", help="an address, or a multicast group")
    parser.add_argument("port", type=int, help="a UDP port")
    parser.add_argument("--rate", type=float, default=100_000, help="messages/s (100000)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long (until Ctrl-C)")
    parser.add_argument("--count", type=int, default=sys.maxsize, help="messages (until Ctrl-C)")
    parser.add_argument("--ttl", type=int, help="hops that the messages live")
    parser.add_argument("--interface", help="that multicast leaves by: a name, or its IPv4 address")
    parser.add_argument("--max-delay", type=float, default=0.001, help="seconds (0.001)")
    options = parser.parse_args()
    if not 0 < options.rate <= 1e7:
        parser.error(f"--rate is more than 0 and at most 1e7, not {options.rate:g}")
    if options.count < 0:
        parser.error(f"--count is 0 or more, not {options.count}")
    if not 0 < options.port < 65536:
        parser.error(f"port is 1 to 65535, not {options.port}")
    return options


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:  # an address, an interface, a permission
        sys.exit(str(error))
