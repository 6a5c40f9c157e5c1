/* SPDX-License-Identifier: MIT
 *
 * Entering an engine: submitting, waiting, and dropping what notifiers held that were posted. */
#ifndef UZC_ENTER_H
#define UZC_ENTER_H

#include "request/queue.h"

/* Submits what is queued, waits for `wait` CQEs, takes all results, drops what is free again. Returns the
 * requests submitted, or a refusal; INT64_MIN: Python code that it called has raised. */
long long try_enter(Queue *q, int submit, unsigned wait, long long timeout_ns);
/* The same for a sender that is inside: 0, or -1 with an exception. */
int enter_engine(Queue *q, int submit, unsigned wait, long long timeout_ns);
/* PyErr_CheckSignals(); -1 with ClosedError, too, if a signal handler has ended the engine (fork()) */
int check_signals(Queue *q);
/* Drops what notifiers held that were posted. */
void release_references(Queue *q);
/* Debug mode: raises what verify() had raised. 0 or -1. */
int raise_modified(Queue *q);

#endif
