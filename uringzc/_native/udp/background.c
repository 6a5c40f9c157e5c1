/* SPDX-License-Identifier: MIT */
/* What is called outside of the owner's calls, in any thread: by the timer, at the end of the process, when
 * the program has dropped the sender, and after it was closed. */
#include "udp/background.h"

#include "udp/lock.h"
#include "udp/timer.h"

/* send_late(): the timer's. If the lock is taken, unlocking wakes the timer. */
PyObject *batcher_send_late(PyObject *self, PyObject *Py_UNUSED(unused)) {
    UdpBatcher *g = (UdpBatcher *)self;
    if (!try_lock(g)) {
        atomic_store(&g->missed, true);
        if (!try_lock(g)) /* else it was unlocked before `missed` was set */
            Py_RETURN_NONE;
    }
    atomic_store(&g->missed, false);
    set_lock_thread(g, PyThread_get_thread_ident());
    g->must_not_wait = 1;
    const int64_t due = atomic_load(&g->due), now = monotonic_ns();
    const uint32_t before = g->count;
    if (due && due <= now && !g->closed) {
        int code = send_all_waiting(g);
        if (g->count < before)
            g->blocked_since = 0;
        if (code == -EIO)
            atomic_store(&g->due, 0); /* until there is more to send */
        else if (code)
            retry_later(g, now);
    }
    unlock(g);
    Py_RETURN_NONE;
}

/* send_at_exit(): sends what waits, by system calls, when the process ends. */
PyObject *batcher_send_at_exit(PyObject *self, PyObject *Py_UNUSED(unused)) {
    UdpBatcher *g = (UdpBatcher *)self;
    unsigned long thread = PyThread_get_thread_ident();
    if (g->lock_thread == thread || !lock_within(g, 20 * LOCK_WAIT))
        Py_RETURN_NONE;
    set_lock_thread(g, thread);
    send_last(g);
    unlock(g);
    Py_RETURN_NONE;
}

/* drop(): the program lost the sender. Does not wait: what waits is sent, and the rest forgotten, by unlock()
 * here or of whoever has the lock. */
PyObject *batcher_drop(PyObject *self, PyObject *Py_UNUSED(unused)) {
    UdpBatcher *g = (UdpBatcher *)self;
    g->dropped = 1;
    g->fast_thread = 0;
    timer_remove(g);
    if (try_lock(g)) {
        set_lock_thread(g, PyThread_get_thread_ident());
        unlock(g);
    }
    Py_RETURN_NONE;
}

/* discard() -> how many datagrams waited: a closed sender forgets them. */
PyObject *batcher_discard(PyObject *self, PyObject *Py_UNUSED(unused)) {
    UdpBatcher *g = (UdpBatcher *)self;
    unsigned long thread = PyThread_get_thread_ident();
    if (!g->closed || g->lock_thread == thread)
        return PyErr_Format(PyExc_RuntimeError, "discard() is for a closed sender");
    while (!lock_within(g, LOCK_WAIT))
        if (check_signals(g->queue) < 0)
            return NULL;
    set_lock_thread(g, thread);
    unsigned long long lost = discard_waiting(g);
    unlock(g);
    return PyLong_FromUnsignedLongLong(lost);
}
