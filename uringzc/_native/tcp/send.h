/* SPDX-License-Identifier: MIT */
#pragma once

#include "tcp/stream.h"

PyObject *stream_send(PyObject *self, PyObject *data);
PyObject *stream_send_buffers(PyObject *self, PyObject *buffers);
/* Takes a decision of the slow path's policy (the reference too, or NULL). 0, or -1 with an exception. */
int adopt_decision(TcpStream *s, PyObject *decision);
