/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/batcher.h"

#define EPOLL_RETRY 10000000 /* ns between two tries where no event may come */
enum {
    AWAIT_BLOCK = 1,   /* a block of the arena */
    AWAIT_SEND = 2,    /* all that waits can be submitted */
    AWAIT_SETTLED = 4, /* nothing is in flight */
    AWAIT_RATE = 8,    /* pacing lets the next train go: at the deadline */
};

/* fileno() becomes readable when that may have come, and at the deadline if it is not 0. */
void arm_poll(UdpBatcher *g, int what, int64_t deadline);
void remove_from_poll(UdpBatcher *g, int what);
static inline void disarm_poll(UdpBatcher *g, int what) {
    if (g->poll.armed & what)
        remove_from_poll(g, what);
}
void close_poll(UdpBatcher *g);

PyObject *batcher_open_epoll(PyObject *self, PyObject *engine);
PyObject *batcher_fileno(PyObject *self, PyObject *unused);
