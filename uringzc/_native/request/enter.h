/* SPDX-License-Identifier: MIT */
/* Requests go into the engine's queue, and the engine is entered: to submit them, to wait, to take results.
 * A request holds references to its socket and its memory from queue_requests() to release_references(). */
#pragma once

#include "request/queue.h"

/* queue_requests() after UZC_E_PATH: Python finds the path of the destination first. */
long long queue_with_path(Queue *q, const uzc_send *send);

static inline long long try_queue(Queue *q, const uzc_send *send) {
    uint32_t references = 0;
    long long done = q->engine ? q->calls->queue(q->engine, send, &references) : UZC_E_CLOSED;
    for (; references; references--) {
        Py_INCREF((PyObject *)send->socket);
        Py_INCREF((PyObject *)send->memory);
    }
    if (done > 0)
        q->queued += done;
    return done;
}

/* Queues up to send->count requests. Returns how many, or the refusal (UZC_E_* or -errno); INT64_MIN: Python
 * code that it called has raised. */
static inline long long queue_requests(Queue *q, const uzc_send *send) {
    long long done = try_queue(q, send);
    return done == UZC_E_PATH ? queue_with_path(q, send) : done;
}

/* Submits what is queued, waits for `wait` CQEs or `timeout_ns`, takes all results, releases references.
 * Returns the requests submitted, or a refusal; INT64_MIN: Python code that it called has raised. */
long long try_enter(Queue *q, int submit, unsigned wait, long long timeout_ns);
/* The same, and then check_signals(). -1 with an exception; -EINTR is 0 requests. */
long long enter_and_count(Queue *q, int submit, unsigned wait, long long timeout_ns);
/* The same: 0 or -1. */
int enter_engine(Queue *q, int submit, unsigned wait, long long timeout_ns);
/* PyErr_CheckSignals(). -1 with an exception: ClosedError too, if a signal handler has forked (the child). */
int check_signals(Queue *q);
/* Drops the references of requests whose notifier was posted. */
void release_references(Queue *q);
/* Debug mode: raises the first exception that verify() has raised. 0 or -1. */
int raise_modified(Queue *q);
