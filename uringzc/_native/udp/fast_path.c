/* SPDX-License-Identifier: MIT */
/* How the fast path of send() gives way to a thread that takes the lock. */
#include "udp/fast_path.h"

#ifdef Py_GIL_DISABLED

#include <linux/membarrier.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#define YIELDS 100  /* then it sleeps: the owner may have a lower real-time priority */
#define PAUSE 50000 /* ns */

_Atomic bool no_membarrier;

static bool membarrier(int command) {
    return syscall(SYS_membarrier, command, 0, 0) == 0;
}

void fast_path_init(void) {
    no_membarrier = !membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
}

static void pause_for(long ns) {
    nanosleep(&(struct timespec){0, ns}, NULL);
}

/* If it is refused only now, the owner has barriers of its own from its next call on. What it has stored
 * until then becomes visible in far less than the pause. */
static void barrier_in_all_threads(void) {
    atomic_thread_fence(memory_order_seq_cst);
    if (no_membarrier || membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED))
        return;
    no_membarrier = true;
    pause_for(PAUSE);
}

void stop_fast_path(UdpBatcher *g, unsigned long thread) {
    atomic_store_explicit(&g->fast_thread, 0, memory_order_relaxed);
    if (g->owner == thread || !g->owner)
        return;
    barrier_in_all_threads();
    for (int i = 0; atomic_load_explicit(&g->in_fast_path, memory_order_acquire); i++)
        if (i < YIELDS)
            sched_yield();
        else
            pause_for(PAUSE);
}

/* Read again: who closes the sender writes that first, and then clears `fast_thread`. */
void allow_fast_path(UdpBatcher *g) {
    atomic_store(&g->fast_thread, thread_that_may(g));
    if (!thread_that_may(g))
        atomic_store(&g->fast_thread, 0);
}

#endif
