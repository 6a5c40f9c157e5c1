/* SPDX-License-Identifier: MIT */
#pragma once

#include "native.h"
#include "request/python.h"

#define BLOCK_SIZE 65536u /* bytes; no datagram, and no train, is larger */
#define NO_BLOCK UINT16_MAX

typedef struct {
    PyObject_HEAD PyObject *memory; /* Memory */
    char *base;
    uint32_t blocks;
    _Atomic uint32_t *refs;  /* of each block: the sender that fills it, leases, trains, requests in flight */
    _Atomic uint32_t leases; /* neither sent nor released */
} Arena;

extern PyTypeObject *arena_type;
extern PyType_Spec arena_spec;

/* A free block with one reference, or NO_BLOCK. Any thread, as the two below. */
uint16_t arena_take(Arena *arena);

static inline void arena_hold(Arena *arena, uint16_t block) {
    if (block != NO_BLOCK)
        atomic_fetch_add_explicit(&arena->refs[block], 1, memory_order_relaxed);
}

static inline void arena_release(Arena *arena, uint16_t block) {
    if (block != NO_BLOCK)
        atomic_fetch_sub_explicit(&arena->refs[block], 1, memory_order_release);
}
