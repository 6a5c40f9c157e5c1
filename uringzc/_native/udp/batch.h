/* SPDX-License-Identifier: MIT */
/* Forming trains. While a train is open, the batch has room for it. What takes a datagram returns 0, or -1
 * with an exception, and then has not taken it. */
#pragma once

#include "udp/batcher.h"

/* Takes a datagram that does not simply continue the open train. `immutable`: the object that holds `data`,
 * if that cannot change, else NULL. */
int stage_datagram(UdpBatcher *g, const char *data, size_t n, uint32_t destination, PyObject *immutable);
/* Takes a datagram that lies in the arena. */
int add_datagram(UdpBatcher *g, const char *data, size_t n, uint32_t destination, uint16_t block);
/* Takes a complete train, of memory that `t->holder` keeps, or the caller until it is submitted. */
int add_train(UdpBatcher *g, const struct train *t);
/* The same for one datagram: it lies in `block`, or `holder` keeps it. */
int add_single(UdpBatcher *g, const char *data, size_t n, uint32_t destination, PyObject *holder,
               uint16_t block);
/* Makes room for `n` bytes at g->at. May close the open train. */
int reserve_room(UdpBatcher *g, size_t n);
/* Drops the reference to the block that is being filled. */
void release_block(UdpBatcher *g);
/* Moves the open train, if there is one, to the batch. */
void close_train(UdpBatcher *g);
/* 0, 1 or -1. */
int submit_if_full(UdpBatcher *g);
/* Both, so that there is room in the batch for the next train: 0, or -1, also where it would have to wait. */
int close_for_next(UdpBatcher *g);

/* The fast path: whether a datagram is like those of the open train, and fits. */
static inline bool continues_train(const UdpBatcher *g, uint32_t destination, size_t n) {
    return n == g->open.size && destination == g->open.destination && n <= g->room;
}

static inline void append_datagram(UdpBatcher *g, const char *data, size_t n) {
    memcpy(g->at, data, n);
    g->at += n;
    COUNT(g->open.nbytes, (uint32_t)n);
    g->room -= (uint32_t)n;
}
