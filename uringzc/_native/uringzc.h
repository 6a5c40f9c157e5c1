/* SPDX-License-Identifier: MIT
 *
 * The boundary: every function and struct that Python may see. It is read twice, by the C compiler and
 * by cffi as the cdef, so it has no include guard and no #include: a C file includes "native.h".
 *
 * Calls return 0 or a count, or -errno, or one of the refusals below, and never touch errno.
 */

#define UZC_NO_SLOT 0xffffffff /* a request of its own, outside any notifier (Ring) */
#define UZC_MAX_SLOTS 32768
#define UZC_MAX_INTERNAL_SLOTS 4096 /* slots of senders, numbered from UZC_MAX_SLOTS */

/* Refusals that errno has no word for. Nothing was changed by the call that returns one. */
#define UZC_E_THREAD -5001        /* another thread owns the engine */
#define UZC_E_BUSY -5002          /* another call is inside the engine */
#define UZC_E_CLOSED -5003        /* the engine is closed, or belongs to the parent of a fork */
#define UZC_E_POISONED -5004      /* the kernel dropped a completion: nothing can be trusted any more */
#define UZC_E_QUEUE -5005         /* the submission queue is full: submit, then try again */
#define UZC_E_REQUESTS -5006      /* max_inflight requests are held */
#define UZC_E_COMPLETIONS -5007   /* max_inflight completions are, or will be, unread */
#define UZC_E_NOTIFICATIONS -5008 /* max_inflight notifiers are open, pending or unread */

/* Which request completions are queued for reading. */
#define UZC_NONE 0
#define UZC_FAILED 1
#define UZC_ALL 2
#define UZC_RAW 3 /* every CQE as it came, the notifications too */

typedef struct uzc_slots uzc_slots;
typedef struct uzc_ring uzc_ring;
typedef struct uzc_msg_zerocopy uzc_msg_zerocopy;
typedef struct uzc_ids uzc_ids;

/* One record of reap_completions(), and of Ring.reap(), where flags are the CQE's. */
typedef struct {
    uint64_t user_data;
    int32_t result; /* bytes sent, or -errno */
    uint32_t flags;
} uzc_completion;

/* One record of reap_notifications(): the fields of Notification, in its order. */
typedef struct {
    uint64_t tag;
    uint32_t sequence;
    uint32_t slot;
    uint64_t requests;
    uint64_t nbytes;
    int64_t copied; /* requests that the kernel copied, -1 where it could not tell */
    uint64_t failed;
} uzc_notification;

typedef struct {
    uint64_t requests;      /* queued since the start */
    uint64_t nbytes;        /* accepted by the kernel */
    uint64_t completions;   /* results seen */
    uint64_t failed;        /* of those, errors */
    uint64_t notifications; /* posted */
    uint64_t copied;        /* bytes of successful requests that the kernel copied */
    uint64_t stray;         /* CQEs that matched no request */
    uint32_t in_flight;     /* requests whose memory the kernel may still read */
    uint32_t awaiting;      /* requests without a result */
    uint32_t held;          /* requests whose notifier has not been posted */
    uint32_t open;          /* notifiers with requests that were not flushed */
    uint32_t flushed;       /* notifiers flushed and not posted */
    uint32_t unsettled;     /* requests in flight of those */
    uint32_t unread_completions;
    uint32_t unread_notifications;
} uzc_stats;

/* One send, as an engine's queue() takes it. `socket` and `memory` are references that the accounts keep
 * until the request's notifier is posted, and hand back through uzc_slots_release(). */
typedef struct {
    void *socket;
    void *memory;
    const char *data;
    const char *base;   /* where the memory that data lies in begins, if it is registered */
    const void *to;     /* struct sockaddr, NULL for a connected socket; copied */
    void *message;      /* struct iovec *, instead of data; must live until the request is submitted */
    uint64_t user_data; /* the caller's, returned with the result */
    uint64_t stride;    /* a run: from one datagram's start to the next's */
    uint32_t length;    /* bytes, or the count of iovecs */
    uint32_t count;     /* 1, or the datagrams of a run, whose user_data counts up */
    uint32_t slot;
    uint32_t segment;   /* UDP_SEGMENT, 0 for none */
    uint32_t msg_flags; /* MSG_* */
    uint32_t zero_copy; /* bool */
    uint32_t flush;     /* bool: flush the slot behind each request */
    uint32_t to_length;
    int32_t fd;         /* the descriptor, or the index of a registered file */
    int32_t fixed_file; /* bool */
    int32_t buffer;     /* first registered buffer under the memory, -1 if it is not registered */
    uint32_t buffers;   /* how many registered buffers the memory spans */
} uzc_send;

/* Whom the accounts tell what becomes of the requests of a watched slot: a slot of a sender's own, outside
 * the registered ones. Its results are queued for nobody, and its notifications are read apart. Called inside
 * enter(), without the GIL. */
typedef struct {
    void *context;
    void (*result)(void *context, uint64_t user_data, int32_t result);
    void (*settled)(void *context, uint64_t user_data, int copied); /* 1, 0, or -1: not known */
} uzc_listener;

/* What the per-request path needs of an engine; the same table for each kind of engine. */
typedef struct {
    /* Queues up to send->count requests; returns how many, or why not one. */
    int64_t (*queue)(void *engine, const uzc_send *send);
    /* Submits if asked, waits for `wait` CQEs or `timeout_ns` (< 0: for ever), takes every result there is.
     * May come back before that, when it submitted or when a signal came (-EINTR): the caller looks, and
     * calls again. Returns the requests submitted. */
    int64_t (*enter)(void *engine, int submit, uint32_t wait, int64_t timeout_ns);
    /* The descriptor was closed: its requests that are queued and not submitted will fail with EBADF. */
    void (*revoke)(void *engine, int fd);
    uzc_slots *(*slots)(void *engine);
    /* May this thread use the engine? */
    int (*is_owner)(const uzc_slots *slots);
    /* What a new request would be refused with, 0 if nothing. */
    int (*check)(const uzc_slots *slots);
    /* Hands back the references of one request whose notifier was posted; 0 if there is none. */
    int (*release)(uzc_slots *slots, void **socket, void **memory);
    /* A watched slot: opens one and returns its number; ends one, EBUSY while it has requests; flushes it as
     * uzc_slots_flush() does; reads its notifications. The program can not name it. */
    int64_t (*open_slot)(uzc_slots *slots, const uzc_listener *listener);
    int (*close_slot)(uzc_slots *slots, uint32_t slot);
    int64_t (*flush_slot)(uzc_slots *slots, uint32_t slot);
    uint32_t (*unsettled)(const uzc_slots *slots, uint64_t notifier);
    int64_t (*read_slot)(uzc_slots *slots, uint32_t slot, uzc_notification *out, uint32_t most);
    /* Takes the error that the socket's next send would fail with, for something sent before: errno, or 0. */
    int (*take_socket_error)(void *engine, int fd);
} uzc_calls;

/* slots.c: the accounts */
uzc_slots *uzc_slots_new(uint32_t max_inflight, uint32_t completions);
void uzc_slots_free(uzc_slots *slots);
int uzc_slots_register(uzc_slots *slots, const uint64_t *tags, uint32_t count);
int uzc_slots_unregister(uzc_slots *slots);
int uzc_slots_update(uzc_slots *slots, uint32_t first, uint32_t count, uint64_t tag, int keep_tag);
uint32_t uzc_slots_count(const uzc_slots *slots);
int64_t uzc_slots_flush(uzc_slots *slots, uint32_t slot); /* of a registered slot */
int64_t uzc_slots_flush_internal(uzc_slots *slots, uint32_t slot);
uint32_t uzc_slots_unsettled(const uzc_slots *slots, uint64_t notifier);
int uzc_slots_is_owner(const uzc_slots *slots);
int uzc_slots_has_owner(const uzc_slots *slots);
int uzc_slots_claim(uzc_slots *slots);
int uzc_slots_check(const uzc_slots *slots);
void uzc_slots_shut(uzc_slots *slots);
void uzc_slots_close(uzc_slots *slots);
void uzc_slots_clock(uzc_slots *slots, uint32_t now); /* milliseconds; wraps */
int64_t uzc_slots_attach(uzc_slots *slots, const uzc_send *send, uint64_t user_data);
int uzc_slots_result(uzc_slots *slots, uint64_t key, int32_t result, uint32_t flags);
int uzc_slots_settle(uzc_slots *slots, uint64_t key, int copied, uint32_t flags);
int uzc_slots_release(uzc_slots *slots, void **socket, void **memory);
int64_t uzc_slots_completions(uzc_slots *slots, uzc_completion *out, uint32_t most);
int64_t uzc_slots_notifications(uzc_slots *slots, uzc_notification *out, uint32_t most);
int64_t uzc_slots_open_internal(uzc_slots *slots, const uzc_listener *listener);
int uzc_slots_close_internal(uzc_slots *slots, uint32_t slot);
int64_t uzc_slots_read_internal(uzc_slots *slots, uint32_t slot, uzc_notification *out, uint32_t most);
void uzc_slots_stats(const uzc_slots *slots, uzc_stats *out);
uint32_t uzc_slots_oldest(const uzc_slots *slots, uint32_t now);

/* ring.c: io_uring */
#define UZC_BUFFER_STRIDE 1072693248 /* 1 GiB - 1 MiB: registered buffers of a large region overlap */
#define UZC_BUFFER_MOST 1073741824   /* the kernel's limit for one registered buffer */

/* `flags` are IORING_SETUP_*; R_DISABLED is added, the first enter() enables the ring for its thread. */
int uzc_ring_new(uzc_ring **out, uint32_t entries, uint32_t cq_entries, uint32_t flags, uzc_slots *slots);
/* What uzc_probe() found. Without SENDMSG_ZC, what needs a message is copied. */
void uzc_ring_features(uzc_ring *ring, int report_usage, int sendmsg_zc, int fixed_message);
/* Ends the ring, if there is one, and leaves NULL: an interrupt in the caller can not make it happen twice,
 * or never. Not a barrier: what is in flight must have been waited for. */
void uzc_ring_exit(uzc_ring **ring);
/* In the child of a fork: drops the descriptors, and nothing else. Leaves NULL. */
void uzc_ring_abandon(uzc_ring **ring);
/* A descriptor that is readable while there is something to reap; uzc_ring_signal() brings it up to date. */
int uzc_ring_fileno(uzc_ring *ring);
void uzc_ring_signal(uzc_ring *ring);
int uzc_ring_buffers(uzc_ring *ring, uint32_t count);
/* length 0 empties the entry; then a tag given before is posted when the kernel's last use has ended. */
int uzc_ring_set_buffer(uzc_ring *ring, uint32_t index, uint64_t address, uint64_t length, uint64_t tag);
int uzc_ring_tags(uzc_ring *ring, uint64_t *out, int most);
/* EMFILE: larger than RLIMIT_NOFILE, which stays as it is. */
int uzc_ring_files(uzc_ring *ring, uint32_t count);
int uzc_ring_set_file(uzc_ring *ring, uint32_t index, int fd);
const uzc_calls *uzc_ring_calls(void);

/* ids.c: the kernel numbers a socket's MSG_ZEROCOPY sends, u32 and wrapping, and tells of ranges of them */
uzc_ids *uzc_ids_new(void);
void uzc_ids_free(uzc_ids *ids);
/* Of the socket with this SO_COOKIE, and this inode, or 0 where cookies are unique. Where its counter stands
 * is not known. NULL: no memory, or its numbers are another engine's. uzc_ids_free() leaves it to the next.
 */
uzc_ids *uzc_ids_open(uint64_t cookie, uint64_t inode);
/* Whether an engine of this process has the numbers of that socket, and so reads its error queue. */
int uzc_ids_taken(uint64_t cookie, uint64_t inode);
/* The number that the next send will have, once it is known and as long as it can be believed. */
int uzc_ids_next(const uzc_ids *ids, uint32_t *next);
/* It was found out. One that was given already, while any is outstanding, is not believed. */
void uzc_ids_set(uzc_ids *ids, uint32_t next);
/* Nothing is outstanding, of the engine's and of others: the next number is taken to be the one that was next
 * before, or 0. Nothing is believed until that is reported, before any other; a guess is never too high. */
void uzc_ids_guess(uzc_ids *ids);
/* Room for the next `count`: 0 or -ENOMEM. */
int uzc_ids_reserve(uzc_ids *ids, uint32_t count);
/* A send for which there is room has succeeded: the next number is its. */
void uzc_ids_own(uzc_ids *ids, uint64_t key);
/* A send has failed, and may have used up a number: what the next one is has to be found out. */
void uzc_ids_doubt(uzc_ids *ids);
/* The part of a range, ends included, that somebody may own; 0: none. A number that can not have been given
 * means that others send through the socket too: nothing is believed from then on, and what is owned stays.
 */
int uzc_ids_clip(uzc_ids *ids, uint32_t *first, uint32_t *last);
/* The key that owns a number, which it then does no more; 0: nobody. Keys are not 0. */
uint64_t uzc_ids_take(uzc_ids *ids, uint32_t id);
uint32_t uzc_ids_outstanding(const uzc_ids *ids);
/* Whether something is outstanding and no number will settle it: a guess was wrong, or others send too. */
int uzc_ids_disbelieved(const uzc_ids *ids);
/* The kernel holds nothing of the socket any more: a key that owned a number; 0: there is none. */
uint64_t uzc_ids_take_any(uzc_ids *ids);

/* errqueue.c: sendmmsg(), with MSG_ZEROCOPY and the error queue, or without */
#define UZC_MESSAGE_DATA 128
#define UZC_MESSAGE_CONTROL 256
/* What was in an error queue and is no notification: an ICMP error, a timestamp. As recvmsg() gave it. */
typedef struct {
    void *socket; /* whose it is, inside */
    uint32_t msg_flags, data_length, control_length, from_length;
    char data[UZC_MESSAGE_DATA];
    char control[UZC_MESSAGE_CONTROL];
    char from[28];
} uzc_message;
int uzc_msg_zerocopy_new(uzc_msg_zerocopy **out, uzc_slots *slots, uint32_t entries, int zero_copy);
void uzc_msg_zerocopy_exit(uzc_msg_zerocopy **engine);
int uzc_msg_zerocopy_fileno(uzc_msg_zerocopy *engine);
void uzc_msg_zerocopy_signal(uzc_msg_zerocopy *engine);
/* Reads the socket's error queue and hands back the oldest such message: 1, or 0 if there is none. -ENOENT:
 * the engine does not read this socket's. */
int uzc_msg_zerocopy_message(uzc_msg_zerocopy *engine, int fd, uzc_message *out);
/* Whether an engine of this process reads this socket's. */
int uzc_msg_zerocopy_taken(int fd);
/* The library has opened the socket: it never sent zero-copy. */
void uzc_msg_zerocopy_own(uzc_msg_zerocopy *engine, int fd);
/* Why zero-copy requests on the socket are copied at the moment: one of these, or 0. */
#define UZC_COPIES_OTHER_ENGINE 1
#define UZC_COPIES_OTHERS_SEND 2
int uzc_msg_zerocopy_copies(uzc_msg_zerocopy *engine, int fd);
const uzc_calls *uzc_msg_zerocopy_calls(void);

/* read_memory.c: copies what lies at `address` in this process; -EFAULT where there is no memory (any more).
 */
int64_t uzc_read_memory(uint64_t address, void *out, uint64_t length);

/* probe.c: what this kernel can do. -errno if io_uring cannot be used at all. */
typedef struct {
    int send_zc;       /* Linux 6.0 */
    int sendmsg_zc;    /* Linux 6.1 */
    int report_usage;  /* Linux 6.2: notifications say whether the kernel copied */
    int fixed_message; /* Linux 6.15: SENDMSG_ZC from registered buffers */
} uzc_features;
int uzc_probe(uzc_features *out);
