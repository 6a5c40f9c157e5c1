/* SPDX-License-Identifier: MIT */
/* Requests go into the engine's queue, and the engine is entered. References to sockets and memory are C
 * references, kept in the request table: interpreter shutdown never drops them. */
#include "request/enter.h"

#include <sys/socket.h>

#include "request/gil.h"
#include "request/refuse.h"
#include "request/sockets.h"

#define PATH_TRIES 4 /* what has changed may change again meanwhile */
/* of one wait: a signal that comes just before it, or to another thread, does not end it */
#define MAX_WAIT_NS 100000000

long long queue_with_path(Queue *q, const uzc_send *send) {
    long long done = UZC_E_PATH;
    for (int tries = 0; done == UZC_E_PATH && tries < PATH_TRIES; tries++) {
        PyObject *to = send->to ? PyBytes_FromStringAndSize(send->to, send->to_length) : Py_NewRef(Py_None);
        PyObject *may_wait = send->msg_flags & MSG_DONTWAIT ? Py_False : Py_True;
        PyObject *found =
            to ? PyObject_CallFunctionObjArgs(q->find_path, (PyObject *)send->socket, to, may_wait, NULL)
               : NULL;
        Py_XDECREF(to);
        if (check_result(found) < 0)
            return INT64_MIN;
        done = try_queue(q, send);
    }
    return done;
}

static void verify_memory(Queue *q, PyObject *memory) {
    PyObject *pending_type, *pending_value, *pending_trace;
    PyErr_Fetch(&pending_type, &pending_value, &pending_trace);
    if (check_result(PyObject_CallFunctionObjArgs(q->verify, memory, NULL)) < 0) {
        PyObject *value = take_exception();
        if (!value || PyList_Append(q->modified, value) < 0)
            PyErr_Clear();
        Py_XDECREF(value);
    }
    PyErr_Restore(pending_type, pending_value, pending_trace);
}

int raise_modified(Queue *q) {
    if (!q->verify || !PyList_Size(q->modified))
        return 0;
    PyObject *first = PySequence_GetItem(q->modified, 0);
    if (!first)
        return -1;
    PyList_SetSlice(q->modified, 0, PyList_Size(q->modified), NULL);
    PyErr_SetObject((PyObject *)Py_TYPE(first), first);
    Py_DECREF(first);
    return -1;
}

void release_references(Queue *q) {
    void *sock, *memory;
    while (q->calls->release(q->slots, &sock, &memory)) {
        if (q->verify)
            verify_memory(q, memory);
        Py_XDECREF((PyObject *)sock);
        Py_XDECREF((PyObject *)memory);
    }
}

long long try_enter(Queue *q, int submit, unsigned wait, long long timeout_ns) {
    long long done = UZC_E_CLOSED;
    char was = is_busy(q);
    if (timeout_ns < 0 || timeout_ns > MAX_WAIT_NS)
        timeout_ns = MAX_WAIT_NS;
    if (!in_owner_thread(q))
        return UZC_E_THREAD;
    set_busy(q, 1); /* a finalizer or fileno() called in here may not use the engine */
    if (check_pending_sockets(q) < 0) {
        set_busy(q, was);
        return INT64_MIN;
    }
    if (q->engine) {
        PyThreadState *state = release_gil();
        done = q->calls->enter(q->engine, submit, wait, timeout_ns);
        take_gil(state);
    }
    if (done > 0) {
        q->queued -= done;
        q->submitted += (unsigned long long)done;
    }
    if (q->queued <= 0)
        forget_pending_sockets(q);
    if (done >= -4095) /* no refusal, but a count or -errno */
        release_references(q);
    if (done > 0 && !q->owned) {
        q->owned = check_result(PyObject_CallFunctionObjArgs(q->claimed, NULL)) == 0;
        if (!q->owned) /* an interrupt: the next submission calls it again */
            done = INT64_MIN;
    }
    set_busy(q, was);
    return done;
}

int check_signals(Queue *q) {
    if (PyErr_CheckSignals() < 0)
        return -1;
    return q->engine ? 0 : (refuse(q, UZC_E_CLOSED), -1);
}

long long enter_and_count(Queue *q, int submit, unsigned wait, long long timeout_ns) {
    long long done = try_enter(q, submit, wait, timeout_ns);
    if (done == INT64_MIN || check_signals(q) < 0)
        return -1;
    if (done < 0 && done != -EINTR)
        return refuse(q, done), -1;
    return done > 0 ? done : 0;
}

int enter_engine(Queue *q, int submit, unsigned wait, long long timeout_ns) {
    return enter_and_count(q, submit, wait, timeout_ns) < 0 ? -1 : 0;
}
