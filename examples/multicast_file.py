"""A file sent to a multicast group as numbered datagrams, and received.

    multicast_file.py --receive copy.bin 239.1.2.3 9000 --interface eth0 &
    multicast_file.py file.bin 239.1.2.3 9000 --interface eth0 --rate 50e6

Each datagram begins with 24 bytes: a number of the transfer, its own number, its offset in the file, and the
file's size. Receivers do not answer, and nothing is sent again (except by --repeat), so --rate is for the
slowest of them. A receiver that misses something prints what, and exits with status 1.

The file is read into registered memory, each piece behind its header, and a block of datagrams is sent from
there: after the read, this program copies nothing. While the kernel owns one block the other is filled; a
block's notifier says when it may be filled again.
"""

import argparse
import errno
import io
import ipaddress
import math
import os
import secrets
import socket
import struct
import sys
import time

import uringzc

HEADER = struct.Struct("!IIQQ")  # transfer, number, offset, size of the file
BLOCK = 32  # datagrams


def send(options: argparse.Namespace) -> None:
    """Sends the file --repeat times, in two blocks that take turns."""
    transfer = secrets.randbits(32)
    with (
        open(options.file, "rb", buffering=0) as file,
        uringzc.UdpSender(
            (options.group, options.port),
            ttl=options.ttl,
            interface=options.interface,
            rate=8 * options.rate,
        ) as tx,
    ):
        size = os.fstat(file.fileno()).st_size
        pieces = max(1, math.ceil(size / (options.size - HEADER.size)))  # an empty file is one header
        blocks = [tx.register(BLOCK * options.size) for _ in range(2)]
        notifiers: list[uringzc.Notifier | None] = [None, None]
        start, turn = time.monotonic(), 0
        for _ in range(options.repeat):
            file.seek(0)
            for first in range(0, pieces, BLOCK):
                turn ^= 1
                if notifier := notifiers[turn]:
                    notifier.wait()  # the block is free
                count = min(BLOCK, pieces - first)
                length = fill(
                    blocks[turn].view, file, transfer, range(first, first + count), size, options.size
                )
                tx.send_region(blocks[turn], 0, length, segment=options.size)
                notifiers[turn] = tx.flush()
        tx.drain()
        stats = tx.stats
        seconds = time.monotonic() - start
        print(f"{size} bytes in {stats.datagrams} datagrams, {seconds:.3f} s, {stats.lost} lost")
        print(tx.explain())


def fill(view: memoryview, file: io.FileIO, transfer: int, numbers: range, size: int, step: int) -> int:
    """Datagrams of `step` bytes, one behind the other, the last of the file shorter. Returns their bytes."""
    at = 0
    for number in numbers:
        offset = number * (step - HEADER.size)
        length = min(step - HEADER.size, size - offset)
        HEADER.pack_into(view, at, transfer, number, offset, size)
        at += HEADER.size
        if file.readinto(view[at : at + length]) != length:
            sys.exit("the file became shorter while it was sent")
        at += length
    return at


def receive(options: argparse.Namespace) -> None:
    """Takes the first transfer that comes, until it is complete or --timeout seconds bring nothing of it."""
    came: dict[int, int] = {}  # offset: bytes
    ours, size, total = None, 0, 0
    with join(options) as sock, open(options.file, "wb", buffering=0) as file:
        print("waiting", flush=True)
        sock.settimeout(options.timeout)
        while ours is None or total < size:
            try:
                datagram = sock.recv(1 << 16)
            except TimeoutError:
                break
            if len(datagram) < HEADER.size:
                continue
            transfer, _, offset, length = HEADER.unpack_from(datagram)
            if ours is None:
                ours, size = transfer, length
            piece = datagram[HEADER.size :]
            if transfer == ours and offset not in came and offset + len(piece) <= size:
                os.pwrite(file.fileno(), piece, offset)
                came[offset] = len(piece)
                total += len(piece)
    if ours is None:
        sys.exit("nothing came")
    print(f"{total} of {size} bytes in {len(came)} datagrams")
    expected = 0
    for offset in [*sorted(came), size]:
        if offset > expected:
            print(f"missing: {offset - expected} bytes from {expected} on")
        expected = offset + came.get(offset, 0)
    sys.exit(total < size)


def join(options: argparse.Namespace) -> socket.socket:
    """A socket that receives what is sent to the group, and only that."""
    group = ipaddress.ip_address(options.group)
    sock = socket.socket(socket.AF_INET if group.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        _become_member(sock, group, options.interface or "")
        sock.bind((options.group, options.port))
    except BaseException:
        sock.close()
        raise
    return sock


def _become_member(
    sock: socket.socket, group: "ipaddress.IPv4Address | ipaddress.IPv6Address", at: str
) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # others here may listen too
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    if group.version == 6:
        index = _index_of(at)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group.packed + struct.pack("=I", index))
    else:
        name = "" if at[:1].isdigit() else at  # an address, or the name of an interface
        near = socket.inet_aton(at) if at and not name else bytes(4)
        index = _index_of(name)
        member = struct.pack("=4s4si", group.packed, near, index)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)


def _index_of(interface: str) -> int:
    """Without a name 0, which is any interface."""
    try:
        return socket.if_nametoindex(interface) if interface else 0
    except OSError as error:
        raise OSError(errno.ENODEV, f"no interface {interface!r}") from error


def main() -> None:
    """Sends, or receives."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", help="what to send, or with --receive where to write it")
    parser.add_argument("group", help="a multicast address")
    parser.add_argument("port", type=int, help="a UDP port")
    parser.add_argument("--interface", help="a name or (IPv4) an address")
    parser.add_argument("--receive", action="store_true", help="receive it")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds to wait for the next (10)")
    parser.add_argument("--rate", type=float, default=10e6, help="bytes/s (10e6)")
    parser.add_argument("--repeat", type=int, default=1, help="send it so often (1)")
    parser.add_argument("--size", type=int, default=1400, help="bytes of a datagram (1400)")
    parser.add_argument("--ttl", type=int, default=1, help="hops (1)")
    options = parser.parse_args()
    if not HEADER.size < options.size <= 65507:
        parser.error(f"--size is {HEADER.size + 1} to 65507, not {options.size}")
    for name, value in (("--rate", options.rate), ("--timeout", options.timeout)):
        if not value > 0:
            parser.error(f"{name} is more than 0, not {value:g}")
    if options.repeat < 1:
        parser.error(f"--repeat is 1 or more, not {options.repeat}")
    if not 0 < options.port < 65536:
        parser.error(f"port is 1 to 65535, not {options.port}")
    if not is_group(options.group):
        parser.error(f"{options.group} is no multicast address")
    (receive if options.receive else send)(options)


def is_group(text: str) -> bool:
    """Whether it is a multicast address."""
    try:
        return ipaddress.ip_address(text).is_multicast
    except ValueError:
        return False


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, ValueError) as error:  # a file, an address, an interface, a permission
        sys.exit(str(error))
