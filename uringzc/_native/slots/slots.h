/* SPDX-License-Identifier: MIT
 *
 * The accounts' own structures, shared by owner.c, notifiers.c and requests.c, and by nobody else. */
#ifndef UZC_SLOTS_H
#define UZC_SLOTS_H

#include "slots/accounting.h"

#define NONE UINT32_MAX
#define GENERATIONS 0x7fffffffu /* 31 bits: the top bit of a key is the engine's own */

enum { FREE, QUEUED, PENDING, SETTLED }; /* PENDING: has a result, and the kernel still owns the memory */

struct request {
    uint64_t user_data;
    void *socket;
    void *memory;
    uint32_t generation;
    uint32_t notifier; /* NONE in a raw engine */
    uint32_t next;     /* in the free list, in its notifier, or among the released */
    int32_t result;
    uint32_t queued_at; /* the clock when it was attached */
    uint16_t state;
    uint16_t records; /* completions that it will still post */
};

struct notifier {
    uint64_t tag;
    uint64_t nbytes;
    uint32_t sequence;
    uint32_t slot;
    uint32_t generation; /* odd from its first request to its notification */
    uint32_t requests;
    uint32_t unsettled;
    uint32_t failed;
    uint32_t copied;
    uint32_t next;        /* in the free list, or among the posted */
    uint32_t first, last; /* its requests */
    bool flushed;
    bool usage_unknown;
};

struct slot {
    uint64_t tag;
    uint32_t sequence;
    uint32_t active; /* notifier, NONE until the first request after a flush */
};

struct list {
    uint32_t first, last;
};

/* A sender's own slot. Free ones have no listener. */
struct internal_slot {
    struct slot slot;
    uzc_listener listener;
    struct list posted;
    uint32_t requests; /* whose notifier was not posted */
};

struct uzc_slots {
    struct request *requests;
    struct notifier *notifiers;
    struct slot *slots;
    uzc_completion *completions; /* a ring of `capacity` */
    uint32_t count;              /* slots */
    struct internal_slot *internal;
    uint32_t internal_count;
    uint32_t max; /* requests, and notifiers */
    uint32_t capacity;
    uint32_t head;     /* oldest unread completion */
    uint32_t reserved; /* completions that requests in flight will still post */
    uint32_t mode;
    uint32_t fresh_requests,
        fresh_notifiers;                    /* entries from here on were never used: memory stays untouched */
    uint32_t free_requests, free_notifiers; /* used ones, last freed first */
    struct list released;                   /* requests whose references wait to be handed back */
    struct list posted;                     /* notifiers to be read */
    uint32_t now;
    _Atomic uint64_t owner; /* thread, 0 until the first submit */
    bool closed, poisoned;
    atomic_bool inside;
    uzc_stats stats;
};

/* The internal slot of that number, NULL for a registered one or none. */
static inline struct internal_slot *uzc_internal_slot(const uzc_slots *s, uint32_t slot) {
    uint32_t index = slot - UZC_MAX_SLOTS;
    return slot >= UZC_MAX_SLOTS && index < s->internal_count && s->internal[index].listener.context
               ? &s->internal[index]
               : NULL;
}

/* notifiers.c: the slot's active notifier, a fresh one if it has none; NONE if all are in use. */
uint32_t uzc_active_notifier(uzc_slots *s, uint32_t slot);
/* notifiers.c: a request of this notifier has settled. */
void uzc_notifier_settled(uzc_slots *s, uint32_t index);
/* notifiers.c: a chain of requests whose references may be handed back. */
void uzc_release_chain(uzc_slots *s, uint32_t first, uint32_t last);
/* owner.c: reading is open to every thread once the engine is closed. */
int uzc_slots_begin_reading(uzc_slots *s);

#endif
