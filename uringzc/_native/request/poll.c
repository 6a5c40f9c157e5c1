/* SPDX-License-Identifier: MIT */
#include "request/poll.h"

#include "request/enter.h"
#include "request/refuse.h"

int begin_exclusive(Queue *q) {
    int refusal = begin_call(q);
    return refusal ? (refuse(q, refusal), -1) : 0;
}

int claim_engine(Queue *q, PyObject *slow_path) {
    const int refusal = begin_call(q);
    if (refusal)
        return refuse_as(slow_path, refusal), -1;
    int error = check_result(PyObject_CallMethod(slow_path, "claim", NULL));
    set_busy(q, 0);
    return error;
}

/* Other threads may add to these while this is read: then it is for the next call. */
static bool something_waits(const Queue *q) {
    return PyList_Size(q->parked) || PyList_Size(q->to_detach) || PyObject_Size(q->retired);
}

int tidy(Queue *q) {
    release_references(q);
    if (something_waits(q) && in_owner_thread(q) && check_result(PyObject_CallNoArgs(q->tidy)) < 0)
        return -1;
    return raise_modified(q);
}

int poll_queue(Queue *q, int submit) {
    int error = 0;
    if (begin_exclusive(q) < 0)
        return -1;
    if (!q->engine || (submit && q->queued) || q->calls->needs_enter(q->engine))
        error = enter_engine(q, submit, 0, 0);
    else
        signal_engine(q);
    if (!error)
        error = tidy(q);
    set_busy(q, 0);
    return error;
}
