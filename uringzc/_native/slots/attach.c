/* SPDX-License-Identifier: MIT */
/* A request is attached to the active notifier of its slot, in a run of its own or in the last one. */
#include "slots/slots.h"

/* Whether requests with user_data, user_data + 1, ... go on the series of the run. */
static bool continues_series(struct run *r, uint64_t user_data, uint32_t count) {
    uint64_t step = user_data - r->user_data;
    if (r->count > 1)
        return user_data == uzc_run_user_data(r, r->count) && (count == 1 || r->user_data_step == 1);
    if (step > UINT32_MAX || (count > 1 && step != 1))
        return false;
    r->user_data_step = (uint32_t)step;
    return true;
}

/* The last run of the notifier, if the next requests of the send can join it. The time has to be the same,
 * since a run has one. */
static struct run *run_to_join(uzc_slots *s, const struct notifier *n, const uzc_send *send,
                               uint64_t user_data, uint32_t count) {
    if (n->last == NONE)
        return NULL;
    struct run *r = &s->runs[n->last];
    bool same = r->joinable && send->datagram && !send->message && r->socket == send->socket &&
                r->memory == send->memory && r->nbytes == send->length && r->queued_at == s->now;
    return same && r->count < UZC_RUN_SIZE && continues_series(r, user_data, count) ? r : NULL;
}

static struct run *start_run(uzc_slots *s, const uzc_send *send, uint64_t user_data, uint32_t records,
                             uint32_t notifier) {
    uint32_t index = s->free_runs;
    if (index != NONE)
        s->free_runs = s->runs[index].next;
    else
        index = s->fresh_runs++; /* there is one: each run has a request, and those are fewer */
    struct run *r = &s->runs[index];
    *r = (struct run){.socket = send->socket,
                      .memory = send->memory,
                      .user_data = user_data,
                      .user_data_step = 1,
                      .nbytes = send->length,
                      .generation = r->generation < GENERATIONS ? r->generation + 1 : 1, /* no key is 0 */
                      .notifier = notifier,
                      .next = NONE,
                      .queued_at = s->now,
                      .records = (uint8_t)records,
                      .joinable = s->mode != UZC_RAW && send->datagram && !send->message};
    if (notifier == NONE)
        return r;
    struct notifier *n = &s->notifiers[notifier];
    if (n->last == NONE)
        n->first = index;
    else
        s->runs[n->last].next = index;
    n->last = index;
    return r;
}

/* Adds up to `count` requests to the run; returns how many. */
static uint32_t add_to_run(struct run *r, uint32_t count) {
    const uint32_t room = r->joinable ? UZC_RUN_SIZE - (uint32_t)r->count : 1;
    count = count < room ? count : room;
    uint32_t places = (UINT32_MAX >> (UZC_RUN_SIZE - count)) << r->count;
    r->awaiting |= places;
    r->unsettled |= places;
    r->count = (uint8_t)(r->count + count);
    return count;
}

static void count_attached(uzc_slots *s, uint32_t count) {
    s->occupied += count;
    ADD(s->stats.requests, count);
    ADD(s->stats.in_flight, count);
    ADD(s->stats.awaiting, count);
    ADD(s->stats.held, count);
}

int64_t uzc_slots_attach(uzc_slots *s, const uzc_send *send, uint64_t user_data, uint32_t *count,
                         uint32_t *references) {
    bool raw = s->mode == UZC_RAW;
    struct internal_slot *internal = uzc_internal_slot(s, send->slot);
    /* a raw engine records both CQEs of a zero-copy request; senders' requests record none */
    uint32_t records = raw ? 1 + (send->zero_copy != 0) : s->mode != UZC_NONE && !internal;
    uint32_t room = s->max_inflight - s->occupied,
             left = s->capacity - s->reserved - s->stats.unread_completions;
    if (!raw && !internal && send->slot >= s->count)
        return -EINVAL;
    if (!room)
        return UZC_E_REQUESTS;
    if (records > left)
        return UZC_E_COMPLETIONS;
    if (records && left / records < room)
        room = left / records;
    uint32_t notifier = raw ? NONE : uzc_ensure_notifier(s, send->slot);
    if (!raw && notifier == NONE)
        return UZC_E_NOTIFICATIONS;
    uint32_t wanted = *count < room ? *count : room;
    struct run *r = raw ? NULL : run_to_join(s, &s->notifiers[notifier], send, user_data, wanted);
    if (!r) {
        r = start_run(s, send, user_data, records, notifier);
        ++*references;
    }
    uint32_t place = r->count, added = add_to_run(r, wanted);
    if (!raw) {
        s->notifiers[notifier].requests += added;
        s->notifiers[notifier].unsettled += added;
    }
    if (internal)
        internal->requests += added;
    s->reserved += records * added;
    count_attached(s, added);
    *count = added;
    return (int64_t)((uint64_t)r->generation << 32 | place * UZC_KEY_STEP | (uint32_t)(r - s->runs));
}
