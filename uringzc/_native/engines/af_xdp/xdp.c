/* SPDX-License-Identifier: MIT */
/* AF_XDP as the kernel interface of frames: to transmit only, without a BPF program, by one device.
 *
 * Frames leave in any order, past the qdisc. In copy mode the kernel takes descriptors from the TX ring in
 * calls of the owner's, sendto() and epoll_wait(): whatever it left is withdrawn, by making the descriptor
 * invalid, which the kernel skips later. In zero-copy mode the driver takes them when it likes.
 *
 * The completion ring says which frames are free. Before Linux 6.18 (30f241fcf52a) it may name one that is
 * still in flight, in place of another: what is certain there is how many are free. */
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "engines/af_xdp/rings.h"
#include "engines/frames/results.h"

#define STRIDE 4096u           /* bytes of a frame: a chunk of the UMEM, in a page of its own */
#define LOOK_AGAIN_NS 10000000 /* for completions that epoll does not report */

struct xdp {
    uzc_frames frames;
    struct rings rings;
    uint32_t device; /* ifindex, or 0: not bound yet */
    bool gone;       /* the device is */
    bool asked_zero_copy, zero_copy;
    bool counts;               /* completions are counted only */
    uint32_t posted, consumed; /* descriptors of the TX ring since the start; the latter as far as is known */
    uint32_t in_flight;        /* frames */
    uint32_t completed;        /* of these, where they are counted */
    uint32_t next;             /* where the search for a free frame begins */
    uint32_t round;            /* counts times that the queue was empty */
    uint32_t *chosen;          /* of each frame: the round that it was chosen in */
    int timer_fd;
    int64_t alarm_ns; /* when the timer was set */
};

static struct xdp *xdp_of(uzc_frames *e) {
    return (struct xdp *)e;
}

/* -- choosing frames */

static bool use_frame(struct xdp *x, struct entry *n, uint32_t frame, bool copied) {
    n->frame = frame;
    x->chosen[frame] = x->round;
    x->frames.copied[frame] = copied;
    return true;
}

/* The same memory may be sent more than once: a frame is for one request at a time. */
static bool xdp_choose(uzc_frames *e, struct entry *n) {
    struct xdp *x = xdp_of(e);
    if (!e->entry_count)
        x->round++;
    const uint32_t staged = frame_at(e, n->data);
    if (staged != NO_FRAME && !e->keys[staged] && x->chosen[staged] != x->round)
        return use_frame(x, n, staged, false);
    for (uint32_t i = 0; i < e->count; i++) {
        const uint32_t frame = (x->next + i) % e->count;
        if (take_frame(e, frame)) {
            x->next = frame + 1;
            return use_frame(x, n, frame, true);
        }
    }
    return false;
}

static void xdp_take_back(uzc_frames *e, const struct entry *n) {
    xdp_of(e)->chosen[n->frame]--;
}

/* -- sending */

static void set_descriptor(struct xdp *x, uint32_t at, uint64_t address, uint32_t length) {
    ((struct xdp_desc *)x->rings.tx.entries)[at & x->rings.tx.mask] =
        (struct xdp_desc){.addr = address, .len = length};
}

static int call_kernel(struct xdp *x) {
    const int error = sendto(x->rings.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 ? errno : 0;
    x->gone |= error == ENXIO;
    return error;
}

/* Has the kernel take what was posted: 0, or errno of what it did not take. It publishes how far it came only
 * when it has sent something, or found nothing more. EAGAIN after some: the call has a budget. EBUSY: the
 * device dropped the last one, as when it has no carrier. */
static int push(struct xdp *x) {
    for (uint32_t calls = 2 * (x->posted - x->consumed) + 2; x->consumed != x->posted; calls--) {
        const uint32_t before = x->consumed;
        const int error = call_kernel(x);
        const uint32_t published = atomic_load_explicit(x->rings.tx.consumer, memory_order_acquire);
        if ((int32_t)(published - before) > 0)
            x->consumed = published;
        else if (error == EBUSY)
            x->consumed++;
        if (error && error != EBUSY && (error != EAGAIN || x->consumed == before))
            return error;
        if (!calls)
            return ENXIO; /* a queue that only receives */
    }
    return 0;
}

/* The driver takes what was posted, sooner or later, unless it sleeps. */
static void wake_driver(struct xdp *x) {
    x->consumed = x->posted;
    if (atomic_load_explicit(x->rings.tx.flags, memory_order_relaxed) & XDP_RING_NEED_WAKEUP)
        call_kernel(x);
}

static void post_entries(struct xdp *x, const struct entry *entries, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        const struct entry *n = &entries[i];
        const uint64_t address = (uint64_t)n->frame * STRIDE + UZC_FRAME_HEADROOM - n->header;
        set_descriptor(x, x->posted++, address, n->header + n->length);
    }
    atomic_store_explicit(x->rings.tx.producer, x->posted, memory_order_release);
}

/* Before Linux 6.17 a call that stops early, for its budget or for lack of room, does not publish how far it
 * came: there each descriptor has a call of its own, so that it was taken or was not. */
static int post_and_push(struct xdp *x, const struct entry *entries, uint32_t count) {
    const uint32_t step = x->rings.publishes ? count : 1;
    int error = 0;
    for (uint32_t i = 0; i < count && !error; i += step) {
        post_entries(x, entries + i, step);
        error = push(x);
    }
    return error;
}

static void withdraw(struct xdp *x) {
    for (uint32_t at = x->consumed; at != x->posted; at++)
        set_descriptor(x, at, x->frames.memory_length, STRIDE);
}

static uint32_t xdp_transmit(uzc_frames *e, const struct entry *entries, uint32_t count, int *error) {
    struct xdp *x = xdp_of(e);
    *error = entries->device == x->device && !x->gone ? push(x) : ENXIO; /* what was withdrawn goes first */
    if (*error)
        return 0;
    const uint32_t first = x->posted;
    if (x->zero_copy) {
        post_entries(x, entries, count);
        wake_driver(x);
    } else {
        *error = post_and_push(x, entries, count);
    }
    const uint32_t taken = x->consumed - first;
    for (uint32_t i = 0; i < taken; i++)
        e->keys[entries[i].frame] = entries[i].key;
    x->in_flight += taken;
    withdraw(x);
    return taken;
}

/* -- completions */

static void settle(struct xdp *x, uint32_t frame) {
    x->in_flight--;
    frame_settled(&x->frames, frame);
}

static void settle_all(struct xdp *x) {
    x->completed = 0;
    for (uint32_t frame = 0; frame < x->frames.count; frame++)
        if (x->frames.keys[frame])
            settle(x, frame);
}

/* Sets the alarm that has epoll report the engine: nothing else does when frames are released while the
 * device is down, or by a driver's zero-copy. */
static void look_again_later(struct xdp *x) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    const int64_t ns = now.tv_sec * 1000000000 + now.tv_nsec;
    if (ns - x->alarm_ns < LOOK_AGAIN_NS)
        return;
    timerfd_settime(x->timer_fd, 0, &(struct itimerspec){.it_value.tv_nsec = LOOK_AGAIN_NS}, NULL);
    x->alarm_ns = ns;
}

/* Withdrawn descriptors may complete too. */
static void xdp_collect(uzc_frames *e) {
    struct xdp *x = xdp_of(e);
    const struct ring *ring = &x->rings.completions;
    uint32_t at = atomic_load_explicit(ring->consumer, memory_order_relaxed);
    const uint32_t end = atomic_load_explicit(ring->producer, memory_order_acquire);
    for (; at != end; at++) {
        const uint64_t frame = ((const uint64_t *)ring->entries)[at & ring->mask] / STRIDE;
        if (frame < e->count && x->counts)
            x->completed++;
        else if (frame < e->count && e->keys[frame])
            settle(x, (uint32_t)frame);
    }
    atomic_store_explicit(ring->consumer, end, memory_order_release);
    if (x->zero_copy)
        wake_driver(x); /* it may sleep, with frames left */
    if ((x->completed && x->completed == x->in_flight) || (x->zero_copy && x->gone))
        settle_all(x); /* a driver has released all when its device is gone */
    if (x->in_flight && e->link_watched)
        look_again_later(x);
}

static bool xdp_pending(const uzc_frames *e) {
    const struct xdp *x = (const struct xdp *)e;
    const struct ring *ring = &x->rings.completions;
    return x->in_flight && (e->fileno_used || atomic_load_explicit(ring->producer, memory_order_relaxed) !=
                                                  atomic_load_explicit(ring->consumer, memory_order_relaxed));
}

/* -- setting up */

static void xdp_close(uzc_frames *e) {
    struct xdp *x = xdp_of(e);
    close_rings(&x->rings);
    if (x->timer_fd >= 0)
        close(x->timer_fd);
    free(x->chosen);
}

static const struct link xdp_link = {.choose = xdp_choose,
                                     .take_back = xdp_take_back,
                                     .transmit = xdp_transmit,
                                     .collect = xdp_collect,
                                     .pending = xdp_pending,
                                     .close = xdp_close,
                                     .computes_checksum = true};

static int open_all(struct xdp *x) {
    uzc_frames *e = &x->frames;
    struct epoll_event ticks = {.events = EPOLLIN | EPOLLET};
    x->chosen = calloc(e->count, sizeof *x->chosen);
    x->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (x->timer_fd < 0 || epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, x->timer_fd, &ticks) < 0)
        return -errno;
    int error = x->chosen ? 0 : -ENOMEM;
    if (!error)
        error = frames_map(e, (uint64_t)e->count * STRIDE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    if (!error)
        error = open_rings(&x->rings, e->base, STRIDE, e->count);
    e->fd = x->rings.fd;
    return error;
}

int uzc_xdp_new(uzc_frames **out, uzc_slots *slots, uint32_t entries, uint32_t count, uint32_t *refs,
                int zero_copy, int counts) {
    struct xdp *x = calloc(1, sizeof *x);
    if (!x)
        return -ENOMEM;
    uzc_frames *e = *out = &x->frames;
    e->link = &xdp_link;
    e->stride = STRIDE;
    x->rings.fd = x->timer_fd = -1;
    x->asked_zero_copy = zero_copy;
    x->counts = counts;
    int error = frames_init(e, slots, entries, count, refs);
    if (!error)
        error = open_all(x);
    return frames_made(out, error);
}

static int bind_device(struct xdp *x, uint32_t ifindex) {
    if (x->asked_zero_copy && bind_rings(&x->rings, ifindex, XDP_ZEROCOPY | XDP_USE_NEED_WAKEUP) == 0) {
        x->zero_copy = true;
        return 0;
    }
    return bind_rings(&x->rings, ifindex, XDP_COPY);
}

int uzc_xdp_bind(uzc_frames *e, uint32_t ifindex) {
    struct xdp *x = xdp_of(e);
    if (x->device)
        return x->device != ifindex ? -EXDEV : x->gone ? -ENODEV : 0;
    const int error = bind_device(x, ifindex);
    if (error)
        return error;
    x->device = ifindex;
    e->kernel_copies = x->zero_copy ? 0 : -1; /* in copy mode virtio_net refers to the memory, others copy */
    const int refused = x->zero_copy ? call_kernel(x) : 0;
    x->gone |= refused && refused != ENETDOWN; /* such a socket cannot be bound again */
    return x->gone ? -EPROTO : 0;
}

int uzc_xdp_zero_copy(const uzc_frames *e) {
    const struct xdp *x = (const struct xdp *)e;
    return x->device ? x->zero_copy : -1;
}
