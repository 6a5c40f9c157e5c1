/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/batcher.h"

/* CLOCK_MONOTONIC */
int64_t monotonic_ns(void);

int timer_init(void);
/* From now on the timer sends what is late, until the sender is removed, which may be repeated. */
void timer_add(UdpBatcher *g);
void timer_remove(UdpBatcher *g);
/* The thread looks at every sender again. */
void timer_wake(void);
void arm_timer(UdpBatcher *g);

/* max_delay counts from the first datagram that waits. */
static inline void start_delay(UdpBatcher *g) {
    if (g->max_delay && !atomic_load_explicit(&g->due, memory_order_relaxed))
        arm_timer(g);
}

/* late() -> a sender that is late, as soon as there is one: for the timer's thread */
PyObject *timer_late(PyObject *module, PyObject *unused);
