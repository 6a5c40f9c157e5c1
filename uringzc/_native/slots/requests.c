/* SPDX-License-Identifier: MIT */
/* A request has a result, and settles; the references of its run are released. */
#include "slots/slots.h"

#define INDEX_MASK (UZC_KEY_STEP - 1u)

/* One place is the rule where each request has a notifier, and most processors' popcount is a function call.
 */
static uint32_t count_of(uint32_t places) {
    return places & (places - 1) ? (uint32_t)__builtin_popcount(places) : places != 0;
}

/* Takes the lowest place out of a set that is not empty. */
static uint32_t take_place(uint32_t *places) {
    uint32_t place = (uint32_t)__builtin_ctz(*places);
    *places &= *places - 1;
    return place;
}

static void free_run(uzc_slots *s, uint32_t index) {
    struct run *r = &s->runs[index];
    s->occupied -= r->count;
    r->count = 0;
    r->next = s->free_runs;
    s->free_runs = index;
}

/* NULL: the key is of an earlier use of the entry, or of none. */
static struct run *find_run(uzc_slots *s, uint64_t key) {
    uint32_t index = (uint32_t)key & INDEX_MASK;
    struct run *r = &s->runs[index];
    return index < s->fresh_runs && r->generation == key >> 32 && r->count ? r : NULL;
}

/* Those of `places` that are in `expected`; the others are stray. */
static uint32_t accept(uzc_slots *s, uint32_t places, uint32_t expected) {
    ADD(s->stats.stray, count_of(places & ~expected));
    return places & expected;
}

static struct internal_slot *internal_slot_of(uzc_slots *s, const struct run *r) {
    return r->notifier == NONE ? NULL : uzc_internal_slot(s, s->notifiers[r->notifier].slot);
}

static void record_completions(uzc_slots *s, const struct run *r, uint32_t places, int32_t result,
                               uint32_t flags) {
    uint32_t at = s->head + s->stats.unread_completions;
    at = at < s->capacity ? at : at - s->capacity;
    ADD(s->stats.unread_completions, count_of(places));
    while (places) {
        s->completions[at] = (uzc_completion){uzc_run_user_data(r, take_place(&places)), result, flags};
        at = at + 1 < s->capacity ? at + 1 : 0;
    }
}

static void count_results(uzc_slots *s, struct run *r, uint32_t places, int32_t result) {
    uint32_t count = count_of(places);
    struct notifier *n = r->notifier == NONE ? NULL : &s->notifiers[r->notifier];
    SUBTRACT(s->stats.awaiting, count);
    ADD(s->stats.completions, count);
    if (result < 0) {
        r->failed |= places;
        ADD(s->stats.failed, count);
        if (n)
            n->failed += count;
        return;
    }
    uint64_t nbytes = (uint64_t)result * count;
    if (!r->joinable)
        r->nbytes = (uint32_t)result;
    ADD(s->stats.nbytes, nbytes);
    if (n)
        n->nbytes += nbytes;
}

uint32_t uzc_slots_results(uzc_slots *s, uint64_t key, uint32_t places, int32_t result, uint32_t flags) {
    struct run *r = find_run(s, key);
    const uint32_t accepted = accept(s, places, r ? r->awaiting : 0);
    if (!accepted)
        return 0;
    r->awaiting &= ~accepted;
    count_results(s, r, accepted, result);
    if (r->records) {
        s->reserved -= count_of(accepted);
        if (s->mode != UZC_FAILED || result < 0)
            record_completions(s, r, accepted, result, flags);
    }
    struct internal_slot *internal = internal_slot_of(s, r);
    for (uint32_t left = internal ? accepted : 0; left;)
        internal->listener.result(internal->listener.context, uzc_run_user_data(r, take_place(&left)),
                                  result);
    return accepted;
}

/* Those of the run that were never executed: notifications without a result. */
static void cancel(uzc_slots *s, const struct run *r, uint64_t key, uint32_t places) {
    if (places & r->awaiting)
        ADD(s->stats.stray, count_of(uzc_slots_results(s, key, places & r->awaiting, -ECANCELED, 0)));
}

/* In a raw engine, whose runs have one request. */
static void settle_raw(uzc_slots *s, struct run *r, int copied, uint32_t flags) {
    if (r->records == 2) {
        s->reserved--;
        if (flags) /* INT32_MIN: IORING_NOTIF_USAGE_ZC_COPIED, as the CQE had it */
            record_completions(s, r, 1, copied > 0 ? INT32_MIN : 0, flags);
    }
    SUBTRACT(s->stats.held, 1);
    uint32_t index = (uint32_t)(r - s->runs);
    uzc_release_chain(s, index, index);
}

uint32_t uzc_slots_settle_all(uzc_slots *s, uint64_t key, uint32_t places, int copied, uint32_t flags) {
    struct run *r = find_run(s, key);
    const uint32_t accepted = accept(s, places, r ? r->unsettled : 0);
    if (!accepted)
        return 0;
    cancel(s, r, key, accepted);
    uint32_t succeeded = count_of(accepted & ~r->failed);
    r->unsettled &= ~accepted;
    SUBTRACT(s->stats.in_flight, count_of(accepted));
    if (copied > 0)
        ADD(s->stats.copied, (uint64_t)r->nbytes * succeeded);
    if (r->notifier == NONE) {
        settle_raw(s, r, copied, flags);
        return accepted;
    }
    struct notifier *n = &s->notifiers[r->notifier];
    n->copied += copied > 0 ? succeeded : 0;
    n->usage_unknown |= copied < 0 && succeeded;
    struct internal_slot *internal = internal_slot_of(s, r);
    for (uint32_t left = internal ? accepted : 0; left;)
        internal->listener.settled(internal->listener.context, uzc_run_user_data(r, take_place(&left)),
                                   copied);
    uzc_notifier_settled(s, r->notifier, count_of(accepted));
    return accepted;
}

int uzc_slots_result(uzc_slots *s, uint64_t key, int32_t result, uint32_t flags) {
    return uzc_slots_results(s, key, 1u << uzc_key_place(key), result, flags) ? 0 : -ENOENT;
}

int uzc_slots_settle(uzc_slots *s, uint64_t key, int copied, uint32_t flags) {
    return uzc_slots_settle_all(s, key, 1u << uzc_key_place(key), copied, flags) ? 0 : -ENOENT;
}

uint32_t uzc_slots_release(uzc_slots *s, void **socket, void **memory) {
    uint32_t index = s->to_release.first;
    if (index == NONE)
        return 0;
    const struct run *r = &s->runs[index];
    uint32_t count = r->count;
    s->to_release.first = r->next;
    if (s->to_release.first == NONE)
        s->to_release.last = NONE;
    *socket = r->socket;
    *memory = r->memory;
    free_run(s, index);
    return count;
}

int64_t uzc_slots_completions(uzc_slots *s, uzc_completion *out, uint32_t max) {
    int error = uzc_slots_begin_reading(s);
    if (error)
        return error;
    uint32_t count = max < s->stats.unread_completions ? max : s->stats.unread_completions;
    uint32_t first = count < s->capacity - s->head ? count : s->capacity - s->head; /* up to the ring's end */
    if (count) {
        memcpy(out, s->completions + s->head, first * sizeof *out);
        memcpy(out + first, s->completions, (count - first) * sizeof *out);
        s->head = first < s->capacity - s->head ? s->head + first : count - first;
    }
    SUBTRACT(s->stats.unread_completions, count);
    uzc_slots_end(s);
    return count;
}

void uzc_slots_clock(uzc_slots *s, uint32_t now) {
    s->now = now;
}

void uzc_slots_stats(const uzc_slots *s, uzc_stats *out) {
    const uzc_stats *now = &s->stats;
    *out = (uzc_stats){.requests = LOAD(now->requests),
                       .nbytes = LOAD(now->nbytes),
                       .completions = LOAD(now->completions),
                       .failed = LOAD(now->failed),
                       .notifications = LOAD(now->notifications),
                       .copied = LOAD(now->copied),
                       .stray = LOAD(now->stray),
                       .in_flight = LOAD(now->in_flight),
                       .awaiting = LOAD(now->awaiting),
                       .held = LOAD(now->held),
                       .open = LOAD(now->open),
                       .flushed = LOAD(now->flushed),
                       .unsettled = LOAD(now->unsettled),
                       .unread_completions = LOAD(now->unread_completions),
                       .unread_notifications = LOAD(now->unread_notifications)};
}

READS_CHANGING_TABLE uint32_t uzc_slots_oldest(const uzc_slots *s, uint32_t now) {
    uint32_t oldest = 0;
    for (uint32_t i = 0; LOAD(s->stats.in_flight) && i < LOAD(s->fresh_runs); i++) {
        const struct run *r = &s->runs[i];
        const uint32_t age = now - LOAD(r->queued_at);
        if (LOAD(r->count) && LOAD(r->unsettled) && age > oldest)
            oldest = age;
    }
    return oldest;
}
