/* SPDX-License-Identifier: MIT
 *
 * Trains are formed: in the block that is being filled, one datagram behind the other.
 */
#include "request/refuse.h"
#include "udp/batcher.h"

void leave_block(UdpBatcher *g) {
    arena_drop(g->arena, g->block);
    g->block = NO_BLOCK;
    g->at = g->end = NULL;
}

void close_train(UdpBatcher *g) {
    struct train *t = &g->open;
    if (t->size == NO_TRAIN)
        return;
    t->count = t->size ? (t->nbytes + t->size - 1) / t->size : 1;
    g->datagrams += t->count;
    g->nbytes += t->nbytes;
    g->trains[g->count++] = *t;
    t->size = NO_TRAIN;
    g->room = 0;
}

int submit_if_full(UdpBatcher *g) {
    return g->count < BATCH ? 0 : trains_submit(g);
}

/* The next datagram begins a train: place for it in the batch. */
int close_for_next(UdpBatcher *g) {
    close_train(g);
    int code = submit_if_full(g);
    if (code > 0 && g->count < BATCH) /* some have left, and the others wait on */
        return 0;
    return code ? raise_would_block(code, "the network takes no more at the moment") : 0;
}

/* Other senders of this engine give their blocks back; 1 if that gave nothing. */
static int reclaim_arena(UdpBatcher *g) {
    PyObject *free_now = PyObject_CallMethod(g->slow_path, "reclaim_arena", "O", g);
    int some = free_now ? PyObject_IsTrue(free_now) : -1;
    Py_XDECREF(free_now);
    return some < 0 ? -1 : !some;
}

/* A block with nothing in it: another one, or the one that it has if only this sender counts it. */
static bool take_block(UdpBatcher *g) {
    uint16_t block = g->block;
    if (block == NO_BLOCK || atomic_load_explicit(&g->arena->uses[block], memory_order_acquire) > 1) {
        block = arena_take(g->arena);
        if (block == NO_BLOCK)
            return false;
        leave_block(g);
    }
    g->block = block;
    g->at = g->arena->base + (size_t)block * BLOCK;
    g->end = g->at + BLOCK;
    return true;
}

/* Makes place for `n` bytes at g->at. May close the open train. */
int make_place(UdpBatcher *g, size_t n) {
    if (g->block != NO_BLOCK && (size_t)(g->end - g->at) >= n)
        return 0;
    if (close_for_next(g) < 0)
        return -1;
    while (!take_block(g)) {
        int code = trains_submit(g);
        if (code == 0 && take_block(g))
            break; /* that has freed one, and maybe nothing else is to come */
        if (code == 0 && g->in_flight)
            code = trains_wait(g);
        else if (code == 0) /* others that share the arena have it */
            code = reclaim_arena(g);
        if (code > 0)
            poll_until(g, POLL_PLACE, 0);
        if (code > 0 && !g->in_flight)
            return raise_would_block(1,
                                     "leases that were not sent hold the whole arena: send or release them");
        if (code)
            return raise_would_block(code, "the kernel still holds the whole arena");
    }
    poll_no_more(g, POLL_PLACE);
    return 0;
}

/* Bytes that the open train can still have. */
static uint32_t left(const UdpBatcher *g) {
    const struct train *t = &g->open;
    uint64_t most = (uint64_t)g->destinations[t->destination].segments * t->size;
    if (most > TRAIN_MOST)
        most = TRAIN_MOST;
    return most > t->nbytes ? (uint32_t)most - t->nbytes : 0;
}

/* The train has grown: is it full, and what can be appended at g->at? */
static void grown(UdpBatcher *g) {
    const struct train *t = &g->open;
    const bool last = t->block == g->block && t->data + t->nbytes == g->at; /* nothing lies behind it */
    const uint32_t most = left(g), place = last ? (uint32_t)(g->end - g->at) : 0;
    if (most < t->size)
        close_train(g);
    else
        g->room = most < place ? most : place;
}

static void begin_train(UdpBatcher *g, const char *data, size_t n, uint32_t destination, uint16_t block) {
    const struct destination *r = &g->destinations[destination];
    start_clock(g);
    g->open = (struct train){.data = data,
                             .size = (uint32_t)n,
                             .nbytes = (uint32_t)n,
                             .destination = destination,
                             .first = g->datagrams,
                             .block = block,
                             .buffer = -1};
    arena_use(g->arena, block);
    if (n && n <= r->segment_most && r->segments > 1)
        grown(g);
    else
        close_train(g);
}

int add_datagram(UdpBatcher *g, const char *data, size_t n, uint32_t destination, uint16_t block) {
    struct train *t = &g->open;
    bool joins = t->size != NO_TRAIN && n && n <= t->size && destination == t->destination &&
                 block == t->block && data == t->data + t->nbytes && n <= left(g);
    if (!joins) {
        if (close_for_next(g) < 0)
            return -1;
        begin_train(g, data, n, destination, block);
        return 0;
    }
    t->nbytes += (uint32_t)n;
    if (n < t->size)
        close_train(g);
    else
        grown(g);
    return 0;
}

/* A train that is complete, of memory that `t->holder` or the program's fan_out() keeps. */
int add_train(UdpBatcher *g, const struct train *t) {
    if (close_for_next(g) < 0)
        return -1;
    start_clock(g);
    struct train *place = &g->trains[g->count++];
    *place = *t;
    place->first = g->datagrams;
    Py_XINCREF(place->holder);
    arena_use(g->arena, place->block);
    g->datagrams += t->count;
    g->nbytes += t->nbytes;
    return 0;
}

/* One datagram that does not simply continue the open train. `immutable` keeps it where it is, if not NULL.
 */
int stage(UdpBatcher *g, const char *data, size_t n, uint32_t destination, PyObject *immutable) {
    if (n > g->most)
        return refuse(g->queue, -EMSGSIZE), -1;
    if (immutable && n >= g->large) {
        struct train t = {.data = data,
                          .holder = immutable,
                          .nbytes = (uint32_t)n,
                          .size = (uint32_t)n,
                          .count = 1,
                          .destination = destination,
                          .block = NO_BLOCK,
                          .buffer = -1};
        return add_train(g, &t);
    }
    const struct train *t = &g->open;
    if ((t->size == NO_TRAIN || n > t->size || !n || destination != t->destination || n > g->room) &&
        (close_for_next(g) < 0 || make_place(g, n) < 0))
        return -1;
    char *place = g->at;
    memcpy(place, data, n);
    g->at += n;
    return add_datagram(g, place, n, destination, g->block); /* place was made for it above */
}
