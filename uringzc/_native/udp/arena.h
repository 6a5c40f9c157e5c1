/* SPDX-License-Identifier: MIT */
#pragma once

#include "native.h"
#include "request/python.h"

#define BLOCK_SIZE 65536u /* bytes */
#define NO_BLOCK UINT16_MAX

typedef struct {
    PyObject_HEAD PyObject *memory; /* Memory */
    char *base;
    uint32_t blocks;
    _Atomic uint32_t *refs; /* of each block: the sender that fills it, leases, trains, requests in flight */
    uint32_t stride, headroom, capacity; /* bytes: from one block to the next; before its data; of that */
    _Atomic uint32_t leases;             /* neither sent nor released */
    /* The blocks are frames of an engine, one train in each. NULL: they are not, and what follows is not
     * used. `frames`: references to each, of which the arena has one while `refs` is not 0. */
    _Atomic uint32_t *frames;
    PyObject *keep;         /* keeps `frames`; NULL: the arena does */
    uint32_t limit;         /* blocks; that many are in use at most, */
    _Atomic uint32_t used;  /* and so many are */
    _Atomic uint32_t after; /* where the next one is looked for: frames leave in the order of their places */
} Arena;

extern PyTypeObject *arena_type;
extern PyType_Spec arena_spec;

/* A free block with one reference, or NO_BLOCK. Any thread, as those below. */
uint16_t arena_take(Arena *arena);
/* A frame has no reference in `refs` any more. */
void arena_return_frame(Arena *arena, uint16_t block);

static inline char *arena_block(const Arena *arena, uint16_t block) {
    return arena->base + (size_t)block * arena->stride + arena->headroom;
}

static inline void arena_hold(Arena *arena, uint16_t block) {
    if (block != NO_BLOCK)
        atomic_fetch_add_explicit(&arena->refs[block], 1, memory_order_relaxed);
}

static inline void arena_release(Arena *arena, uint16_t block) {
    if (block != NO_BLOCK && atomic_fetch_sub_explicit(&arena->refs[block], 1, memory_order_release) == 1 &&
        arena->frames)
        arena_return_frame(arena, block);
}
