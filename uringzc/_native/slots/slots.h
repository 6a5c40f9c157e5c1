/* SPDX-License-Identifier: MIT */
/* The structures of the slot accounting, private to this folder: which request belongs to which notifier, and
 * which notifications are due. No I/O, no clock (an engine sets its time), no policy, no allocation per
 * request. notif.py has the rules. registration.c and requests.c call notifiers.c, and that calls owner.c.
 *
 * The request table has an entry for each run: up to 32 requests of one notifier that were attached one after
 * the other with the same socket, memory and length. What differs between them is a bit for each. A request's
 * key is the index of the entry, its place in the run, and a generation that changes with each use of the
 * entry, so that a stale or invented key is not taken for a live one. The entry is free again when the
 * notifier was posted and the references were released: `occupied` bounds what is held. */
#pragma once

#include "slots/accounting.h"

#define NONE UINT32_MAX
#define GENERATIONS 0x7fffffffu /* 31 bits: a key is not negative */

/* Of the counters in `stats`, which any thread may read. */
#define LOAD(counter) __atomic_load_n(&(counter), __ATOMIC_RELAXED)
#define STORE(counter, value) __atomic_store_n(&(counter), value, __ATOMIC_RELAXED)
#define ADD(counter, more) STORE(counter, (counter) + (more))
#define SUBTRACT(counter, less) STORE(counter, (counter) - (less))

/* A function that any thread may call while the owner changes the table: what it says may be of the moment
 * before, or of an entry that is used again. ThreadSanitizer, which would report that, does not look at it.
 */
#define READS_CHANGING_TABLE __attribute__((no_sanitize_thread))

/* Sets of places are bit masks: place i is bit i. A request that has its result (not in `awaiting`) may still
 * be read by the kernel (in `unsettled`). */
struct run {
    void *socket; /* references, one of each for the run */
    void *memory;
    uint64_t user_data;      /* of place 0 */
    uint32_t user_data_step; /* from one place to the next */
    uint32_t nbytes;         /* of each request that succeeded */
    uint32_t generation;
    uint32_t notifier;  /* NONE in a raw engine */
    uint32_t next;      /* in the free list, in its notifier, or in `to_release` */
    uint32_t queued_at; /* milliseconds: `now` when it was attached */
    uint32_t awaiting, unsettled, failed;
    uint8_t count;   /* places in use; 0: the entry is free */
    uint8_t records; /* completions that each request records */
    bool joinable; /* datagrams of one length: others may join. Else `nbytes` is the result of the only one */
};

struct notifier {
    uint64_t tag;
    uint64_t nbytes;
    uint32_t sequence;
    uint32_t slot;
    uint32_t generation; /* odd from its first request until it is posted */
    uint32_t requests;
    uint32_t unsettled; /* of those */
    uint32_t failed;
    uint32_t copied;
    uint32_t next;        /* in the free list, or in a list `unread` */
    uint32_t first, last; /* its runs */
    bool flushed;
    bool usage_unknown; /* of some request it is not known whether it was copied */
};

struct slot {
    uint64_t tag;
    uint32_t sequence;
    uint32_t active; /* notifier; NONE until the first request after a flush */
};

/* Indexes of entries that `next` links; NONE, NONE: empty. */
struct list {
    uint32_t first, last;
};

/* A slot of a sender. Free ones have no listener. */
struct internal_slot {
    struct slot slot;
    uzc_listener listener;
    struct list unread; /* notifiers that were posted and not read */
    uint32_t requests;  /* whose notifier was not posted */
};

/* Written by the thread between uzc_slots_begin() and uzc_slots_end(); `owner`, `closed`, `inside` by any. */
struct uzc_slots {
    struct run *runs;
    struct notifier *notifiers;
    struct slot *slots;
    uzc_completion *completions; /* a ring of `capacity` */
    uint32_t count;              /* registered slots */
    struct internal_slot *internal;
    uint32_t internal_count;
    uint32_t max_inflight; /* entries of runs, and of notifiers */
    uint32_t occupied;     /* requests of the runs in use, at most max_inflight */
    uint32_t capacity;
    uint32_t head;                        /* the oldest unread completion */
    uint32_t reserved;                    /* completions that requests in flight will still record */
    uint32_t mode;                        /* UZC_NONE to UZC_RAW */
    uint32_t fresh_runs, fresh_notifiers; /* entries from here on were never used, nor their memory */
    uint32_t free_runs, free_notifiers;   /* used ones, last freed first */
    struct list to_release;               /* runs whose references are to be released */
    struct list unread;                   /* notifiers that were posted and not read */
    uint32_t now;                         /* milliseconds */
    _Atomic uint64_t owner;               /* thread; 0 until one claims the engine */
    atomic_bool closed;                   /* any thread may set it */
    bool poisoned;
    atomic_bool inside; /* a thread is between uzc_slots_begin() and uzc_slots_end() */
    uzc_stats stats;
};

/* The internal slot of that number; NULL for any other. */
static inline struct internal_slot *uzc_internal_slot(const uzc_slots *s, uint32_t slot) {
    uint32_t index = slot - UZC_MAX_SLOTS;
    return slot >= UZC_MAX_SLOTS && index < s->internal_count && s->internal[index].listener.context
               ? &s->internal[index]
               : NULL;
}

static inline uint64_t uzc_run_user_data(const struct run *r, uint32_t place) {
    return r->user_data + (uint64_t)r->user_data_step * place;
}

/* owner.c: begins a call that only reads: any thread may once the engine is closed. */
int uzc_slots_begin_reading(uzc_slots *s);

/* notifiers.c: the slot's active notifier; makes it active if there is none. NONE: all are in use. */
uint32_t uzc_ensure_notifier(uzc_slots *s, uint32_t slot);
/* notifiers.c: so many requests of this notifier have settled. */
void uzc_notifier_settled(uzc_slots *s, uint32_t index, uint32_t count);
/* notifiers.c: adds a chain of runs to `to_release`. */
void uzc_release_chain(uzc_slots *s, uint32_t first, uint32_t last);
/* notifiers.c: reads and frees up to `max` notifiers of the list. */
uint32_t uzc_read_notifiers(uzc_slots *s, struct list *unread, uzc_notification *out, uint32_t max);
