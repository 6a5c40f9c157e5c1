/* SPDX-License-Identifier: MIT */
/* The life of a notifier: it starts with its first request, is flushed, posted when all its requests have
 * settled, and read. */
#include "slots/slots.h"

static uint32_t take_notifier(uzc_slots *s) {
    uint32_t i = s->free_notifiers;
    if (i != NONE)
        s->free_notifiers = s->notifiers[i].next;
    else if (s->fresh_notifiers < s->max_inflight)
        i = s->fresh_notifiers++;
    return i;
}

static struct slot *slot_at(uzc_slots *s, uint32_t index) {
    return index < UZC_MAX_SLOTS ? &s->slots[index] : &s->internal[index - UZC_MAX_SLOTS].slot;
}

uint32_t uzc_ensure_notifier(uzc_slots *s, uint32_t index) {
    struct slot *slot = slot_at(s, index);
    if (slot->active != NONE)
        return slot->active;
    uint32_t notifier = take_notifier(s);
    if (notifier == NONE)
        return NONE;
    uint32_t generation = s->notifiers[notifier].generation + 1;
    s->notifiers[notifier] = (struct notifier){.tag = slot->tag,
                                               .sequence = slot->sequence++,
                                               .slot = index,
                                               .generation = generation & GENERATIONS,
                                               .first = NONE,
                                               .last = NONE};
    slot->active = notifier;
    ADD(s->stats.open, 1);
    return notifier;
}

void uzc_release_chain(uzc_slots *s, uint32_t first, uint32_t last) {
    if (s->to_release.last == NONE)
        s->to_release.first = first;
    else
        s->runs[s->to_release.last].next = first;
    s->to_release.last = last;
}

/* It is flushed, and nothing of it is in flight. */
static void post(uzc_slots *s, uint32_t index) {
    struct notifier *n = &s->notifiers[index];
    struct internal_slot *internal = uzc_internal_slot(s, n->slot);
    struct list *unread = internal ? &internal->unread : &s->unread;
    n->generation++;
    n->next = NONE;
    if (unread->last == NONE)
        unread->first = index;
    else
        s->notifiers[unread->last].next = index;
    unread->last = index;
    uzc_release_chain(s, n->first, n->last);
    SUBTRACT(s->stats.held, n->requests);
    ADD(s->stats.notifications, 1);
    if (internal) {
        internal->requests -= n->requests;
        return;
    }
    SUBTRACT(s->stats.flushed, 1);
    ADD(s->stats.unread_notifications, 1);
}

void uzc_notifier_settled(uzc_slots *s, uint32_t index, uint32_t count) {
    struct notifier *n = &s->notifiers[index];
    n->unsettled -= count;
    if (!n->flushed)
        return;
    if (n->slot < UZC_MAX_SLOTS)
        SUBTRACT(s->stats.unsettled, count);
    if (!n->unsettled)
        post(s, index);
}

int64_t uzc_slots_flush_inside(uzc_slots *s, uint32_t slot) {
    uint32_t index = slot_at(s, slot)->active;
    if (index == NONE)
        return 0;
    struct notifier *n = &s->notifiers[index];
    int64_t number = (int64_t)((uint64_t)n->generation << 32 | index);
    slot_at(s, slot)->active = NONE;
    n->flushed = true;
    SUBTRACT(s->stats.open, 1);
    if (slot < UZC_MAX_SLOTS) { /* internal slots are not counted */
        ADD(s->stats.flushed, 1);
        ADD(s->stats.unsettled, n->unsettled);
    }
    if (!n->unsettled)
        post(s, index);
    return number;
}

static int64_t flush_slot(uzc_slots *s, uint32_t slot, bool exists) {
    int error = uzc_slots_begin(s);
    if (error)
        return error;
    int64_t number = exists ? uzc_slots_flush_inside(s, slot) : -EINVAL;
    uzc_slots_end(s);
    return number;
}

int64_t uzc_slots_flush(uzc_slots *s, uint32_t slot) {
    return flush_slot(s, slot, slot < s->count);
}

int64_t uzc_slots_flush_internal(uzc_slots *s, uint32_t slot) {
    return flush_slot(s, slot, uzc_internal_slot(s, slot) != NULL);
}

READS_CHANGING_TABLE uint32_t uzc_slots_unsettled(const uzc_slots *s, uint64_t number) {
    const uint32_t index = (uint32_t)number;
    if (index >= LOAD(s->fresh_notifiers))
        return 0;
    const struct notifier *n = &s->notifiers[index];
    return LOAD(n->generation) == number >> 32 ? LOAD(n->unsettled) : 0;
}

uint32_t uzc_read_notifiers(uzc_slots *s, struct list *unread, uzc_notification *out, uint32_t max) {
    uint32_t count = 0;
    while (count < max && unread->first != NONE) {
        uint32_t index = unread->first;
        struct notifier *n = &s->notifiers[index];
        unread->first = n->next;
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
    if (unread->first == NONE)
        unread->last = NONE;
    return count;
}

int64_t uzc_slots_notifications(uzc_slots *s, uzc_notification *out, uint32_t max) {
    int error = uzc_slots_begin_reading(s);
    if (error)
        return error;
    uint32_t count = uzc_read_notifiers(s, &s->unread, out, max);
    SUBTRACT(s->stats.unread_notifications, count);
    uzc_slots_end(s);
    return count;
}

int64_t uzc_slots_read_internal(uzc_slots *s, uint32_t slot, uzc_notification *out, uint32_t max) {
    struct internal_slot *internal = uzc_internal_slot(s, slot);
    int error = internal ? uzc_slots_begin_reading(s) : -EINVAL;
    if (error)
        return error;
    uint32_t count = uzc_read_notifiers(s, &internal->unread, out, max);
    uzc_slots_end(s);
    return count;
}
