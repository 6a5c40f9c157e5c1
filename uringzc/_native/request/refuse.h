/* SPDX-License-Identifier: MIT
 *
 * Raising what a call is refused with, and taking an exception that was raised. */
#ifndef UZC_REFUSE_H
#define UZC_REFUSE_H

#include "request/queue.h"

/* Raises what a refusal stands for; always NULL. */
PyObject *refuse(Queue *q, long long code);
/* The same in the words of a sender, by its Python part: the engine may be shared. */
PyObject *refuse_as(PyObject *sender, long long code);
/* BlockingIOError, of a call that may not wait: code 1, else it has raised already. Always -1. */
int raise_would_block(int code, const char *why);
/* The exception that is set, which is not set any more; a new reference. */
PyObject *take_exception(void);

#endif
