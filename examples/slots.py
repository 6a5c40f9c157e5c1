"""Two slots: a result for each request, a notification for each notifier, and the two are read separately.

A slot holds one active notifier. Sends that name the slot are attached to it; `flush` detaches it, and the
slot's next send starts the next one. A notifier that was flushed posts one notification, when all of its
requests have completed and the kernel does not read their memory any more.
"""

import argparse
import socket

import uringzc

HEADERS, PIXELS = 0, 1  # the slots, and what this program sends through each
TAGS = [0xAAAA, 0xBBBB]  # what their notifications have: any u64


def main() -> None:
    """Sends through both slots on loopback, and prints results and notifications."""
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        uringzc.Scheduler(TAGS) as scheduler,
    ):
        receiver.bind(("127.0.0.1", 0))
        sock.connect(receiver.getsockname())
        send(scheduler, sock)
        show(scheduler)


def send(scheduler: uringzc.Scheduler, sock: socket.socket) -> None:
    """Three notifiers: two of HEADERS, one after the other, and one of PIXELS."""
    pixels = scheduler.register(4 * 1400)

    # Ordinary memory can be sent too: the scheduler holds it until the notification.
    scheduler.send(sock, b"header 1", slot=HEADERS, user_data=1)
    scheduler.send(sock, b"header 2", slot=HEADERS, user_data=2)
    scheduler.flush(HEADERS)

    # Four datagrams in one call; request i has the user_data 100 + i.
    scheduler.send_run(sock, pixels, size=1400, count=4, slot=PIXELS, user_data=100)

    # This starts HEADERS' next notifier: sequence 1. `flush=True` flushes the slot right behind the request.
    scheduler.send(sock, b"header 3", slot=HEADERS, user_data=3, flush=True)

    # Nothing is attached to HEADERS now: it is skipped, and its sequence does not advance.
    assert scheduler.flush(HEADERS) is None

    notifier = scheduler.flush(PIXELS)  # a handle, for a program that wants to wait for just this one
    assert notifier
    notifier.wait(timeout=1)
    pixels.view[:4] = b"free"  # it is done, so this is safe


def show(scheduler: uringzc.Scheduler) -> None:
    """Reaps both: a result says that a request has completed, a notification that memory is free."""
    for request in scheduler.reap_completions(wait=7):
        print(f"request {request.user_data}: {request.error or f'{request.result} bytes'}")
    for notification in scheduler.reap_notifications(wait=3):
        print(
            f"notifier {notification.sequence} of slot {notification.slot}, tag {notification.tag:#x}: "
            f"all is free again; requests: {notification.requests}, bytes: {notification.nbytes}, "
            f"requests copied on the way: {'unknown' if notification.copied is None else notification.copied}"
        )


if __name__ == "__main__":
    main()
