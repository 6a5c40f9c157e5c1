"""Group: how it ends with its sender, who may call it, and members that refuse."""

import errno
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from processes import in_thread, run_program
from traffic import datagram, free_port, raised_by
from udp_everyone import at_each, everyone

from uringzc import BusyError, ClosedError, Scheduler, SendError, UdpSender, WrongThreadError
from uringzc.engines.attached import MIN_ARENA

FORBIDDEN = ("255.255.255.255", 9)


# -- how it ends, and who may call it


def calls(group: Any) -> list[Callable[[], object]]:
    return [
        lambda: group.send(b"x" * 100),
        lambda: group.send(b""),
        lambda: group.send_many([b"x", b"y"]),
        lambda: group.add(("127.0.0.1", 10)),
        lambda: group.remove(next(iter(group))),
    ]


def test_a_dropped_group_sends_what_it_has_taken() -> None:
    with everyone() as all_of_them, UdpSender(max_delay=None) as tx:
        to = all_of_them.addresses(10)
        tx.group(to).send(b"of a group that nobody has")
        group = tx.group(to)
        group.send_many([b"one", b"two"])
        del group
        gc.collect()
        tx.drain()
        expected = [b"of a group that nobody has", b"one", b"two"]
        assert all_of_them.receive(30) == at_each(10, expected)


def test_a_group_of_a_closed_sender_refuses_every_call() -> None:
    with everyone() as all_of_them:
        with UdpSender(max_delay=None) as tx:
            group = tx.group(all_of_them.addresses(4))
            group.send(b"taken")
        assert set(raised_by(*calls(group)[:3])) == {ClosedError}
        assert set(raised_by(lambda: tx.group())) == {ClosedError}
        assert all_of_them.receive(4) == at_each(4, [b"taken"])
        assert all_of_them.empty()
        assert (tx.stats.datagrams, tx.stats.waiting) == (4, 0)


def test_another_thread_is_refused() -> None:
    with everyone() as all_of_them, UdpSender(max_delay=None) as tx:
        group = tx.group(all_of_them.addresses(4))
        group.send(b"taken")
        found: list[type | None] = []
        in_thread(lambda: found.extend(raised_by(*calls(group), lambda: tx.group([("127.0.0.1", 9)]))))
        assert found[:3] == [WrongThreadError] * 3
        assert set(found) == {WrongThreadError}
        assert len(group) == 4
        tx.drain()
        assert all_of_them.receive(4) == at_each(4, [b"taken"])
        assert all_of_them.empty()


def test_a_callback_is_refused() -> None:
    raised: list[type | None] = []

    def inside(_: object) -> None:
        raised.extend(raised_by(*calls(group)[:3]))

    with UdpSender(max_delay=None, on_error=inside) as tx:
        group = tx.group([("127.0.0.1", 9)])
        tx.send(b"x", FORBIDDEN)
        tx.flush()
        assert raised == [BusyError] * 3
        assert tx.stats.datagrams == 1


@pytest.mark.slow
def test_a_forked_child_is_refused_and_nothing_is_sent_twice() -> None:
    out, _ = run_program(
        """
        import os, socket, sys, warnings
        import uringzc
        from test_udp_group_rules import calls
        from traffic import raised_by
        warnings.simplefilter("ignore", DeprecationWarning)
        rx = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        rx.bind(("127.0.0.1", 0))
        rx.settimeout(10)
        tx = uringzc.UdpSender(max_delay=None)
        group = tx.group([rx.getsockname(), ("127.0.0.1", 9)])
        group.remove(("127.0.0.1", 9))
        group.send(b"before")
        tx.drain()
        group.send(b"waits")
        child = os.fork()
        if not child:
            print(*{kind.__name__ for kind in raised_by(*calls(group)[:3]) if kind}, flush=True)
            tx.close()
            del tx, group
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        group.send(b"after")
        tx.close()
        print([rx.recv(100) for _ in range(3)])
        rx.setblocking(False)
        try:
            print(rx.recv(100))
        except BlockingIOError:
            print("no more")
        """
    )
    assert out.splitlines() == ["ClosedError", "[b'before', b'waits', b'after']", "no more"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_groups_and_senders_are_freed() -> None:
    """Also where one has an attribute that refers to the other, and dropped in both orders."""
    with everyone() as all_of_them, Scheduler() as s:
        for keep_group in (False, True):
            tx = UdpSender(scheduler=s, max_delay=None)
            group = tx.group(all_of_them.addresses(3))
            group.send(b"waits")
            gone = weakref.ref(tx)
            if keep_group:
                del tx
                gc.collect()
                del group
            else:
                del group
                gc.collect()
                del tx
            gc.collect()
            s.submit()
            assert gone() is None
            assert all_of_them.receive(3) == at_each(3, [b"waits"])


def test_groups_of_two_senders_that_share_an_arena() -> None:
    """Each sends what the other's memory is needed for."""
    with everyone() as all_of_them, Scheduler() as s:
        senders = [UdpSender(scheduler=s, arena=MIN_ARENA, max_delay=None) for _ in range(2)]
        groups = [tx.group(all_of_them.addresses(10)[5 * i : 5 * i + 5]) for i, tx in enumerate(senders)]
        for i in range(600):
            groups[i % 2].send(datagram(i, 1200))
        for tx in senders:
            tx.drain()
        expected = {j: [datagram(i, 1200) for i in range(j // 5, 600, 2)] for j in range(10)}
        assert all_of_them.receive(3000) == expected
        for tx in senders:
            tx.close()


# -- members that refuse


def test_a_refusing_member_is_named_and_the_others_have_everything() -> None:
    errors: list[SendError] = []
    with everyone() as all_of_them, UdpSender(max_delay=None, on_error=errors.append) as tx:
        to = all_of_them.addresses(6)
        group = tx.group([*to[:3], FORBIDDEN, *to[3:]])
        payloads = [datagram(i, 1000 if i < 40 else 300) for i in range(50)]
        for data in payloads:
            group.send(data)
        tx.drain()
        assert all_of_them.receive(300) == at_each(6, payloads)
        assert {(error.to, error.errno) for error in errors} == {(FORBIDDEN, errno.EACCES)}
        assert sorted(error.size for error in errors) == [300] * 10 + [1000] * 40
        assert len({error.index for error in errors}) == 50
        assert (tx.stats.lost, tx.stats.datagrams, tx.stats.reordered) == (50, 350, 0)


def test_a_closed_port_costs_the_other_members_nothing() -> None:
    errors: list[SendError] = []
    with everyone() as all_of_them, UdpSender(max_delay=None, on_error=errors.append) as tx:
        closed = ("127.0.0.1", free_port())
        group = tx.group([*all_of_them.addresses(2), closed, *all_of_them.addresses(4)[2:]])
        payloads = [datagram(i, 400) for i in range(200)]
        for i, data in enumerate(payloads):
            group.send(data)
            if i % 20 == 19:
                tx.flush()
        tx.drain()
        came = all_of_them.receive(800)
        assert {j: sorted(each) for j, each in came.items()} == at_each(4, sorted(payloads))
        assert {error.to for error in errors} <= {closed, None}
        assert closed in {error.to for error in errors}
        assert tx.stats.lost == 0
