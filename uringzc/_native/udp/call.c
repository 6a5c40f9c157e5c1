/* SPDX-License-Identifier: MIT */
/* How each call of the owner begins and ends: checks, the lock, and reports to the program. */
#include "udp/call.h"

#include "request/poll.h"
#include "udp/lock.h"
#include "udp/submit.h"
#include "udp/syscalls.h"
#include "udp/timer.h"

#define TIMER_RETRY 1000000000 /* ns between two tries to start the timer's thread */

/* Where no thread can be started, the owner's calls send what is late. */
static int start_timer(UdpBatcher *g) {
    g->timer_tried = monotonic_ns();
    int running = bool_result(PyObject_CallMethod(g->slow_path, "start_timer", NULL));
    if (running < 0)
        return -1;
    g->no_timer = !running;
    if (running)
        timer_add(g);
    return 0;
}

/* The first call makes this thread the owner. */
static int claim_ownership(UdpBatcher *g, unsigned long thread) {
    if (!in_owner_thread(g->queue))
        return refuse_as(g->slow_path, UZC_E_THREAD), -1;
    unsigned long nobody = 0;
    if (!atomic_compare_exchange_strong(&g->owner, &nobody, thread))
        return 0; /* another thread's first call came before */
    int error = claim_engine(g->queue, g->slow_path);
    if (!error && g->max_delay >= 0)
        error = start_timer(g);
    if (error)
        g->owner = 0;
    return error;
}

/* What the timer does, where there is none. */
static int send_if_late(UdpBatcher *g) {
    const int64_t due = atomic_load(&g->due), now = due ? monotonic_ns() : 0;
    if (now < due || !due)
        return 0;
    int code = syscall_all(g);
    if (code && code != SEND_RAISED)
        retry_later(g, now);
    return code == SEND_RAISED ? -1 : 0;
}

/* Not needed while fast_thread is this thread. */
static int check_entry(UdpBatcher *g, unsigned long thread) {
    if (g->closed || g->dropped || !g->queue->engine)
        return refuse_as(g->slow_path, UZC_E_CLOSED), -1;
    if (!g->owner && claim_ownership(g, thread) < 0)
        return -1;
    if (g->owner != thread)
        return refuse_as(g->slow_path, UZC_E_THREAD), -1;
    if (g->lock_thread == thread || g->reporting)
        return refuse_as(g->slow_path, UZC_E_BUSY), -1;
    if (g->no_timer && monotonic_ns() - g->timer_tried > TIMER_RETRY)
        return start_timer(g);
    return 0;
}

/* The timer has the lock. */
static int wait_for_lock(UdpBatcher *g) {
    while (!lock_within(g, LOCK_WAIT))
        if (check_signals(g->queue) < 0)
            return -1;
    if (!g->closed && !g->dropped && g->queue->engine)
        return 0;
    PyThread_release_lock(g->lock);
    return refuse_as(g->slow_path, UZC_E_CLOSED), -1;
}

/* A call inside a call, of a callback or a signal handler, is refused. */
int batcher_begin(UdpBatcher *g) {
    unsigned long thread = PyThread_get_thread_ident();
    if ((g->fast_thread != thread || !g->queue->engine) && check_entry(g, thread) < 0)
        return -1;
    if (is_busy(g->queue))
        return refuse_as(g->slow_path, UZC_E_BUSY), -1;
    if (!try_lock(g) && wait_for_lock(g) < 0)
        return -1;
    set_lock_thread(g, thread);
    g->queue->inside++;
    if (!g->no_timer || send_if_late(g) == 0)
        return 0;
    batcher_end(g);
    return -1;
}

void batcher_end(UdpBatcher *g) {
    unlock(g);
    g->queue->inside--;
    if (PyList_Size(g->deferred)) /* may run code of the program's */
        PyList_SetSlice(g->deferred, 0, PY_SSIZE_T_MAX, NULL);
}

/* Code of the program runs without the lock, so that the timer never waits for it. While callbacks run, what
 * they call on the sender is refused; a log handler may send through it, and so comes last. */
static int report_pending(UdpBatcher *g) {
    g->reporting = 1;
    g->queue->inside++;
    batcher_end(g);
    WRITE_SHARED(g->to_report, 0);
    int error = check_result(PyObject_CallMethod(g->slow_path, "report", NULL));
    g->reporting = 0;
    g->queue->inside--;
    if (try_lock(g)) { /* which allows the fast path; else the timer's unlocking does */
        set_lock_thread(g, PyThread_get_thread_ident());
        if (g->timestamps) /* callbacks for each train are no pause of the program, see start_delay() */
            g->left_at = monotonic_ns();
        unlock(g);
    }
    if (!error)
        error = check_result(PyObject_CallMethod(g->slow_path, "write_log", NULL));
    if (error) /* the next call reports the rest */
        WRITE_SHARED(g->to_report, 1);
    return error;
}

/* Calls on_waiting, without the lock: it may flush. 0 or -1. */
static int tell_waiting(UdpBatcher *g) {
    PyObject *type, *value, *trace;
    if (g->waiting != BEGUN || !(g->count || g->open_count))
        return 0;
    g->waiting = TOLD;
    PyErr_Fetch(&type, &value, &trace);
    int error = check_result(PyObject_CallNoArgs(g->on_waiting));
    if (error && type) /* the call has an exception of its own */
        PyErr_WriteUnraisable(g->on_waiting);
    if (type)
        PyErr_Restore(type, value, trace);
    return error;
}

PyObject *batcher_return(UdpBatcher *g, PyObject *result) {
    int error = leave_at_once(g);
    if (error)
        Py_CLEAR(result);
    if (g->to_report && result)
        error = report_pending(g);
    else
        batcher_end(g);
    if (tell_waiting(g) < 0)
        error = -1;
    if (error || (result && raise_modified(g->queue) < 0))
        Py_CLEAR(result);
    return result;
}
