/* SPDX-License-Identifier: MIT */
/* What may be submitted now. The kernel loses the order of datagrams when the socket's buffer fills. So
 * before each submission the room in it is read, SO_SNDBUF - SIOCOUTQ, and only as many trains are queued as
 * fit. Where the trains to one destination have to wait, those to others do not.
 *
 * A destination's first request is submitted alone: while the kernel resolves a neighbour's address, it drops
 * all but a few of what is sent there. */
#include "udp/admission.h"

#include "udp/pacing.h"

#define PAGE 4096u

/* The most bytes that the socket is charged for a request (the truesize of its skbs): 1 KiB for the struct
 * sk_buff and the head of the request, 768 for those of each datagram, if a qdisc splits the train; then the
 * pages of the data, or what a copy was allocated, which kmalloc() rounds up to a power of two. */
static int64_t sndbuf_charge(const struct train *t) {
    uint64_t heads = 1024 + (uint64_t)t->count * 768;
    if (!t->zero_copy)
        return (int64_t)(2 * (uint64_t)t->nbytes + heads + 1280);
    uint64_t offset = (uintptr_t)t->data % PAGE;
    return (int64_t)((offset + t->nbytes + PAGE - 1) / PAGE * PAGE + heads);
}

/* Seen by the notification of a request, or by the socket's queue, which is no longer than before the first
 * one; else the time is up. */
bool first_arrived(const UdpBatcher *g, const struct destination *d, int outq) {
    return READ_SHARED(d->left_host) > d->first_left ||
           (outq <= d->first_outq && d->first_admission != g->admissions) ||
           monotonic_ns() >= d->first_deadline;
}

bool admit_to(UdpBatcher *g, struct destination *d, int outq) {
    if (d->state == WARM || g->last)
        return true;
    if (d->state == FIRST) {
        if (!first_arrived(g, d, outq))
            return false;
        d->state = WARM;
        return true;
    }
    d->state = FIRST;
    d->first_outq = outq;
    d->first_left = READ_SHARED(d->left_host);
    d->first_admission = g->admissions;
    d->first_deadline = monotonic_ns() + FIRST_ARRIVAL;
    return true;
}

bool wants_zero_copy(const UdpBatcher *g, const struct train *t) {
    const struct destination *d = &g->destinations[t->destination];
    return t->nbytes && (g->always_zero_copy ||
                         (d->zero_copy && t->nbytes >= g->min_zero_copy && t->size <= d->max_segment_size));
}

/* Whether a train may be submitted together with the `admitted` ones before it. After one that decides
 * something about its destination, those behind it wait for the result: a train of larger datagrams than were
 * sent yet may be refused, and the policy may decide again. */
static bool may_go(UdpBatcher *g, struct train *t, int outq, uint32_t admitted) {
    struct destination *d = &g->destinations[t->destination];
    const bool larger = t->count > 1 && t->size > d->largest_sent;
    if (d->held == g->admissions || (g->strict_order && admitted) ||
        (larger && d->admitted == g->admissions) || !admit_to(g, d, outq)) {
        d->held = g->admissions;
        return false;
    }
    d->admitted = g->admissions;
    t->zero_copy = wants_zero_copy(g, t);
    if (++d->requests >= d->review_after || larger)
        d->held = g->admissions;
    return true;
}

/* Why the first train of the batch is not admitted. */
static enum wait what_is_missing(const UdpBatcher *g, int outq) {
    const struct destination *d = &g->destinations[g->trains[0]->destination];
    if (pace_blocks(g))
        return WAIT_RATE;
    return outq < g->sndbuf && d->state == FIRST ? WAIT_ARRIVAL : WAIT_ROOM;
}

/* A train that is admitted and not sent is admitted again, and then counts twice in `requests`. */
uint32_t admit_trains(UdpBatcher *g) {
    const int outq = outq_bytes(g);
    int64_t room = g->sndbuf - outq, credit = pace_credit(g);
    struct train *trains[BATCH_SIZE], *waiting[BATCH_SIZE];
    uint32_t admitted = 0, held = 0;
    /* then destination 0 may be the same as any other */
    const bool in_order = !g->default_address && g->default_used;
    g->admissions++;
    for (uint32_t i = 0; i < g->count; i++) {
        struct train *t = g->trains[i];
        if (room > 0 && !(in_order && held) && pace_allows(g, t, &credit) && may_go(g, t, outq, admitted)) {
            room -= sndbuf_charge(t);
            credit -= pace_cost(g, t);
            trains[admitted++] = t;
        } else {
            waiting[held++] = t;
        }
    }
    if (admitted && held) {
        begin_change(g);
        for (uint32_t i = 0; i < g->count; i++) /* memcpy() would not be atomic for who counts them */
            WRITE_SHARED(g->trains[i], i < admitted ? trains[i] : waiting[i - admitted]);
        end_change(g);
    }
    if (g->count && !admitted)
        WRITE_SHARED(g->waits_for, what_is_missing(g, outq));
    return admitted;
}
