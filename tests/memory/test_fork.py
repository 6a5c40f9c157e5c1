"""A forked child neither keeps the parent's memory pinned nor sends anything of the parent's."""

import pytest
from marks import only_io_uring
from processes import run_program

import uringzc
from uringzc import testing

pytestmark = only_io_uring

FORK = """
    import os, sys, uringzc
    from held_memory import pinned_kib
    from traffic import wait_until
    from uringzc.engines import lifetime

    if sys.argv[1] == "kept":
        lifetime.abandon = lambda engine: None
    s = uringzc.Scheduler()
    region = s.register(8 << 20)
    print("pinned", pinned_kib() >= 8192)
    ours, theirs = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(theirs[1])
        try:
            s.send(None, b"x")
        except uringzc.ClosedError:
            os.write(ours[1], b"closed")
        except BaseException as error:
            os.write(ours[1], type(error).__name__.encode())
        os.read(theirs[0], 1)
        os._exit(0)
    os.read(ours[0], 100)
    files = [os.readlink(f"/proc/{child}/fd/{fd}") for fd in os.listdir(f"/proc/{child}/fd")]
    print("has", sum("io_uring" in file for file in files))
    s.close()
    print("alive", wait_until(lambda: pinned_kib() < 1024))
    os.close(theirs[1])
    os.waitpid(child, 0)
    print("gone", wait_until(lambda: pinned_kib() < 1024))
"""


@pytest.mark.slow
def test_a_forked_child_does_not_keep_memory_pinned() -> None:
    assert run_program(FORK, "abandoned")[0].splitlines() == [
        "pinned True",
        "has 0",
        "alive True",
        "gone True",
    ]


def test_control_a_forked_child_that_keeps_the_ring() -> None:
    assert run_program(FORK, "kept")[0].splitlines() == ["pinned True", "has 1", "alive True", "gone True"]


def test_rings_are_not_mapped_in_children() -> None:
    with uringzc.Scheduler() as s, open("/proc/self/smaps") as file:
        s.submit()
        inside, flags = False, []
        for line in file:
            if not line.partition(" ")[0].endswith(":"):
                inside = "io_uring" in line
            elif inside and line.startswith("VmFlags:"):
                flags.append(line.split()[1:])
        assert flags
        assert all("dc" in each for each in flags)  # VM_DONTCOPY


FORKED = """
    import os, sys, uringzc
    from processes import Child
    from uringzc import testing

    calls = [
        lambda s, sock: s.send(sock, b"x"),
        lambda s, sock: s.send_run(sock, b"x", 1, 1),
        lambda s, sock: s.submit(),
        lambda s, sock: s.flush(0),
        lambda s, sock: s.register(4096),
        lambda s, sock: s.register_socket(sock),
        lambda s, sock: s.unregister_socket(sock),
        lambda s, sock: s.fileno(),
        lambda s, sock: s.drain(),
        lambda s, sock: s.slots.update(0, 1),
        lambda s, sock: s.slots.unregister(),
        lambda s, sock: s.reap_completions(wait=1),
    ]
    with testing.hold() as box, box.socket() as sock, testing.receiver(sock=box.receiver_socket()) as rx:
        sock.connect(box.address)
        box.stop()
        with uringzc.Scheduler() as s:
            region = s.register(4096)
            region.view[:6] = b"parent"
            data = bytearray(b"parent")
            s.send(sock, region, length=6)
            s.send(sock, data, flush=True)
            s.submit()
            s.send(sock, b"queued", flush=True)
            child = os.fork()
            if not child:
                try:
                    refused = 0
                    for call in calls[: len(calls) - 1]:
                        try:
                            call(s, sock)
                        except uringzc.ClosedError:
                            refused += 1
                    s.close()
                    region.view[:6] = data[:] = b"forked"
                    fresh = uringzc.Scheduler()
                    fresh.send(sock, b"child ")
                    fresh.submit()
                    fresh.drain
                    os._exit(100 + refused)
                finally:
                    os._exit(1)
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status) - 100, len(calls) - 1)
            s.submit()
            box.release()
            print(sorted(rx.wait(4)), len(s.reap_completions(wait=3)), len(s.reap_notifications(wait=2)))
"""


@pytest.mark.slow
@testing.requires("net_admin")
def test_the_parent_goes_on_after_a_fork() -> None:
    out, errors = run_program(FORKED)
    assert out.splitlines() == ["11 11", "[b'child ', b'parent', b'parent', b'queued'] 3 2"], errors


def test_finalizers_of_a_forked_child_leave_the_parent_alone() -> None:
    # the child ends as programs do: atexit, finalizers and all
    program = """
        import os, sys, uringzc
        from uringzc import testing
        import socket
        with testing.receiver(thread=False) as rx, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tx:
            tx.connect(rx.address)
            with uringzc.Scheduler() as s:
                s.send(tx, b"one")
                s.submit()
                s.send(tx, b"two")
                if not os.fork():
                    sys.exit(7)
                assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
                print(s.submit(), len(s.reap_completions(wait=2)))
            print(rx.wait(2))
    """
    out, errors = run_program(program)
    assert out.splitlines() == ["1 2", "[b'one', b'two']"], errors
    assert "Error" not in errors
