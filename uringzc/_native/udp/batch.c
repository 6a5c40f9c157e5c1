/* SPDX-License-Identifier: MIT */
/* Forming trains: datagrams are copied one behind the other into blocks of the arena. The train at the end of
 * the block that is being filled (`tail`) grows into its free part. When something else needs that, the train
 * keeps as much as its destination's trains had of late; one that gets more is moved, to twice the room.
 *
 * A frame has one train, or one lease, which has the whole of it: no train is a tail, or is moved, and the
 * sender's own reference to the block ends with the call that takes it. */
#include "udp/batch.h"

#include "udp/leading_edge.h"
#include "udp/pacing.h"
#include "udp/polling.h"
#include "udp/results.h"
#include "udp/submit.h"

void release_block(UdpBatcher *g) {
    if (g->tail) /* it has its own reference to the block, and no room left */
        g->tail->room = 0;
    g->tail = NULL;
    arena_release(g->arena, g->block);
    g->block = NO_BLOCK;
    g->at = g->end = NULL;
}

uint32_t max_train(const UdpBatcher *g, uint32_t destination, uint32_t size) {
    uint32_t segments = g->max_segments, largest = MAX_TRAIN_BYTES;
    if (!is_group(destination)) { /* a group's train is cut to the limits of each member */
        segments = g->destinations[destination].max_segments;
        largest = g->destinations[destination].max_segment_size;
    }
    if (!size || segments < 2 || size > largest)
        return size;
    const uint32_t receivers = receivers_of(g, destination);
    uint64_t bytes = pace_max_train(g, size) / (receivers ? receivers : 1);
    if (bytes > (uint64_t)segments * size)
        bytes = (uint64_t)segments * size;
    if (bytes > g->max_train)
        bytes = g->max_train;
    return bytes < size ? size : (uint32_t)bytes / size * size;
}

/* -- room in the arena */

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
    g->at = arena_block(g->arena, block);
    g->end = g->at + g->arena->capacity;
    return true;
}

/* Bytes that a train may reserve: all open ones together, half of the arena. */
static uint32_t fair_share(const UdpBatcher *g) {
    const uint32_t block = g->arena->capacity;
    const uint64_t share = (uint64_t)g->arena->blocks * block / 2 / (g->open_count + 1);
    return share < block ? (uint32_t)share : block;
}

static uint32_t expected_bytes(const UdpBatcher *g, uint32_t destination) {
    const uint32_t share = fair_share(g), expected = gather_of(g, destination)->expected;
    return expected < share ? expected : share;
}

/* The tail train keeps what is expected of it, or nothing. The rest of the block is free. */
static void cut_tail(UdpBatcher *g, bool nothing) {
    struct train *t = g->tail;
    if (!t)
        return;
    const uint32_t expected = nothing ? 0 : expected_bytes(g, t->destination);
    const uint32_t more = expected > t->nbytes ? expected - t->nbytes : 0;
    if (t->room > more)
        t->room = more;
    g->at = (char *)t->data + t->nbytes + t->room;
    g->tail = NULL;
}

/* Behind the train its block is free, up to `end`: it may grow there. */
static void give_room(const UdpBatcher *g, struct train *t, const char *end) {
    const uint32_t max = max_train(g, t->destination, t->size);
    const uint32_t may_grow = max > t->nbytes ? max - t->nbytes : 0;
    const uint32_t in_block = (uint32_t)(end - t->data) - t->nbytes;
    t->room = may_grow < in_block ? may_grow : in_block;
}

/* The train ends where the free part of the block begins. */
static void make_tail(UdpBatcher *g, struct train *t) {
    g->tail = t;
    give_room(g, t, g->end);
}

/* The train is the only one of its frame. */
static void give_frame(UdpBatcher *g, struct train *t) {
    give_room(g, t, arena_block(g->arena, t->block) + g->arena->capacity);
    release_block(g);
}

/* Finds `n` bytes at g->at, better `wanted`, without waiting. A sender that has no other open train uses the
 * rest of its block, if that is not much shorter. */
static bool find_room(UdpBatcher *g, size_t n, size_t wanted) {
    if (g->frames) {
        release_block(g);
        return take_empty_block(g);
    }
    cut_tail(g, false);
    const size_t rest = g->block == NO_BLOCK ? 0 : (size_t)(g->end - g->at);
    const bool fits = g->block != NO_BLOCK && rest >= n;
    if (fits && (rest >= wanted || (!g->open_count && 2 * rest >= wanted)))
        return true;
    return take_empty_block(g) || fits;
}

/* The same, but waits for memory. May close all open trains. 0 or -1. */
static int reserve_room(UdpBatcher *g, size_t n, size_t wanted) {
    if (find_room(g, n, wanted))
        return 0;
    while (!find_room(g, n, n)) {
        int code = submit_all(g, UNTIL_EMPTY);
        if (code == 0 && find_room(g, n, n))
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

char *reserve_bytes(UdpBatcher *g, size_t n, uint16_t *block) {
    cut_tail(g, n > 0);
    if (reserve_room(g, n, n) < 0)
        return NULL;
    char *bytes = g->at;
    g->at += n;
    *block = g->block;
    arena_hold(g->arena, *block);
    if (g->frames)
        release_block(g);
    return bytes;
}

/* Moves an open train that has no room left to where it may double. False: better to close it. */
static bool enlarge_train(UdpBatcher *g, struct train *t, size_t n) {
    const uint32_t max = max_train(g, t->destination, t->size), need = t->nbytes + (uint32_t)n;
    uint32_t wanted = 2 * need < max ? 2 * need : max;
    if (g->frames || 2 * t->nbytes > max)
        return false;
    if (wanted > fair_share(g))
        wanted = need > fair_share(g) ? need : fair_share(g);
    if (!find_room(g, need, wanted))
        return false;
    memcpy(g->at, t->data, t->nbytes);
    arena_hold(g->arena, g->block);
    arena_release(g->arena, t->block);
    t->data = g->at;
    t->block = g->block;
    g->at += t->nbytes;
    gather_of(g, t->destination)->expected = wanted;
    make_tail(g, t);
    return true;
}

/* -- trains */

static int refuse_more(const UdpBatcher *g, int code) {
    return raise_would_block(code, pace_blocks(g) ? PACED : "the network takes no more at the moment");
}

/* Pacing limits what is gathered: sends that first, if it is enough. */
static int wait_for_rate(UdpBatcher *g) {
    if (!pace_is_enough(g))
        return 0;
    int code = submit_all(g, UNTIL_EMPTY);
    if (code > 0 && !pace_is_enough(g)) /* some were sent */
        return 0;
    return code ? refuse_more(g, code) : 0;
}

/* Submits the batch if it is full. */
static int make_place(UdpBatcher *g) {
    int code = g->count < BATCH_SIZE ? 0 : submit_batch(g, UNTIL_ROOM);
    return code ? refuse_more(g, code) : 0;
}

static int close_now(UdpBatcher *g, struct train *t) {
    for (int code; (code = close_train(g, t)) != 0;)
        if (code < 0 || make_place(g) < 0)
            return -1;
    return 0;
}

int close_open(UdpBatcher *g, uint32_t destination) {
    struct train *t = gather_of(g, destination)->open;
    return t ? close_now(g, t) : 0;
}

/* Before a train is opened: closes those that it must not overtake. Where the program has connected the
 * socket, the default destination may be any address. */
static int close_before(UdpBatcher *g, uint32_t destination) {
    while (destination == 0 && !g->default_address && g->oldest)
        if (close_now(g, g->oldest) < 0)
            return -1;
    if (!g->default_address && close_open(g, 0) < 0)
        return -1;
    for (uint32_t i = 0; is_group(destination) && i < group_at(g, destination)->count; i++)
        if (close_open(g, group_at(g, destination)->members[i]) < 0)
            return -1;
    return close_open(g, destination);
}

/* Opens a train with a datagram that lies in the arena. */
static int open_train(UdpBatcher *g, const char *data, size_t n, uint32_t destination, uint16_t block) {
    struct train *t = take_train(g);
    if (!t)
        return -1;
    start_delay(g);
    pace_begin(g, (uint32_t)n, 1);
    t->data = data;
    WRITE_SHARED(t->size, (uint32_t)n);
    WRITE_SHARED(t->nbytes, (uint32_t)n);
    t->destination = destination;
    WRITE_SHARED(t->step, receivers_of(g, destination));
    t->block = block;
    t->buffer = -1;
    arena_hold(g->arena, block);
    link_open(g, t);
    make_current(g, t);
    return 0;
}

/* After a train has got its last datagram, of `n` bytes: closes it if it is full. The batch may be full; then
 * it is closed later. */
static void close_if_full(UdpBatcher *g, struct train *t, size_t n) {
    if (n < t->size || !n || t->nbytes + t->size > max_train(g, t->destination, t->size))
        if (close_train(g, t) < 0)
            PyErr_Clear(); /* no memory: again with the next call */
}

/* The open train of the destination, if a datagram can become its next. */
static struct train *train_to_join(const UdpBatcher *g, uint32_t destination, size_t n) {
    struct train *t = gather_of(g, destination)->open;
    if (!t || t->destination != destination || t->state != OPEN || !n || n > t->size)
        return NULL;
    return t->nbytes + n <= max_train(g, destination, t->size) ? t : NULL;
}

int add_datagram(UdpBatcher *g, const char *data, size_t n, size_t unused, uint32_t destination,
                 uint16_t block) {
    if (wait_for_rate(g) < 0)
        return -1;
    struct train *t = train_to_join(g, destination, n);
    if (t && (block != t->block || data != t->data + t->nbytes || t == g->tail))
        t = NULL;
    if (t) {
        make_current(g, t);
        COUNT(t->nbytes, (uint32_t)n);
    } else {
        if (close_before(g, destination) < 0 || open_train(g, data, n, destination, block) < 0)
            return -1;
        t = g->open;
    }
    if (g->frames) {
        give_frame(g, t);
    } else if (!g->tail && block == g->block && g->at == data + n + unused) { /* nothing lies behind it */
        g->at -= unused;
        make_tail(g, t);
    }
    close_if_full(g, t, n);
    return 0;
}

int add_train(UdpBatcher *g, const struct train *from) {
    const uint32_t step = receivers_of(g, from->destination);
    if (!step)
        return 0;
    if (wait_for_rate(g) < 0 || close_before(g, from->destination) < 0 || make_place(g) < 0)
        return -1;
    struct train *t = take_train(g);
    if (!t)
        return -1;
    count_open(g);
    start_delay(g);
    pace_begin(g, from->nbytes, from->count);
    memcpy(t, from, offsetof(struct train, numbers));
    t->step = step;
    t->number = g->datagrams;
    t->counted = t->nbytes;
    Py_XINCREF(t->holder);
    arena_hold(g->arena, t->block);
    begin_change(g);
    g->datagrams += (uint64_t)t->count * step;
    g->nbytes += (uint64_t)t->nbytes * step;
    g->gathered += t->count * step;
    g->gathered_bytes += (uint64_t)t->nbytes * step;
    end_change(g);
    if (!is_group(t->destination)) {
        push_train(g, t);
        return 0;
    }
    link_open(g, t);
    if (close_train(g, t) < 0)
        PyErr_Clear(); /* no memory: again with the next call */
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

/* Copies a datagram into a train of its own, to which others may come. */
static int stage_first(UdpBatcher *g, const char *data, size_t n, uint32_t destination) {
    if (close_before(g, destination) < 0 || (g->open_count >= g->max_open && close_now(g, g->oldest) < 0))
        return -1;
    const uint32_t expected = expected_bytes(g, destination);
    if (reserve_room(g, n, n > expected ? n : expected) < 0)
        return -1;
    memcpy(g->at, data, n);
    if (open_train(g, g->at, n, destination, g->block) < 0)
        return -1;
    g->at += n;
    if (g->frames)
        give_frame(g, g->open);
    else
        make_tail(g, g->open);
    close_if_full(g, g->open, n);
    return 0;
}

int refuse_size(UdpBatcher *g) {
    if (!g->frames || g->max_payload < g->arena->capacity)
        return refuse(g->queue, -EMSGSIZE), -1;
    PyObject *why = PyUnicode_FromFormat(
        "the datagram is larger than a frame of the engine can carry (%u bytes)", g->max_payload);
    PyObject *arguments = why ? Py_BuildValue("(iN)", EMSGSIZE, why) : NULL;
    if (arguments)
        PyErr_SetObject(PyExc_OSError, arguments);
    Py_XDECREF(arguments);
    return -1;
}

int stage_datagram(UdpBatcher *g, const char *data, size_t n, uint32_t destination, PyObject *immutable) {
    if (n > g->max_payload)
        return refuse_size(g);
    if (immutable && n >= g->hold_threshold)
        return add_single(g, data, n, destination, immutable, NO_BLOCK);
    if (!receivers_of(g, destination))
        return 0;
    if (wait_for_rate(g) < 0)
        return -1;
    struct train *t = train_to_join(g, destination, n);
    if (!t || (t->room < n && !enlarge_train(g, t, n)))
        return stage_first(g, data, n, destination);
    make_current(g, t);
    append_datagram(t, data, n);
    close_if_full(g, t, n);
    return 0;
}
