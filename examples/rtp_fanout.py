"""An RTP sender to many receivers: each packet is one piece of memory, sent to all of them by a Group.

    rtp_fanout.py 192.0.2.7:5004 192.0.2.8:5004            # a tone, until Ctrl-C
    rtp_fanout.py 127.0.0.1:5004 --streams 4 --control 9000
    echo join 192.0.2.9:5004 | nc -u -w1 127.0.0.1 9000    # receivers come and go
    echo leave 127.0.0.1:5004 | nc -u -w1 127.0.0.1 9000
    ffplay rtp://127.0.0.1:5004                            # to listen

A stream is G.711 audio (PCMU: 8000 samples/s of one byte) in packets of 20 ms, each with its own SSRC (its
number in the RTP header) and its own tone, as a conference has a stream for each who speaks. Packets are due
by the media clock: one that is late does not delay those after it. The control socket is of this machine
only, because whoever can send to it decides where packets go.
"""

import argparse
import contextlib
import itertools
import math
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator

import uringzc

HEADER = struct.Struct("!BBHII")  # RFC 3550: version and flags, marker and type, sequence, timestamp, SSRC
PCMU = 0  # the payload type, RFC 3551
RATE = 8000  # samples/s
SAMPLES = 160  # of a packet
INTERVAL = SAMPLES / RATE


def ulaw(sample: int) -> int:
    """A sample of 16 bits as G.711 has it: sign, exponent and four bits of mantissa, inverted."""
    magnitude = min(abs(sample), 32635) + 132
    exponent = magnitude.bit_length() - 8
    return 0xFF ^ (0x80 * (sample < 0) | exponent << 4 | magnitude >> exponent + 3 & 0xF)


def stream(hertz: int) -> Iterator[bytes]:
    """The packets of a tone. Sequence number and timestamp begin anywhere, and wrap."""
    one_second = bytes(ulaw(int(8000 * math.sin(2 * math.pi * hertz * i / RATE))) for i in range(RATE))
    sequence, timestamp, ssrc = (random.getrandbits(bits) for bits in (16, 32, 32))
    for number in itertools.count():
        marker = 0x80 if number == 0 else 0  # a talkspurt begins
        at = number * SAMPLES % RATE
        yield (
            HEADER.pack(
                0x80,
                marker | PCMU,
                (sequence + number) & 0xFFFF,
                (timestamp + number * SAMPLES) & 0xFFFFFFFF,
                ssrc,
            )
            + one_second[at : at + SAMPLES]
        )


def play(
    tx: uringzc.UdpSender, group: uringzc.Group, control: socket.socket, options: argparse.Namespace
) -> None:
    """A packet of each stream in every interval, to whoever is in the group then."""
    streams = [stream(440 + 110 * number) for number in range(options.streams)]
    start = time.monotonic()
    for interval in itertools.count():
        if interval * INTERVAL >= options.seconds:
            return
        while (left := start + interval * INTERVAL - time.monotonic()) > 0:
            if select.select([control], [], [], left)[0]:
                obey(control, group)
        group.send_many([next(each) for each in streams])
        tx.flush()  # all of them leave now


def obey(control: socket.socket, group: uringzc.Group) -> None:
    """Does what one message says, and answers."""
    message, client = control.recvfrom(1024)
    try:
        word, _, text = message.decode().strip().partition(" ")
        {"join": group.add, "leave": group.remove}[word](address(text))
        answer = f"{len(group)} receivers"
    except KeyError:
        answer = "no such receiver, or word: say join or leave, and HOST:PORT"
    except (OSError, ValueError) as error:
        answer = str(error)
    with contextlib.suppress(OSError):  # it is gone
        control.sendto(f"{answer}\n".encode(), client)


def main() -> None:
    """Sends until --seconds are over, or Ctrl-C."""
    options = parse()
    refused: set[object] = set()

    def on_error(error: uringzc.SendError) -> None:
        if error.to not in refused:  # once each; the others do not wait for it
            refused.add(error.to)
            print(error, file=sys.stderr)

    family = socket.AF_INET6 if any(":" in host for host, _ in options.receivers) else socket.AF_INET
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control,
        uringzc.UdpSender(family=family, on_error=on_error) as tx,
    ):
        control.bind(("127.0.0.1", options.control))
        print(f"control port {control.getsockname()[1]}", flush=True)
        group = tx.group(options.receivers)
        with contextlib.suppress(KeyboardInterrupt):
            play(tx, group, control, options)
        tx.drain(timeout=5)
        stats = tx.stats
        print(f"{stats.datagrams} packets, {stats.nbytes} bytes, {stats.lost} lost")
        print(tx.explain())


def address(text: str) -> tuple[str, int]:
    """HOST:PORT, with brackets around an IPv6 host."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "receivers", type=address, nargs="*", metavar="HOST:PORT", help="who is there at first"
    )
    parser.add_argument("--streams", type=int, default=1, help="streams that each receiver gets (1)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="how long (until Ctrl-C)")
    parser.add_argument("--control", type=int, default=0, help="port for join and leave (0: a free one)")
    options = parser.parse_args()
    if options.streams < 1:
        parser.error(f"--streams is 1 or more, not {options.streams}")
    if not 0 <= options.control < 65536:
        parser.error(f"--control is 0 to 65535, not {options.control}")
    return options


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:  # an address, a permission
        sys.exit(str(error))
