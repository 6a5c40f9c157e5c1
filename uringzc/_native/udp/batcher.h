/* SPDX-License-Identifier: MIT */
/* The state of one UDP sender: its trains, its batch, its destinations.
 *
 * A train is a GSO batch: datagrams of one size to one destination (the last may be shorter) that lie side by
 * side and leave as one request with UDP_SEGMENT. A batch is up to BATCH_SIZE trains, submitted together.
 *
 *     send() -> the open train of the destination -> (full, another size, a flush) -> the batch -> admission
 *            -> ring, or system calls
 *
 * One thread owns a sender. It is changed with its lock: by the owner in each of its calls, and between them
 * by the timer's thread, which sends by system calls what has waited for too long. Only the fast path of
 * send() takes no lock: it runs if `fast_thread` is the calling thread, which is 0 while a thread has the
 * lock (fast_path.h). What threads use without the lock is atomic, or says so; counters are read by any
 * thread.
 *
 * In all of udp/ the sender is `g`, and an int that says how a function ended is 0: done; 1: not done, since
 * it would have to wait and the sender does not block, or nothing is to come; -1: a Python exception is set.
 * Where datagrams are sent by system calls it is 0, -errno, or SEND_RAISED with an exception set. */
#pragma once

#include <limits.h>
#include <netinet/in.h>

#include "request/enter.h"
#include "request/refuse.h"
#include "request/sender_notifiers.h"
#include "udp/arena.h"

#define MAX_TRAIN_BYTES 65507u
#define BATCH_SIZE 48u      /* trains; each submission releases the GIL, and may have to wait for it */
#define LOOP_BATCH 60000u   /* bytes; with on_waiting a batch is submitted then, too */
#define NO_TRAIN UINT32_MAX /* as a train's size */
#define MAX_OPEN 1024u      /* trains, of an arena of frames half of these */
#define MAX_SEGMENTS 128u   /* datagrams of a train; the kernel's own limit is at most that */
#define MAX_DESTINATIONS 16384u
#define GROUP 0x80000000u   /* a destination with this bit is a group of them */
#define SEND_RAISED INT_MIN /* no -errno, as -1 is */
#define TRAIN_LENGTHS 8     /* 1, 2 to 3, 4 to 7, ... 128 datagrams */

/* What trains of the batch wait for: room in the socket's buffer; a destination's first request to arrive;
 * memory, or an entry of the request table. */
enum wait { WAIT_NOTHING, WAIT_ROOM, WAIT_ARRIVAL, WAIT_MEMORY, WAIT_RATE, WAITS };

struct train;

/* What gathers for a destination, or a group. */
struct gather {
    struct train *open; /* the open train with datagrams for it, its own or that of a group; or NULL */
    uint32_t expected;  /* bytes: what its trains had of late */
};

struct destination {
    struct gather gather;
    struct sockaddr_in6 address; /* or a sockaddr_in */
    uint32_t address_length;     /* 0: where the socket is connected to */
    uint32_t max_segments;       /* datagrams of a train; 1: no trains */
    uint32_t max_segment_size;   /* bytes of a train's datagram: the MTU less the headers, if it is known */
    uint32_t largest_sent;       /* bytes of the largest train's datagram that the kernel took */
    enum { COLD, FIRST, WARM } state; /* nothing was sent; the first request is on its way; it has arrived */
    int first_outq;                   /* SIOCOUTQ before the first request, */
    uint64_t first_left, first_admission; /* `left_host` and the sender's `admissions` then, */
    int64_t first_deadline;               /* CLOCK_MONOTONIC ns: it is not waited for any longer */
    uint64_t admitted, held;         /* `admissions` when a train was last admitted, and when one was not */
    bool zero_copy;                  /* the policy's decision, */
    uint32_t requests, review_after; /* requests since, and after how many the policy decides again */
    uint32_t settled, copied; /* zero-copy requests since that are free; of those, copied by the kernel */
    uint32_t min_zero_copy;   /* bytes: smaller requests are copied */
    uint64_t left_host; /* zero-copy requests that are free and not known to be copied: they were sent */
    /* the owner counts these three without the lock, where it enters the engine for another sender */
};

struct group {
    struct gather gather;
    uint32_t *members; /* destinations */
    uint32_t count, capacity;
    _Atomic bool dropped; /* by the program, in any thread */
};

struct train {
    const char *data;
    PyObject *holder; /* keeps the data; NULL: it lies in the arena, in `block` */
    const char *base; /* of the holder's registered buffers; */
    int32_t buffer;   /* the first of them, or -1 */
    uint32_t buffers;
    uint32_t nbytes, size, count, destination; /* `count` datagrams of `size` bytes, but for the last */
    uint32_t room;                             /* open: bytes that can be appended */
    int32_t result;                            /* bytes, or -errno */
    uint16_t block;
    bool zero_copy;
    bool overtook;                                           /* counted in `reordered` */
    enum { OPEN, FULL, CLOSED, QUEUED, DONE, FAILED } state; /* FULL: to be closed, when the batch has room */

    /* The sender numbers all datagrams that it takes. Those of a train are `step` apart, unless others were
     * taken in between: then their low 32 bits are in `numbers`. */
    uint64_t number; /* of the first */
    uint32_t step;   /* 1; of a group: its members, since a datagram is one for each */
    bool interleaved;
    uint32_t counted;                 /* bytes of the first `count` datagrams, while it is open */
    uint32_t next_member, next_piece; /* of a group's, while it is closed: those before are in the batch */
    struct train *older, *newer;      /* of the open ones; `older` links the free ones */
    uint32_t numbers[MAX_SEGMENTS];
};

struct recent_address {
    PyObject *address; /* a tuple that always means this destination */
    uint32_t destination;
};

typedef struct udp_batcher {
    PyObject_HEAD Queue *queue;
    Arena *arena;
    PyObject *sock;
    PyObject *slow_path;               /* UdpSlowPath: what is not fast, in Python */
    PyObject *on_waiting;              /* the program's, or NULL */
    _Atomic unsigned long fast_thread; /* the owner while send() may take its fast path, else 0 */
    _Atomic bool in_fast_path;         /* the owner is there; without the GIL */
    _Atomic unsigned long owner;       /* thread, 0 until the first call */
    _Atomic unsigned long lock_thread; /* that has the lock, or 0 */
    PyThread_type_lock lock;
    int own_socket, strict_order, always_zero_copy, notify, timestamps, engine_reads_queue; /* constant */
    bool frames; /* constant: the arena is of frames, and all that the owner submits are requests */
    char blocking;
    _Atomic char closed;
    _Atomic char dropped;   /* by the program, in any thread: unlock() sends the rest, and closes it */
    char to_report;         /* the slow path has something for the program, */
    _Atomic char reporting; /* which it is given at the end of a call, without the lock */
    _Atomic char no_timer;  /* no thread could be started: the owner's next call sends what is late */
    _Atomic char
        must_not_wait;   /* a call for which nothing may be waited for: the timer's, or what leaves at once */
    int fd, sndbuf;      /* of `sock`, as refresh_socket() found them; bytes */
    int room_fd;         /* the engine's own descriptor that is charged for what is sent, too; or -1 */
    uint64_t admissions; /* how often it was decided what may be submitted */
    uint32_t slot;
    uint32_t max_payload;    /* bytes of a datagram */
    uint32_t hold_threshold; /* bytes: immutable data of this size or more is held, not copied */
    uint32_t max_segments;   /* datagrams of a train, by the kernel, */
    uint32_t max_train;      /* and bytes */
    uint32_t max_open;       /* open trains; then the oldest is closed */
    uint32_t segment_option; /* bytes: the UDP_SEGMENT option of a socket of its own */
    uint32_t flush_requests; /* the notifier is flushed after so many requests, */
    uint64_t flush_bytes;    /* or so many bytes */

    _Atomic uint32_t changes; /* odd while trains are changed that other threads count (sender.c) */
    struct train *open;       /* the one that was appended to last; its size is NO_TRAIN if it is closed */
    struct train *oldest, *newest; /* all open trains */
    uint32_t open_count;
    uint32_t gathered;       /* datagrams of open trains, but for those that `open` got since it is that, */
    uint64_t gathered_bytes; /* and their bytes */
    struct train *free;      /* trains that are not used */
    struct train_chunk *chunks;
    struct train none;  /* what `open` is if there is none */
    char *at, *end;     /* the free part of the block that is being filled, */
    uint16_t block;     /* and the block, or NO_BLOCK */
    struct train *tail; /* an open train that ends where the free part begins: it may grow there; `at` is not
                           valid then */
    struct train *trains[BATCH_SIZE];
    uint32_t count, next;             /* trains of the batch; those before `next` were queued */
    _Atomic uint32_t awaited;         /* of those, without a result */
    bool some_failed;                 /* of those, or of a batch before */
    struct destination *destinations; /* 0: where send() goes without `to` */
    uint32_t destination_count, destination_capacity;
    struct group **groups; /* NULL: free */
    uint32_t group_count;
    bool default_used;         /* destination 0 was sent to */
    PyObject *default_address; /* sockaddr of destination 0, or NULL: the program has connected the socket */
    PyObject *destination_numbers; /* dict: address or sockaddr -> index of its destination */
    struct recent_address *recent; /* RECENT_ADDRESSES of them, by the address of the tuple; or NULL */
    PyObject *sent_length;         /* the int that send() returned last, */
    size_t sent_length_value;      /* and its value */
    bool timed;                    /* with timestamps: the batch's results were passed on, */
    bool timestamps_read;          /* the error queue was read in this call, */
    bool ids_unknown;              /* and the slow path is to read it, since a send has failed */
    uint32_t in_flight, unflushed; /* requests: not settled; of the notifier that is not flushed */
    uint64_t unflushed_bytes;
    Notifiers notifiers;
    unsigned long long datagrams, nbytes, requests, syscalls, settled, copied, reordered; /* so far */
    struct {
        unsigned long long trains[TRAIN_LENGTHS], datagrams; /* trains by the power of two of their length */
    } left;                                                  /* so far: what the kernel has taken */
    unsigned long long waits[WAITS];                         /* so far: of calls */
    enum wait waits_for; /* what was missing when trains were last to leave */

    struct {
        int set, timer, engine, sock; /* descriptors; -1: none, or not in the set */
        int armed;                    /* AWAIT_* */
        bool unknown;                 /* the set was made after that */
    } poll;                           /* see polling.h */

    int64_t max_delay; /* ns; 0: what a call takes leaves in it; -1: no timer */
    int64_t left_at;   /* CLOCK_MONOTONIC ns: when something was last sent */
    int direct_error;  /* -errno, with which the kernel has refused what is to leave at once; or 0 */
    bool leaves;       /* what waits is to leave at the end of this call */
    enum { QUIET, BEGUN, TOLD } waiting; /* on_waiting is to be called; was called, since the last flush */
    struct {                             /* of the event loop, with on_waiting: see leading_edge.c */
        uint64_t first;                  /* `datagrams` when it began */
        uint32_t alone, at_once;         /* turns with one datagram; datagrams since that left at once */
    } turn;
    struct {                            /* see leading_edge.c */
        int64_t run_start, round_start; /* CLOCK_MONOTONIC ns: of datagrams that leave at once; that gather */
        int64_t interval;               /* ns from one datagram to the next, before they gathered */
        uint64_t round_first;           /* `datagrams` then */
        uint32_t run, penalty;          /* datagrams without a pause; so many more leave at once */
        bool gathers, slow;             /* what comes without a pause; the last round was slower */
    } edge;
    struct {
        double ns;             /* what a byte or a datagram costs; 0: no pacing */
        bool counts_bytes;     /* else datagrams */
        uint64_t most, gather; /* of those: in a train; in all that waits, before some of it has to leave */
        int64_t burst;         /* ns: the credit after a pause; */
        int64_t lateness;      /* how much more there may be while something waits; */
        int64_t limit;         /* and both, as of the last admission */
        int64_t paid;          /* CLOCK_MONOTONIC ns: what has left is paid for then */
        int64_t now;           /* when trains were admitted, or left */
        int64_t timer_from;    /* the timer leaves what is gathered to the owner until then */
        uint64_t gone;         /* bytes or datagrams that were taken, and do not wait any more */
    } pacing;                  /* see pacing.h */
    _Atomic int64_t due;       /* CLOCK_MONOTONIC ns: what waits is late then; 0: nothing waits */
    int64_t blocked_since;     /* the same clock; since when what is late could not be sent, or 0 */
    int64_t timer_tried;       /* the same clock; the last try to start the timer's thread */
    _Atomic uint32_t starts;   /* how often `due` was set since the timer last read it */
    _Atomic bool missed;       /* the timer found the lock taken: unlocking wakes it */
    struct udp_batcher *timer_prev, *timer_next; /* of the ring of senders with a timer; timer.c's mutex */
    PyObject *deferred;      /* list: holders of what the timer has sent; the owner drops them */
    bool last;               /* nobody comes back for what waits: it does not wait for an arrival any more */
    unsigned long long lost; /* datagrams of a dropped sender that could not be sent */
} UdpBatcher;

/* Between these, what count_datagrams() reads in another thread does not match; nothing in between waits, or
 * runs Python code. */
static inline void begin_change(UdpBatcher *g) {
#ifdef Py_GIL_DISABLED
    atomic_fetch_add(&g->changes, 1);
#else
    (void)g;
#endif
}

static inline void end_change(UdpBatcher *g) {
    begin_change(g);
}

/* CLOCK_MONOTONIC */
static inline int64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* A bool that a method of the slow path returned, or -1. */
static inline int bool_result(PyObject *result) {
    int value = result ? PyObject_IsTrue(result) : -1;
    Py_XDECREF(result);
    return value;
}
