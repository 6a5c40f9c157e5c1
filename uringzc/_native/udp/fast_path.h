/* SPDX-License-Identifier: MIT */
/* The fast path of send(): the owner adds to the open train without the lock, while `fast_thread` is its
 * thread. Another thread that takes the lock clears `fast_thread`, and waits until the owner is not inside.
 *
 * With the GIL no other thread runs while the owner is inside. Without it the owner writes `in_fast_path` and
 * then reads `fast_thread`, and the other thread the reverse; one of the two has to see what the other wrote,
 * which plain stores do not ensure. Since the owner does this for each datagram, and the others seldom, only
 * they pay for a memory barrier: membarrier() runs one in each thread. Nothing in here runs Python code or
 * waits, so that the wait for the owner is short, and no stop of all threads can come between. */
#pragma once

#include "udp/batch.h"

static inline unsigned long thread_that_may(const UdpBatcher *g) {
    return g->closed | g->dropped | g->reporting | g->no_timer ? 0 : g->owner;
}

#ifdef Py_GIL_DISABLED

extern _Atomic bool no_membarrier; /* refused (an old kernel, seccomp): each thread has its own barriers */

static inline void end_fast_path(UdpBatcher *g) {
    atomic_store_explicit(&g->in_fast_path, false, memory_order_release);
}

static inline bool begin_fast_path(UdpBatcher *g, unsigned long thread) {
    if (atomic_load_explicit(&g->fast_thread, memory_order_relaxed) != thread)
        return false;
    atomic_store_explicit(&g->in_fast_path, true, memory_order_relaxed);
    if (atomic_load_explicit(&no_membarrier, memory_order_relaxed))
        atomic_thread_fence(memory_order_seq_cst);
    atomic_signal_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&g->fast_thread, memory_order_acquire) == thread)
        return true;
    end_fast_path(g);
    return false;
}

void fast_path_init(void);
/* With the lock: from now on the owner is not inside. `thread`: the calling one. */
void stop_fast_path(UdpBatcher *g, unsigned long thread);
/* The last thing before unlocking: the owner may enter again, unless the sender refuses calls. */
void allow_fast_path(UdpBatcher *g);

#else

static inline void fast_path_init(void) {
}

static inline void stop_fast_path(UdpBatcher *g, unsigned long Py_UNUSED(thread)) {
    atomic_store_explicit(&g->fast_thread, 0, memory_order_relaxed);
}

static inline void allow_fast_path(UdpBatcher *g) {
    atomic_store_explicit(&g->fast_thread, thread_that_may(g), memory_order_relaxed);
}

static inline bool begin_fast_path(const UdpBatcher *g, unsigned long thread) {
    return atomic_load_explicit(&g->fast_thread, memory_order_relaxed) == thread;
}

static inline void end_fast_path(const UdpBatcher *Py_UNUSED(g)) {
}

#endif

/* Inside: takes a datagram that continues an open train. Not one that fills it, which may submit it, and
 * raise. */
static inline bool append_fast(UdpBatcher *g, const char *data, size_t n, uint32_t destination) {
    struct train *t = g->open;
    if (t->destination != destination || t == &g->none)
        t = g->pacing.ns ? NULL : gather_of(g, destination)->open; /* pacing limits what is gathered */
    if (!t || !continues_train(t, destination, n) || t->room < 2 * n)
        return false;
    make_current(g, t);
    append_datagram(t, data, n);
    return true;
}
