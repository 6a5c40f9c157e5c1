/* SPDX-License-Identifier: MIT
 *
 * What a sender is made of: an arena of registered memory, trains of datagrams that lie in it, and the batch
 * of trains that leaves with one submission.
 *
 *     send() -> the open train -> (full, or another size or destination) -> the batch -> admitted -> the ring
 *
 * Everything here belongs to one thread, with the GIL. Between two of its calls the timer's thread may send
 * what waits by plain system calls, with the lock; `ready` is the owner's while nobody has that. Several
 * threads use what is atomic, and the links of the senders that have a timer. */
#pragma once

#include <netinet/in.h>
#include <pthread.h>

#include "request/queue.h"
#include "request/sender_notifiers.h"

#define BLOCK 65536u      /* of the arena; no datagram, and no train, is larger */
#define TRAIN_MOST 65507u /* bytes of a train */
#define BATCH 48u /* trains of one submission: the longer it is, the less two threads wait for the GIL */
#define NO_BLOCK UINT16_MAX
#define NO_TRAIN UINT32_MAX /* as the open train's size */
#define MAX_DESTINATIONS 16384u

/* Registered memory, cut into blocks. A block is free when nothing counts it: no sender that fills it, no
 * lease, no train in a batch, no request in flight. */
typedef struct {
    PyObject_HEAD PyObject *memory; /* Memory */
    char *base;
    uint32_t blocks;
    _Atomic uint32_t *uses;
    _Atomic uint32_t leases; /* not sent and not given back */
} Arena;

/* A destination, and what was learned of it. */
struct destination {
    struct sockaddr_in6 to;
    uint32_t to_length;
    uint32_t segments;     /* most datagrams of a train; 1: no trains */
    uint32_t segment_most; /* largest datagram of a train: the MTU without headers, where it is known */
    uint32_t proved;       /* largest datagram of a train that has left */
    enum { COLD, FIRST, WARM } state;
    bool zero_copy;
    /* while FIRST: what says that it has arrived at the device, or that waiting was long enough */
    int outq;
    uint64_t mark, admission;
    int64_t deadline;
    /* since the policy was asked, and after how many requests it is asked again */
    uint32_t requests, look;
    uint32_t settled, copied; /* zero-copy ones */
    uint64_t returned;        /* all that were settled, ever */
};

/* Datagrams that leave as one request: `count` of `size` bytes, the last one maybe shorter. */
struct train {
    const char *data;
    PyObject *holder; /* NULL: it lies in the arena, in `block` */
    const char *base; /* of the holder's registered buffers */
    int32_t buffer;
    uint32_t buffers;
    uint64_t first; /* the number of its first datagram */
    uint32_t nbytes, size, count, destination;
    int32_t result; /* bytes, or -errno */
    uint16_t block;
    bool zero_copy, ahead;
    enum { CLOSED, QUEUED, DONE, FAILED } state;
};

typedef struct udp_batcher {
    PyObject_HEAD Queue *queue;
    Arena *arena;
    PyObject *sock;
    PyObject *slow_path;  /* the Python part, for what is not fast */
    unsigned long ready;  /* the thread that may stage; 0 while somebody is inside, and when closed */
    unsigned long thread; /* the owner, 0 until the first call */
    unsigned long inside; /* the thread that is inside, and has the lock */
    PyThread_type_lock lock;
    char own, blocking, strict, always, notify, closed;
    char to_report; /* there is something to report to the program */
    char reporting; /* and does, at the end of a call, without the lock */
    char untimed;   /* there is no thread for the timer: what is late leaves with the owner's next call */
    char in_timer;  /* it is the timer that is inside */
    char any_spent; /* the timer has left something in `spent` */
    char dropped;   /* the program lost it: the last who has the lock sends and forgets what waits */
    int fd, sndbuf;
    uint64_t admission; /* counts them */
    uint32_t slot;
    uint32_t most;           /* bytes of a datagram */
    uint32_t large;          /* from here on, immutable data is sent from where it is */
    uint32_t least;          /* smaller requests are copied */
    uint32_t limit;          /* datagrams of a train that the kernel takes */
    uint32_t sock_segment;   /* UDP_SEGMENT, the socket's option */
    uint32_t flush_requests; /* the notifier is flushed after so many requests, */
    uint64_t flush_bytes;    /* or so many bytes */

    struct train open; /* its size is NO_TRAIN while there is none */
    char *at, *end;    /* in the block that is being filled */
    uint16_t block;
    uint32_t room; /* bytes that can be appended to the open train at `at` */
    struct train trains[BATCH];
    uint32_t count, next;             /* closed; queued up to here */
    _Atomic uint32_t awaited;         /* without a result */
    struct destination *destinations; /* 0: where send() goes without `to` */
    uint32_t destination_count, destination_room;
    bool default_used;
    PyObject *destination_numbers; /* dict: address -> number of its destination */
    PyObject *last_to;             /* neighbours are often the same */
    uint32_t last_destination;
    PyObject *length; /* the int that send() returned before */
    size_t length_value;
    uint32_t in_flight, attached; /* requests; those of the notifier that is not flushed */
    uint64_t attached_bytes;
    Notifiers notifiers;
    unsigned long long datagrams, nbytes, requests, syscalls, waits, settled, copied, reordered; /* so far */

    struct {
        int set, timer, engine, sock; /* descriptors; -1: none, or not in the set */
        int awaited;                  /* POLL_* */
    } poll;

    int64_t max_delay;       /* nanoseconds; 0: no timer */
    _Atomic int64_t due;     /* when what waits is late; 0: nothing waits */
    int64_t stuck, retried;  /* since when what is late can not leave, or 0; the last try to get a thread */
    _Atomic uint32_t starts; /* of the clock, since the timer's last tick */
    _Atomic bool missed;     /* the timer found the lock taken: releasing it wakes the timer */
    struct udp_batcher *before, *after; /* of the senders that have a timer */
    PyObject *spent;                    /* list: what the timer has sent from, for the owner to let go */
} UdpBatcher;

/* A piece of the arena that the program fills. */
typedef struct {
    PyObject_HEAD UdpBatcher *batcher;
    Arena *arena;
    char *data;
    size_t length;
    Py_ssize_t exports;
    PyObject *view; /* weak */
    uint16_t block;
    bool held;
} Lease;

/* lease.c */
int arena_init(PyObject *module);
extern PyTypeObject *arena_type, *lease_type;
int size_of(PyObject *value, size_t *n);
/* A free block, counted once; NO_BLOCK if there is none. */
uint16_t arena_take(Arena *arena);
static inline void arena_use(Arena *arena, uint16_t block) {
    if (block != NO_BLOCK)
        atomic_fetch_add_explicit(&arena->uses[block], 1, memory_order_relaxed);
}
static inline void arena_drop(Arena *arena, uint16_t block) {
    if (block != NO_BLOCK)
        atomic_fetch_sub_explicit(&arena->uses[block], 1, memory_order_release);
}

/* sender.c */
extern PyTypeObject *batcher_type;
int batcher_init(PyObject *module);
int64_t nanoseconds(void);

/* call.c */
/* Every call that changes a sender begins and ends so: 0, or -1 with an exception. */
int batcher_begin(UdpBatcher *g);
void batcher_end(UdpBatcher *g);
/* The end of a call with a result: then what happened is reported to the program, which may raise. */
PyObject *leave(UdpBatcher *g, PyObject *result);

/* timer.c */
int timer_init(void);
/* The timer looks after it from now on; until it is removed, which may be repeated. */
void timer_add(UdpBatcher *g);
void timer_remove(UdpBatcher *g);
void timer_wake(void);
void set_clock(UdpBatcher *g);
/* The timer counts from the first datagram that waits. */
static inline void start_clock(UdpBatcher *g) {
    if (g->max_delay && !atomic_load_explicit(&g->due, memory_order_relaxed))
        set_clock(g);
}
/* late() -> a sender in which something waits for too long, as soon as there is one: the timer's thread */
PyObject *timer_late(PyObject *module, PyObject *unused);

/* polling.c: of a sender that does not wait */
#define POLL_RETRY 10000000 /* ns between two tries of what no event may tell of */
enum {
    POLL_PLACE = 1,  /* a place in the arena */
    POLL_ROOM = 2,   /* all that waits is to leave */
    POLL_RETURN = 4, /* memory that is in flight */
};
/* fileno() is readable when that is worth a try, and at the deadline, if that is not 0. */
void poll_until(UdpBatcher *g, int what, int64_t deadline);
void poll_leave(UdpBatcher *g, int what);
static inline void poll_no_more(UdpBatcher *g, int what) {
    if (g->poll.awaited & what)
        poll_leave(g, what);
}
void poll_end(UdpBatcher *g);

/* destinations.c. Inside only, as all below. 0 or -1. */
int find_destination(UdpBatcher *g, PyObject *to, uint32_t *destination);

/* batch.c: 0, or -1 with an exception, and then the datagram was not taken */
/* One that does not simply continue the open train. `immutable` keeps it where it is, if not NULL. */
int stage(UdpBatcher *g, const char *data, size_t n, uint32_t destination, PyObject *immutable);
/* One that lies in the arena already. */
int add_datagram(UdpBatcher *g, const char *data, size_t n, uint32_t destination, uint16_t block);
/* A train that is complete, of memory that `t->holder` keeps, or the caller until it is submitted. */
int add_train(UdpBatcher *g, const struct train *t);
/* Place for `n` bytes at g->at. May close the open train. */
int make_place(UdpBatcher *g, size_t n);
void leave_block(UdpBatcher *g);
/* The open train goes to the batch; a batch that is full leaves; both, and place in it for the next. */
void close_train(UdpBatcher *g);
int submit_if_full(UdpBatcher *g);
int close_for_next(UdpBatcher *g);

/* One that is like the datagram before it: most are. */
static inline bool continues(const UdpBatcher *g, uint32_t destination, size_t n) {
    return n == g->open.size && destination == g->open.destination && n <= g->room;
}
static inline void append(UdpBatcher *g, const char *data, size_t n) {
    memcpy(g->at, data, n);
    g->at += n;
    g->open.nbytes += (uint32_t)n;
    g->room -= (uint32_t)n;
}

/* send.c, send_region.c, destinations.c, timer.c, syscalls.c: methods of UdpBatcher */
/* What send() returns. */
PyObject *sent_bytes(UdpBatcher *g, size_t n);
PyObject *batcher_send(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords);
PyObject *batcher_sendto(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *batcher_send_many(PyObject *self, PyObject *args);
PyObject *batcher_fan_out(PyObject *self, PyObject *args);
PyObject *batcher_lease(PyObject *self, PyObject *size);
PyObject *batcher_send_block(PyObject *self, PyObject *args);
PyObject *batcher_send_slices(PyObject *self, PyObject *args);
PyObject *batcher_limit(PyObject *self, PyObject *args);
PyObject *batcher_destination(PyObject *self, PyObject *number);
PyObject *batcher_default(PyObject *self, PyObject *packed);
PyObject *batcher_tick(PyObject *self, PyObject *unused);
PyObject *batcher_open_epoll(PyObject *self, PyObject *engine);
PyObject *batcher_fileno(PyObject *self, PyObject *unused);
PyObject *batcher_send_by_syscall(PyObject *self, PyObject *unused);
PyObject *batcher_drop(PyObject *self, PyObject *unused);
PyObject *batcher_discard(PyObject *self, PyObject *unused);
PyObject *batcher_resend(PyObject *self, PyObject *args);
PyObject *batcher_writable(PyObject *self, PyObject *milliseconds);
PyObject *batcher_resolved(PyObject *self, PyObject *args);

/* admission.c. 0; 1: the sender does not wait; -1: an exception */
/* The socket's descriptor, and how large its buffer is. */
int take_socket(UdpBatcher *g);
/* Word of earlier datagrams, which would fail one that has nothing to do with it. */
int take_socket_error(UdpBatcher *g);
/* Bytes that the kernel counts against the socket's buffer. */
int waiting_bytes(const UdpBatcher *g);
/* Whether anything may go to the destination, after the first request to it. */
bool may_go(UdpBatcher *g, struct destination *r, int outq);
/* Up to which train of the batch. */
uint32_t admit(UdpBatcher *g);
/* Nothing may go: until that changes. */
int wait_for_room(UdpBatcher *g);
/* What failed could not be sent again, and the sender does not wait. 0 if it could be, now. */
int await_resend(UdpBatcher *g);
/* Until the socket can be written to. */
int wait_writable(UdpBatcher *g, int milliseconds);

/* submit.c. 0; 1: not everything, and the sender does not wait; -1: an exception. */
int trains_submit(UdpBatcher *g);
/* Waits until something of this sender's comes back. 1 if it does not wait, or nothing would come. */
int trains_wait(UdpBatcher *g);
/* Takes what has come back, without waiting. */
int trains_look(UdpBatcher *g);
/* Flushes the notifier of what was queued. */
int trains_flush(UdpBatcher *g);
/* Takes the results of what was queued, mends what failed, forgets what has left. 1: not all is mended */
int conclude(UdpBatcher *g);
/* What a train was sent from is not held any more. The program's code that this may run is the owner's. */
void let_go(UdpBatcher *g, struct train *t);
void batcher_listener(UdpBatcher *g, uzc_listener *listener);

/* syscalls.c. 0, -errno, or INT_MIN: an exception. */
/* The first `count` datagrams of a train. */
int resend(UdpBatcher *g, const struct train *t, uint32_t count);
/* Everything that waits, in order; -EAGAIN: the rest must wait on. */
int send_by_syscall(UdpBatcher *g);
