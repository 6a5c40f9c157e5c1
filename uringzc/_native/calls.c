/* SPDX-License-Identifier: MIT
 *
 * Who is inside a sender: a call of its owner's, or between two of them the timer. The owner waits for the
 * timer, which sends and comes out; the timer waits for nobody, and runs no code of the program's.
 */
#include "gather.h"

bool take_lock(Gather *g, long long microseconds) {
    if (PyThread_acquire_lock(g->lock, NOWAIT_LOCK))
        return true;
    PyLockStatus got;
    Py_BEGIN_ALLOW_THREADS;
    got = PyThread_acquire_lock_timed(g->lock, microseconds, 0);
    Py_END_ALLOW_THREADS;
    return got == PY_LOCK_ACQUIRED;
}

/* Whether send() may take its fast path. */
static void set_ready(Gather *g) {
    g->ready = g->closed || g->reporting ? 0 : g->thread;
}

void release_lock(Gather *g) {
    g->inside = 0;
    set_ready(g);
    PyThread_release_lock(g->lock);
}

/* Begins a call that changes the sender. Its own thread waits for the timer; a call inside a call is refused.
 */
int gather_begin(Gather *g) {
    unsigned long thread = PyThread_get_thread_ident();
    if (g->closed || !g->queue->engine)
        return refuse_as(g->mender, UZC_E_CLOSED), -1;
    if (!g->thread) { /* the first call */
        if (!g->queue->calls->mine(g->queue->calls->slots(g->queue->engine)))
            return refuse_as(g->mender, UZC_E_THREAD), -1;
        g->thread = thread;
        PyObject *begun = PyObject_CallMethod(g->mender, "begin", "O", g);
        Py_XDECREF(begun);
        if (!begun) {
            g->thread = 0;
            return -1;
        }
    }
    if (g->thread != thread)
        return refuse_as(g->mender, UZC_E_THREAD), -1;
    if (g->inside == thread || g->reporting || g->queue->busy)
        return refuse_as(g->mender, UZC_E_BUSY), -1;
    while (!take_lock(g, PATIENCE)) /* the timer has it */
        if (PyErr_CheckSignals() < 0)
            return -1;
    if (g->closed || !g->queue->engine) { /* meanwhile */
        PyThread_release_lock(g->lock);
        return refuse_as(g->mender, UZC_E_CLOSED), -1;
    }
    g->ready = 0;
    g->inside = thread;
    g->queue->inside++;
    return 0;
}

static void let_in(Gather *g) {
    g->reporting = 0;
    g->queue->inside--;
    if (!g->inside) /* else the timer does it when it leaves */
        set_ready(g);
}

void gather_end(Gather *g) {
    release_lock(g);
    let_in(g);
}

static int tell(Gather *g, const char *method) {
    PyObject *done = PyObject_CallMethod(g->mender, method, NULL);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* Code of the program runs without the lock, so that the timer never waits for it. While callbacks run, what
 * they call on the sender is refused; a log handler may send through it, and so comes last. */
PyObject *leave(Gather *g, PyObject *result) {
    const bool reports = g->news && result;
    g->reporting = reports;
    release_lock(g);
    int error = 0;
    if (reports) {
        g->news = 0;
        error = tell(g, "deliver");
    }
    let_in(g);
    if (reports && !error)
        error = tell(g, "write_log");
    if (error) /* the next call reports the rest */
        g->news = 1;
    if (error || (result && raise_modified(g->queue) < 0))
        Py_CLEAR(result);
    return result;
}

/* What a call raises that can not be waited for: code 1, else it has raised already. Always -1. */
int would_block(int code, const char *why) {
    PyObject *arguments = code > 0 ? Py_BuildValue("(is)", EAGAIN, why) : NULL;
    if (arguments)
        PyErr_SetObject(PyExc_BlockingIOError, arguments);
    Py_XDECREF(arguments);
    return -1;
}
