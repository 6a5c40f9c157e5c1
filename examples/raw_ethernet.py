"""Ethernet frames of the program's own, of any protocol, from a ring that is shared with the kernel.

    raw_ethernet.py                                # in a network of its own; prints what arrives there
    raw_ethernet.py eth0 02:00:00:00:00:02         # to a MAC behind a device

Each frame has a number, of 8 bytes. The engine packet copies a frame into the ring, where the device takes it
from; the socket only says which device. It needs CAP_NET_RAW and pyroute2 (the extra "packet"), without a
device also what uringzc.testing needs to make a network.
"""

import argparse
import socket
import struct
import sys
from functools import partial

import uringzc
from uringzc import testing

BATCH = 32  # frames of a notifier: fewer than a ring has
SHOWN = 3  # of those that arrive


def main() -> None:
    """Sends the frames."""
    options = parse()
    try:
        if options.device:
            send(options.device, options.destination, options)
        else:
            in_a_sandbox(options)
    except (OSError, ModuleNotFoundError) as error:
        sys.exit(str(error))


def send(device: str, destination: bytes, options: argparse.Namespace) -> None:
    """Sends numbered frames, a notification for each batch of them."""
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock,  # 0: it receives nothing
        uringzc.Scheduler(engine=options.engine, completions="failed") as scheduler,
    ):
        sock.bind((device, 0))
        source: bytes = sock.getsockname()[4]
        header = destination + source + struct.pack("!H", options.ethertype)
        for first in range(0, options.count, BATCH):
            for number in range(first, min(first + BATCH, options.count)):
                frame = header + struct.pack("!Q", number)
                scheduler.send(sock, frame.ljust(options.size, b"\0"))
            scheduler.flush(0)
            scheduler.reap_notifications(wait=1)  # all of the batch is free again
            for completion in scheduler.reap_completions():
                sys.exit(f"a frame was not sent: {completion.error}")
        stats = scheduler.stats
    print(f"{stats.requests} frames, {stats.nbytes} bytes, by {device}")


def in_a_sandbox(options: argparse.Namespace) -> None:
    """Sends over a veth pair, and prints what arrives at its other end."""
    with testing.hold() as box, box.peer.run(partial(listen, box.peer.device, options.ethertype)) as receiver:
        destination: bytes = receiver.getsockname()[4]
        box.run(partial(send, box.device, destination, options))
        for _ in range(min(SHOWN, options.count)):
            frame = receiver.recv(65535)
            (number,) = struct.unpack_from("!Q", frame, 14)
            print(f"frame {number} of {len(frame)} bytes from {frame[6:12].hex(':')} to {frame[:6].hex(':')}")


def listen(device: str, ethertype: int) -> socket.socket:
    """A socket that gets the frames of that type."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ethertype))
    sock.bind((device, ethertype))
    sock.settimeout(5)
    return sock


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("device", nargs="?", help="that frames leave by (without: a network of its own)")
    parser.add_argument(
        "destination", nargs="?", type=mac, help="the MAC that they go to, as 02:00:00:00:00:02"
    )
    parser.add_argument("--count", type=int, default=1000, help="frames (1000)")
    parser.add_argument("--size", type=int, default=60, help="bytes of a frame, with its header of 14 (60)")
    parser.add_argument(
        "--ethertype", type=partial(int, base=0), default=0x88B5, help="(0x88b5, for experiments)"
    )
    parser.add_argument("--engine", default="packet", choices=("packet", "af_xdp"))
    options = parser.parse_args()
    if options.device and not options.destination:
        parser.error("name the destination too, a MAC")
    if not 22 <= options.size <= 65549:
        parser.error(f"--size is 22 to 65549, not {options.size}")
    if options.count < 0:
        parser.error(f"--count is 0 or more, not {options.count}")
    if not 0x600 <= options.ethertype <= 0xFFFF:
        parser.error(f"--ethertype is 0x600 to 0xffff, not {options.ethertype:#x}")
    return options


def mac(text: str) -> bytes:
    """The 6 bytes of a MAC."""
    found = bytes.fromhex(text.replace(":", ""))
    if len(found) != 6:
        raise ValueError(text)
    return found


if __name__ == "__main__":
    main()
