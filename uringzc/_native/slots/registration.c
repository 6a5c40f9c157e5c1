/* SPDX-License-Identifier: MIT */
/* The life of the accounting, of the registered slots, and of internal slots. */
#include "slots/slots.h"

uzc_slots *uzc_slots_new(uint32_t max_inflight, uint32_t mode) {
    uzc_slots *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->max_inflight = max_inflight;
    s->mode = mode;
    /* raw: a result and a notification of each request */
    s->capacity = mode == UZC_RAW ? 2 * max_inflight : mode == UZC_NONE ? 0 : max_inflight;
    s->runs = calloc(max_inflight, sizeof *s->runs);
    s->notifiers = mode == UZC_RAW ? NULL : calloc(max_inflight, sizeof *s->notifiers);
    s->completions = s->capacity ? calloc(s->capacity, sizeof *s->completions) : NULL;
    if (!s->runs || (mode != UZC_RAW && !s->notifiers) || (s->capacity && !s->completions)) {
        uzc_slots_free(s);
        return NULL;
    }
    s->free_runs = s->free_notifiers = NONE;
    s->to_release = s->unread = (struct list){NONE, NONE};
    return s;
}

void uzc_slots_free(uzc_slots *s) {
    if (!s)
        return;
    free(s->runs);
    free(s->notifiers);
    free(s->completions);
    free(s->slots);
    free(s->internal);
    free(s);
}

/* Nothing writes to it: a call that would is refused first. */
uzc_slots uzc_slots_ended = {.closed = true, .to_release = {NONE, NONE}};

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

void uzc_slots_close(uzc_slots *s) {
    for (uint32_t i = 0; i < s->count; i++)
        uzc_slots_flush_inside(s, i);
    for (uint32_t i = 0; i < s->internal_count; i++)
        uzc_slots_flush_inside(s, UZC_MAX_SLOTS + i);
    uzc_slots_set_closed(s);
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
            (struct internal_slot){.slot = {.active = NONE}, .listener = *listener, .unread = {NONE, NONE}};
    uzc_slots_end(s);
    return error ? error : UZC_MAX_SLOTS + (int64_t)index;
}

int uzc_slots_close_internal(uzc_slots *s, uint32_t slot) {
    struct internal_slot *internal = uzc_internal_slot(s, slot);
    if (!internal)
        return -EINVAL;
    uzc_slots_flush_inside(s, slot);
    if (internal->requests)
        return -EBUSY;
    uzc_notification dropped;
    while (uzc_read_notifiers(s, &internal->unread, &dropped, 1))
        ;
    internal->listener.context = NULL;
    return 0;
}
