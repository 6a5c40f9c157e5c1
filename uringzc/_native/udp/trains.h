/* SPDX-License-Identifier: MIT */
/* The trains of a sender: where they come from, how their datagrams are numbered, and how they are closed. */
#pragma once

#include "udp/batcher.h"

static inline bool is_group(uint32_t destination) {
    return destination & GROUP;
}

static inline struct group *group_at(const UdpBatcher *g, uint32_t destination) {
    return g->groups[destination & ~GROUP];
}

static inline struct gather *gather_of(const UdpBatcher *g, uint32_t destination) {
    return is_group(destination) ? &group_at(g, destination)->gather : &g->destinations[destination].gather;
}

/* How many datagrams one to the destination is. */
static inline uint32_t receivers_of(const UdpBatcher *g, uint32_t destination) {
    return is_group(destination) ? group_at(g, destination)->count : 1;
}

/* Datagrams of the train that is appended to, that count_open() has not counted. */
static inline uint32_t uncounted(const struct train *t) {
    const uint32_t bytes = READ_SHARED(t->nbytes) - READ_SHARED(t->counted), size = READ_SHARED(t->size);
    if (!size)
        return !READ_SHARED(t->count);
    return bytes == size ? 1 : (bytes + size - 1) / size;
}

/* Counts and numbers the datagrams that g->open got since it is that. */
void count_open(UdpBatcher *g);

/* From now on `t` is the train that is appended to. */
static inline void make_current(UdpBatcher *g, struct train *t) {
    if (t == g->open)
        return;
    count_open(g);
    WRITE_SHARED(g->open, t);
}

/* The number of a train's datagram. */
uint64_t number_of(const struct train *t, uint32_t index);

/* A train that is not used, cleared but for `numbers`; NULL with an exception. */
struct train *take_train(UdpBatcher *g);
void free_train(UdpBatcher *g, struct train *t);
/* Drops a train's references to its block and its holder. */
void release_train(UdpBatcher *g, struct train *t);
/* Drops the reference to a train's holder. In the timer's thread that is deferred: it may run the program's
 * code. */
void release_holder(UdpBatcher *g, struct train *t);
/* When the sender is freed. */
void free_trains(UdpBatcher *g);

/* A train is open: datagrams to its destination, or to members of its group, have to join or close it. */
void link_open(UdpBatcher *g, struct train *t);
/* Moves a closed train to the batch, which has room. */
void push_train(UdpBatcher *g, struct train *t);
/* Closes an open train, and moves it to the batch; of a group, a train for each member. 0; 1: it stays open,
 * since the batch is full, and takes no more; -1. */
int close_train(UdpBatcher *g, struct train *t);
/* The same of all, the oldest first. */
int close_all(UdpBatcher *g);
/* Forgets all open trains. Returns how many datagrams they had. */
unsigned long long discard_open(UdpBatcher *g);
