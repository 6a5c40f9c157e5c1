/* SPDX-License-Identifier: MIT
 *
 * sendmmsg() as an engine: with MSG_ZEROCOPY, whose notifications come through each socket's error queue; or
 * without, and then a request's memory is free as soon as it was sent.
 *
 * Requests of one socket leave in their order. One that finds no room waits, and those behind it with it,
 * unless it carries MSG_DONTWAIT. While requests of a socket are outstanding the engine holds a descriptor of
 * its own of it: closing the program's would lose the notifications, and with them the memory.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif
#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif
#ifndef SO_EE_ORIGIN_ZEROCOPY
#define SO_EE_ORIGIN_ZEROCOPY 5
#endif
#ifndef SO_EE_CODE_ZEROCOPY_COPIED
#define SO_EE_CODE_ZEROCOPY_COPIED 1
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

#define GROUP 32u /* messages of one sendmmsg(), and of one look at an error queue */
#define SOCKETS 4096u
#define FOREIGN 256
#define CONTROL CMSG_SPACE(sizeof(uint16_t))
#define ERRORS_CONTROL 512

struct entry {
    uint64_t key;
    const char *data;
    struct iovec *vector; /* instead of data */
    struct sockaddr_in6 to;
    uint32_t to_length, length, segment, msg_flags;
    int fd; /* -1: the socket was closed */
    bool zero_copy;
};

/* What is known of a socket, by its descriptor; while that is another's, by the kernel's cookie, it is
 * nothing. */
struct sock {
    uint64_t cookie;
    uzc_ids *ids;
    int fd, held;     /* the program's; ours, or -1 */
    uint32_t waiting; /* requests that found no room */
    bool zero_copy, blocked, watched_for_room;
};

struct uzc_errqueue {
    uzc_slots *slots;
    struct entry *entries; /* a ring of `size` */
    uint32_t size, head, count;
    struct sock *socks;
    uint32_t sock_count, sock_room;
    int epoll, event_fd;
    bool zero_copy, owned, dead;
    uint64_t progress; /* results and notifications so far */
    uzc_foreign foreign[FOREIGN];
    int foreign_count;
};

int uzc_errqueue_new(uzc_errqueue **out, uzc_slots *slots, uint32_t entries, int zero_copy) {
    uzc_errqueue *e = calloc(1, sizeof *e);
    if (!e)
        return -ENOMEM;
    e->slots = slots;
    e->size = entries;
    e->zero_copy = zero_copy;
    e->entries = calloc(entries, sizeof *e->entries);
    e->epoll = epoll_create1(EPOLL_CLOEXEC);
    e->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    int error = !e->entries ? -ENOMEM : 0;
    if (!error &&
        (e->epoll < 0 || e->event_fd < 0 || epoll_ctl(e->epoll, EPOLL_CTL_ADD, e->event_fd, &event) < 0))
        error = -errno;
    *out = e;
    if (error)
        uzc_errqueue_exit(out);
    return error;
}

static void let_go(uzc_errqueue *e, struct sock *s) {
    if (s->held < 0)
        return;
    epoll_ctl(e->epoll, EPOLL_CTL_DEL, s->held, NULL);
    close(s->held);
    s->held = -1;
    s->watched_for_room = false;
}

static void free_all(uzc_errqueue *e) {
    for (uint32_t i = 0; i < e->sock_count; i++) {
        if (e->socks[i].held >= 0)
            close(e->socks[i].held);
        uzc_ids_free(e->socks[i].ids);
    }
    if (e->epoll >= 0)
        close(e->epoll);
    if (e->event_fd >= 0)
        close(e->event_fd);
    free(e->socks);
    free(e->entries);
    free(e);
}

void uzc_errqueue_exit(uzc_errqueue **engine) {
    uzc_errqueue *e = *engine;
    *engine = NULL;
    if (e)
        free_all(e);
}

/* The copies of the descriptors must go, or the parent's sockets would outlive it. */
void uzc_errqueue_abandon(uzc_errqueue **engine) {
    uzc_errqueue_exit(engine);
}

int uzc_errqueue_fileno(uzc_errqueue *e) {
    return e->epoll;
}

void uzc_errqueue_signal(uzc_errqueue *e) {
    uzc_stats stats;
    uint64_t count;
    uzc_slots_stats(e->slots, &stats);
    (void)!read(e->event_fd, &count, sizeof count);
    count = 1;
    if (stats.unread_completions || stats.unread_notifications)
        (void)!write(e->event_fd, &count, sizeof count);
}

int uzc_errqueue_foreign(uzc_errqueue *e, uzc_foreign *out, int most) {
    int count = e->foreign_count < most ? e->foreign_count : most;
    memcpy(out, e->foreign, (size_t)count * sizeof *out);
    memmove(e->foreign, e->foreign + count, (size_t)(e->foreign_count - count) * sizeof *out);
    e->foreign_count -= count;
    return count;
}

/* -- sockets */

static uint64_t cookie_of(int fd) {
    uint64_t cookie = 0;
    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &(socklen_t){sizeof cookie}) == 0 ? cookie : 0;
}

/* Whether the kernel sends this socket's data from where it is, when it is asked to. */
static bool turn_on(const uzc_errqueue *e, int fd) {
    return e->zero_copy && setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &(int){1}, sizeof(int)) == 0;
}

/* The socket of a descriptor; a place that is free, or whose socket is gone, is taken for a new one. */
static struct sock *sock_of(uzc_errqueue *e, int fd) {
    uint64_t cookie = cookie_of(fd);
    struct sock *place = NULL;
    for (uint32_t i = 0; i < e->sock_count; i++) {
        struct sock *s = &e->socks[i];
        if (s->cookie == cookie && cookie) {
            s->fd = fd;
            return s;
        }
        if (s->held < 0 && !place && (s->fd == fd || e->sock_count == SOCKETS))
            place = s;
    }
    if (!place) {
        if (e->sock_count == e->sock_room) {
            uint32_t room = e->sock_room ? 2 * e->sock_room : 8;
            struct sock *grown = realloc(e->socks, room * sizeof *grown);
            if (!grown)
                return NULL;
            e->socks = grown;
            e->sock_room = room;
        }
        place = &e->socks[e->sock_count++];
        *place = (struct sock){.held = -1};
    }
    uzc_ids_free(place->ids);
    *place = (struct sock){.cookie = cookie, .fd = fd, .held = -1, .ids = uzc_ids_new()};
    place->zero_copy = place->ids && cookie && turn_on(e, fd);
    return place;
}

/* Held while something of it is outstanding or waits for room; watched for what that needs. */
static void watch(uzc_errqueue *e, struct sock *s) {
    uint32_t outstanding = s->ids ? uzc_ids_outstanding(s->ids) : 0;
    struct epoll_event event = {.events = s->blocked ? EPOLLOUT : 0, .data.u32 = (uint32_t)(s - e->socks)};
    if (!outstanding && !s->blocked) {
        let_go(e, s);
    } else if (s->held < 0) {
        s->held = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
        if (s->held >= 0)
            epoll_ctl(e->epoll, EPOLL_CTL_ADD, s->held, &event);
        s->watched_for_room = s->blocked;
    } else if (s->watched_for_room != s->blocked) {
        epoll_ctl(e->epoll, EPOLL_CTL_MOD, s->held, &event);
        s->watched_for_room = s->blocked;
    }
}

/* -- the error queue */

static void settle(uzc_errqueue *e, uint64_t key, int copied) {
    uzc_slots_settle(e->slots, key, copied, 0);
    e->progress++;
}

static void give_result(uzc_errqueue *e, uint64_t key, int32_t result) {
    uzc_slots_result(e->slots, key, result, 0);
    e->progress++;
}

/* Of a range that was merged only the first one's code is known. */
static void take_range(uzc_errqueue *e, struct sock *s, uint32_t first, uint32_t last, bool copied) {
    uint32_t next;
    if (!uzc_ids_next(s->ids, &next)) { /* the socket's first: it tells where the kernel's counter stands */
        uint64_t key = uzc_ids_outstanding(s->ids) ? uzc_ids_take(s->ids, next - 1) : 0;
        uzc_ids_set(s->ids, last + 1);
        if (key)
            settle(e, key, copied);
        return;
    }
    for (uint32_t id = first;; id++) {
        uint64_t key = uzc_ids_take(s->ids, id);
        if (key)
            settle(e, key, first == last ? copied : -1);
        if (id == last)
            break;
    }
}

static void keep_foreign(uzc_errqueue *e, int fd, const struct sock_extended_err *error) {
    if (e->foreign_count == FOREIGN)
        return;
    e->foreign[e->foreign_count++] = (uzc_foreign){.fd = fd,
                                                   .error = error->ee_errno,
                                                   .origin = error->ee_origin,
                                                   .type = error->ee_type,
                                                   .code = error->ee_code,
                                                   .info = error->ee_info,
                                                   .data = error->ee_data};
}

static void take_message(uzc_errqueue *e, struct sock *s, struct msghdr *header) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
        struct sock_extended_err error;
        bool ours = (c->cmsg_level == SOL_IP && c->cmsg_type == IP_RECVERR) ||
                    (c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_RECVERR);
        if (!ours || c->cmsg_len < CMSG_LEN(sizeof error))
            continue;
        memcpy(&error, CMSG_DATA(c), sizeof error);
        if (error.ee_origin == SO_EE_ORIGIN_ZEROCOPY && !error.ee_errno)
            take_range(e, s, error.ee_info, error.ee_data, error.ee_code & SO_EE_CODE_ZEROCOPY_COPIED);
        else
            keep_foreign(e, s->fd, &error);
    }
}

/* All that is in the socket's error queue. */
static void read_errors(uzc_errqueue *e, struct sock *s) {
    char control[GROUP][ERRORS_CONTROL];
    struct mmsghdr messages[GROUP];
    int came;
    do {
        for (uint32_t i = 0; i < GROUP; i++)
            messages[i] =
                (struct mmsghdr){.msg_hdr = {.msg_control = control[i], .msg_controllen = ERRORS_CONTROL}};
        came = recvmmsg(s->held >= 0 ? s->held : s->fd, messages, GROUP, MSG_ERRQUEUE | MSG_DONTWAIT, NULL);
        for (int i = 0; i < came; i++)
            take_message(e, s, &messages[i].msg_hdr);
    } while (came == (int)GROUP);
}

/* -- sending */

static int64_t queue(void *engine, const uzc_send *send) {
    uzc_errqueue *e = engine;
    int error = uzc_slots_begin(e->slots);
    if (error)
        return error;
    if (!e->count) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        uzc_slots_clock(e->slots, (uint32_t)(now.tv_sec * 1000 + now.tv_nsec / 1000000));
    }
    int64_t queued = 0, why = e->count == e->size ? UZC_E_QUEUE : 0;
    while (!why && queued < send->count && e->count < e->size) {
        int64_t key = uzc_slots_attach(e->slots, send, send->user_data + (uint64_t)queued);
        if (key < 0) {
            why = key;
            break;
        }
        struct entry *entry = &e->entries[(e->head + e->count++) % e->size];
        *entry = (struct entry){.key = (uint64_t)key,
                                .data = send->data + (uint64_t)queued * send->stride,
                                .vector = send->message,
                                .to_length = send->to_length,
                                .length = send->length,
                                .segment = send->segment,
                                .msg_flags = send->msg_flags,
                                .fd = send->fd,
                                .zero_copy = send->zero_copy};
        if (send->to)
            memcpy(&entry->to, send->to, send->to_length);
        if (send->flush)
            uzc_slots_flush_inside(e->slots, send->slot);
        queued++;
    }
    uzc_slots_end(e->slots);
    return queued ? queued : why;
}

static void revoke_fd(void *engine, int fd) {
    uzc_errqueue *e = engine;
    for (uint32_t i = 0; i < e->count; i++) {
        struct entry *entry = &e->entries[(e->head + i) % e->size];
        if (entry->fd == fd)
            entry->fd = -1;
    }
}

static size_t bytes_of(const struct entry *entry) {
    size_t bytes = entry->vector ? 0 : entry->length;
    for (uint32_t i = 0; entry->vector && i < entry->length; i++)
        bytes += entry->vector[i].iov_len;
    return bytes;
}

/* The kernel counts some sends of nothing and others not: they are copied. The first one of a socket goes
 * alone, until its notification has told where the counter stands. */
static bool goes_zero_copy(const struct entry *entry, const struct sock *s) {
    uint32_t next;
    return entry->zero_copy && s->zero_copy && bytes_of(entry) > 0 &&
           (uzc_ids_next(s->ids, &next) || !uzc_ids_outstanding(s->ids));
}

struct group {
    struct mmsghdr messages[GROUP];
    struct iovec pieces[GROUP];
    char controls[GROUP][CONTROL];
};

static void describe(struct group *g, uint32_t i, struct entry *entry) {
    struct msghdr *m = &g->messages[i].msg_hdr;
    g->pieces[i] = (struct iovec){(void *)entry->data, entry->length};
    *m = (struct msghdr){.msg_name = entry->to_length ? &entry->to : NULL,
                         .msg_namelen = entry->to_length,
                         .msg_iov = entry->vector ? entry->vector : &g->pieces[i],
                         .msg_iovlen = entry->vector ? entry->length : 1};
    g->messages[i].msg_len = 0;
    if (!entry->segment)
        return;
    struct cmsghdr *c = (struct cmsghdr *)g->controls[i];
    *c = (struct cmsghdr){CMSG_LEN(sizeof(uint16_t)), IPPROTO_UDP, UDP_SEGMENT};
    memcpy(CMSG_DATA(c), &(uint16_t){(uint16_t)entry->segment}, sizeof(uint16_t));
    m->msg_control = c;
    m->msg_controllen = CONTROL;
}

/* As many of these entries, of one socket and one kind, as the kernel takes; or -errno of the first. */
static int transmit(struct group *g, struct entry **entries, uint32_t count, int fd, bool zero_copy) {
    for (uint32_t i = 0; i < count; i++)
        describe(g, i, entries[i]);
    int flags = (int)entries[0]->msg_flags | MSG_DONTWAIT | MSG_NOSIGNAL | (zero_copy ? MSG_ZEROCOPY : 0);
    int sent = sendmmsg(fd, g->messages, count, flags);
    return sent < 0 ? -errno : sent;
}

/* Sends up to GROUP entries that follow each other. How many have left the queue; 0: the first must wait. */
static uint32_t send_group(uzc_errqueue *e, struct group *g, struct entry **entries, uint32_t count,
                           struct sock *s) {
    bool zero_copy = goes_zero_copy(entries[0], s);
    uint32_t next, same = 1;
    bool alone = zero_copy && !uzc_ids_next(s->ids, &next);
    while (!alone && same < count && entries[same]->msg_flags == entries[0]->msg_flags &&
           goes_zero_copy(entries[same], s) == zero_copy)
        same++;
    int sent = transmit(g, entries, same, s->fd, zero_copy);
    if (sent == -ENOBUFS && zero_copy) { /* no room for its notification, or to lock memory */
        read_errors(e, s);
        sent = transmit(g, entries, 1, s->fd, true);
        if (sent == -ENOBUFS) {
            zero_copy = false;
            sent = transmit(g, entries, 1, s->fd, false);
        }
    }
    if (sent == -EAGAIN && !(entries[0]->msg_flags & MSG_DONTWAIT))
        return 0;
    for (int i = 0; i < sent; i++) {
        give_result(e, entries[i]->key, (int32_t)g->messages[i].msg_len);
        if (!zero_copy || uzc_ids_own(s->ids, entries[i]->key) < 0)
            settle(e, entries[i]->key, 1);
    }
    if (zero_copy &&
        sent < (int)same) { /* a failed send may have used up a number: it is free, and so told */
        uzc_ids_failed(s->ids, true);
        read_errors(e, s);
        uzc_ids_failed(s->ids, false);
    }
    if (sent >= 0)
        return (uint32_t)sent;
    give_result(e, entries[0]->key, sent);
    settle(e, entries[0]->key, 1);
    return 1;
}

/* Everything that may go, each socket's in its order. What must wait stays, in its order. */
static void push(uzc_errqueue *e) {
    struct group g;
    struct entry *run[GROUP];
    uint32_t kept = 0, at = 0;
    for (uint32_t i = 0; i < e->sock_count; i++)
        e->socks[i].blocked = false;
    while (at < e->count) {
        struct entry *first = &e->entries[(e->head + at) % e->size];
        struct sock *s = first->fd >= 0 ? sock_of(e, first->fd) : NULL;
        uint32_t count = 0, gone = 0;
        if (!s) {
            give_result(e, first->key, first->fd < 0 ? -EBADF : -ENOMEM);
            settle(e, first->key, 1);
            at++;
            continue;
        }
        while (count < GROUP && at + count < e->count) {
            run[count] = &e->entries[(e->head + at + count) % e->size];
            if (run[count]->fd != first->fd)
                break;
            count++;
        }
        while (gone < count && !s->blocked) {
            uint32_t sent = send_group(e, &g, run + gone, count - gone, s);
            s->blocked = sent == 0;
            gone += sent;
        }
        for (uint32_t i = gone; i < count; i++)
            e->entries[(e->head + kept++) % e->size] = *run[i];
        at += count;
    }
    e->count = kept;
    for (uint32_t i = 0; i < e->sock_count; i++)
        if (e->socks[i].held >= 0 || e->socks[i].blocked || uzc_ids_outstanding(e->socks[i].ids))
            watch(e, &e->socks[i]);
}

/* -- waiting */

static void look(uzc_errqueue *e, int milliseconds) {
    struct epoll_event events[64];
    int came;
    do {
        came = epoll_wait(e->epoll, events, 64, milliseconds);
        for (int i = 0; i < came; i++) {
            if (events[i].data.u32 == UINT32_MAX)
                continue;
            struct sock *s = &e->socks[events[i].data.u32];
            uint64_t before = e->progress;
            if (events[i].events & EPOLLERR)
                read_errors(e, s);
            if (events[i].events & EPOLLERR && e->progress == before) { /* news that a send would fail for */
                int error = 0;
                getsockopt(s->held, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error});
                if (error)
                    keep_foreign(e, s->fd, &(struct sock_extended_err){.ee_errno = (uint32_t)error});
            }
            watch(e, s);
        }
        milliseconds = 0;
    } while (came == 64);
}

static int64_t enter(void *engine, int submit, uint32_t wait, int64_t timeout_ns) {
    uzc_errqueue *e = engine;
    if (e->dead)
        return UZC_E_CLOSED;
    int error = uzc_slots_begin_any(e->slots);
    if (error)
        return error;
    uint32_t ready = e->count;
    uint64_t before = e->progress;
    if (!e->owned && ready && (submit || wait)) {
        error = uzc_slots_claim(e->slots);
        e->owned = !error;
    }
    if (!error) {
        if (submit || wait)
            push(e);
        look(e, 0);
        if (wait && e->progress == before) {
            int64_t milliseconds = timeout_ns < 0 ? -1 : (timeout_ns + 999999) / 1000000;
            /* the eventfd tells of what is unread, which is not what is waited for */
            struct pollfd sleep = {.fd = e->epoll, .events = POLLIN};
            uint64_t unread = 0;
            (void)!read(e->event_fd, &unread, sizeof unread);
            if (poll(&sleep, 1, milliseconds > INT_MAX ? INT_MAX : (int)milliseconds) < 0)
                error = -errno;
            look(e, 0);
            push(e);
        }
    }
    uint32_t submitted = ready > e->count ? ready - e->count : 0;
    uzc_slots_end(e->slots);
    uzc_errqueue_signal(e);
    return error && !submitted ? error : (int64_t)submitted;
}

static uzc_slots *slots(void *engine) {
    return ((uzc_errqueue *)engine)->slots;
}

const uzc_calls *uzc_errqueue_calls(void) {
    static const uzc_calls calls = {.queue = queue,
                                    .enter = enter,
                                    .revoke = revoke_fd,
                                    .slots = slots,
                                    .mine = uzc_slots_mine,
                                    .release = uzc_slots_release,
                                    .watch = uzc_slots_watch,
                                    .unwatch = uzc_slots_unwatch,
                                    .flush = uzc_slots_flush,
                                    .unsettled = uzc_slots_unsettled,
                                    .posted = uzc_slots_posted};
    return &calls;
}
