/* SPDX-License-Identifier: MIT */
#pragma once

#include "tcp/stream.h"

/* 0, or -1 with an exception: closed, in another thread, or inside another call. */
int stream_begin(TcpStream *s);
/* `result`: what the call returns, NULL if it has raised. Flushes the notifier, so that memory is released as
 * soon as it can be, and runs the program's callbacks, which may raise. Returns the result, or NULL. */
PyObject *stream_end(TcpStream *s, PyObject *result);
