/* SPDX-License-Identifier: MIT
 *
 * The clock of a sender: since when something waits, and the thread that is told when that is too long. It
 * sleeps without the GIL, and takes the GIL only where there is something to send.
 */
#include <time.h>

#include "gather.h"

#define LINGER 200 /* ticks without a datagram, before the timer's thread goes to sleep */

void make_timer(Gather *g) {
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&g->mutex, NULL);
    pthread_cond_init(&g->woken, &clock);
    pthread_condattr_destroy(&clock);
}

void end_timer(Gather *g) {
    pthread_mutex_lock(&g->mutex);
    atomic_store(&g->ended, true);
    pthread_cond_broadcast(&g->woken);
    pthread_mutex_unlock(&g->mutex);
}

/* The timer counts from the first datagram that waits. */
void start_clock(Gather *g) {
    if (!g->max_delay || atomic_load_explicit(&g->since, memory_order_relaxed))
        return;
    atomic_store(&g->since, nanoseconds());
    if (atomic_load(&g->asleep)) {
        pthread_mutex_lock(&g->mutex);
        pthread_cond_signal(&g->woken);
        pthread_mutex_unlock(&g->mutex);
    }
}

/* For the timer's thread: returns True when something has waited for too long, False when there is no more.
 */
PyObject *gather_wait(PyObject *self, PyObject *unused) {
    (void)unused;
    Gather *g = (Gather *)self;
    bool late = false;
    Py_BEGIN_ALLOW_THREADS;
    pthread_mutex_lock(&g->mutex);
    for (int idle = 0; !atomic_load(&g->ended);) {
        int64_t since = atomic_load(&g->since), now = nanoseconds();
        if (since && now - since >= g->max_delay) {
            late = true;
            break;
        }
        if (!since && idle++ == LINGER) { /* it is worth nothing to be woken for each single datagram */
            atomic_store(&g->asleep, true);
            if (!atomic_load(&g->since) && !atomic_load(&g->ended))
                pthread_cond_wait(&g->woken, &g->mutex);
            atomic_store(&g->asleep, false);
            idle = 0;
            continue;
        }
        if (since)
            idle = 0;
        int64_t until = (since ? since : now) + g->max_delay;
        struct timespec time = {until / 1000000000, until % 1000000000};
        pthread_cond_timedwait(&g->woken, &g->mutex, &time);
    }
    pthread_mutex_unlock(&g->mutex);
    Py_END_ALLOW_THREADS;
    return PyBool_FromLong(late);
}
