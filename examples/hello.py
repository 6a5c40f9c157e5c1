"""The smallest useful program: a datagram leaves from registered memory, which is then free again."""

import argparse
import socket

import uringzc

argparse.ArgumentParser(description=__doc__).parse_args()  # no options but --help

receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 0))
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(receiver.getsockname())

with uringzc.Scheduler(tags=[0xA]) as scheduler:
    region = scheduler.register(4096)  # memory that the kernel can send from
    region.view[:5] = b"hello"

    scheduler.send(sock, region, length=5, user_data=7)  # attached to slot 0's notifier
    scheduler.flush(0)  # no more requests for this notifier: it notifies when all its memory is free
    scheduler.submit()  # to the kernel

    for completion in scheduler.reap_completions(wait=1):  # it was sent: do not write to it yet
        print(completion)
    for notification in scheduler.reap_notifications(wait=1):  # the memory is yours again
        print(notification)

print(receiver.recv(100))
sock.close()
receiver.close()
