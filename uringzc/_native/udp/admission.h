/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/batcher.h"

#define FIRST_ARRIVAL 200000000 /* ns: how long the first request to a destination is waited for */

/* Reads the socket's descriptor and the size of its buffer. 0 or -1. */
int refresh_socket(UdpBatcher *g);
/* Takes the socket's pending error, which would fail a request that it has nothing to do with. 0 or -1. */
int report_socket_error(UdpBatcher *g);
/* SIOCOUTQ: bytes that the kernel counts against the socket's buffer. */
int outq_bytes(const UdpBatcher *g);
/* Whether the first request to a destination has reached the device, or was waited for long enough. */
bool first_arrived(const UdpBatcher *g, const struct destination *d, int outq);
/* Whether a request may be sent to the destination. The first may, and those after its arrival. */
bool may_send_to(UdpBatcher *g, struct destination *d, int outq);
/* How many trains of the batch may be submitted now. */
uint32_t admit_trains(UdpBatcher *g);
/* Waits until the socket can be written to. 0 or -1. */
int wait_writable(UdpBatcher *g, int milliseconds);
