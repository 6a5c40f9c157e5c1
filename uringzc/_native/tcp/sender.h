/* SPDX-License-Identifier: MIT
 *
 * The type TcpStream. */
#pragma once

#include "request/python.h"

extern PyTypeObject *stream_type;
int add_stream_type(PyObject *module);
