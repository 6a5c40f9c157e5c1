/* SPDX-License-Identifier: MIT */
/* An engine that sends Ethernet frames: what packet and af_xdp share. A request becomes an entry; it leaves
 * in a frame, through its socket, or fails, as its path says (paths.h). The kernel interface is a `struct
 * link`.
 *
 * A frame is free when its count of references is 0. An arena refers to the frames that datagrams are staged
 * in, this engine to those that it has copied data into. What is staged where its payload belongs leaves
 * without a copy. */
#pragma once

#include "slots/accounting.h"

#define NO_FRAME UINT32_MAX

struct path;

struct entry {
    uint64_t key;
    const char *data;   /* payload, where the request has it */
    uint32_t length;    /* bytes of it */
    uint32_t segment;   /* bytes of each datagram of a train, or 0 */
    uint32_t kind;      /* UZC_PATH_* */
    uint32_t frame;     /* its index, or NO_FRAME */
    uint32_t before;    /* of the link: what take_back() needs */
    uint32_t header;    /* bytes in front of the payload */
    uint32_t ip_header; /* of those, the IP header; 0: a frame of the program's */
    uint32_t device;    /* ifindex */
    uint32_t msg_flags;
    int32_t fd;      /* -1: it was closed */
    int32_t error;   /* errno, of UZC_PATH_ERROR */
    bool duplicated; /* `fd` is the engine's own: to be closed */
    uint32_t to_length;
    char to[28];
};

/* What the kernel interface does. */
struct link {
    /* Chooses the frame for a datagram: the one that it lies in, or a free one, into which it is to be
     * copied. False: none. May be taken back, the last one first. */
    bool (*choose)(uzc_frames *e, struct entry *n);
    void (*take_back)(uzc_frames *e, const struct entry *n);
    /* Hands up to `count` frames of one device to the kernel, in order. Returns how many it took, and if that
     * is less, in *error why (errno). */
    uint32_t (*transmit)(uzc_frames *e, const struct entry *entries, uint32_t count, int *error);
    /* Settles the requests whose frames the kernel has released. */
    void (*collect)(uzc_frames *e);
    /* Whether there may be such, or frames that the kernel has not looked at. */
    bool (*pending)(const uzc_frames *e);
    /* Frees what is the interface's, but not the memory. */
    void (*close)(uzc_frames *e);
    bool computes_checksum; /* the UDP checksum is left to the kernel, or the device */
};

struct uzc_frames {
    uzc_slots *slots;
    const struct link *link;
    char *base;
    uint64_t memory_length;
    uint32_t stride, count;
    bool trains;
    int kernel_copies; /* what it is sent in place: 1, 0; -1: unknown */
    bool claimed, readable, fileno_used;
    bool link_watched;      /* `fd` is in the epoll set */
    _Atomic uint32_t *refs; /* of each frame */
    uint64_t *keys;         /* of each frame: of the request that is in flight; 0: none */
    bool *copied;           /* of each frame: data of the engine's own copy */
    struct entry *entries;
    uint32_t entry_count, max_entries;
    uint32_t waiting;  /* the first ones, which were submitted and wait for room */
    uint64_t progress; /* increases with results and settled requests */
    struct {           /* requests of one run that are settled, and not reported */
        uint64_t key;  /* of one of them */
        uint32_t places;
        int copied;
    } settled;
    int fd; /* of the kernel interface, or -1 */
    int epoll_fd, event_fd;
    int watched;                    /* descriptor, or -1: see uzc_frames_watch() */
    int64_t watched_at;             /* milliseconds: when it was last looked at */
    struct path **paths;            /* chains, by hash; see paths.c */
    uint32_t path_count, path_room; /* room: a power of two, or 0 */
    uint16_t next_id;               /* of IPv4 packets */
};

static inline char *payload_of(const uzc_frames *e, uint32_t frame) {
    return e->base + (size_t)frame * e->stride + UZC_FRAME_HEADROOM;
}

/* The frame whose payload begins at `data`, or NO_FRAME. */
static inline uint32_t frame_at(const uzc_frames *e, const char *data) {
    const uint64_t offset = (uint64_t)(uintptr_t)data - (uint64_t)(uintptr_t)e->base - UZC_FRAME_HEADROOM;
    return offset < e->memory_length && offset % e->stride == 0 ? (uint32_t)(offset / e->stride) : NO_FRAME;
}

/* Takes a free frame for a copy. False: it is in use. */
static inline bool take_frame(uzc_frames *e, uint32_t frame) {
    uint32_t none = 0;
    return atomic_compare_exchange_strong_explicit(&e->refs[frame], &none, 1, memory_order_acquire,
                                                   memory_order_relaxed);
}

static inline void release_copy(uzc_frames *e, uint32_t frame) {
    if (e->copied[frame])
        atomic_store_explicit(&e->refs[frame], 0, memory_order_release);
    e->copied[frame] = false;
}

/* engine.c: maps the memory of the frames, which no child of a fork may write to; -errno. */
int frames_map(uzc_frames *e, uint64_t length, int flags, int fd);
/* engine.c: the end of making an engine: returns `error`, and if that is not 0, frees *out. */
int frames_made(uzc_frames **out, int error);
/* engine.c: makes the parts of *e that do not depend on the kernel interface; -errno. */
int frames_init(uzc_frames *e, uzc_slots *slots, uint32_t entries, uint32_t count, uint32_t *refs);
