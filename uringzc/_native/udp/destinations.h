/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/batcher.h"

/* The index of the destination of an address; NULL or None: the sender's own. 0 or -1. */
int find_destination(UdpBatcher *g, PyObject *to, uint32_t *destination);

#define RECENT_ADDRESSES 512

static inline struct recent_address *recent_slot(const UdpBatcher *g, const PyObject *to) {
    return &g->recent[((uintptr_t)to >> 4) % RECENT_ADDRESSES];
}

/* The same for a tuple that was given lately: does not run Python code. */
static inline bool recent_destination(const UdpBatcher *g, const PyObject *to, uint32_t *destination) {
    if (!g->recent || recent_slot(g, to)->address != to)
        return false;
    *destination = recent_slot(g, to)->destination;
    return true;
}

/* The index of the destination of a sockaddr. 0 or -1. */
int destination_of(UdpBatcher *g, PyObject *packed, uint32_t *destination);
/* When the sender is freed. */
void free_destinations(UdpBatcher *g);

PyObject *batcher_set_limits(PyObject *self, PyObject *args);
PyObject *batcher_destination(PyObject *self, PyObject *number);
PyObject *batcher_set_default(PyObject *self, PyObject *packed);
