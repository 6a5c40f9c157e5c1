/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/batcher.h"

/* The index of the destination of an address; NULL or None: the sender's own. 0 or -1. */
int find_destination(UdpBatcher *g, PyObject *to, uint32_t *destination);

PyObject *batcher_set_limits(PyObject *self, PyObject *args);
PyObject *batcher_destination(PyObject *self, PyObject *number);
PyObject *batcher_set_default(PyObject *self, PyObject *packed);
