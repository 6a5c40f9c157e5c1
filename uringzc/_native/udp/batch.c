/* SPDX-License-Identifier: MIT */
/* Forming trains: datagrams are copied one behind the other into the block that is being filled. */
#include "udp/batch.h"

#include "udp/polling.h"
#include "udp/results.h"
#include "udp/submit.h"
#include "udp/timer.h"

void release_block(UdpBatcher *g) {
    arena_release(g->arena, g->block);
    g->block = NO_BLOCK;
    g->at = g->end = NULL;
}

void close_train(UdpBatcher *g) {
    struct train *t = &g->open;
    if (t->size == NO_TRAIN ||
        g->count == BATCH_SIZE) /* a full batch has no open train; checked, as this writes */
        return;
    t->count = t->size ? (t->nbytes + t->size - 1) / t->size : 1;
    begin_change(g);
    g->datagrams += t->count;
    g->nbytes += t->nbytes;
    g->trains[g->count++] = *t;
    t->size = NO_TRAIN;
    end_change(g);
    g->room = 0;
}

int submit_if_full(UdpBatcher *g) {
    return g->count < BATCH_SIZE ? 0 : submit_batch(g);
}

int close_for_next(UdpBatcher *g) {
    close_train(g);
    int code = submit_if_full(g);
    if (code > 0 && g->count < BATCH_SIZE) /* some were sent */
        return 0;
    return code ? raise_would_block(code, "the network takes no more at the moment") : 0;
}

/* Has the other senders of this engine release their blocks. 0; 1: nothing is free; -1. */
static int reclaim_arena(UdpBatcher *g) {
    int some = bool_result(PyObject_CallMethod(g->slow_path, "reclaim_arena", "O", g));
    return some < 0 ? -1 : !some;
}

/* Begins with an empty block: another one, or the same if only this sender refers to it. */
static bool take_empty_block(UdpBatcher *g) {
    uint16_t block = g->block;
    if (block == NO_BLOCK || atomic_load_explicit(&g->arena->refs[block], memory_order_acquire) > 1) {
        block = arena_take(g->arena);
        if (block == NO_BLOCK)
            return false;
        release_block(g);
    }
    g->block = block;
    g->at = g->arena->base + (size_t)block * BLOCK_SIZE;
    g->end = g->at + BLOCK_SIZE;
    return true;
}

int reserve_room(UdpBatcher *g, size_t n) {
    if (g->block != NO_BLOCK && (size_t)(g->end - g->at) >= n)
        return 0;
    if (close_for_next(g) < 0)
        return -1;
    while (!take_empty_block(g)) {
        int code = submit_batch(g);
        if (code == 0 && take_empty_block(g))
            break; /* that freed one, and maybe nothing else is in flight */
        if (code == 0 && g->in_flight)
            code = wait_for_memory(g);
        else if (code == 0) /* others that share the arena hold it */
            code = reclaim_arena(g);
        if (code > 0)
            arm_poll(g, AWAIT_BLOCK, 0);
        if (code > 0 && !g->in_flight)
            return raise_would_block(1,
                                     "leases that were not sent hold the whole arena: send or release them");
        if (code)
            return raise_would_block(code, "the kernel still holds the whole arena");
    }
    disarm_poll(g, AWAIT_BLOCK);
    return 0;
}

/* Bytes by which the open train may grow. */
static uint32_t train_room(const UdpBatcher *g) {
    const struct train *t = &g->open;
    uint64_t max = (uint64_t)g->destinations[t->destination].max_segments * t->size;
    if (max > MAX_TRAIN_BYTES)
        max = MAX_TRAIN_BYTES;
    return max > t->nbytes ? (uint32_t)max - t->nbytes : 0;
}

/* After the open train has grown: closes it if it is full, else updates what can be appended at g->at. */
static void update_room(UdpBatcher *g) {
    const struct train *t = &g->open;
    const bool at_end = t->block == g->block && t->data + t->nbytes == g->at;
    const uint32_t may_grow = train_room(g), in_block = at_end ? (uint32_t)(g->end - g->at) : 0;
    if (may_grow < t->size)
        close_train(g);
    else
        g->room = may_grow < in_block ? may_grow : in_block;
}

static void open_train(UdpBatcher *g, const char *data, size_t n, uint32_t destination, uint16_t block) {
    const struct destination *d = &g->destinations[destination];
    start_delay(g);
    begin_change(g);
    g->open = (struct train){.data = data,
                             .size = (uint32_t)n,
                             .nbytes = (uint32_t)n,
                             .destination = destination,
                             .number = g->datagrams,
                             .block = block,
                             .buffer = -1};
    end_change(g);
    arena_hold(g->arena, block);
    if (n && n <= d->max_segment_size && d->max_segments > 1)
        update_room(g);
    else
        close_train(g);
}

int add_datagram(UdpBatcher *g, const char *data, size_t n, uint32_t destination, uint16_t block) {
    struct train *t = &g->open;
    bool joins = t->size != NO_TRAIN && n && n <= t->size && destination == t->destination &&
                 block == t->block && data == t->data + t->nbytes && n <= train_room(g);
    if (!joins) {
        if (close_for_next(g) < 0)
            return -1;
        open_train(g, data, n, destination, block);
        return 0;
    }
    COUNT(t->nbytes, (uint32_t)n);
    if (n < t->size)
        close_train(g);
    else
        update_room(g);
    return 0;
}

int add_train(UdpBatcher *g, const struct train *t) {
    if (close_for_next(g) < 0)
        return -1;
    start_delay(g);
    struct train *place = &g->trains[g->count];
    begin_change(g);
    *place = *t;
    place->number = g->datagrams;
    Py_XINCREF(place->holder);
    arena_hold(g->arena, place->block);
    g->count++;
    g->datagrams += t->count;
    g->nbytes += t->nbytes;
    end_change(g);
    return 0;
}

int add_single(UdpBatcher *g, const char *data, size_t n, uint32_t destination, PyObject *holder,
               uint16_t block) {
    const struct train t = {.data = data,
                            .holder = holder,
                            .buffer = -1,
                            .nbytes = (uint32_t)n,
                            .size = (uint32_t)n,
                            .count = 1,
                            .destination = destination,
                            .block = block};
    return add_train(g, &t);
}

int stage_datagram(UdpBatcher *g, const char *data, size_t n, uint32_t destination, PyObject *immutable) {
    if (n > g->max_payload)
        return refuse(g->queue, -EMSGSIZE), -1;
    if (immutable && n >= g->hold_threshold)
        return add_single(g, data, n, destination, immutable, NO_BLOCK);
    const struct train *t = &g->open;
    if ((t->size == NO_TRAIN || n > t->size || !n || destination != t->destination || n > g->room) &&
        (close_for_next(g) < 0 || reserve_room(g, n) < 0))
        return -1;
    char *place = g->at;
    memcpy(place, data, n);
    g->at += n;
    return add_datagram(g, place, n, destination, g->block); /* room was reserved above */
}
