/* SPDX-License-Identifier: MIT */
/* The timer: one thread of the process, which sends what has waited for too long in any sender. It sleeps
 * without the GIL, and takes it only when there is something to send.
 *
 * A sender stores in `due` when it is late, and wakes the thread only if that is before the thread wakes by
 * itself. No wake-up is lost: the sender stores `due` and then reads `wake_at`; the thread stores a `wake_at`
 * later than any time, reads `due` of every sender, and then sleeps until the first. One of the two sees what
 * the other has stored.
 *
 * Nobody waits for the GIL with the mutex. */
#include "udp/timer.h"

#include <pthread.h>

#define MIN_DELAY 1000000 /* ns: max_delay of what should have left at once, and could not */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t woken;
    UdpBatcher *first;       /* of the ring of senders with a timer: where a search begins */
    _Atomic int64_t wake_at; /* when the thread wakes by itself; INT64_MIN: it is awake, or there is none */
    int64_t next_search;     /* when it searches again even if nothing is due, or 0 */
    bool timed_out;          /* it was not woken: it was time */
} timer = {.wake_at = INT64_MIN};

static void make_timer(void) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&timer.mutex, NULL);
    pthread_cond_init(&timer.woken, &attributes);
    pthread_condattr_destroy(&attributes);
}

/* In the child: the thread, which may have held the mutex, and the senders are the parent's. */
static void after_fork(void) {
    make_timer();
    while (timer.first) {
        UdpBatcher *g = timer.first;
        timer.first = g->timer_next;
        g->timer_next = g->timer_prev = NULL;
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
        timer.first = g->timer_next = g->timer_prev = g;
    if (!g->timer_next) {
        g->timer_next = timer.first;
        g->timer_prev = timer.first->timer_prev;
        g->timer_next->timer_prev = g->timer_prev->timer_next = g;
    }
    pthread_mutex_unlock(&timer.mutex);
    if (atomic_load(&g->due)) /* set while there was no timer */
        timer_wake();
}

void timer_remove(UdpBatcher *g) {
    pthread_mutex_lock(&timer.mutex);
    if (g->timer_next) {
        if (timer.first == g)
            timer.first = g->timer_next == g ? NULL : g->timer_next;
        g->timer_next->timer_prev = g->timer_prev;
        g->timer_prev->timer_next = g->timer_next;
        g->timer_next = g->timer_prev = NULL;
    }
    pthread_mutex_unlock(&timer.mutex);
}

/* With the mutex free the thread sleeps, or is about to read every sender. */
void timer_wake(void) {
    pthread_mutex_lock(&timer.mutex);
    pthread_mutex_unlock(&timer.mutex);
    pthread_cond_signal(&timer.woken);
}

void arm_timer(UdpBatcher *g, int64_t now) {
    if (g->max_delay < 0)
        return;
    int64_t due = now + (g->max_delay ? g->max_delay : MIN_DELAY);
    if (due < g->pacing.timer_from)
        due = g->pacing.timer_from;
    atomic_store(&g->due, due);
    const uint32_t starts = atomic_load_explicit(&g->starts, memory_order_relaxed);
    atomic_store_explicit(&g->starts, starts + 1, memory_order_relaxed);
    if (due < atomic_load(&timer.wake_at))
        timer_wake();
}

/* A sender that is late; else NULL, and when the first will be. One whose lock is taken is left out:
 * unlocking it wakes the thread. */
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
        g = g->timer_next;
    } while (g != timer.first);
    return NULL;
}

/* A sender that keeps sending should not wake the thread each time: if one has set `due` more than once since
 * the last search, there is another without a wake-up. */
static void set_next_search(int64_t now) {
    UdpBatcher *g = timer.first;
    timer.timed_out = false;
    timer.next_search = 0;
    if (!g)
        return;
    do {
        const int64_t next = now + (g->max_delay ? g->max_delay : MIN_DELAY);
        if (atomic_exchange_explicit(&g->starts, 0, memory_order_relaxed) > 1 &&
            (!timer.next_search || next < timer.next_search))
            timer.next_search = next;
        g = g->timer_next;
    } while (g != timer.first);
}

static void sleep_until_late(void) {
    pthread_mutex_lock(&timer.mutex);
    for (;;) {
        int64_t until;
        atomic_store(&timer.wake_at, INT64_MAX);
        const int64_t now = monotonic_ns();
        if (timer.timed_out)
            set_next_search(now);
        if (find_late(now, &until))
            break;
        if (timer.next_search > now && timer.next_search < until)
            until = timer.next_search;
        atomic_store(&timer.wake_at, until);
        const struct timespec time = {until / 1000000000, until % 1000000000};
        if (until == INT64_MAX)
            pthread_cond_wait(&timer.woken, &timer.mutex);
        else if (pthread_cond_timedwait(&timer.woken, &timer.mutex, &time) == ETIMEDOUT)
            timer.timed_out = true;
    }
    atomic_store(&timer.wake_at, INT64_MIN);
    pthread_mutex_unlock(&timer.mutex);
}

PyObject *timer_late(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    for (;;) {
        int64_t earliest;
        Py_BEGIN_ALLOW_THREADS;
        sleep_until_late();
        Py_END_ALLOW_THREADS;
        pthread_mutex_lock(&timer.mutex); /* dealloc() removes a sender under it: the memory is there */
        UdpBatcher *g = find_late(monotonic_ns(), &earliest);
        if (g)
            timer.first = g->timer_next; /* the next search begins behind it */
        if (g && !try_incref((PyObject *)g))
            g = NULL;
        pthread_mutex_unlock(&timer.mutex);
        if (g)
            return (PyObject *)g;
    }
}
