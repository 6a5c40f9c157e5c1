/* SPDX-License-Identifier: MIT */
/* Which thread may enter an engine: the one that claimed it, with one call at a time, until it is closed. */
#include "slots/slots.h"

/* The number of this thread, which no other thread of the process ever had. */
static uint64_t this_thread(void) {
    static atomic_uint_fast64_t threads;
    static _Thread_local uint64_t number;
    if (!number)
        number = atomic_fetch_add(&threads, 1) + 1;
    return number;
}

/* `owner` and `closed` are relaxed: `inside` orders what threads have written. */
static uint64_t owner_of(const uzc_slots *s) {
    return atomic_load_explicit(&s->owner, memory_order_relaxed);
}

static bool is_closed(const uzc_slots *s) {
    return atomic_load_explicit(&s->closed, memory_order_relaxed);
}

int uzc_slots_has_owner(const uzc_slots *s) {
    return owner_of(s) != 0;
}

int uzc_slots_claim(uzc_slots *s) {
    uint64_t expected = 0, me = this_thread();
    bool claimed = atomic_compare_exchange_strong_explicit(&s->owner, &expected, me, memory_order_relaxed,
                                                           memory_order_relaxed);
    return claimed || expected == me ? 0 : UZC_E_THREAD;
}

int uzc_slots_is_owner(const uzc_slots *s) {
    uint64_t owner = owner_of(s);
    return !owner || owner == this_thread();
}

int uzc_slots_check(const uzc_slots *s) {
    if (is_closed(s))
        return UZC_E_CLOSED;
    if (!uzc_slots_is_owner(s))
        return UZC_E_THREAD;
    return s->poisoned ? UZC_E_POISONED : 0;
}

static int try_enter_slots(uzc_slots *s) {
    return atomic_exchange_explicit(&s->inside, true, memory_order_acquire) ? UZC_E_BUSY : 0;
}

int uzc_slots_begin(uzc_slots *s) {
    int error = uzc_slots_check(s);
    return error ? error : try_enter_slots(s);
}

int uzc_slots_begin_any(uzc_slots *s) {
    return uzc_slots_is_owner(s) ? try_enter_slots(s) : UZC_E_THREAD;
}

int uzc_slots_begin_reading(uzc_slots *s) {
    return is_closed(s) ? try_enter_slots(s) : uzc_slots_begin_any(s);
}

void uzc_slots_end(uzc_slots *s) {
    atomic_store_explicit(&s->inside, false, memory_order_release);
}

void uzc_slots_set_closed(uzc_slots *s) {
    atomic_store_explicit(&s->closed, true, memory_order_relaxed);
}

void uzc_slots_poison(uzc_slots *s) {
    s->poisoned = true;
}

bool uzc_slots_poisoned(const uzc_slots *s) {
    return s->poisoned;
}
