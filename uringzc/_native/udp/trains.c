/* SPDX-License-Identifier: MIT */
/* The trains of a sender. Each destination has at most one open train: its own, or that of a group that it is
 * in, so that the order of its datagrams is that of the calls. */
#include "udp/trains.h"

#define CHUNK 16 /* trains that are allocated at once */

struct train_chunk {
    struct train_chunk *next;
    struct train trains[CHUNK];
};

/* -- where they come from */

static bool add_chunk(UdpBatcher *g) {
    struct train_chunk *chunk = PyMem_Calloc(1, sizeof *chunk);
    if (!chunk)
        return false;
    chunk->next = g->chunks;
    g->chunks = chunk;
    for (uint32_t i = 0; i < CHUNK; i++)
        free_train(g, &chunk->trains[i]);
    return true;
}

struct train *take_train(UdpBatcher *g) {
    if (!g->free && !add_chunk(g))
        return (void)PyErr_NoMemory(), NULL;
    struct train *t = g->free;
    g->free = t->older;
    memset(t, 0, offsetof(struct train, numbers));
    return t;
}

void free_train(UdpBatcher *g, struct train *t) {
    t->older = g->free;
    g->free = t;
}

void release_holder(UdpBatcher *g, struct train *t) {
    if (t->holder && g->lock_thread != g->owner && PyList_Append(g->deferred, t->holder) < 0)
        PyErr_Clear();
    Py_CLEAR(t->holder);
}

void release_train(UdpBatcher *g, struct train *t) {
    arena_release(g->arena, t->block);
    release_holder(g, t);
}

void free_trains(UdpBatcher *g) {
    for (struct train *t = g->oldest; t; t = t->newer)
        Py_XDECREF(t->holder);
    for (uint32_t i = 0; i < g->count; i++)
        Py_XDECREF(g->trains[i]->holder);
    while (g->chunks) {
        struct train_chunk *chunk = g->chunks;
        g->chunks = chunk->next;
        PyMem_Free(chunk);
    }
}

/* -- numbers */

void count_open(UdpBatcher *g) {
    struct train *t = g->open;
    const uint32_t fresh = uncounted(t);
    if (!fresh)
        return;
    if (!t->count)
        t->number = g->datagrams;
    else if (!t->interleaved && g->datagrams != t->number + (uint64_t)t->count * t->step) {
        for (uint32_t i = 0; i < t->count; i++)
            t->numbers[i] = (uint32_t)(t->number + (uint64_t)i * t->step);
        t->interleaved = true;
    }
    for (uint32_t i = 0; t->interleaved && i < fresh; i++)
        t->numbers[t->count + i] = (uint32_t)(g->datagrams + (uint64_t)i * t->step);
    begin_change(g);
    COUNT(g->datagrams, (uint64_t)fresh * t->step);
    COUNT(g->nbytes, (uint64_t)(t->nbytes - t->counted) * t->step);
    COUNT(g->gathered, fresh * t->step);
    COUNT(g->gathered_bytes, (uint64_t)(t->nbytes - t->counted) * t->step);
    COUNT(t->count, fresh);
    WRITE_SHARED(t->counted, t->nbytes);
    end_change(g);
}

uint64_t number_of(const struct train *t, uint32_t index) {
    if (!t->interleaved)
        return t->number + (uint64_t)index * t->step;
    return t->number + (uint32_t)(t->numbers[index] - (uint32_t)t->number);
}

/* -- open trains */

/* Of the destination, and of each member of a group: the open train is `train`, or if it was `was`, none. */
static void set_open(UdpBatcher *g, uint32_t destination, const struct train *was, struct train *train) {
    struct gather *a = gather_of(g, destination);
    if (!was || a->open == was)
        a->open = train;
    if (!is_group(destination))
        return;
    const struct group *group = group_at(g, destination);
    for (uint32_t i = 0; i < group->count; i++)
        set_open(g, group->members[i], was, train);
}

void link_open(UdpBatcher *g, struct train *t) {
    t->older = g->newest;
    if (g->newest)
        g->newest->newer = t;
    else
        g->oldest = t;
    g->newest = t;
    g->open_count++;
    set_open(g, t->destination, NULL, t);
}

static void unlink_open(UdpBatcher *g, struct train *t) {
    *(t->older ? &t->older->newer : &g->oldest) = t->newer;
    *(t->newer ? &t->newer->older : &g->newest) = t->older;
    g->open_count--;
    set_open(g, t->destination, t, NULL);
    struct gather *a = gather_of(g, t->destination);
    if (!t->holder) {
        const uint32_t less = a->expected - a->expected / 8;
        a->expected = t->nbytes > less ? t->nbytes : less;
    }
}

/* The train takes no more: the free part of the block begins behind it. */
static void end_train(UdpBatcher *g, struct train *t) {
    if (t == g->open)
        make_current(g, &g->none);
    if (t == g->tail) {
        g->at = (char *)t->data + t->nbytes;
        g->tail = NULL;
    }
    WRITE_SHARED(t->state, FULL);
}

void push_train(UdpBatcher *g, struct train *t) {
    begin_change(g);
    WRITE_SHARED(t->state, CLOSED);
    WRITE_SHARED(g->trains[g->count], t);
    COUNT(g->count, 1);
    COUNT(g->gathered, -t->count);
    COUNT(g->gathered_bytes, -(uint64_t)t->nbytes);
    end_change(g);
}

/* Copies datagrams of a group's train, from next_piece on and at most `most`, to one for its next member. */
static struct train *copy_for_member(UdpBatcher *g, const struct train *t, uint32_t member, uint32_t most) {
    struct train *copy = take_train(g);
    if (!copy)
        return NULL;
    const uint32_t first = t->next_piece, left = t->count - first;
    memcpy(copy, t, offsetof(struct train, numbers));
    copy->destination = member;
    copy->data += (size_t)first * t->size;
    copy->count = left < most ? left : most;
    copy->nbytes = left <= most ? t->nbytes - first * t->size : copy->count * t->size;
    copy->number = number_of(t, first) + t->next_member;
    for (uint32_t i = 0; t->interleaved && i < copy->count; i++)
        copy->numbers[i] = t->numbers[first + i] + t->next_member;
    Py_XINCREF(copy->holder);
    arena_hold(g->arena, copy->block);
    return copy;
}

static int close_for_members(UdpBatcher *g, struct train *t) {
    const struct group *group = group_at(g, t->destination);
    for (; t->next_member < group->count; t->next_member++, t->next_piece = 0) {
        const uint32_t member = group->members[t->next_member];
        const struct destination *d = &g->destinations[member];
        const uint32_t most = t->size <= d->max_segment_size && d->max_segments ? d->max_segments : 1;
        while (t->next_piece < t->count) {
            struct train *copy;
            if (g->count == BATCH_SIZE)
                return 1;
            if (!(copy = copy_for_member(g, t, member, most)))
                return -1;
            push_train(g, copy);
            t->next_piece += copy->count;
        }
    }
    return 0;
}

int close_train(UdpBatcher *g, struct train *t) {
    end_train(g, t);
    int code = is_group(t->destination) ? close_for_members(g, t) : g->count == BATCH_SIZE;
    if (code)
        return code;
    unlink_open(g, t);
    if (!is_group(t->destination)) {
        push_train(g, t);
        return 0;
    }
    release_train(g, t);
    free_train(g, t);
    return 0;
}

int close_all(UdpBatcher *g) {
    int code = 0;
    while (g->oldest && !code)
        code = close_train(g, g->oldest);
    return code;
}

/* Datagrams of an open train that are not in the batch. */
static uint32_t waiting_in(const UdpBatcher *g, const struct train *t) {
    return t->count * receivers_of(g, t->destination) - t->next_member * t->count - t->next_piece;
}

unsigned long long discard_open(UdpBatcher *g) {
    unsigned long long lost = 0;
    while (g->oldest) {
        struct train *t = g->oldest;
        end_train(g, t);
        lost += waiting_in(g, t);
        unlink_open(g, t);
        release_train(g, t);
        free_train(g, t);
    }
    WRITE_SHARED(g->gathered, 0);
    WRITE_SHARED(g->gathered_bytes, 0);
    return lost;
}
