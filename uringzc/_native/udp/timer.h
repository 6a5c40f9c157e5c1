/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/batcher.h"

int timer_init(void);
/* From now on the timer sends what is late, until the sender is removed, which may be repeated. */
void timer_add(UdpBatcher *g);
void timer_remove(UdpBatcher *g);
/* The thread looks at every sender again. */
void timer_wake(void);
/* What waits is late max_delay after `now`. */
void arm_timer(UdpBatcher *g, int64_t now);

/* late() -> a sender that is late, as soon as there is one: for the timer's thread */
PyObject *timer_late(PyObject *module, PyObject *unused);
