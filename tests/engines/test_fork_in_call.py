"""A signal handler that forks inside a call: the child's call ends with ClosedError, and sends nothing more.

The engine, and what was not sent, are the parent's.
"""

import socket

import pytest
from marks import zero_copy_engines
from processes import child
from traffic import StreamReader

from uringzc import testing

#: forks once, in a handler, when `blocked()` is true; what the call in between raises in the child is printed
FORKING = """
    import os, signal, socket, sys, warnings
    import uringzc
    warnings.simplefilter("ignore", DeprecationWarning)
    pid = None

    def handler(number, frame):
        global pid
        if not blocked():
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            return
        print("blocked", flush=True)
        pid = os.fork()

    def fork_inside(call):
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            call()
            ended = "nothing"
        except BaseException as error:
            ended = type(error).__name__
        if pid == 0:
            print("child", ended, flush=True)
            os._exit(0)
        assert pid and os.waitpid(pid, 0)[1] == 0, "the child died"
        print("parent", ended, flush=True)
"""

UDP = """
    tx = uringzc.UdpSender(
        ("{address[0]}", {address[1]}), zero_copy="{mode}", max_delay=None, arena=256 << 10
    )

    blocked = lambda: tx.stats.waits
    fork_inside(lambda: [tx.send(n.to_bytes(4, "big") + bytes(1196)) for n in range({count})])
    tx.close()
"""

TCP = """
    sock = socket.create_connection(("{address[0]}", {address[1]}))
    tx = uringzc.TcpSender(sock, zero_copy="{mode}")

    blocked = lambda: tx.stats.waits
    fork_inside(lambda: tx.send({data}))
    tx.shutdown()
    tx.close()
"""


@pytest.mark.slow
@testing.requires("net_admin")
@pytest.mark.parametrize("mode", ["always", "never"])
def test_a_fork_inside_a_udp_send(mode: str) -> None:
    count = 20000
    with testing.hold(mtu=1500) as box, testing.receiver(sock=box.receiver_socket()) as rx:
        with box.socket() as probe:  # the neighbour is known: what is awaited is room
            probe.sendto(b"", box.address)
            rx.wait(1)
        box.stop()
        with child(FORKING + UDP.format(address=box.address, mode=mode, count=count), box=box) as program:
            assert program.line() == "blocked"
            assert program.line() == "child ClosedError"
            box.release()
            assert program.line() == "parent nothing"
            program.end()
        got = [int.from_bytes(data[:4], "big") for data in rx.wait(1 + count)[1:]]
    assert got == list(range(count))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["always", "never"])
def test_a_fork_inside_a_tcp_send(mode: str) -> None:
    pieces = [bytes([n]) * (1 << 20) for n in range(32)]
    data = 'b"".join(bytes([n]) * (1 << 20) for n in range(32))'
    with socket.create_server(("127.0.0.1", 0)) as listener:
        program = TCP.format(address=listener.getsockname(), mode=mode, data=data)
        with child(FORKING + program) as started:
            rx, _ = listener.accept()
            with rx:
                assert started.line() == "blocked"
                assert started.line() == "child ClosedError"
                with StreamReader(rx) as reading:
                    got = reading.end()
            assert started.line() == "parent nothing"
            started.end()
    assert got == b"".join(pieces)


@zero_copy_engines
@testing.requires("net_admin")
def test_a_fork_inside_a_drain() -> None:
    """Of a wait for notifications that are held."""
    with testing.hold() as box, testing.receiver(sock=box.receiver_socket()) as rx:
        box.stop()
        program = f"""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect({box.address})
    s = uringzc.Scheduler()
    blocked = lambda: s.stats.in_flight == 100
    s.send_run(sock, s.register(100000), 1000, 100)
    s.flush(0)
    fork_inside(lambda: (s.submit(), s.drain()))
    print(len(s.reap_notifications()))
    s.close()
    """
        with child(FORKING + program, box=box) as started:
            assert started.line() == "blocked"
            assert started.line() == "child ClosedError"
            box.release()
            assert started.line() == "parent nothing"
            assert started.line() == "1"
            started.end()
        assert len(rx.wait(100)) == 100


@pytest.mark.parametrize("call", ["s.submit()", "s.send(sock, b'')"])
def test_a_fork_inside_a_fileno_that_returns_another_descriptor(call: str) -> None:
    """Of a socket with queued requests: in the child none is queued any more."""
    program = f"""
    class Forking(socket.socket):
        armed = False

        def fileno(self):
            global pid
            if self.armed:
                self.armed = False
                pid = os.fork()
            return 0 if pid == 0 else super().fileno()

    sock = Forking(type=socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", 9))
    s = uringzc.Scheduler()
    s.send(sock, b"")
    references = sys.getrefcount(sock)
    sock.armed = True
    try:
        {call}
        ended = "nothing"
    except Exception as error:
        ended = type(error).__name__
    if pid == 0:
        released = references - sys.getrefcount(sock)
        del s
        print("child", ended, released, flush=True)
        os._exit(0)
    assert pid and os.waitpid(pid, 0)[1] == 0, "the child died"
    s.close()
    """
    with child(FORKING + program) as started:
        assert started.line() == "child ClosedError 1"
        started.end()
