/* SPDX-License-Identifier: MIT
 *
 * The accounts: which request belongs to which notifier, and what is due. No I/O, no clock, no policy, and no
 * allocation per request. An engine attaches requests and says what the kernel said of them; everybody else
 * flushes slots and reads what has come due. notif.py tells the rules and the theory.
 *
 * A request is an entry of a fixed table, named by a key: its index, and a generation that changes with each
 * use, so that a stale or invented key is told from a live one. It returns to the free list when the notifier
 * that it is attached to has been posted *and* its references were handed back, so the size of the table is
 * the bound on everything that is held.
 */
#include "internal.h"

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

struct uzc_slots {
    struct request *requests;
    struct notifier *notifiers;
    struct slot *slots;
    uzc_completion *completions; /* a ring of `capacity` */
    uint32_t count;              /* slots */
    uint32_t max;                /* requests, and notifiers */
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
    uint64_t owner; /* thread, 0 until the first submit */
    bool closed, poisoned;
    atomic_bool inside;
    uzc_stats stats;
};

/* A number for each thread that no other thread of the process ever had. */
static uint64_t this_thread(void) {
    static atomic_uint_fast64_t threads;
    static _Thread_local uint64_t number;
    if (!number)
        number = atomic_fetch_add(&threads, 1) + 1;
    return number;
}

uzc_slots *uzc_slots_new(uint32_t max_inflight, uint32_t completions) {
    uzc_slots *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->max = max_inflight;
    s->mode = completions;
    s->capacity = completions == UZC_RAW ? 2 * max_inflight : completions == UZC_NONE ? 0 : max_inflight;
    s->requests = calloc(max_inflight, sizeof *s->requests);
    s->notifiers = completions == UZC_RAW ? NULL : calloc(max_inflight, sizeof *s->notifiers);
    s->completions = s->capacity ? calloc(s->capacity, sizeof *s->completions) : NULL;
    if (!s->requests || (completions != UZC_RAW && !s->notifiers) || (s->capacity && !s->completions)) {
        uzc_slots_free(s);
        return NULL;
    }
    s->free_requests = s->free_notifiers = NONE;
    s->released = s->posted = (struct list){NONE, NONE};
    return s;
}

void uzc_slots_free(uzc_slots *s) {
    if (!s)
        return;
    free(s->requests);
    free(s->notifiers);
    free(s->completions);
    free(s->slots);
    free(s);
}

int uzc_slots_claim(uzc_slots *s) {
    if (!s->owner)
        s->owner = this_thread();
    return s->owner == this_thread() ? 0 : UZC_E_THREAD;
}

/* May this thread use the engine? */
int uzc_slots_mine(const uzc_slots *s) {
    return !s->owner || s->owner == this_thread();
}

int uzc_slots_begin_any(uzc_slots *s) {
    if (!uzc_slots_mine(s))
        return UZC_E_THREAD;
    return atomic_exchange_explicit(&s->inside, true, memory_order_acquire) ? UZC_E_BUSY : 0;
}

/* Reading is open to every thread once the engine is closed. */
static int begin_reading(uzc_slots *s) {
    if (!s->closed && !uzc_slots_mine(s))
        return UZC_E_THREAD;
    return atomic_exchange_explicit(&s->inside, true, memory_order_acquire) ? UZC_E_BUSY : 0;
}

int uzc_slots_check(const uzc_slots *s) {
    if (s->closed)
        return UZC_E_CLOSED;
    if (!uzc_slots_mine(s))
        return UZC_E_THREAD;
    return s->poisoned ? UZC_E_POISONED : 0;
}

int uzc_slots_begin(uzc_slots *s) {
    int error = uzc_slots_check(s);
    return error ? error : uzc_slots_begin_any(s);
}

void uzc_slots_end(uzc_slots *s) {
    atomic_store_explicit(&s->inside, false, memory_order_release);
}

void uzc_slots_poison(uzc_slots *s) {
    s->poisoned = true;
}

void uzc_slots_clock(uzc_slots *s, uint32_t now) {
    s->now = now;
}

void uzc_slots_stray(uzc_slots *s) {
    s->stats.stray++;
}

uint32_t uzc_slots_count(const uzc_slots *s) {
    return s->count;
}

int uzc_slots_register(uzc_slots *s, const uint64_t *tags, uint32_t count) {
    if (!count || count > UZC_MAX_SLOTS || s->mode == UZC_RAW)
        return -EINVAL;
    int error = uzc_slots_begin(s);
    if (error)
        return error;
    if (s->slots)
        error = -EBUSY;
    else if (!(s->slots = calloc(count, sizeof *s->slots)))
        error = -ENOMEM;
    for (uint32_t i = 0; !error && i < count; i++)
        s->slots[i] = (struct slot){.tag = tags[i], .active = NONE};
    if (!error)
        s->count = count;
    uzc_slots_end(s);
    return error;
}

int uzc_slots_unregister(uzc_slots *s) {
    int error = uzc_slots_begin(s);
    if (error)
        return error;
    if (!s->slots)
        error = -ENXIO;
    for (uint32_t i = 0; i < s->count; i++)
        uzc_slots_flush_inside(s, i);
    free(s->slots);
    s->slots = NULL;
    s->count = 0;
    uzc_slots_end(s);
    return error;
}

/* Takes no more work. Safe in any thread. */
void uzc_slots_shut(uzc_slots *s) {
    s->closed = true;
}

/* Flushes what is open and takes no more work; what was queued can still be completed, and reaped. */
void uzc_slots_close(uzc_slots *s) {
    for (uint32_t i = 0; i < s->count; i++)
        uzc_slots_flush_inside(s, i);
    s->closed = true;
}

int uzc_slots_update(uzc_slots *s, uint32_t first, uint32_t count, uint64_t tag, int keep_tag) {
    if (first > UINT32_MAX - count)
        return -EOVERFLOW;
    int error = uzc_slots_begin(s);
    if (error)
        return error;
    if (first + count > s->count)
        error = -EINVAL;
    for (uint32_t i = first; !error && i < first + count; i++) {
        if (s->slots[i].active == NONE)
            continue;
        uzc_slots_flush_inside(s, i);
        if (!keep_tag)
            s->slots[i].tag = tag;
    }
    uzc_slots_end(s);
    return error;
}

static uint32_t take_notifier(uzc_slots *s) {
    uint32_t i = s->free_notifiers;
    if (i != NONE)
        s->free_notifiers = s->notifiers[i].next;
    else if (s->fresh_notifiers < s->max)
        i = s->fresh_notifiers++;
    return i;
}

/* A chain of requests whose references may be handed back. */
static void release(uzc_slots *s, uint32_t first, uint32_t last) {
    if (s->released.last == NONE)
        s->released.first = first;
    else
        s->requests[s->released.last].next = first;
    s->released.last = last;
}

/* Flushed, and nothing of it is in flight: its notification is due, its requests' references go back. */
static void post(uzc_slots *s, uint32_t index) {
    struct notifier *n = &s->notifiers[index];
    n->generation++;
    n->next = NONE;
    if (s->posted.last == NONE)
        s->posted.first = index;
    else
        s->notifiers[s->posted.last].next = index;
    s->posted.last = index;
    release(s, n->first, n->last);
    s->stats.held -= n->requests;
    s->stats.flushed--;
    s->stats.notifications++;
    s->stats.unread_notifications++;
}

void uzc_slots_flush_inside(uzc_slots *s, uint32_t slot) {
    uint32_t index = s->slots[slot].active;
    if (index == NONE)
        return;
    struct notifier *n = &s->notifiers[index];
    s->slots[slot].active = NONE;
    n->flushed = true;
    s->stats.open--;
    s->stats.flushed++;
    s->stats.unsettled += n->unsettled;
    if (!n->unsettled)
        post(s, index);
}

/* Returns the notifier's number, or 0 for a slot that was skipped. */
int64_t uzc_slots_flush(uzc_slots *s, uint32_t slot) {
    int error = uzc_slots_begin(s);
    if (error)
        return error;
    int64_t number = slot < s->count ? 0 : -EINVAL;
    if (!number && s->slots[slot].active != NONE) {
        uint32_t index = s->slots[slot].active;
        number = (int64_t)((uint64_t)s->notifiers[index].generation << 32 | index);
        uzc_slots_flush_inside(s, slot);
    }
    uzc_slots_end(s);
    return number;
}

/* How many requests of a flushed notifier are not settled; 0 when its notification has been posted. */
uint32_t uzc_slots_unsettled(const uzc_slots *s, uint64_t number) {
    const struct notifier *n = &s->notifiers[(uint32_t)number];
    return n->generation == number >> 32 ? n->unsettled : 0;
}

static void free_request(uzc_slots *s, uint32_t index) {
    struct request *r = &s->requests[index];
    r->state = FREE;
    r->next = s->free_requests;
    s->free_requests = index;
}

/* Opens an entry; returns its key, or why not. The caller is inside. */
int64_t uzc_slots_attach(uzc_slots *s, const uzc_send *send, uint64_t user_data) {
    bool raw = s->mode == UZC_RAW;
    uint32_t records = raw ? 1 + (send->zero_copy != 0) : s->mode != UZC_NONE;
    if (!raw && send->slot >= s->count)
        return -EINVAL;
    uint32_t index = s->free_requests;
    if (index == NONE && s->fresh_requests == s->max)
        return UZC_E_REQUESTS;
    if (records > s->capacity - s->reserved - s->stats.unread_completions)
        return UZC_E_COMPLETIONS;
    uint32_t notifier = raw ? NONE : s->slots[send->slot].active;
    if (!raw && notifier == NONE) {
        notifier = take_notifier(s);
        if (notifier == NONE)
            return UZC_E_NOTIFICATIONS;
        struct slot *slot = &s->slots[send->slot];
        uint32_t generation = s->notifiers[notifier].generation + 1;
        s->notifiers[notifier] = (struct notifier){.tag = slot->tag,
                                                   .sequence = slot->sequence++,
                                                   .slot = send->slot,
                                                   .generation = generation & GENERATIONS,
                                                   .first = NONE,
                                                   .last = NONE};
        slot->active = notifier;
        s->stats.open++;
    }
    if (index != NONE)
        s->free_requests = s->requests[index].next;
    else
        index = s->fresh_requests++;
    struct request *r = &s->requests[index];
    r->user_data = user_data;
    r->socket = send->socket;
    r->memory = send->memory;
    r->generation = (r->generation + 1) & GENERATIONS;
    r->notifier = notifier;
    r->next = NONE;
    r->queued_at = s->now;
    r->state = QUEUED;
    r->records = (uint16_t)records;
    if (!raw) {
        struct notifier *n = &s->notifiers[notifier];
        n->requests++;
        n->unsettled++;
        if (n->last == NONE)
            n->first = index;
        else
            s->requests[n->last].next = index;
        n->last = index;
    }
    s->reserved += records;
    s->stats.requests++;
    s->stats.in_flight++;
    s->stats.awaiting++;
    s->stats.held++;
    return (int64_t)((uint64_t)r->generation << 32 | index);
}

static struct request *find(uzc_slots *s, uint64_t key) {
    uint32_t index = (uint32_t)key;
    struct request *r = &s->requests[index];
    if (index >= s->fresh_requests || r->generation != key >> 32 || r->state == FREE || r->state == SETTLED) {
        s->stats.stray++;
        return NULL;
    }
    return r;
}

static void record(uzc_slots *s, struct request *r, int32_t result, uint32_t flags) {
    uint32_t at = s->head + s->stats.unread_completions++;
    s->completions[at < s->capacity ? at : at - s->capacity] = (uzc_completion){r->user_data, result, flags};
}

/* The request's result. The kernel may still own its memory. */
int uzc_slots_result(uzc_slots *s, uint64_t key, int32_t result, uint32_t flags) {
    struct request *r = find(s, key);
    if (!r)
        return -ENOENT;
    if (r->state != QUEUED) {
        s->stats.stray++;
        return -ENOENT;
    }
    r->state = PENDING;
    r->result = result;
    s->stats.awaiting--;
    s->stats.completions++;
    if (result < 0)
        s->stats.failed++;
    else
        s->stats.nbytes += (uint32_t)result;
    if (r->notifier != NONE) {
        struct notifier *n = &s->notifiers[r->notifier];
        if (result < 0)
            n->failed++;
        else
            n->nbytes += (uint32_t)result;
    }
    if (r->records) {
        r->records--;
        s->reserved--;
        if (s->mode != UZC_FAILED || result < 0)
            record(s, r, result, flags);
    }
    return 0;
}

/* The kernel is done with the request's memory. copied: 1, 0, or -1 where it could not tell. `flags` are the
 * CQE's if this was one of its own (a raw engine records it), else 0. */
int uzc_slots_settle(uzc_slots *s, uint64_t key, int copied, uint32_t flags) {
    struct request *r = find(s, key);
    if (!r)
        return -ENOENT;
    if (r->state == QUEUED) { /* a notification and no result: the request never ran */
        uzc_slots_result(s, key, -ECANCELED, 0);
        s->stats.stray++;
    }
    r->state = SETTLED;
    s->stats.in_flight--;
    if (r->result >= 0 && copied > 0)
        s->stats.copied += (uint32_t)r->result;
    s->reserved -= r->records;
    if (r->notifier == NONE) {
        if (flags && r->records)
            record(s, r, copied > 0 ? INT32_MIN : 0, flags);
        s->stats.held--;
        release(s, (uint32_t)key, (uint32_t)key);
        return 0;
    }
    struct notifier *n = &s->notifiers[r->notifier];
    if (r->result >= 0) {
        n->copied += copied > 0;
        n->usage_unknown |= copied < 0;
    }
    n->unsettled--;
    if (n->flushed) {
        s->stats.unsettled--;
        if (!n->unsettled)
            post(s, r->notifier);
    }
    return 0;
}

int uzc_slots_release(uzc_slots *s, void **socket, void **memory) {
    uint32_t index = s->released.first;
    if (index == NONE)
        return 0;
    struct request *r = &s->requests[index];
    s->released.first = r->next;
    if (s->released.first == NONE)
        s->released.last = NONE;
    *socket = r->socket;
    *memory = r->memory;
    free_request(s, index);
    return 1;
}

int64_t uzc_slots_completions(uzc_slots *s, uzc_completion *out, uint32_t most) {
    int error = begin_reading(s);
    if (error)
        return error;
    uint32_t count = most < s->stats.unread_completions ? most : s->stats.unread_completions;
    for (uint32_t i = 0; i < count; i++) {
        out[i] = s->completions[s->head++];
        if (s->head == s->capacity)
            s->head = 0;
    }
    s->stats.unread_completions -= count;
    uzc_slots_end(s);
    return count;
}

int64_t uzc_slots_notifications(uzc_slots *s, uzc_notification *out, uint32_t most) {
    int error = begin_reading(s);
    if (error)
        return error;
    uint32_t count = 0;
    while (count < most && s->posted.first != NONE) {
        uint32_t index = s->posted.first;
        struct notifier *n = &s->notifiers[index];
        s->posted.first = n->next;
        out[count++] = (uzc_notification){.tag = n->tag,
                                          .sequence = n->sequence,
                                          .slot = n->slot,
                                          .requests = n->requests,
                                          .nbytes = n->nbytes,
                                          .copied = n->usage_unknown ? -1 : (int64_t)n->copied,
                                          .failed = n->failed};
        n->next = s->free_notifiers;
        s->free_notifiers = index;
    }
    if (s->posted.first == NONE)
        s->posted.last = NONE;
    s->stats.unread_notifications -= count;
    uzc_slots_end(s);
    return count;
}

void uzc_slots_stats(const uzc_slots *s, uzc_stats *out) {
    *out = s->stats;
}

/* How long the oldest request in flight has been queued, at time `now`; 0 if there is none. */
uint32_t uzc_slots_oldest(const uzc_slots *s, uint32_t now) {
    uint32_t oldest = 0;
    for (uint32_t i = 0; s->stats.in_flight && i < s->fresh_requests; i++) {
        const struct request *r = &s->requests[i];
        if ((r->state == QUEUED || r->state == PENDING) && now - r->queued_at > oldest)
            oldest = now - r->queued_at;
    }
    return oldest;
}
