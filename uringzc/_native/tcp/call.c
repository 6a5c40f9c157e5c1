/* SPDX-License-Identifier: MIT */
/* The begin and the end of each call of a TcpStream that uses the engine. */
#include "tcp/call.h"

#include "request/poll.h"
#include "tcp/transfer.h"

/* calls that make no request, until the engine is entered for what has come back */
#define CALLS_PER_POLL 16

static void leave_stream(TcpStream *s) {
    s->queue->inside--;
    s->inside = 0;
}

int stream_begin(TcpStream *s) {
    int refusal = s->closed || !s->queue->engine   ? UZC_E_CLOSED
                  : !in_owner_thread(s->queue)     ? UZC_E_THREAD
                  : s->inside || is_busy(s->queue) ? UZC_E_BUSY
                                                   : 0;
    if (refusal)
        return refuse_as(s->slow_path, refusal), -1;
    if (!s->claimed) {
        if (claim_engine(s->queue, s->slow_path) < 0)
            return -1;
        s->claimed = 1;
    }
    s->inside = 1;
    s->queue->inside++;
    if (stream_await_result(s) == 0)
        return 0;
    leave_stream(s);
    return -1;
}

PyObject *stream_end(TcpStream *s, PyObject *result) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    int error = s->unflushed ? stream_flush(s) : 0;
    if (!error && s->in_flight && ++s->calls_since_poll > CALLS_PER_POLL)
        error = stream_poll(s);
    if (!error && s->to_report && result) {
        error = check_result(PyObject_CallMethod(s->slow_path, "report", NULL));
        s->to_report = error != 0; /* the next call reports the rest */
    }
    if (!error && result)
        error = raise_modified(s->queue);
    leave_stream(s);
    if (error && result)
        Py_CLEAR(result);
    else if (type)
        PyErr_Restore(type, value, trace); /* the first of two exceptions */
    return result;
}
