/* SPDX-License-Identifier: MIT */
/* The life of a request: it is attached, has a result, settles, and its references are released. */
#include "slots/slots.h"

static void free_request(uzc_slots *s, uint32_t index) {
    struct request *r = &s->requests[index];
    r->state = FREE;
    r->next = s->free_requests;
    s->free_requests = index;
}

int64_t uzc_slots_attach(uzc_slots *s, const uzc_send *send, uint64_t user_data) {
    bool raw = s->mode == UZC_RAW;
    struct internal_slot *internal = uzc_internal_slot(s, send->slot);
    /* a raw engine records both CQEs of a zero-copy request; senders' requests record none */
    uint32_t records = raw ? 1 + (send->zero_copy != 0) : s->mode != UZC_NONE && !internal;
    if (!raw && !internal && send->slot >= s->count)
        return -EINVAL;
    uint32_t index = s->free_requests;
    if (index == NONE && s->fresh_requests == s->max_inflight)
        return UZC_E_REQUESTS;
    if (records > s->capacity - s->reserved - s->stats.unread_completions)
        return UZC_E_COMPLETIONS;
    uint32_t notifier = raw ? NONE : uzc_ensure_notifier(s, send->slot);
    if (!raw && notifier == NONE)
        return UZC_E_NOTIFICATIONS;
    if (index != NONE)
        s->free_requests = s->requests[index].next;
    else
        index = s->fresh_requests++;
    struct request *r = &s->requests[index];
    r->user_data = user_data;
    r->socket = send->socket;
    r->memory = send->memory;
    r->generation = r->generation < GENERATIONS ? r->generation + 1 : 1; /* no key is 0 */
    r->notifier = notifier;
    r->next = NONE;
    r->queued_at = s->now;
    r->state = AWAITING;
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
        if (internal)
            internal->requests++;
    }
    s->reserved += records;
    s->stats.requests++;
    s->stats.in_flight++;
    s->stats.awaiting++;
    s->stats.held++;
    return (int64_t)((uint64_t)r->generation << 32 | index);
}

/* In a state from AWAITING to `last_state`; NULL: stray. */
static struct request *find_request(uzc_slots *s, uint64_t key, uint16_t last_state) {
    uint32_t index = (uint32_t)key;
    struct request *r = &s->requests[index];
    if (index >= s->fresh_requests || r->generation != key >> 32 || r->state == FREE ||
        r->state > last_state) {
        s->stats.stray++;
        return NULL;
    }
    return r;
}

static struct internal_slot *internal_slot_of(uzc_slots *s, const struct request *r) {
    return r->notifier == NONE ? NULL : uzc_internal_slot(s, s->notifiers[r->notifier].slot);
}

static void record_completion(uzc_slots *s, struct request *r, int32_t result, uint32_t flags) {
    uint32_t at = s->head + s->stats.unread_completions++;
    s->completions[at < s->capacity ? at : at - s->capacity] = (uzc_completion){r->user_data, result, flags};
}

int uzc_slots_result(uzc_slots *s, uint64_t key, int32_t result, uint32_t flags) {
    struct request *r = find_request(s, key, AWAITING);
    if (!r)
        return -ENOENT;
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
            record_completion(s, r, result, flags);
    }
    struct internal_slot *internal = internal_slot_of(s, r);
    if (internal)
        internal->listener.result(internal->listener.context, r->user_data, result);
    return 0;
}

int uzc_slots_settle(uzc_slots *s, uint64_t key, int copied, uint32_t flags) {
    struct request *r = find_request(s, key, PENDING);
    if (!r)
        return -ENOENT;
    if (r->state == AWAITING) { /* a notification without a result: the request was never executed */
        uzc_slots_result(s, key, -ECANCELED, 0);
        s->stats.stray++;
    }
    r->state = SETTLED;
    s->stats.in_flight--;
    if (r->result >= 0 && copied > 0)
        s->stats.copied += (uint32_t)r->result;
    s->reserved -= r->records;
    if (r->notifier == NONE) {
        if (flags && r->records) /* INT32_MIN: IORING_NOTIF_USAGE_ZC_COPIED, as the CQE had it */
            record_completion(s, r, copied > 0 ? INT32_MIN : 0, flags);
        s->stats.held--;
        uzc_release_chain(s, (uint32_t)key, (uint32_t)key);
        return 0;
    }
    struct notifier *n = &s->notifiers[r->notifier];
    if (r->result >= 0) {
        n->copied += copied > 0;
        n->usage_unknown |= copied < 0;
    }
    struct internal_slot *internal = internal_slot_of(s, r);
    if (internal)
        internal->listener.settled(internal->listener.context, r->user_data, copied);
    uzc_notifier_settled(s, r->notifier);
    return 0;
}

int uzc_slots_release(uzc_slots *s, void **socket, void **memory) {
    uint32_t index = s->to_release.first;
    if (index == NONE)
        return 0;
    struct request *r = &s->requests[index];
    s->to_release.first = r->next;
    if (s->to_release.first == NONE)
        s->to_release.last = NONE;
    *socket = r->socket;
    *memory = r->memory;
    free_request(s, index);
    return 1;
}

int64_t uzc_slots_completions(uzc_slots *s, uzc_completion *out, uint32_t max) {
    int error = uzc_slots_begin_reading(s);
    if (error)
        return error;
    uint32_t count = max < s->stats.unread_completions ? max : s->stats.unread_completions;
    for (uint32_t i = 0; i < count; i++) {
        out[i] = s->completions[s->head++];
        if (s->head == s->capacity)
            s->head = 0;
    }
    s->stats.unread_completions -= count;
    uzc_slots_end(s);
    return count;
}

void uzc_slots_clock(uzc_slots *s, uint32_t now) {
    s->now = now;
}

void uzc_slots_stats(const uzc_slots *s, uzc_stats *out) {
    *out = s->stats;
}

uint32_t uzc_slots_oldest(const uzc_slots *s, uint32_t now) {
    uint32_t oldest = 0;
    for (uint32_t i = 0; s->stats.in_flight && i < s->fresh_requests; i++) {
        const struct request *r = &s->requests[i];
        if ((r->state == AWAITING || r->state == PENDING) && now - r->queued_at > oldest)
            oldest = now - r->queued_at;
    }
    return oldest;
}
