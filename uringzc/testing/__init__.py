"""Network sandboxes, a receiver, and skips that say why, for tests of programs that send.

A sandbox is a network of its own in anonymous namespaces. They have no name in /run/netns: descriptors and
sockets hold them, so the kernel removes them when the process ends, however it ends. The machine's own
interfaces are not touched, and the calling thread never changes namespace: a helper thread goes inside, and a
socket made there works from everywhere.

    @pytest.fixture
    def box():
        with uringzc.testing.hold() as box:
            yield box

    @uringzc.testing.requires("net_admin")
    def test_nothing_arrives_before_release(box):
        with box.socket() as sock, uringzc.testing.receiver(sock=box.receiver_socket()) as rx:
            box.stop()
            sock.sendto(b"hello", box.address)
            assert rx.datagrams == []  # in flight, for as long as the test likes
            box.release()
            assert rx.wait(1) == [b"hello"]

`sink()` discards everything and copies nothing; `hold()` delivers, after a delay or at `release`. Methods set
what else can go wrong for a sender: another MTU, missing offloads, a full queue, an unresolved neighbour.
Entering them without CAP_SYS_ADMIN and CAP_NET_ADMIN raises PermissionError; `unshare --map-root-user` gives
both to everybody.
"""

from uringzc.testing.receiving import Receiver, receiver
from uringzc.testing.sandboxes import PORT as PORT
from uringzc.testing.sandboxes import Hold, Sandbox, hold, sink
from uringzc.testing.skips import missing, requires

__all__ = ["Hold", "Receiver", "Sandbox", "hold", "missing", "receiver", "requires", "sink"]
