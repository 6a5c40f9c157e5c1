/* SPDX-License-Identifier: MIT */
/* The leading edge: which datagrams leave at once. The clock is read once for those that gather.
 *
 * A datagram that finds nothing waiting leaves in its call if nothing was sent for PAUSE: in a program that
 * sends so seldom, a system call for each costs little beside the rest. Those of a tight loop (SHORT) gather.
 * In between, a program may produce its datagrams one by one, and be faster if they gather; or it waits for
 * the answer to each, and max_delay would be added to every one. That is tried: after TRIAL datagrams that
 * left at once, they gather. If the timer had to send them, fewer came meanwhile than before, and the next
 * one comes when they have left, then the program was waiting for that: they leave at once again, eight
 * times as many until the next trial.
 *
 * With on_waiting, what comes in a turn of an event loop gathers until flush(). But after ALONE turns with
 * one datagram each, datagrams leave at once, as without a loop, and every ALONE-th gathers, to see whether
 * others come in its turn. */
#include "udp/leading_edge.h"

#include "udp/timer.h"
#include "udp/trains.h"

#define SHORT 700   /* ns between the end of a send and the next datagram */
#define PAUSE 10000 /* ns */
#define TRIAL 32u   /* datagrams */
#define MAX_PENALTY 65536u
#define ALONE 16u /* turns, datagrams */

static bool leaves_at_once(UdpBatcher *g, int64_t now) {
    const int64_t gap = now - g->left_at;
    if (g->edge.slow && gap < g->max_delay / 4) {
        const uint32_t more = g->edge.penalty ? 8 * g->edge.penalty : 8 * TRIAL;
        g->edge.penalty = more < MAX_PENALTY ? more : MAX_PENALTY;
        g->edge.run = 0;
    }
    g->edge.slow = false;
    if (gap >= PAUSE)
        g->edge.run = 0;
    if (!g->edge.run)
        g->edge.run_start = now;
    const uint32_t before = (gap < SHORT ? 0 : TRIAL) + g->edge.penalty;
    if (gap >= PAUSE || ++g->edge.run <= before) {
        g->edge.gathers = false;
        return true;
    }
    if (!g->edge.gathers)
        g->edge.interval = before ? (now - g->edge.run_start) / g->edge.run : 4 * SHORT;
    g->edge.gathers = true;
    g->edge.round_start = now;
    g->edge.round_first = g->datagrams;
    return false;
}

static void start_turn(UdpBatcher *g) {
    if (g->turn.alone == ALONE && ++g->turn.at_once % ALONE) {
        g->leaves = true;
        return;
    }
    g->waiting = BEGUN;
    g->turn.first = g->datagrams;
}

void end_turn(UdpBatcher *g) {
    if (g->waiting == QUIET)
        return;
    count_open(g);
    const bool alone = g->datagrams - g->turn.first == 1;
    g->turn.alone = !alone ? 0 : g->turn.alone < ALONE ? g->turn.alone + 1 : ALONE;
}

void start_delay(UdpBatcher *g) {
    if (g->on_waiting && g->waiting == QUIET && !g->leaves)
        start_turn(g);
    if (g->max_delay < 0 || g->leaves || atomic_load_explicit(&g->due, memory_order_relaxed))
        return;
    const int64_t now = g->max_delay ? monotonic_ns() : 0;
    g->leaves = !g->max_delay || leaves_at_once(g, now);
    if (!g->leaves)
        arm_timer(g, now);
}

void end_delay(UdpBatcher *g) {
    const int64_t start = g->edge.round_start;
    g->edge.round_start = 0;
    if (!start || g->lock_thread == g->owner) /* not the timer's thread */
        return;
    const int64_t datagrams = (int64_t)(g->datagrams - g->edge.round_first);
    g->edge.slow = g->left_at - start > datagrams * g->edge.interval;
    if (!g->edge.slow)
        g->edge.penalty = 0;
}
