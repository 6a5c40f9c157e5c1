/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/batcher.h"

/* What send() returns: n as an int. */
PyObject *sent_bytes(UdpBatcher *g, size_t n);

/* The fast path: takes a datagram that continues the open train of its destination (NULL: the sender's own).
 */
bool send_fast(UdpBatcher *g, PyObject *data, PyObject *to);
/* The other path: what send() returns, or NULL with an exception. */
PyObject *send_checked(UdpBatcher *g, PyObject *data, PyObject *to);

/* The same as send() and send_many(), to a group. */
PyObject *send_to_group(UdpBatcher *g, PyObject *data, uint32_t group);
PyObject *send_many_to_group(UdpBatcher *g, PyObject *datagrams, uint32_t group);

PyObject *batcher_send(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords);
PyObject *batcher_sendto(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *batcher_send_many(PyObject *self, PyObject *args);
PyObject *batcher_fan_out(PyObject *self, PyObject *args);
