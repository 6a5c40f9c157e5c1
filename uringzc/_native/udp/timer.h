/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/batcher.h"

int timer_init(void);
/* From now on the timer sends what is late, until the sender is removed, which may be repeated. */
void timer_add(UdpBatcher *g);
void timer_remove(UdpBatcher *g);
/* The thread looks at every sender again. */
void timer_wake(void);
/* What waits is late max_delay from now. */
void arm_timer(UdpBatcher *g);

/* Before something waits. If nothing else does, it leaves at the end of the call after a pause, else
 * max_delay counts from now. */
void start_delay(UdpBatcher *g);

/* late() -> a sender that is late, as soon as there is one: for the timer's thread */
PyObject *timer_late(PyObject *module, PyObject *unused);
