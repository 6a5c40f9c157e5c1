/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/batcher.h"

/* Reads the socket's descriptor and the size of its buffer: if the engine sends through a descriptor of its
 * own, too, then of the smaller one. 0 or -1. */
int refresh_socket(UdpBatcher *g);
/* SIOCOUTQ: bytes that the kernel counts against the socket's buffer, or that of the engine's descriptor. */
int outq_bytes(const UdpBatcher *g);
/* That of both for which more bytes are counted: where room is waited for. */
int charged_fd(const UdpBatcher *g);
/* Takes the socket's pending error, which would fail a request that it has nothing to do with. 0 or -1. */
int report_socket_error(UdpBatcher *g);
/* The same for one that may have been taken and dropped: what the error queue has. */
int report_dropped_error(UdpBatcher *g);
/* Whether no error of an earlier datagram can fail a send, or the error queue has it, on a socket of the
 * sender's own. */
bool keeps_errors(const UdpBatcher *g);
/* Waits until the socket can be written to. 0 or -1. */
int wait_writable(UdpBatcher *g, int milliseconds);
/* The same, of the descriptor whose buffer has no room. */
int wait_for_room(UdpBatcher *g, int milliseconds);
