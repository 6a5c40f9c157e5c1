/* SPDX-License-Identifier: MIT */
/* The boundary: every function and struct of the cffi module `_uring`. The C compiler reads it as a header,
 * and cffi as the cdef: so it has no include guard and no #include, and a C file includes "native.h".
 *
 * Calls return 0 or a count, -errno, or one of the refusals below. They do not report through errno. */

/* -- refusals without an errno of their own; the call that returns one has changed nothing. All are below
 * -4095, the lowest -errno of the kernel */

#define UZC_E_THREAD -5001        /* another thread owns the engine */
#define UZC_E_BUSY -5002          /* another call is inside the engine */
#define UZC_E_CLOSED -5003        /* the engine is closed, or belongs to the parent of a fork */
#define UZC_E_POISONED -5004      /* the kernel dropped a CQE: what is in flight is never known to be free */
#define UZC_E_QUEUE -5005         /* the submission queue is full: submit, then try again */
#define UZC_E_REQUESTS -5006      /* max_inflight requests are held */
#define UZC_E_COMPLETIONS -5007   /* max_inflight completions are unread, or reserved by requests in flight */
#define UZC_E_NOTIFICATIONS -5008 /* max_inflight notifiers are open, flushed or unread */
#define UZC_E_PATH -5009          /* the way to the destination is to be found: uzc_frames_set_path() */
#define UZC_E_FRAMES -5010        /* all frames are in use */

/* -- records that the program reads */

/* One record of reap_completions(), and of Ring.reap(), where `flags` are those of the CQE. */
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
    int64_t copied; /* requests that the kernel copied; -1: not known of all */
    uint64_t failed;
} uzc_notification;

typedef struct {
    uint64_t requests;      /* attached since the start */
    uint64_t nbytes;        /* accepted by the kernel */
    uint64_t completions;   /* results reported */
    uint64_t failed;        /* of those, errors */
    uint64_t notifications; /* posted */
    uint64_t copied;        /* bytes of successful requests that the kernel copied */
    uint64_t stray;         /* CQEs that matched no request */
    uint32_t in_flight;     /* requests whose memory the kernel may still read */
    uint32_t awaiting;      /* requests without a result */
    uint32_t held;          /* requests whose notifier has not been posted */
    uint32_t open;          /* notifiers that have requests and were not flushed */
    uint32_t flushed;       /* notifiers flushed and not posted; this and the rest: without internal slots */
    uint32_t unsettled;     /* requests in flight of those */
    uint32_t unread_completions;
    uint32_t unread_notifications;
} uzc_stats;

/* -- slots (slots/): the request table, and the notifiers that its requests are attached to
 *
 * A notifier is named by a number: the index of its entry, and a generation. A request is named by a key: the
 * same of its run (slots/slots.h), and its place in the run. A key is not 0, and its top bit is. */

#define UZC_RUN_SIZE 32        /* places in a run */
#define UZC_KEY_STEP 0x8000000 /* from the key of a request to that of the next one in its run */

#define UZC_NO_SLOT 0xffffffff /* no slot: a request outside any notifier (Ring), a sender without one */
#define UZC_MAX_SLOTS 32768
#define UZC_MAX_INTERNAL_SLOTS 4096 /* slots of senders, numbered from UZC_MAX_SLOTS */

/* Which request completions are recorded: the mode of uzc_slots_new(). */
#define UZC_NONE 0
#define UZC_FAILED 1
#define UZC_ALL 2
#define UZC_RAW 3 /* each CQE as it came, notifications too; there are no slots */

typedef struct uzc_slots uzc_slots;

/* One send, or a run of sends of one size from one memory. */
typedef struct {
    void *socket;       /* references that the request table keeps, for each run one, until their notifier
                           is posted, and returns through uzc_slots_release() */
    void *memory;       /* the same */
    const char *data;   /* the first datagram */
    const char *base;   /* the start of the registered memory that holds data; unused if buffer is -1 */
    const void *to;     /* struct sockaddr, copied; NULL: the socket is connected */
    void *message;      /* struct iovec * instead of data; must live until the request is submitted */
    uint64_t user_data; /* returned with the result; a run counts it up */
    uint64_t stride;    /* bytes from one datagram of a run to the next */
    uint32_t length;    /* bytes of each datagram, or iovecs of message */
    uint32_t count;     /* datagrams of the run, 1 for a single send */
    uint32_t slot;      /* a registered or internal slot; not used in a raw engine */
    uint32_t segment;   /* UDP_SEGMENT: bytes of each datagram that GSO makes of the request; 0: no GSO */
    uint32_t msg_flags; /* MSG_* */
    uint32_t zero_copy; /* bool: with zero-copy, where the engine can */
    uint32_t flush;     /* bool: flush the slot after each request */
    uint32_t to_length; /* bytes; 0 without to */
    uint32_t datagram;  /* bool: a send is accepted whole, or fails; not known of a message */
    int32_t fd;         /* a descriptor, or with fixed_file an index of the registered files */
    int32_t fixed_file; /* bool */
    int32_t buffer;     /* index of the first registered buffer of the memory at base; -1: not registered */
    uint32_t buffers;   /* registered buffers that the memory spans, from `buffer` on */
    uint32_t may_fault; /* bool: perhaps a mapped file, which may have been truncated: see read_memory.h */
} uzc_send;

/* The callbacks of an internal slot: a slot of a sender, outside the registered ones, whose requests record
 * no completions. They run inside the engine, in the thread that entered it, without the GIL. */
typedef struct {
    void *context; /* not NULL */
    /* The request has a result: bytes, or -errno. */
    void (*result)(void *context, uint64_t user_data, int32_t result);
    /* The kernel no longer reads the request's memory. copied: 1, 0, or -1: not known. */
    void (*settled)(void *context, uint64_t user_data, int copied);
} uzc_listener;

/* mode: UZC_NONE to UZC_RAW. NULL: no memory. */
uzc_slots *uzc_slots_new(uint32_t max_inflight, uint32_t mode);
void uzc_slots_free(uzc_slots *slots);

/* The registered slots; see Slots in notif.py. */
int uzc_slots_register(uzc_slots *slots, const uint64_t *tags, uint32_t count);
int uzc_slots_unregister(uzc_slots *slots);
int uzc_slots_update(uzc_slots *slots, uint32_t first, uint32_t count, uint64_t tag, int keep_tag);
uint32_t uzc_slots_count(const uzc_slots *slots);
/* Returns the notifier's number; 0: it had no request, and was skipped. */
int64_t uzc_slots_flush(uzc_slots *slots, uint32_t slot);
/* Requests of a flushed notifier that are not settled; 0: its notification was posted. */
uint32_t uzc_slots_unsettled(const uzc_slots *slots, uint64_t notifier);

/* Makes this thread the owner, if there is none. Until then any thread may use the engine. */
int uzc_slots_claim(uzc_slots *slots);
int uzc_slots_has_owner(const uzc_slots *slots);
/* Whether this thread may use the engine. */
int uzc_slots_is_owner(const uzc_slots *slots);
/* What a new request would be refused with; 0: nothing. */
int uzc_slots_check(const uzc_slots *slots);
/* Refuses new work from now on. Any thread may call it. */
void uzc_slots_set_closed(uzc_slots *slots);
/* The same, by the owner, after flushing all slots. What is in flight can still be completed, and reaped. */
void uzc_slots_close(uzc_slots *slots);

/* What an engine reports, between uzc_slots_begin() and uzc_slots_end(). */

/* The time, in milliseconds; it wraps. */
void uzc_slots_clock(uzc_slots *slots, uint32_t now);
/* Attaches requests of a send, up to *count; sets *count to how many. They get user_data, user_data + 1, ...
 * and keys that are UZC_KEY_STEP apart. Returns the key of the first, or a refusal. *references is increased
 * by 1 if they make a new run, which keeps one reference to the socket and one to the memory. */
int64_t uzc_slots_attach(uzc_slots *slots, const uzc_send *send, uint64_t user_data, uint32_t *count,
                         uint32_t *references);
/* The request has a result; the kernel may still read its memory. `flags` are recorded. -ENOENT: stray. */
int uzc_slots_result(uzc_slots *slots, uint64_t key, int32_t result, uint32_t flags);
/* The kernel no longer reads the request's memory. copied: 1, 0, or -1: not known. `flags`: of the CQE that
 * said so, which a raw engine records; 0: there was none. -ENOENT: stray. */
int uzc_slots_settle(uzc_slots *slots, uint64_t key, int copied, uint32_t flags);
/* The same of several requests of one run, in the order of their places: `key` is of any of them, bit i of
 * `places` stands for place i. Returns the places for which it was not stray. */
uint32_t uzc_slots_results(uzc_slots *slots, uint64_t key, uint32_t places, int32_t result, uint32_t flags);
uint32_t uzc_slots_settle_all(uzc_slots *slots, uint64_t key, uint32_t places, int copied, uint32_t flags);

/* Returns the references of one run whose notifier was posted, and frees its entry. Returns the requests of
 * the run; 0: there is none. */
uint32_t uzc_slots_release(uzc_slots *slots, void **socket, void **memory);
/* Reads up to `max` records; returns how many. Open to every thread once the engine is closed. */
int64_t uzc_slots_completions(uzc_slots *slots, uzc_completion *out, uint32_t max);
int64_t uzc_slots_notifications(uzc_slots *slots, uzc_notification *out, uint32_t max);
void uzc_slots_stats(const uzc_slots *slots, uzc_stats *out);
/* Milliseconds since the oldest request in flight was attached; 0: nothing is in flight. */
uint32_t uzc_slots_oldest(const uzc_slots *slots, uint32_t now);

/* -- engines (engines/) */

/* What the per-request path calls of an engine: one table for each kind of engine. */
typedef struct {
    /* Queues up to send->count requests; returns how many, or why not one. *references: see
     * uzc_slots_attach(). */
    int64_t (*queue)(void *engine, const uzc_send *send, uint32_t *references);
    /* Submits what is queued, if `submit` or `wait` is not 0; then waits until `wait` CQEs (msg_zerocopy: any
     * result or notification) are there or `timeout_ns` has passed (< 0: no limit), and takes what was
     * posted. It may return before that, after it has submitted or when a signal came (-EINTR): the caller
     * checks, and calls again. Returns the requests submitted. */
    int64_t (*enter)(void *engine, int submit, uint32_t wait, int64_t timeout_ns);
    /* Whether enter() without `submit` and `wait` may find anything. */
    int (*needs_enter)(const void *engine);
    /* Brings the descriptor of fileno() up to date with what can be read, if it was made. */
    void (*signal)(void *engine);
    /* The program closed the descriptor: requests that are queued for it will fail with EBADF. */
    void (*revoke)(void *engine, int fd);
    /* Returns and clears the socket's pending error (errno, or 0), with which its next send would fail. -1:
     * sendmmsg() may have dropped one, which is in the error queue, if the socket has one. */
    int (*take_socket_error)(void *engine, int fd);
    /* The engine's own descriptor whose buffer (SO_SNDBUF) is charged for what is sent, besides that of the
     * request's socket; -1: none, or not yet. NULL: the engine has none. */
    int (*room_fileno)(const void *engine);
    /* The calls below are of the engine's slots. They go on with these when the engine has ended: no
     * requests, and new ones are refused with UZC_E_CLOSED. */
    uzc_slots *ended;
    /* uzc_slots_is_owner(), and so on */
    int (*is_owner)(const uzc_slots *slots);
    int (*check)(const uzc_slots *slots);
    uint32_t (*release)(uzc_slots *slots, void **socket, void **memory);
    int64_t (*flush)(uzc_slots *slots, uint32_t slot);
    uint32_t (*unsettled)(const uzc_slots *slots, uint64_t notifier);
    void (*stats)(const uzc_slots *slots, uzc_stats *out);
    int64_t (*completions)(uzc_slots *slots, uzc_completion *out, uint32_t max);
    int64_t (*notifications)(uzc_slots *slots, uzc_notification *out, uint32_t max);
    /* An internal slot: opens one, and returns its number; flushes and closes it, -EBUSY while it has
     * requests; flushes it, as uzc_slots_flush(); reads its notifications. */
    int64_t (*open_slot)(uzc_slots *slots, const uzc_listener *listener);
    int (*close_slot)(uzc_slots *slots, uint32_t slot);
    int64_t (*flush_slot)(uzc_slots *slots, uint32_t slot);
    int64_t (*read_slot)(uzc_slots *slots, uint32_t slot, uzc_notification *out, uint32_t max);
} uzc_calls;

/* -- io_uring (engines/io_uring/ring.c) */

#define UZC_BUFFER_MAX 1073741824 /* bytes of one registered buffer, at most: the kernel's limit */
/* from one registered buffer of a large region to the next: they overlap by 1 MiB, so that any datagram lies
 * whole in one of them */
#define UZC_BUFFER_STRIDE 1072693248

typedef struct uzc_ring uzc_ring;

/* `flags` are IORING_SETUP_*; R_DISABLED is added, the first enter() enables the ring for its thread. */
int uzc_ring_new(uzc_ring **out, uint32_t entries, uint32_t cq_entries, uint32_t flags, uzc_slots *slots);
/* What uzc_probe() found. Without sendmsg_zc, requests with GSO or iovecs are copied. */
void uzc_ring_features(uzc_ring *ring, int report_usage, int sendmsg_zc, int fixed_message);
/* Frees the ring, if there is one. The pointer is cleared in the same call: an interrupt in the caller cannot
 * repeat or skip it. It does not wait for what is in flight: the caller has. */
void uzc_ring_exit(uzc_ring **ring);
/* In the child of a fork: closes the descriptors and clears the pointer. */
void uzc_ring_abandon(uzc_ring **ring);
/* A descriptor that is readable while there is something to reap. */
int uzc_ring_fileno(uzc_ring *ring);
/* Registers a table of so many empty buffers. */
int uzc_ring_buffers(uzc_ring *ring, uint32_t count);
/* length 0 empties the entry; what is in flight from it goes on. */
int uzc_ring_set_buffer(uzc_ring *ring, uint32_t index, uint64_t address, uint64_t length);
/* Registers a table of so many empty files. -EMFILE: more than RLIMIT_NOFILE, which stays as it is. */
int uzc_ring_files(uzc_ring *ring, uint32_t count);
/* fd -1 empties the entry. */
int uzc_ring_set_file(uzc_ring *ring, uint32_t index, int fd);
const uzc_calls *uzc_ring_calls(void);

/* What this kernel can do. */
typedef struct {
    int send_zc;       /* Linux 6.0 */
    int sendmsg_zc;    /* Linux 6.1 */
    int report_usage;  /* Linux 6.2: notifications say whether the kernel copied */
    int fixed_message; /* Linux 6.15: SENDMSG_ZC from registered buffers */
} uzc_features;
/* io_uring/probe.c. -errno: io_uring cannot be used at all. */
int uzc_probe(uzc_features *out);

/* -- msg_zerocopy (engines/msg_zerocopy/engine.c): sendmmsg() with MSG_ZEROCOPY, or without */

#define UZC_MESSAGE_DATA 128
#define UZC_MESSAGE_CONTROL 256
/* A message of an error queue that is no notification (an ICMP error, a timestamp), as recvmsg() gave it. */
typedef struct {
    void *socket;                                                 /* the engine's struct sock */
    uint32_t msg_flags, data_length, control_length, from_length; /* bytes */
    char data[UZC_MESSAGE_DATA];
    char control[UZC_MESSAGE_CONTROL];
    char from[28]; /* sockaddr: where the datagram was to go */
} uzc_message;

typedef struct uzc_msg_zerocopy uzc_msg_zerocopy;

int uzc_msg_zerocopy_new(uzc_msg_zerocopy **out, uzc_slots *slots, uint32_t entries, int zero_copy);
/* As uzc_ring_exit(); in the child of a fork too. */
void uzc_msg_zerocopy_exit(uzc_msg_zerocopy **engine);
/* As uzc_ring_fileno(). */
int uzc_msg_zerocopy_fileno(uzc_msg_zerocopy *engine);
/* Reads the socket's error queue, and takes the oldest such message: 1; 0: there is none. -ENOENT: the engine
 * does not read this socket's error queue. */
int uzc_msg_zerocopy_message(uzc_msg_zerocopy *engine, int fd, uzc_message *out);
/* How often a send failed and was made again before its request had a result. */
uint64_t uzc_msg_zerocopy_retried(const uzc_msg_zerocopy *engine);
/* Whether an engine of this process reads this socket's error queue. */
int uzc_msg_zerocopy_taken(int fd);
/* The library has opened the socket, and nobody has sent through it: its counter stands at 0. */
void uzc_msg_zerocopy_mark_unused(uzc_msg_zerocopy *engine, int fd);
/* Why zero-copy requests on the socket are copied now: one of these, or 0. */
#define UZC_COPIES_OTHER_ENGINE 1
#define UZC_COPIES_OTHERS_SEND 2
int uzc_msg_zerocopy_why_copied(uzc_msg_zerocopy *engine, int fd);
const uzc_calls *uzc_msg_zerocopy_calls(void);

/* -- zero-copy ids (engines/msg_zerocopy/zerocopy_ids.c): which request an id of MSG_ZEROCOPY belongs to
 *
 * The kernel numbers a socket's zero-copy sends with a u32 that wraps, and reports ranges of these ids. */

typedef struct uzc_ids uzc_ids;

/* Ids of no socket, for tests. NULL: no memory. */
uzc_ids *uzc_ids_new(void);
/* Of the socket with this SO_COOKIE, and this inode, or 0 where cookies are unique; the next id is not known.
 * NULL: no memory, or another engine of the process uses them. */
uzc_ids *uzc_ids_open(uint64_t cookie, uint64_t inode);
/* Makes the socket's ids available to the next engine. */
void uzc_ids_free(uzc_ids *ids);
/* Whether an engine of this process uses the ids of that socket. */
int uzc_ids_taken(uint64_t cookie, uint64_t inode);
/* Whether the id of the next send is known; *next is set in any case. */
int uzc_ids_next(const uzc_ids *ids, uint32_t *next);
/* Sets the next id. Ignored if it was assigned already, while ids are outstanding. */
void uzc_ids_set(uzc_ids *ids, uint32_t next);
/* When the kernel holds nothing of the socket: takes the last known counter, or 0, as the next id. It is
 * used for the sends that follow, but reports settle requests only after the first one has begun exactly at
 * the guess. It may be too low, never too high. */
void uzc_ids_guess(uzc_ids *ids);
/* Makes room for the next `count` ids: 0 or -ENOMEM. */
int uzc_ids_reserve(uzc_ids *ids, uint32_t count);
/* A send has succeeded: assigns it the next id, for which there is room. Keys are not 0. */
void uzc_ids_assign(uzc_ids *ids, uint64_t key);
/* A send has failed, and may have used an id: the next one is not known any more. */
void uzc_ids_invalidate(uzc_ids *ids);
/* Cuts a reported range, ends included, to ids that can be outstanding: 1, or 0 if there are none. If it has
 * an id that was not assigned yet, others send zero-copy through the socket: 0 from then on. */
int uzc_ids_clip(uzc_ids *ids, uint32_t *first, uint32_t *last);
/* Removes an assignment, and returns its key; 0: there is none. */
uint64_t uzc_ids_take(uzc_ids *ids, uint32_t id);
uint32_t uzc_ids_outstanding(const uzc_ids *ids);
/* Whether ids are outstanding that no report will settle: a guess was wrong, or others send too. */
int uzc_ids_untrusted(const uzc_ids *ids);
/* When the kernel holds nothing of the socket: removes any assignment, and returns its key, or 0. */
uint64_t uzc_ids_take_any(uzc_ids *ids);

/* -- frames (engines/frames/): what packet and af_xdp share. Datagrams leave as Ethernet frames, from memory
 * that the process shares with the kernel: `frames` places of `stride` bytes. The payload of a UDP datagram
 * begins at `headroom` of its frame, behind the headers. */

#define UZC_FRAME_HEADROOM 128 /* bytes */

typedef struct uzc_frames uzc_frames;

/* How what a socket sends to an address leaves. */
#define UZC_PATH_FRAME 1  /* in a frame, behind these headers */
#define UZC_PATH_SOCKET 2 /* through the socket */
#define UZC_PATH_ERROR 3  /* not at all: requests fail */
#define UZC_PATH_RAW 4    /* it is a frame already */
typedef struct {
    uint32_t kind;
    int32_t error;   /* errno, of UZC_PATH_ERROR */
    uint32_t device; /* ifindex, of FRAME and RAW */
    uint32_t mtu;    /* bytes of the largest IP packet; of RAW: of a frame without its Ethernet header */
    uint32_t ask;    /* bool. FRAME: the next request leaves through the socket, so that the kernel
                        confirms the neighbour. SOCKET: the neighbour is not resolved; the path is asked
                        for again after the next request */
    uint32_t header_length; /* bytes */
    char header[64];        /* Ethernet, IP, UDP; lengths, IPv4 id and checksums are 0 */
} uzc_path;

/* What Python needs to know of the memory. */
typedef struct {
    uint64_t base; /* its address */
    uint64_t length;
    uint32_t stride, count; /* of frames */
    uint32_t trains;        /* bool: a frame may be a train (GSO batch) */
} uzc_frame_memory;

/* The first `to_length` bytes of `to` are a sockaddr; 0: where the socket is connected to. -ENOMEM. */
int uzc_frames_set_path(uzc_frames *engine, int fd, const char *to, uint32_t to_length, const uzc_path *path);
void uzc_frames_forget_path(uzc_frames *engine, int fd, const char *to, uint32_t to_length);
/* All paths of the descriptor; -1: all. */
void uzc_frames_forget_paths(uzc_frames *engine, int fd);
/* While this descriptor is readable, queue() returns UZC_E_PATH from time to time. */
void uzc_frames_watch(uzc_frames *engine, int fd);
void uzc_frames_memory(const uzc_frames *engine, uzc_frame_memory *out);
/* As of uzc_ring; the memory stays mapped until uzc_frames_unmap(), and uzc_frames_abandon() replaces it by
 * private memory. */
void uzc_frames_exit(uzc_frames **engine);
void uzc_frames_abandon(uzc_frames **engine);
int uzc_frames_fileno(uzc_frames *engine);
void uzc_frames_unmap(uint64_t base, uint64_t length);
const uzc_calls *uzc_frames_calls(void);

/* packet/: PACKET_TX_RING of `count` frames, a multiple of 15. `refs`: references to each of them, which are
 * shared with an arena, and must live as long as the memory; 0: the frame is free. Behind them, the frame
 * that the arena begins with when it uses none. */
int uzc_packet_new(uzc_frames **out, uzc_slots *slots, uint32_t entries, uint32_t count, uint32_t *refs,
                   int qdisc_bypass);

/* af_xdp/: an AF_XDP socket, to transmit by one device. `refs` as of packet. `zero_copy`: the driver's, where
 * it has it. `counts`: a completion says that a frame is free, but not which one (before Linux 6.18).
 * -EPERM; -EAFNOSUPPORT, -EOPNOTSUPP: the kernel has none, or is too old; -ENOBUFS: RLIMIT_MEMLOCK. */
int uzc_xdp_new(uzc_frames **out, uzc_slots *slots, uint32_t entries, uint32_t count, uint32_t *refs,
                int zero_copy, int counts);
/* At the first call binds it to the device: 0. -EXDEV: it is bound to another; -ENODEV: that device is gone,
 * and there will be none; -EBUSY: AF_XDP sockets have all of its queues, or had them a moment ago; -EPROTO:
 * its driver has zero-copy, but does not send. */
int uzc_xdp_bind(uzc_frames *engine, uint32_t ifindex);
/* Whether the driver's zero-copy is used; -1: it is not bound. */
int uzc_xdp_zero_copy(const uzc_frames *engine);

/* -- memory (engines/read_memory.c) */

/* Copies `length` bytes at `address` of this process; -EFAULT: there is no memory (any more). */
int64_t uzc_read_memory(uint64_t address, void *out, uint64_t length);
