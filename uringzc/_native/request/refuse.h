/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/queue.h"

/* Raises the refusal's exception; always NULL. */
PyObject *refuse(Queue *q, long long code);
/* The same through the sender's slow path, which names the sender and not the engine that it may share. */
PyObject *refuse_as(PyObject *slow_path, long long code);
/* Ends a call that may not wait: raises BlockingIOError for code 1; -1 has raised already. Always -1. */
int raise_would_block(int code, const char *why);
/* Clears the exception that is set, and returns it; a new reference. */
PyObject *take_exception(void);
