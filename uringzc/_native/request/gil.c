/* SPDX-License-Identifier: MIT */
/* A thread that comes back from the kernel often finds that another one, which prepares a batch, has the GIL.
 * That one soon releases it, to enter the kernel. To sleep until then would cost more: it takes tens of
 * microseconds until a CPU that was halted runs a thread again, in which nobody has the GIL. So the thread
 * spins before it takes the GIL; not where it would use the CPU of a thread that sends, and not for long. */
#define _GNU_SOURCE
#include "request/gil.h"

#ifndef Py_GIL_DISABLED

#include <pthread.h>
#include <sched.h>

#define SPIN_LIMIT 300000 /* ns */
#define SPINS 16          /* after so many, one wait that sleeps: other threads get the GIL too */
#define MAX_SKIPPED 256

static struct {
    /* the thread that took the GIL last, until it releases it */
    _Alignas(64) _Atomic unsigned long preparing;
    _Atomic int outside; /* threads that released it; changed with the GIL */
} senders;

static _Thread_local struct {
    unsigned spins;   /* since it slept */
    unsigned skipped; /* how often it does not spin after it had to wait for long, */
    unsigned to_skip; /* and how often of that is left */
} waiter;

static void after_fork(void) { /* those threads are the parent's */
    atomic_store(&senders.outside, 0);
    atomic_store(&senders.preparing, 0);
}

__attribute__((constructor)) static void register_fork_handler(void) {
    pthread_atfork(NULL, NULL, after_fork);
}

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000 + now.tv_nsec;
}

static void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static bool has_two_cpus(void) {
    cpu_set_t cpus; /* fails where there are more than fit */
    return sched_getaffinity(0, sizeof cpus, &cpus) < 0 || CPU_COUNT(&cpus) > 1;
}

static void spin(unsigned long other, int64_t until) {
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(&senders.preparing, memory_order_acquire) != other)
                return;
            pause_cpu();
        }
    } while (now_ns() < until);
    atomic_compare_exchange_strong(&senders.preparing, &other, 0); /* it does something else */
}

/* `other` has the GIL, if it does not wait or sleep without it. Where the GIL was long in coming, it, or a
 * thread that does not send, keeps it: then spinning only costs CPU time, and is not tried again so soon. */
static void take_gil_from(unsigned long other, PyThreadState *state) {
    const bool sleep = waiter.spins == SPINS;
    if (waiter.to_skip) {
        waiter.to_skip--;
        PyEval_RestoreThread(state);
        return;
    }
    const int64_t start = now_ns();
    if (!sleep && has_two_cpus())
        spin(other, start + SPIN_LIMIT);
    PyEval_RestoreThread(state);
    waiter.spins = sleep ? 0 : waiter.spins + 1;
    if (now_ns() - start > SPIN_LIMIT) {
        waiter.skipped = waiter.skipped < MAX_SKIPPED ? 2 * waiter.skipped + 1 : MAX_SKIPPED;
        waiter.to_skip = waiter.skipped;
        waiter.spins = 0;
    } else if (sleep) {
        waiter.skipped = 0;
    }
}

static void add_outside(int change) {
    const int outside = atomic_load_explicit(&senders.outside, memory_order_relaxed);
    atomic_store_explicit(&senders.outside, outside + change, memory_order_relaxed);
}

PyThreadState *release_gil(void) {
    const unsigned long self = PyThread_get_thread_ident();
    add_outside(1);
    PyThreadState *state = PyEval_SaveThread();
    if (atomic_load_explicit(&senders.preparing, memory_order_relaxed) == self) /* nobody took it meanwhile */
        atomic_store_explicit(&senders.preparing, 0, memory_order_release);
    return state;
}

void take_gil(PyThreadState *state) {
    const unsigned long self = PyThread_get_thread_ident(), other = atomic_load(&senders.preparing);
    if (other && atomic_load_explicit(&senders.outside, memory_order_relaxed) == 1)
        take_gil_from(other, state);
    else
        PyEval_RestoreThread(state);
    add_outside(-1);
    atomic_store_explicit(&senders.preparing, self, memory_order_release);
}

#endif
