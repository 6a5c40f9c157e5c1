"""A file over TCP: read in pieces, each sent from the memory that it was read into.

    tcp_file.py --receive copy.bin 0.0.0.0 9000 &
    tcp_file.py file.bin 192.0.2.1 9000

A piece is a bytes object, which cannot change: so it is sent zero-copy, and held until the receiver has
acknowledged it. (A mapped file can be changed by others meanwhile: it would be copied.) The receiver may be
any program that reads a stream to its end: `nc -l 9000 > copy.bin`. It sends no answer: it closes the
connection when it has read everything, after the sender has ended the stream.
"""

import argparse
import io
import socket
import sys
import time

import uringzc

PIECE = 1 << 20


def send(options: argparse.Namespace) -> None:
    """Sends the file, ends the stream, and waits until the receiver has closed."""
    start = time.monotonic()
    with (
        open(options.file, "rb", buffering=0) as file,
        socket.create_connection((options.host, options.port)) as sock,
        uringzc.TcpSender(sock, engine=options.engine) as tx,
    ):
        try:
            while piece := file.read(PIECE):
                tx.send(piece)
            tx.shutdown()
        except uringzc.SendError as error:
            sys.exit(f"{options.file}: {error}")
        if sock.recv(1):
            sys.exit("the receiver is to read, and said something")
        seconds = time.monotonic() - start
        print(f"{tx.stats.nbytes} bytes in {seconds:.2f} s, {tx.stats.nbytes / 1e6 / seconds:.0f} MB/s")
        print(tx.explain())


def receive(options: argparse.Namespace) -> None:
    """Writes what one sender sends to the file."""
    with open(options.file, "wb") as file:  # before listening: if this fails, the sender cannot connect
        with socket.create_server((options.host, options.port)) as server:
            sock, _ = server.accept()
        with sock:
            take(sock, file)


def take(sock: socket.socket, file: io.BufferedWriter) -> None:
    """Reads to the end of the stream."""
    while data := sock.recv(PIECE):
        file.write(data)
    print(f"{file.tell()} bytes")


def main() -> None:
    """Reads the options, and sends or receives."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", help="what to send, or with --receive where to write it")
    parser.add_argument("host", help="to send to; to receive: an address of this machine")
    parser.add_argument("port", type=int, help="a TCP port")
    parser.add_argument("--receive", action="store_true", help="listen, and write the file")
    parser.add_argument("--engine", choices=("auto", "io_uring", "msg_zerocopy", "copy"), default="auto")
    options = parser.parse_args()
    if not 0 < options.port < 65536:
        parser.error(f"port is 1 to 65535, not {options.port}")
    try:
        (receive if options.receive else send)(options)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # a file, an address, a permission
        sys.exit(f"{error.filename or options.host}: {error.strerror}")


if __name__ == "__main__":
    main()
