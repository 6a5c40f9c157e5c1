"""The engines that a test runs on, where it is not about every one."""

import pytest

only_io_uring = pytest.mark.engines("io_uring")
only_msg_zerocopy = pytest.mark.engines("msg_zerocopy")
#: for tests of memory that the kernel holds: a copy is free at once
zero_copy_engines = pytest.mark.engines("io_uring", "msg_zerocopy")
#: that send Ethernet frames of their own; tests/frames has their tests
frame_engines = pytest.mark.engines("packet", "af_xdp")
only_packet = pytest.mark.engines("packet")
#: for faults of the network: by sockets, and by frames
all_engines = pytest.mark.engines("io_uring", "msg_zerocopy", "copy", "packet", "af_xdp")
#: whose datagrams, or frames, wait in the qdisc of the device
queued_engines = pytest.mark.engines("io_uring", "msg_zerocopy", "copy", "packet")
#: in whose memory a datagram waits until it has left the device
holding_engines = pytest.mark.engines("io_uring", "msg_zerocopy", "packet")
