/* SPDX-License-Identifier: MIT */
/* Forming trains. What takes a datagram returns 0, or -1 with an exception, and then has not taken it. */
#pragma once

#include "udp/trains.h"

/* Takes a datagram. `immutable`: the object that holds `data`, if that cannot change, else NULL. */
int stage_datagram(UdpBatcher *g, const char *data, size_t n, uint32_t destination, PyObject *immutable);
/* Takes a datagram that lies in the arena, where the sender has reserved `unused` bytes behind it, too. */
int add_datagram(UdpBatcher *g, const char *data, size_t n, size_t unused, uint32_t destination,
                 uint16_t block);
/* Takes a complete train, of memory that `from->holder` keeps, or the caller until it is submitted. */
int add_train(UdpBatcher *g, const struct train *from);
/* The same for one datagram: it lies in `block`, or `holder` keeps it. */
int add_single(UdpBatcher *g, const char *data, size_t n, uint32_t destination, PyObject *holder,
               uint16_t block);
/* Raises OSError for a datagram of more than max_payload. -1. */
int refuse_size(UdpBatcher *g);
/* `n` bytes of a block, with nothing before them that could still grow, and a reference to the block; NULL
 * with an exception. */
char *reserve_bytes(UdpBatcher *g, size_t n, uint16_t *block);
/* Closes the open train of a destination or a group. 0 or -1. */
int close_open(UdpBatcher *g, uint32_t destination);
/* Drops the reference to the block that is being filled. */
void release_block(UdpBatcher *g);
/* The limits of a train to the destination. */
uint32_t max_train(const UdpBatcher *g, uint32_t destination, uint32_t size);

/* The fast path: whether a datagram is like those of an open train, and fits. */
static inline bool continues_train(const struct train *t, uint32_t destination, size_t n) {
    return n == t->size && destination == t->destination && n <= t->room && t->state == OPEN;
}

static inline void append_datagram(struct train *t, const char *data, size_t n) {
    memcpy((char *)t->data + t->nbytes, data, n);
    t->room -= (uint32_t)n;
    COUNT(t->nbytes, (uint32_t)n);
}
