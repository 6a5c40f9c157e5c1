/* SPDX-License-Identifier: MIT */
/* The struct of the type Queue: one engine, as the per-request path uses it. The functions are in files by
 * subject (send, enter, sockets, arguments, memory, refuse), its methods and lifetime in queue_type.c.
 *
 * Fields are read and written with the GIL held, by the thread that owns the engine. Before a thread does,
 * any may use it: `busy` then keeps out others, with the GIL and without. */
#pragma once

#include "request/without_gil.h"

/* A socket as describe_socket() of engines/tables.py found it. */
typedef struct {
    PyObject *sock;
    int fd;
    int index;            /* of the registered file, or -1 */
    int family;           /* AF_* */
    uint32_t max_payload; /* bytes of a datagram; 0: a stream */
    bool zero_copy;       /* the socket supports zero-copy sends */
} SocketInfo;

typedef struct {
    PyObject *reference; /* weak, to info.sock */
    SocketInfo info;
} CachedSocket;

#define CACHED_SOCKETS 64

typedef struct {
    PyObject_HEAD const uzc_calls *calls;
    void *engine;     /* its struct; NULL once it has ended: in a signal handler that forks, or a finalizer */
    uzc_slots *slots; /* the engine's; calls->ended once it has ended */
    uzc_slots *records; /* the same, after the end too: what was settled can still be read */

    PyObject *arguments; /* of the constructor; they keep what the fields up to `to_detach` refer to: */
    /* Python callables, for policy and for what is not on the fast path */
    PyObject *describe_socket; /* (sock) -> the fields of SocketInfo */
    PyObject *pin;    /* (data) -> holder, address, bytes, Memory or None, iovecs; debug mode: (data, offset,
                         length) */
    PyObject *pack;   /* (family, to) -> a sockaddr, as bytes */
    PyObject *refuse; /* (code): raises */
    PyObject *find_path; /* (sock, sockaddr or None, whether it may wait): after UZC_E_PATH; or None */
    PyObject *claimed;   /* (): the first submission has made this thread the engine's owner */
    PyObject *tidy;      /* (): does what waits in the three lists below */
    PyObject *verify;    /* debug mode, else NULL: (holder), before the holder's notifier counts as done */
    PyObject *region_type, *notifier_type, *batch_type; /* Region, Notifier, Batch */
    PyObject *slots_object;                             /* Slots */
    PyObject *retired;                                  /* deque that only Memory of this engine has */
    PyObject *parked;                                   /* list of engines that may have become idle */
    PyObject *to_detach;                                /* list of senders that were closed, or dropped */

    PyObject *modified; /* debug mode: list of the exceptions that verify() raised, for the end of a call */
    PyObject *empty[2]; /* a Batch of each kind, for reaps that find nothing; NULL until then */
    PyObject *last_to, *last_packed; /* the address packed last, and its sockaddr */
    int last_family;

    SocketInfo *pending; /* sockets with requests that are queued and not submitted; references */
    Py_ssize_t pending_count, pending_room;
    CachedSocket socket_cache[CACHED_SOCKETS]; /* hashed by the socket's address */

    long long queued;             /* requests queued and not submitted */
    unsigned long long submitted; /* requests, since the start */
    unsigned long long reported;  /* of those, by submit() */
    _Atomic char busy;            /* a call is inside the engine: others are refused */
    char owned;                   /* claimed() was called */
    char abandoned;               /* this is the child of a fork, and the engine the parent's */
    int inside;                   /* senders on this engine that are inside a call */
} Queue;

/* Whether this thread owns the engine, or no thread does yet. */
static inline bool in_owner_thread(const Queue *q) {
    return q->calls->is_owner(READ_SHARED(q->slots));
}

static inline bool is_busy(const Queue *q) {
    return atomic_load_explicit(&q->busy, memory_order_relaxed);
}

static inline void set_busy(Queue *q, char busy) {
    atomic_store_explicit(&q->busy, busy, memory_order_release);
}

/* Begins a call that uses the engine, and ends with set_busy(q, 0): 0, or the refusal. */
static inline int begin_call(Queue *q) {
    if (!in_owner_thread(q))
        return UZC_E_THREAD;
#ifdef Py_GIL_DISABLED
    if (atomic_exchange_explicit(&q->busy, 1, memory_order_acquire))
        return UZC_E_BUSY;
    if (in_owner_thread(q))
        return 0;
    set_busy(q, 0); /* another thread's first call came before */
    return UZC_E_THREAD;
#else
    if (is_busy(q))
        return UZC_E_BUSY;
    set_busy(q, 1);
    return 0;
#endif
}

/* Lets the queued requests of a descriptor that was closed fail. */
static inline void revoke_requests(const Queue *q, int fd) {
    if (q->engine)
        q->calls->revoke(q->engine, fd);
}

/* Brings the descriptor of fileno() up to date after records were posted or read. */
static inline void signal_engine(const Queue *q) {
    if (q->engine)
        q->calls->signal(q->engine);
}
