/* SPDX-License-Identifier: MIT
 *
 * Who is inside a sender: a call of its owner's, or between two of them the timer. The owner waits for the
 * timer, which sends and comes out; the timer waits for nobody, and runs no code of the program's.
 */
#include <limits.h>

#include "request/enter.h"
#include "request/refuse.h"
#include "udp/batcher.h"

#define PATIENCE 50000          /* microseconds that the lock is waited for between two checks for signals */
#define RETRY_LEAST 100000      /* nanoseconds between two tries of the timer to send what could not leave, */
#define RETRY_MOST 100000000    /* a quarter of the time that it has waited */
#define THREAD_AGAIN 1000000000 /* nanoseconds between two tries to start a thread */

static bool try_lock(UdpBatcher *g) {
    return PyThread_acquire_lock(g->lock, NOWAIT_LOCK);
}

static bool take_lock(UdpBatcher *g, long long microseconds) {
    if (try_lock(g))
        return true;
    PyLockStatus got;
    Py_BEGIN_ALLOW_THREADS;
    got = PyThread_acquire_lock_timed(g->lock, microseconds, 0);
    Py_END_ALLOW_THREADS;
    return got == PY_LOCK_ACQUIRED;
}

/* Whether send() may take its fast path. */
static void set_ready(UdpBatcher *g) {
    g->ready = g->closed | g->dropped | g->reporting | g->untimed ? 0 : g->thread;
}

static void come_in(UdpBatcher *g, unsigned long thread) {
    g->ready = 0;
    g->inside = thread;
}

/* Forgets what waits, and gives its block back. Returns how many datagrams. What is in the ring stays: the
 * accounts still say what becomes of it. */
static unsigned long long forget(UdpBatcher *g) {
    unsigned long long lost = 0;
    if (g->count < BATCH)
        close_train(g);
    for (uint32_t i = 0; i < g->count; i++) {
        struct train *t = &g->trains[i];
        if (t->state != CLOSED && t->state != FAILED)
            continue;
        lost += t->count;
        arena_drop(g->arena, t->block);
        let_go(g, t);
        t->block = NO_BLOCK;
        t->state = DONE;
        t->count = 0;
    }
    leave_block(g);
    return lost;
}

/* Sends what waits by system calls, whoever is inside. 0, or -errno: something stays. An exception, of a
 * socket that was closed, say, is for the log: the program's next call meets the same. */
static int send_waiting(UdpBatcher *g) {
    if (g->count < BATCH)
        close_train(g);
    int code = send_by_syscall(g);
    if (code != INT_MIN)
        return code;
    PyObject *value = take_exception();
    PyObject *noted = PyObject_CallMethod(g->slow_path, "note", "O", value ? value : Py_None);
    if (!noted)
        PyErr_Clear();
    Py_XDECREF(noted);
    Py_XDECREF(value);
    g->to_report = 1;
    return -EIO;
}

/* The program lost it meanwhile, and nobody else comes. */
static void end_dropped(UdpBatcher *g) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    send_waiting(g);
    PyErr_Restore(type, value, trace);
    g->closed = 1;
    forget(g);
}

static void release_lock(UdpBatcher *g) {
    if (g->dropped && !g->closed)
        end_dropped(g);
    g->in_timer = 0;
    g->inside = 0;
    set_ready(g);
    PyThread_release_lock(g->lock);
    if (!atomic_load(&g->missed))
        return;
    atomic_store(&g->missed, false);
    if (atomic_load(&g->due))
        timer_wake();
}

/* What could not leave is tried again, less and less often. */
static void try_later(UdpBatcher *g, int64_t now) {
    if (!g->stuck)
        g->stuck = now;
    int64_t pause = (now - g->stuck) / 4, least = g->max_delay;
    if (least < RETRY_LEAST)
        least = RETRY_LEAST;
    if (pause > RETRY_MOST)
        pause = RETRY_MOST;
    atomic_store(&g->due, now + (pause > least ? pause : least));
}

/* -- the owner's calls */

/* Whether the timer looks after the sender. Where no thread can be started, its calls do. */
static int get_timer(UdpBatcher *g) {
    g->retried = nanoseconds();
    PyObject *started = PyObject_CallMethod(g->slow_path, "start_timer", NULL);
    int running = started ? PyObject_IsTrue(started) : -1;
    Py_XDECREF(started);
    if (running < 0)
        return -1;
    g->untimed = !running;
    if (running)
        timer_add(g);
    return 0;
}

/* The first call makes this thread the owner. */
static int begin_life(UdpBatcher *g, unsigned long thread) {
    if (!g->queue->calls->is_owner(g->queue->calls->slots(g->queue->engine)))
        return refuse_as(g->slow_path, UZC_E_THREAD), -1;
    g->thread = thread;
    PyObject *begun = PyObject_CallMethod(g->slow_path, "begin", NULL);
    int error = begun ? 0 : -1;
    Py_XDECREF(begun);
    if (!error && g->max_delay)
        error = get_timer(g);
    if (error)
        g->thread = 0;
    return error;
}

/* Without a timer, what is late leaves before anything else is done. */
static int send_late(UdpBatcher *g) {
    const int64_t due = atomic_load(&g->due), now = due ? nanoseconds() : 0;
    if (now < due || !due)
        return 0;
    if (g->count < BATCH)
        close_train(g);
    int code = send_by_syscall(g);
    if (code && code != INT_MIN)
        try_later(g, now);
    return code == INT_MIN ? -1 : 0;
}

/* What a call needs not ask that finds the sender ready. */
static int check_entry(UdpBatcher *g, unsigned long thread) {
    if (g->closed || g->dropped || !g->queue->engine)
        return refuse_as(g->slow_path, UZC_E_CLOSED), -1;
    if (!g->thread && begin_life(g, thread) < 0)
        return -1;
    if (g->thread != thread)
        return refuse_as(g->slow_path, UZC_E_THREAD), -1;
    if (g->inside == thread || g->reporting)
        return refuse_as(g->slow_path, UZC_E_BUSY), -1;
    if (g->untimed && nanoseconds() - g->retried > THREAD_AGAIN)
        return get_timer(g);
    return 0;
}

/* The timer has the lock. */
static int wait_for_lock(UdpBatcher *g) {
    while (!take_lock(g, PATIENCE))
        if (check_signals(g->queue) < 0)
            return -1;
    if (!g->closed && !g->dropped && g->queue->engine)
        return 0;
    PyThread_release_lock(g->lock);
    return refuse_as(g->slow_path, UZC_E_CLOSED), -1;
}

/* Begins a call that changes the sender. Its own thread waits for the timer; a call inside a call is refused.
 */
int batcher_begin(UdpBatcher *g) {
    unsigned long thread = PyThread_get_thread_ident();
    if ((g->ready != thread || !g->queue->engine) && check_entry(g, thread) < 0)
        return -1;
    if (g->queue->busy)
        return refuse_as(g->slow_path, UZC_E_BUSY), -1;
    if (!try_lock(g) && wait_for_lock(g) < 0)
        return -1;
    come_in(g, thread);
    g->queue->inside++;
    if (!g->untimed || send_late(g) == 0)
        return 0;
    batcher_end(g);
    return -1;
}

/* What the timer has sent from is let go here: that may run code of the program's. */
static void let_go_spent(UdpBatcher *g) {
    g->any_spent = 0;
    PyList_SetSlice(g->spent, 0, PY_SSIZE_T_MAX, NULL);
}

void batcher_end(UdpBatcher *g) {
    release_lock(g);
    g->queue->inside--;
    if (g->any_spent)
        let_go_spent(g);
}

static int report(UdpBatcher *g, const char *method) {
    PyObject *done = PyObject_CallMethod(g->slow_path, method, NULL);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

/* Code of the program runs without the lock, so that the timer never waits for it. While callbacks run, what
 * they call on the sender is refused; a log handler may send through it, and so comes last. */
static int report_all(UdpBatcher *g) {
    g->reporting = 1;
    g->queue->inside++;
    batcher_end(g);
    g->to_report = 0;
    int error = report(g, "report");
    g->reporting = 0;
    g->queue->inside--;
    if (!g->inside) /* else the timer does it when it leaves */
        set_ready(g);
    if (!error)
        error = report(g, "write_log");
    if (error) /* the next call reports the rest */
        g->to_report = 1;
    return error;
}

PyObject *leave(UdpBatcher *g, PyObject *result) {
    int error = 0;
    if (g->to_report && result)
        error = report_all(g);
    else
        batcher_end(g);
    if (error || (result && raise_modified(g->queue) < 0))
        Py_CLEAR(result);
    return result;
}

/* -- others */

/* tick(): the timer's. Sends what is late; where the lock is taken, releasing it wakes the timer. */
PyObject *batcher_tick(PyObject *self, PyObject *unused) {
    (void)unused;
    UdpBatcher *g = (UdpBatcher *)self;
    if (!try_lock(g)) {
        atomic_store(&g->missed, true);
        if (!try_lock(g)) /* else it was released before that could be seen */
            Py_RETURN_NONE;
    }
    atomic_store(&g->missed, false);
    come_in(g, PyThread_get_thread_ident());
    g->in_timer = 1;
    const int64_t due = atomic_load(&g->due), now = nanoseconds();
    const uint32_t before = g->count;
    if (due && due <= now && !g->closed) {
        int code = send_waiting(g);
        if (g->count < before)
            g->stuck = 0;
        if (code == -EIO)
            atomic_store(&g->due, 0); /* until there is more to send */
        else if (code)
            try_later(g, now);
    }
    release_lock(g);
    Py_RETURN_NONE;
}

/* send_by_syscall(): sends what waits by system calls, in any thread, when the process ends. */
PyObject *batcher_send_by_syscall(PyObject *self, PyObject *unused) {
    (void)unused;
    UdpBatcher *g = (UdpBatcher *)self;
    unsigned long thread = PyThread_get_thread_ident();
    if (g->inside == thread || !take_lock(g, 20 * PATIENCE))
        Py_RETURN_NONE;
    come_in(g, thread);
    send_waiting(g);
    release_lock(g);
    Py_RETURN_NONE;
}

/* drop(): the program lost it, in any thread, which waits for nobody: what waits is sent, and then forgotten,
 * here or by whoever is inside. */
PyObject *batcher_drop(PyObject *self, PyObject *unused) {
    (void)unused;
    UdpBatcher *g = (UdpBatcher *)self;
    g->dropped = 1;
    g->ready = 0;
    timer_remove(g);
    if (try_lock(g)) {
        come_in(g, PyThread_get_thread_ident());
        release_lock(g);
    }
    Py_RETURN_NONE;
}

/* discard() -> how many datagrams waited: they are forgotten, of a sender that was closed */
PyObject *batcher_discard(PyObject *self, PyObject *unused) {
    (void)unused;
    UdpBatcher *g = (UdpBatcher *)self;
    unsigned long thread = PyThread_get_thread_ident();
    if (!g->closed || g->inside == thread)
        return PyErr_Format(PyExc_RuntimeError, "discard() is for a closed sender");
    while (!take_lock(g, PATIENCE))
        if (check_signals(g->queue) < 0)
            return NULL;
    come_in(g, thread);
    unsigned long long lost = forget(g);
    release_lock(g);
    return PyLong_FromUnsignedLongLong(lost);
}
