/* SPDX-License-Identifier: MIT */
/* The lock of a sender, and what is done with it by whoever has it. */
#include "udp/lock.h"

#include "udp/batch.h"
#include "udp/fast_path.h"
#include "udp/pacing.h"
#include "udp/results.h"
#include "udp/syscalls.h"
#include "udp/timer.h"

#define MIN_RETRY 100000 /* ns, see retry_later() */
#define MAX_RETRY 100000000

bool try_lock(UdpBatcher *g) {
    return PyThread_acquire_lock(g->lock, NOWAIT_LOCK);
}

bool lock_within(UdpBatcher *g, long long microseconds) {
    if (try_lock(g))
        return true;
    PyLockStatus got;
    Py_BEGIN_ALLOW_THREADS;
    got = PyThread_acquire_lock_timed(g->lock, microseconds, 0);
    Py_END_ALLOW_THREADS;
    return got == PY_LOCK_ACQUIRED;
}

void set_lock_thread(UdpBatcher *g, unsigned long thread) {
    stop_fast_path(g, thread);
    atomic_store_explicit(&g->lock_thread, thread, memory_order_relaxed);
}

unsigned long long discard_waiting(UdpBatcher *g) {
    unsigned long long lost = discard_open(g);
    for (uint32_t i = 0; i < g->count; i++) {
        struct train *t = g->trains[i];
        if (t->state != CLOSED && t->state != FAILED)
            continue;
        lost += t->count;
        release_train(g, t);
        t->block = NO_BLOCK;
        WRITE_SHARED(t->state, DONE);
        WRITE_SHARED(t->count, 0);
    }
    release_block(g);
    return lost;
}

int send_all_waiting(UdpBatcher *g) {
    int code = syscall_all(g);
    if (code != SEND_RAISED)
        return code;
    log_failure(g);
    return -EIO;
}

void send_last(UdpBatcher *g) {
    g->last = true;
    pace_set(g, Py_None);
    send_all_waiting(g);
}

/* The program dropped the sender. What the kernel does not take now is lost. */
static void end_dropped(UdpBatcher *g) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    send_last(g);
    PyErr_Restore(type, value, trace);
    g->closed = 1;
    g->lost = discard_waiting(g);
}

/* Without the lock: a warning may run code of the program's. */
static void report_dropped(UdpBatcher *g) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    if (check_result(PyObject_CallMethod(g->slow_path, "report_dropped", "K", g->lost)) < 0)
        PyErr_WriteUnraisable(g->slow_path);
    PyErr_Restore(type, value, trace);
}

void unlock(UdpBatcher *g) {
    const bool ends = g->dropped && !g->closed;
    if (ends)
        end_dropped(g);
    if (g->must_not_wait)
        g->must_not_wait = 0;
    atomic_store_explicit(&g->lock_thread, 0, memory_order_relaxed);
    allow_fast_path(g);
    PyThread_release_lock(g->lock);
    if (ends)
        report_dropped(g);
    if (g->dropped && !g->closed && try_lock(g)) { /* meanwhile, by a thread that found the lock taken */
        set_lock_thread(g, PyThread_get_thread_ident());
        unlock(g);
    }
    if (!atomic_load(&g->missed))
        return;
    atomic_store(&g->missed, false);
    if (atomic_load(&g->due))
        timer_wake();
}

/* After a quarter of the time that it could not be sent for, at most MAX_RETRY, but not before MIN_RETRY or
 * max_delay have passed. */
void retry_later(UdpBatcher *g, int64_t now) {
    if (!g->blocked_since)
        g->blocked_since = now;
    int64_t pause = (now - g->blocked_since) / 4, min = g->max_delay > MIN_RETRY ? g->max_delay : MIN_RETRY;
    if (pause > MAX_RETRY)
        pause = MAX_RETRY;
    if (pause < min)
        pause = min;
    if (pace_blocks(g)) {
        pause = pace_ready_at(g) - now;
        if (pause < MIN_RETRY)
            pause = MIN_RETRY;
    }
    atomic_store(&g->due, now + pause);
}
