/* SPDX-License-Identifier: MIT */
/* What engines call of the slot accounting, besides what Python may call too (uringzc.h). */
#pragma once

#include "native.h"

/* Every call that changes an engine is between begin and end: begin refuses another thread, a call inside a
 * call, and a closed or poisoned engine. uzc_slots_begin_any() allows a closed and a poisoned engine, so that
 * what is in flight can be reaped. */
int uzc_slots_begin(uzc_slots *slots);
int uzc_slots_begin_any(uzc_slots *slots);
void uzc_slots_end(uzc_slots *slots);

/* The kernel dropped a completion: what is in flight will never be known to be free. */
void uzc_slots_poison(uzc_slots *slots);
bool uzc_slots_poisoned(const uzc_slots *slots);

/* The place in its run of the request with this key. */
static inline uint32_t uzc_key_place(uint64_t key) {
    return (uint32_t)key / UZC_KEY_STEP;
}

/* Internal slots: see uzc_calls. */
int64_t uzc_slots_open_internal(uzc_slots *slots, const uzc_listener *listener);
int uzc_slots_close_internal(uzc_slots *slots, uint32_t slot);
int64_t uzc_slots_flush_internal(uzc_slots *slots, uint32_t slot);
int64_t uzc_slots_read_internal(uzc_slots *slots, uint32_t slot, uzc_notification *out, uint32_t max);

extern uzc_slots uzc_slots_ended;
/* The members of uzc_calls that are the same for every engine. */
#define UZC_SLOT_CALLS                                                                                       \
    .ended = &uzc_slots_ended, .is_owner = uzc_slots_is_owner, .check = uzc_slots_check,                     \
    .release = uzc_slots_release, .flush = uzc_slots_flush, .unsettled = uzc_slots_unsettled,                \
    .stats = uzc_slots_stats, .completions = uzc_slots_completions,                                          \
    .notifications = uzc_slots_notifications, .open_slot = uzc_slots_open_internal,                          \
    .close_slot = uzc_slots_close_internal, .flush_slot = uzc_slots_flush_internal,                          \
    .read_slot = uzc_slots_read_internal

/* As uzc_slots_flush(), of any slot. The caller is between begin and end; or it ends the engine or the slot
 * while no thread is: in the owner's thread, as engines run no Python code, or in the child of a fork. */
int64_t uzc_slots_flush_inside(uzc_slots *slots, uint32_t slot);
