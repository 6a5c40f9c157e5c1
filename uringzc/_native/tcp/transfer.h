/* SPDX-License-Identifier: MIT */
/* One transfer of a stream: a system call or a zero-copy request; waiting for the socket; what comes back.
 * All inside a call (call.h). */
#pragma once

#include "tcp/stream.h"

/* These return bytes or 0, -errno, or EXCEPTION. */

/* Reads the socket's descriptor into s->fd. */
int32_t stream_update_fd(TcpStream *s);
/* Sends the first `count` pieces of s->vector by one system call, which copies. `more`: more bytes follow. */
int32_t transfer_by_syscall(TcpStream *s, uint32_t count, bool more);
/* Sends them by one zero-copy request, which holds a reference to `holder`. */
int32_t transfer_by_request(TcpStream *s, uint32_t count, bool more, PyObject *holder);
/* Returns when another transfer is worth a try. `again`: the one after the last wait was in vain. */
int32_t stream_wait_writable(TcpStream *s, bool again);

/* These return 0, or -1 with an exception. */

/* Waits for the result of a request that an exception has left without one. */
int stream_await_result(TcpStream *s);
/* Flushes the notifier, and releases what is done. */
int stream_flush(TcpStream *s);
/* Takes the results and notifications that there are, without waiting. */
int stream_poll(TcpStream *s);

/* Opens the internal slot. */
int stream_open_slot(TcpStream *s);
