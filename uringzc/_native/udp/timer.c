/* SPDX-License-Identifier: MIT
 *
 * The timer: one thread of the process, which sends what has waited for too long in any sender. It sleeps
 * without the GIL, and takes the GIL only where there is something to send.
 *
 * A sender says in `due` when it is late, and wakes the thread only if that is earlier than the thread would
 * wake by itself. No wake-up is lost: the sender stores `due` and then reads `wake_at`; the thread stores a
 * `wake_at` that is later than anything, reads what is due in every sender, and then sleeps until that. One
 * of the two sees what the other has stored.
 *
 * The mutex is never held while the GIL is waited for.
 */
#include <time.h>

#include "udp/batcher.h"

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t woken;
    UdpBatcher *first;       /* of the circle of senders that have a timer: where a search begins */
    _Atomic int64_t wake_at; /* the thread wakes by itself; INT64_MIN: it is awake, or there is none */
    int64_t tick;            /* it looks again then, even if nothing is due */
    bool ticked;             /* it was not woken, but it was time */
} timer = {.wake_at = INT64_MIN};

static void make_timer(void) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&timer.mutex, NULL);
    pthread_cond_init(&timer.woken, &attributes);
    pthread_condattr_destroy(&attributes);
}

/* The thread is the parent's, and may have held the mutex; so are the senders. */
static void after_fork(void) {
    make_timer();
    while (timer.first) {
        UdpBatcher *g = timer.first;
        timer.first = g->after;
        g->after = g->before = NULL;
    }
    atomic_store(&timer.wake_at, INT64_MIN);
}

int timer_init(void) {
    make_timer();
    if (pthread_atfork(NULL, NULL, after_fork))
        return PyErr_NoMemory(), -1;
    return 0;
}

void timer_add(UdpBatcher *g) {
    pthread_mutex_lock(&timer.mutex);
    if (!timer.first)
        timer.first = g->after = g->before = g;
    if (!g->after) {
        g->after = timer.first;
        g->before = timer.first->before;
        g->after->before = g->before->after = g;
    }
    pthread_mutex_unlock(&timer.mutex);
    if (atomic_load(&g->due)) /* it was without a timer */
        timer_wake();
}

void timer_remove(UdpBatcher *g) {
    pthread_mutex_lock(&timer.mutex);
    if (g->after) {
        if (timer.first == g)
            timer.first = g->after == g ? NULL : g->after;
        g->after->before = g->before;
        g->before->after = g->after;
        g->after = g->before = NULL;
    }
    pthread_mutex_unlock(&timer.mutex);
}

/* The mutex first: then the thread sleeps, or will look at every sender. */
void timer_wake(void) {
    pthread_mutex_lock(&timer.mutex);
    pthread_mutex_unlock(&timer.mutex);
    pthread_cond_signal(&timer.woken);
}

void set_clock(UdpBatcher *g) {
    const int64_t due = nanoseconds() + g->max_delay;
    atomic_store(&g->due, due);
    const uint32_t starts = atomic_load_explicit(&g->starts, memory_order_relaxed);
    atomic_store_explicit(&g->starts, starts + 1, memory_order_relaxed);
    if (due < atomic_load(&timer.wake_at))
        timer_wake();
}

/* One that is late; else NULL, and when the first will be. Where the lock is taken, releasing it wakes the
 * thread. */
static UdpBatcher *find_late(int64_t now, int64_t *earliest) {
    UdpBatcher *g = timer.first;
    *earliest = INT64_MAX;
    if (!g)
        return NULL;
    do {
        const int64_t due = atomic_load(&g->due);
        if (due && due < *earliest && !atomic_load(&g->missed))
            *earliest = due;
        if (*earliest <= now)
            return g;
        g = g->after;
    } while (g != timer.first);
    return NULL;
}

/* A sender that keeps sending shall not have to wake the thread each time: where one began to wait more than
 * once since the last tick, there is another. */
static void set_tick(int64_t now) {
    UdpBatcher *g = timer.first;
    timer.ticked = false;
    timer.tick = 0;
    if (!g)
        return;
    do {
        const int64_t next = now + g->max_delay;
        if (atomic_exchange_explicit(&g->starts, 0, memory_order_relaxed) > 1 &&
            (!timer.tick || next < timer.tick))
            timer.tick = next;
        g = g->after;
    } while (g != timer.first);
}

static void sleep_until_late(void) {
    pthread_mutex_lock(&timer.mutex);
    for (;;) {
        int64_t until;
        atomic_store(&timer.wake_at, INT64_MAX);
        const int64_t now = nanoseconds();
        if (timer.ticked)
            set_tick(now);
        if (find_late(now, &until))
            break;
        if (timer.tick > now && timer.tick < until)
            until = timer.tick;
        atomic_store(&timer.wake_at, until);
        const struct timespec time = {until / 1000000000, until % 1000000000};
        if (until == INT64_MAX)
            pthread_cond_wait(&timer.woken, &timer.mutex);
        else if (pthread_cond_timedwait(&timer.woken, &timer.mutex, &time) == ETIMEDOUT)
            timer.ticked = true;
    }
    atomic_store(&timer.wake_at, INT64_MIN);
    pthread_mutex_unlock(&timer.mutex);
}

PyObject *timer_late(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    for (;;) {
        int64_t earliest;
        Py_BEGIN_ALLOW_THREADS;
        sleep_until_late();
        Py_END_ALLOW_THREADS;
        pthread_mutex_lock(&timer.mutex); /* one that is about to be freed is not there any more */
        UdpBatcher *g = find_late(nanoseconds(), &earliest);
        if (g) {
            Py_INCREF(g);
            timer.first = g->after; /* the next search begins behind it */
        }
        pthread_mutex_unlock(&timer.mutex);
        if (g)
            return (PyObject *)g;
    }
}
