/* SPDX-License-Identifier: MIT */
/* Frames as an engine: its table of calls, its queue, its descriptor, waiting. */
#define _GNU_SOURCE /* process_vm_readv() */
#include <limits.h>
#include <net/ethernet.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engines/clock.h"
#include "engines/frames/headers.h"
#include "engines/frames/paths.h"
#include "engines/frames/results.h"
#include "engines/frames/transmit.h"
#include "engines/read_memory.h"
#include "engines/readable.h"

#define MAX_SEGMENTS 128u   /* datagrams of a train, as of UDP_SEGMENT */
#define POLL_INTERVAL_MS 10 /* while something waits for room, of which no event may come */

int frames_init(uzc_frames *e, uzc_slots *slots, uint32_t entries, uint32_t count, uint32_t *refs) {
    e->slots = slots;
    e->count = count;
    e->refs = (_Atomic uint32_t *)refs;
    e->max_entries = entries;
    e->fd = e->watched = e->kernel_copies = -1;
    e->keys = calloc(count, sizeof *e->keys);
    e->copied = calloc(count, sizeof *e->copied);
    e->entries = calloc(entries, sizeof *e->entries);
    e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    e->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (e->epoll_fd < 0 || e->event_fd < 0)
        return -errno;
    if (!e->keys || !e->copied || !e->entries)
        return -ENOMEM;
    struct epoll_event event = {.events = EPOLLIN};
    return epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, e->event_fd, &event) < 0 ? -errno : 0;
}

static void free_all(uzc_frames *e) {
    for (uint32_t i = 0; i < e->entry_count; i++)
        if (e->entries[i].duplicated)
            close(e->entries[i].fd);
    if (e->link)
        e->link->close(e);
    if (e->epoll_fd >= 0)
        close(e->epoll_fd);
    if (e->event_fd >= 0)
        close(e->event_fd);
    free_paths(e);
    free(e->keys);
    free(e->copied);
    free(e->entries);
    free(e);
}

int frames_map(uzc_frames *e, uint64_t length, int flags, int fd) {
    char *base = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    e->base = base;
    e->memory_length = length;
    /* or a fork copies what the kernel has pinned: all of it */
    return flags & MAP_PRIVATE && madvise(base, length, MADV_WIPEONFORK) < 0 ? -errno : 0;
}

int frames_made(uzc_frames **out, int error) {
    uzc_frames *e = *out;
    if (!error)
        return 0;
    if (e->base)
        munmap(e->base, e->memory_length);
    e->base = NULL;
    uzc_frames_exit(out);
    return error;
}

void uzc_frames_exit(uzc_frames **engine) {
    uzc_frames *e = *engine;
    *engine = NULL;
    if (e)
        free_all(e);
}

/* Leases of the program get memory of the child's. It replaces what the child has inherited: where that was
 * not mapped (MADV_DONTFORK), something else could have got the place since the fork. */
void uzc_frames_abandon(uzc_frames **engine) {
    uzc_frames *e = *engine;
    *engine = NULL;
    if (!e)
        return;
    if (e->base && mmap(e->base, e->memory_length, PROT_READ | PROT_WRITE,
                        MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED)
        munmap(e->base, e->memory_length); /* better a crash than another byte in the parent's frame */
    free_all(e);
}

void uzc_frames_unmap(uint64_t base, uint64_t length) {
    munmap((void *)(uintptr_t)base, length);
}

void uzc_frames_memory(const uzc_frames *e, uzc_frame_memory *out) {
    *out = (uzc_frame_memory){(uint64_t)(uintptr_t)e->base, e->memory_length, e->stride, e->count, e->trains};
}

void uzc_frames_watch(uzc_frames *e, int fd) {
    e->watched = fd;
}

/* -- the queue */

/* Looks at the descriptor once in a few milliseconds. */
static bool has_changes(uzc_frames *e) {
    struct timespec now;
    struct pollfd p = {.fd = e->watched, .events = POLLIN};
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    const int64_t milliseconds = now.tv_sec * 1000 + now.tv_nsec / 1000000;
    if (e->watched < 0 || milliseconds == e->watched_at)
        return false;
    e->watched_at = milliseconds;
    return poll(&p, 1, 0) > 0;
}

/* Why the request cannot leave as a frame (errno), or 0. */
static int check_size(const uzc_frames *e, const uzc_path *path, const uzc_send *send) {
    if (path->kind == UZC_PATH_RAW)
        return send->length < ETHER_HDR_LEN ? EINVAL
               : send->length > path->mtu + ETHER_HDR_LEN + 4 /* a VLAN tag */
                       || send->length > e->stride - UZC_FRAME_HEADROOM
                   ? EMSGSIZE
                   : 0;
    const uint32_t headers = path->header_length - ETHER_HDR_LEN;
    const uint32_t size = send->segment && send->segment < send->length ? send->segment : send->length;
    const uint32_t whole = headers > 40 ? send->length + (uint32_t)sizeof(struct udphdr)
                                        : send->length + headers; /* of IPv6: payload */
    if (size + headers > path->mtu || whole > UINT16_MAX || send->length > e->stride - UZC_FRAME_HEADROOM)
        return EMSGSIZE;
    return size < send->length && (!e->trains || (send->length - 1) / size >= MAX_SEGMENTS) ? EINVAL : 0;
}

static void describe_entry(struct entry *n, const struct path *p, const uzc_send *send, uint64_t i) {
    *n = (struct entry){.data = send->data + i * send->stride,
                        .length = send->length,
                        .segment = send->segment < send->length ? send->segment : 0,
                        .kind = p->info.kind,
                        .frame = NO_FRAME,
                        .header = p->info.header_length,
                        .device = p->info.device,
                        .msg_flags = send->msg_flags,
                        .fd = send->fd,
                        .error = p->info.error,
                        .to_length = send->to_length};
    if (n->header)
        n->ip_header = n->header - ETHER_HDR_LEN - (uint32_t)sizeof(struct udphdr);
    if (send->to)
        memcpy(n->to, send->to, send->to_length);
}

static void give_back_frame(uzc_frames *e, struct entry *n) {
    release_copy(e, n->frame);
    e->link->take_back(e, n);
    n->frame = NO_FRAME;
}

/* Copies the data into the frame. 0 or errno. */
static int fill_frame(uzc_frames *e, const struct entry *n, bool may_fault) {
    if (may_fault)
        return -read_memory(payload_of(e, n->frame), n->data, n->length);
    if (n->length) /* an empty datagram may have no address */
        memcpy(payload_of(e, n->frame), n->data, n->length);
    return 0;
}

/* Decides how the request leaves, and puts it into its frame. 0 or a refusal. */
static int64_t prepare(uzc_frames *e, struct entry *n, struct path *p, const uzc_send *send, uint64_t i) {
    if (p->info.ask && p->asked && p->info.kind == UZC_PATH_SOCKET)
        return e->entry_count > e->waiting ? UZC_E_QUEUE : UZC_E_PATH;
    describe_entry(n, p, send, i);
    if (p->info.ask && !p->asked) {
        p->asked = true;
        n->kind = UZC_PATH_SOCKET;
    }
    if (n->kind != UZC_PATH_FRAME && n->kind != UZC_PATH_RAW)
        return 0;
    if ((n->error = check_size(e, &p->info, send))) {
        n->kind = UZC_PATH_ERROR;
        return 0;
    }
    if (!e->link->choose(e, n))
        return e->entry_count > e->waiting ? UZC_E_QUEUE : UZC_E_FRAMES;
    if (e->copied[n->frame] && (n->error = fill_frame(e, n, send->may_fault))) {
        give_back_frame(e, n);
        n->kind = UZC_PATH_ERROR;
        return 0;
    }
    if (n->kind == UZC_PATH_FRAME)
        write_headers(e, p, payload_of(e, n->frame), n->length, n->segment, e->link->computes_checksum);
    return 0;
}

/* Prepares up to `most` entries behind those that are queued. Returns how many, or why not one. */
static int64_t prepare_some(uzc_frames *e, struct path *p, const uzc_send *send, uint64_t first,
                            uint32_t most) {
    int64_t why = 0;
    uint32_t count = 0;
    while (count < most && !(why = prepare(e, &e->entries[e->entry_count], p, send, first + count))) {
        e->entry_count++;
        count++;
    }
    return count ? count : why;
}

static void take_back(uzc_frames *e, int64_t count) {
    for (; count > 0; count--) {
        struct entry *n = &e->entries[--e->entry_count];
        if (n->frame != NO_FRAME)
            give_back_frame(e, n);
    }
}

/* Of one run of the request table, up to `most`. Returns how many, or why not one. */
static int64_t queue_run(uzc_frames *e, struct path *p, const uzc_send *send, uint64_t first, uint32_t most,
                         uint32_t *references) {
    const int64_t prepared = prepare_some(e, p, send, first, most);
    if (prepared <= 0)
        return prepared;
    uint32_t count = (uint32_t)prepared;
    const int64_t key = uzc_slots_attach(e->slots, send, send->user_data + first, &count, references);
    if (key < 0)
        count = 0;
    take_back(e, prepared - count);
    for (uint32_t i = 0; i < count; i++)
        e->entries[e->entry_count - count + i].key = (uint64_t)key + (uint64_t)i * UZC_KEY_STEP;
    if (count && send->flush)
        uzc_slots_flush_inside(e->slots, send->slot);
    return count ? count : key;
}

static int64_t queue_entries(uzc_frames *e, struct path *p, const uzc_send *send, uint32_t *references) {
    const uint32_t most = send->flush ? 1 : UZC_RUN_SIZE;
    int64_t queued = 0, done = 0;
    while (queued < send->count && e->entry_count < e->max_entries && done >= 0) {
        uint64_t some = send->count - (uint64_t)queued, room = e->max_entries - e->entry_count;
        some = some < room ? some : room;
        done = queue_run(e, p, send, (uint64_t)queued, (uint32_t)(some < most ? some : most), references);
        queued += done > 0 ? done : 0;
    }
    return queued ? queued : done;
}

static int64_t frames_queue(void *engine, const uzc_send *send, uint32_t *references) {
    uzc_frames *e = engine;
    if (send->message)
        return -EOPNOTSUPP;
    int error = uzc_slots_begin(e->slots);
    if (error)
        return error;
    if (!e->entry_count)
        uzc_tick(e->slots);
    int64_t done = UZC_E_PATH;
    struct path *p = !e->entry_count && has_changes(e) ? NULL : path_of(e, send);
    if (e->entry_count == e->max_entries)
        done = e->entry_count > e->waiting ? UZC_E_QUEUE : UZC_E_FRAMES;
    else if (p)
        done = queue_entries(e, p, send, references);
    if (p && p->info.kind == UZC_PATH_ERROR) /* the program may change what it was for */
        uzc_frames_forget_path(e, p->fd, p->to, p->to_length);
    uzc_slots_end(e->slots);
    return done;
}

static void frames_revoke(void *engine, int fd) {
    uzc_frames *e = engine;
    for (uint32_t i = e->waiting; i < e->entry_count; i++)
        if (e->entries[i].fd == fd)
            e->entries[i].fd = -1;
    uzc_frames_forget_paths(e, fd);
}

/* -- results */

static void set_readable(uzc_frames *e, bool unread) {
    uzc_set_readable(e->event_fd, &e->readable, unread);
}

static void frames_signal(void *engine) {
    uzc_frames *e = engine;
    uzc_stats stats;
    if (!e->fileno_used)
        return;
    uzc_slots_stats(e->slots, &stats);
    set_readable(e, stats.unread_completions || stats.unread_notifications);
}

/* Has epoll report each frame that is released: it wakes those who wait to write. That costs the kernel a
 * tenth of a send, so only while it is needed. */
static int watch_link(uzc_frames *e) {
    struct epoll_event event = {.events = EPOLLOUT | EPOLLET};
    if (e->link_watched || e->fd < 0)
        return 0;
    if (epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, e->fd, &event) < 0)
        return -errno;
    e->link_watched = true;
    return 0;
}

static void unwatch_link(uzc_frames *e) {
    if (e->link_watched && epoll_ctl(e->epoll_fd, EPOLL_CTL_DEL, e->fd, NULL) == 0)
        e->link_watched = false;
}

int uzc_frames_fileno(uzc_frames *e) {
    e->fileno_used = true;
    watch_link(e);
    frames_signal(e);
    return e->epoll_fd;
}

/* Takes the events first: what is released after that makes the descriptor readable again. */
static void collect(uzc_frames *e) {
    struct epoll_event events[4];
    if (e->fileno_used)
        watch_link(e); /* af_xdp has its descriptor later */
    if (e->link_watched)
        (void)!epoll_wait(e->epoll_fd, events, 4, 0);
    e->link->collect(e);
    report_settled(e);
}

/* Returns when something was released, or the time is up. */
static int wait_for_frames(uzc_frames *e, int64_t timeout_ns) {
    struct epoll_event events[4];
    const int64_t milliseconds = timeout_ns < 0 ? INT_MAX : (timeout_ns + 999999) / 1000000;
    const int64_t limit = e->waiting ? POLL_INTERVAL_MS : INT_MAX;
    const uint64_t before = e->progress;
    int error = watch_link(e);
    if (error)
        return error;
    set_readable(e, false); /* unread records are not what is waited for */
    collect(e);             /* the first event says nothing, and what was released before comes without */
    if (e->progress == before &&
        epoll_wait(e->epoll_fd, events, 4, (int)(milliseconds < limit ? milliseconds : limit)) < 0)
        error = -errno;
    if (!e->fileno_used)
        unwatch_link(e);
    return error;
}

static int64_t frames_enter(void *engine, int submit, uint32_t wait, int64_t timeout_ns) {
    uzc_frames *e = engine;
    int error = uzc_slots_begin_any(e->slots);
    if (error)
        return error;
    const uint32_t queued = submit || wait ? e->entry_count - e->waiting : 0;
    const uint64_t before = e->progress;
    if (queued && !e->claimed) {
        error = uzc_slots_claim(e->slots);
        e->claimed = !error;
    }
    if (!error && (queued || e->waiting))
        send_entries(e);
    collect(e);
    if (!error && wait && e->progress == before) {
        error = wait_for_frames(e, timeout_ns);
        send_entries(e);
        collect(e);
    }
    uzc_slots_end(e->slots);
    frames_signal(e);
    return error && !queued ? error : (int64_t)queued;
}

static int frames_needs_enter(const void *engine) {
    const uzc_frames *e = engine;
    return e->waiting || e->link->pending(e);
}

static int frames_take_socket_error(void *engine, int fd) {
    uzc_frames *e = engine;
    int error = 0;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error}) < 0)
        return 0;
    if (error == EMSGSIZE) /* the MTU of a path has changed, of which netlink says nothing */
        uzc_frames_forget_paths(e, fd);
    return error;
}

static int frames_room_fileno(const void *engine) {
    const uzc_frames *e = engine;
    return e->fd;
}

static const uzc_calls calls = {.queue = frames_queue,
                                .enter = frames_enter,
                                .needs_enter = frames_needs_enter,
                                .signal = frames_signal,
                                .revoke = frames_revoke,
                                .take_socket_error = frames_take_socket_error,
                                .room_fileno = frames_room_fileno,
                                UZC_SLOT_CALLS};

const uzc_calls *uzc_frames_calls(void) {
    return &calls;
}
