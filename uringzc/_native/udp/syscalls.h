/* SPDX-License-Identifier: MIT */
/* Sending by system calls. All: 0, -errno, or SEND_RAISED. */
#pragma once

#include "udp/batcher.h"

/* Sends the first of the `admitted` trains of the batch: one train, or several single datagrams. -EAGAIN: it
 * was not sent. */
int syscall_first(UdpBatcher *g, uint32_t admitted);
/* Sends everything that waits; -EAGAIN: the rest must wait. */
int syscall_all(UdpBatcher *g);

/* Methods for the slow path */
PyObject *batcher_resend(PyObject *self, PyObject *args);
PyObject *batcher_writable(PyObject *self, PyObject *milliseconds);
PyObject *batcher_resolved(PyObject *self, PyObject *args);
PyObject *batcher_number(PyObject *self, PyObject *args);
/* Sends a datagram that is to leave at once from where it is. False: it was not sent, and is to be staged;
 * leave_at_once() then reports the error that the kernel had, if any, with fail_directly(). */
bool send_directly(UdpBatcher *g, const char *data, size_t n, uint32_t destination);
int fail_directly(UdpBatcher *g);
