/* SPDX-License-Identifier: MIT
 *
 * The type TcpStream. */
#ifndef UZC_TCP_SENDER_H
#define UZC_TCP_SENDER_H

#include "request/python.h"

extern PyTypeObject *stream_type;
int add_stream_type(PyObject *module);

#endif
