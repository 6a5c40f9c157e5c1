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
#include "slots/slots.h"

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
    free(s->internal);
    free(s);
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

/* Flushes what is open and takes no more work; what was queued can still be completed, and reaped. */
void uzc_slots_close(uzc_slots *s) {
    for (uint32_t i = 0; i < s->count; i++)
        uzc_slots_flush_inside(s, i);
    for (uint32_t i = 0; i < s->internal_count; i++)
        uzc_slots_flush_inside(s, UZC_MAX_SLOTS + i);
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

static struct slot *slot_at(uzc_slots *s, uint32_t index) {
    return index < UZC_MAX_SLOTS ? &s->slots[index] : &s->internal[index - UZC_MAX_SLOTS].slot;
}

uint32_t uzc_active_notifier(uzc_slots *s, uint32_t index) {
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
    s->stats.open++;
    return notifier;
}

void uzc_release_chain(uzc_slots *s, uint32_t first, uint32_t last) {
    if (s->released.last == NONE)
        s->released.first = first;
    else
        s->requests[s->released.last].next = first;
    s->released.last = last;
}

/* Flushed, and nothing of it is in flight: its notification is due, its requests' references go back. */
static void post(uzc_slots *s, uint32_t index) {
    struct notifier *n = &s->notifiers[index];
    struct internal_slot *w = uzc_internal_slot(s, n->slot);
    struct list *posted = w ? &w->posted : &s->posted;
    n->generation++;
    n->next = NONE;
    if (posted->last == NONE)
        posted->first = index;
    else
        s->notifiers[posted->last].next = index;
    posted->last = index;
    uzc_release_chain(s, n->first, n->last);
    s->stats.held -= n->requests;
    s->stats.notifications++;
    if (w) {
        w->requests -= n->requests;
        return;
    }
    s->stats.flushed--;
    s->stats.unread_notifications++;
}

void uzc_notifier_settled(uzc_slots *s, uint32_t index) {
    struct notifier *n = &s->notifiers[index];
    n->unsettled--;
    if (!n->flushed)
        return;
    if (n->slot < UZC_MAX_SLOTS)
        s->stats.unsettled--;
    if (!n->unsettled)
        post(s, index);
}

void uzc_slots_flush_inside(uzc_slots *s, uint32_t slot) {
    uint32_t index = slot_at(s, slot)->active;
    if (index == NONE)
        return;
    struct notifier *n = &s->notifiers[index];
    slot_at(s, slot)->active = NONE;
    n->flushed = true;
    s->stats.open--;
    if (slot < UZC_MAX_SLOTS) { /* the program waits for these, a sender for its own */
        s->stats.flushed++;
        s->stats.unsettled += n->unsettled;
    }
    if (!n->unsettled)
        post(s, index);
}

/* Returns the notifier's number, or 0 for a slot that was skipped. */
static int64_t flush(uzc_slots *s, uint32_t slot, bool exists) {
    int error = uzc_slots_begin(s);
    if (error)
        return error;
    int64_t number = exists ? 0 : -EINVAL;
    if (exists && slot_at(s, slot)->active != NONE) {
        uint32_t index = slot_at(s, slot)->active;
        number = (int64_t)((uint64_t)s->notifiers[index].generation << 32 | index);
        uzc_slots_flush_inside(s, slot);
    }
    uzc_slots_end(s);
    return number;
}

int64_t uzc_slots_flush(uzc_slots *s, uint32_t slot) {
    return flush(s, slot, slot < s->count);
}

int64_t uzc_slots_flush_internal(uzc_slots *s, uint32_t slot) {
    return flush(s, slot, uzc_internal_slot(s, slot) != NULL);
}

/* How many requests of a flushed notifier are not settled; 0 when its notification has been posted. */
uint32_t uzc_slots_unsettled(const uzc_slots *s, uint64_t number) {
    const struct notifier *n = &s->notifiers[(uint32_t)number];
    return n->generation == number >> 32 ? n->unsettled : 0;
}

static uint32_t read_posted(uzc_slots *s, struct list *posted, uzc_notification *out, uint32_t most) {
    uint32_t count = 0;
    while (count < most && posted->first != NONE) {
        uint32_t index = posted->first;
        struct notifier *n = &s->notifiers[index];
        posted->first = n->next;
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
    if (posted->first == NONE)
        posted->last = NONE;
    return count;
}

int64_t uzc_slots_notifications(uzc_slots *s, uzc_notification *out, uint32_t most) {
    int error = uzc_slots_begin_reading(s);
    if (error)
        return error;
    uint32_t count = read_posted(s, &s->posted, out, most);
    s->stats.unread_notifications -= count;
    uzc_slots_end(s);
    return count;
}

int64_t uzc_slots_open_internal(uzc_slots *s, const uzc_listener *listener) {
    int error = uzc_slots_begin(s);
    if (error)
        return error;
    uint32_t index = 0;
    while (index < s->internal_count && s->internal[index].listener.context)
        index++;
    if (index == UZC_MAX_INTERNAL_SLOTS)
        error = -ENFILE;
    else if (index == s->internal_count) {
        struct internal_slot *grown = realloc(s->internal, (index + 1) * sizeof *grown);
        error = grown ? 0 : -ENOMEM;
        s->internal = grown ? grown : s->internal;
        s->internal_count += grown != NULL;
    }
    if (!error)
        s->internal[index] =
            (struct internal_slot){.slot = {.active = NONE}, .listener = *listener, .posted = {NONE, NONE}};
    uzc_slots_end(s);
    return error ? error : UZC_MAX_SLOTS + (int64_t)index;
}

int uzc_slots_close_internal(uzc_slots *s, uint32_t slot) {
    struct internal_slot *w = uzc_internal_slot(s, slot);
    if (!w)
        return -EINVAL;
    uzc_slots_flush_inside(s, slot);
    if (w->requests)
        return -EBUSY;
    uzc_notification unread;
    while (read_posted(s, &w->posted, &unread, 1))
        ;
    w->listener.context = NULL;
    return 0;
}

int64_t uzc_slots_read_internal(uzc_slots *s, uint32_t slot, uzc_notification *out, uint32_t most) {
    struct internal_slot *w = uzc_internal_slot(s, slot);
    int error = w ? uzc_slots_begin_reading(s) : -EINVAL;
    if (error)
        return error;
    uint32_t count = read_posted(s, &w->posted, out, most);
    uzc_slots_end(s);
    return count;
}
