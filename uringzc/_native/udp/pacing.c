/* SPDX-License-Identifier: MIT */
/* Pacing: a token bucket, kept as a time (GCRA, virtual scheduling). A byte or a datagram of the payload
 * costs the time that the rate gives it; at `paid` all that has left is paid for, and a train may leave when
 * the time since then is its cost. That credit is limited: to `burst` (or one datagram), and by `lateness`
 * more while something waits, since whoever sleeps until a train may go wakes up late.
 *
 * What leaves is charged with the time when it has left, not when it was admitted, since the process may lose
 * its processor in between. So a window of any length w has no more than rate x (w + burst + lateness).
 *
 * The clock is read once per submission, and when the first train of several begins to wait. */
#include "udp/pacing.h"

#define PAUSE 1000000   /* ns without anything to send after which credit is limited to `burst` */
#define SLICE 100000000 /* ns: how long it is slept between two checks for signals */

static uint64_t units(const UdpBatcher *g, uint64_t nbytes, uint64_t datagrams) {
    return g->pacing.counts_bytes ? nbytes : datagrams;
}

static int64_t cost_of(const UdpBatcher *g, uint32_t nbytes, uint32_t datagrams) {
    return (int64_t)((double)units(g, nbytes, datagrams) * g->pacing.ns + 0.5);
}

int64_t pace_cost(const UdpBatcher *g, const struct train *t) {
    return cost_of(g, t->nbytes, t->count);
}

static int64_t gather_time(const UdpBatcher *g) {
    return (int64_t)((double)g->pacing.gather * g->pacing.ns);
}

/* The most credit, of which the first train, whatever it costs, must be able to leave. */
static int64_t limit_credit(UdpBatcher *g, int64_t now, int64_t first, int64_t lateness) {
    const int64_t limit = (first > g->pacing.burst ? first : g->pacing.burst) + lateness;
    if (g->pacing.paid < now - limit)
        g->pacing.paid = now - limit;
    g->pacing.now = now;
    return limit;
}

uint64_t pace_max_train(const UdpBatcher *g, uint32_t size) {
    if (!g->pacing.ns)
        return UINT64_MAX;
    return g->pacing.counts_bytes ? g->pacing.most : g->pacing.most * size;
}

bool pace_is_enough(const UdpBatcher *g) {
    return g->pacing.ns && units(g, g->nbytes, g->datagrams) - g->pacing.gone >= g->pacing.gather;
}

void pace_begin(UdpBatcher *g, uint32_t nbytes, uint32_t datagrams) {
    if (!g->pacing.ns || g->count || g->open_count)
        return;
    const int64_t now = monotonic_ns();
    if (now - g->pacing.now > PAUSE)
        limit_credit(g, now, cost_of(g, nbytes, datagrams), 0);
}

int64_t pace_credit(UdpBatcher *g) {
    if (!g->pacing.ns)
        return INT64_MAX;
    const int64_t now = monotonic_ns();
    g->pacing.limit = limit_credit(g, now, pace_cost(g, g->trains[0]), g->pacing.lateness);
    return now - g->pacing.paid;
}

bool pace_allows(const UdpBatcher *g, const struct train *t, int64_t *credit) {
    if (pace_cost(g, t) > *credit)
        *credit = -1; /* a cheaper one behind it must not overtake it */
    return *credit >= 0;
}

void pace_charge(UdpBatcher *g, struct train *const *trains, uint32_t count) {
    if (!g->pacing.ns)
        return;
    const int64_t now = monotonic_ns();
    if (g->pacing.paid < now - g->pacing.limit)
        g->pacing.paid = now - g->pacing.limit;
    for (uint32_t i = 0; i < count; i++) {
        g->pacing.paid += pace_cost(g, trains[i]);
        g->pacing.gone += units(g, trains[i]->nbytes, trains[i]->count);
    }
    g->pacing.now = now;
    g->pacing.timer_from = g->pacing.paid + gather_time(g);
    if (!g->count && !g->open_count) /* what was given up is gone, too */
        g->pacing.gone = units(g, g->nbytes, g->datagrams);
}

bool pace_blocks(const UdpBatcher *g) {
    return g->pacing.ns && g->count && pace_cost(g, g->trains[0]) > g->pacing.now - g->pacing.paid;
}

/* A quarter of the credit is left for the time by which it is late. */
int64_t pace_ready_at(const UdpBatcher *g) {
    const int64_t first = pace_cost(g, g->trains[0]), most = g->pacing.limit - g->pacing.limit / 4;
    int64_t all = 0;
    for (uint32_t i = 0; i < g->count; i++)
        all += pace_cost(g, g->trains[i]);
    if (all > most)
        all = most;
    return g->pacing.paid + (all > first ? all : first);
}

int pace_sleep(UdpBatcher *g) {
    int64_t until = pace_ready_at(g);
    if (until > g->pacing.now + SLICE)
        until = g->pacing.now + SLICE;
    if (atomic_load_explicit(&g->due, memory_order_relaxed)) /* the timer would find the lock taken */
        atomic_store(&g->due, until + gather_time(g));
    const struct timespec time = {until / 1000000000, until % 1000000000};
    Py_BEGIN_ALLOW_THREADS;
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
    Py_END_ALLOW_THREADS;
    return check_signals(g->queue);
}

int pace_set(UdpBatcher *g, PyObject *pacing) {
    double ns = 0;
    int counts_bytes = 0;
    long long burst = 0, lateness = 0;
    unsigned long long most = 0, gather = 0;
    if (pacing != Py_None &&
        !PyArg_ParseTuple(pacing, "dpLLKK", &ns, &counts_bytes, &burst, &lateness, &most, &gather))
        return -1;
    const int64_t now = monotonic_ns();
    if (!g->pacing.ns)
        g->pacing.paid = 0;
    else if (g->pacing.paid > now) /* a datagram larger than the burst is not paid for at another rate */
        g->pacing.paid = now;
    g->pacing.ns = ns;
    g->pacing.counts_bytes = counts_bytes;
    g->pacing.burst = burst;
    g->pacing.lateness = lateness;
    g->pacing.most = most;
    g->pacing.gather = gather;
    g->pacing.timer_from = 0;
    g->pacing.gone = units(g, g->nbytes, g->datagrams);
    for (uint32_t i = 0; i < g->count; i++)
        g->pacing.gone -= units(g, g->trains[i]->nbytes, g->trains[i]->count);
    if (ns && g->count)
        limit_credit(g, now, pace_cost(g, g->trains[0]), lateness);
    return 0;
}
