/* SPDX-License-Identifier: MIT */
/* Sending by system calls. Both: 0, -errno, or SEND_RAISED. */
#pragma once

#include "udp/batcher.h"

/* Sends the first `count` datagrams of a train. */
int syscall_send(UdpBatcher *g, const struct train *t, uint32_t count);
/* Sends everything that waits, in order; -EAGAIN: the rest must wait. */
int send_by_syscall(UdpBatcher *g);

/* Methods for the slow path */
PyObject *batcher_resend(PyObject *self, PyObject *args);
PyObject *batcher_writable(PyObject *self, PyObject *milliseconds);
PyObject *batcher_resolved(PyObject *self, PyObject *args);
