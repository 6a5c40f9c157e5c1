/* SPDX-License-Identifier: MIT */
/* sendmmsg() as an engine: its table of calls, its descriptor, waiting. With MSG_ZEROCOPY, notifications come
 * through each socket's error queue; without, a request's memory is free as soon as it was sent. */
#include "engines/clock.h"
#include "engines/msg_zerocopy/notifications.h"
#include "engines/msg_zerocopy/sockets.h"
#include "engines/msg_zerocopy/transmit.h"
#include "engines/readable.h"

#include <limits.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CLOSED_CHECKS 32u   /* sockets checked by one poll for having been closed */
#define POLL_INTERVAL_MS 10 /* of sockets that epoll may not report */

int uzc_msg_zerocopy_new(uzc_msg_zerocopy **out, uzc_slots *slots, uint32_t entries, int zero_copy) {
    uzc_msg_zerocopy *e = calloc(1, sizeof *e);
    if (!e)
        return -ENOMEM;
    e->slots = slots;
    e->max_entries = entries;
    e->zero_copy = zero_copy;
    e->entries = calloc(entries, sizeof *e->entries);
    e->messages = calloc(zero_copy ? MAX_MESSAGES : 1, sizeof *e->messages);
    e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    e->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    int error = e->entries && e->messages ? 0 : -ENOMEM;
    if (!error && (e->epoll_fd < 0 || e->event_fd < 0 ||
                   epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, e->event_fd, &event) < 0))
        error = -errno;
    *out = e;
    if (error)
        uzc_msg_zerocopy_exit(out);
    return error;
}

void uzc_msg_zerocopy_exit(uzc_msg_zerocopy **engine) {
    uzc_msg_zerocopy *e = *engine;
    *engine = NULL;
    if (!e)
        return;
    free_socks(e);
    if (e->epoll_fd >= 0)
        close(e->epoll_fd);
    if (e->event_fd >= 0)
        close(e->event_fd);
    free(e->messages);
    free(e->entries);
    free(e);
}

/* The epoll descriptor reports sockets by itself, and through the eventfd unread records, and sockets that
 * must be polled. */
static void set_readable(uzc_msg_zerocopy *e, bool unread) {
    uzc_set_readable(e->event_fd, &e->readable, unread);
}

static void msg_zerocopy_signal(void *engine) {
    uzc_msg_zerocopy *e = engine;
    uzc_stats stats;
    if (!e->fileno_used)
        return;
    uzc_slots_stats(e->slots, &stats);
    set_readable(e, stats.unread_completions || stats.unread_notifications || e->poll_count);
}

int uzc_msg_zerocopy_fileno(uzc_msg_zerocopy *e) {
    e->fileno_used = true;
    msg_zerocopy_signal(e);
    return e->epoll_fd;
}

static int64_t msg_zerocopy_queue(void *engine, const uzc_send *send, uint32_t *references) {
    uzc_msg_zerocopy *e = engine;
    int error = uzc_slots_begin(e->slots);
    if (error)
        return error;
    if (!e->entry_count)
        uzc_tick(e->slots);
    int64_t queued = 0, why = e->entry_count == e->max_entries ? UZC_E_QUEUE : 0;
    while (!why && queued < send->count && e->entry_count < e->max_entries) {
        uint32_t one = 1;
        int64_t key = uzc_slots_attach(e->slots, send, send->user_data + (uint64_t)queued, &one, references);
        if (key < 0) {
            why = key;
            break;
        }
        struct entry *entry = &e->entries[e->entry_count++];
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

static void msg_zerocopy_revoke(void *engine, int fd) {
    uzc_msg_zerocopy *e = engine;
    for (uint32_t i = 0; i < e->entry_count; i++)
        if (e->entries[i].fd == fd)
            e->entries[i].fd = -1;
}

static void poll_socket(uzc_msg_zerocopy *e, struct sock *s) {
    if (s->ids)
        read_error_queue(e, s);
    send_waiters(e, s);
    update_epoll(e, s);
}

/* Takes all that sockets have to report. Does not block. */
static void poll_sockets(uzc_msg_zerocopy *e) {
    struct epoll_event events[64];
    int came;
    abort_closed_connections(e, CLOSED_CHECKS);
    do {
        came = epoll_wait(e->epoll_fd, events, 64, 0);
        for (int i = 0; i < came; i++)
            if (events[i].data.ptr)
                poll_socket(e, events[i].data.ptr);
    } while (came == 64);
    for (struct sock *s = e->poll_count ? e->socks : NULL, *next; s; s = next) {
        next = s->next;
        if (s->needs_poll)
            poll_socket(e, s);
    }
}

static int wait_readable(uzc_msg_zerocopy *e, int64_t timeout_ns) {
    int64_t milliseconds = timeout_ns < 0 ? INT_MAX : (timeout_ns + 999999) / 1000000;
    int64_t limit = e->poll_count ? POLL_INTERVAL_MS : INT_MAX;
    struct pollfd p = {.fd = e->epoll_fd, .events = POLLIN};
    set_readable(e, false); /* unread records are not what is waited for */
    int came = poll(&p, 1, (int)(milliseconds < limit ? milliseconds : limit));
    return came < 0 ? -errno : 0;
}

/* After sends: some have been delivered already, and their notifications are there. */
static void update_dirty_sockets(uzc_msg_zerocopy *e) {
    while (e->dirty) {
        struct sock *s = e->dirty;
        e->dirty = s->next_dirty;
        s->dirty = false;
        if (s->dup_fd >= 0 && s->ids && uzc_ids_outstanding(s->ids))
            read_error_queue(e, s);
        update_epoll(e, s);
    }
}

static int64_t msg_zerocopy_enter(void *engine, int submit, uint32_t wait, int64_t timeout_ns) {
    uzc_msg_zerocopy *e = engine;
    int error = uzc_slots_begin_any(e->slots);
    if (error)
        return error;
    const uint32_t queued = submit || wait ? e->entry_count : 0;
    const uint64_t before = e->progress;
    if (queued && !e->claimed) {
        error = uzc_slots_claim(e->slots);
        e->claimed = !error;
    }
    if (!error && queued) {
        send_queued(e);
        update_dirty_sockets(e);
    }
    if (!error && (!submit || wait || e->epoll_count || e->poll_count))
        poll_sockets(e);
    if (!error && wait && e->progress == before) {
        e->next_checked = NULL;
        abort_closed_connections(e, UINT32_MAX);
        error = wait_readable(e, timeout_ns);
        poll_sockets(e);
    }
    uzc_slots_end(e->slots);
    msg_zerocopy_signal(e);
    return error && !queued ? error : (int64_t)queued;
}

static int msg_zerocopy_take_socket_error(void *engine, int fd) {
    uzc_msg_zerocopy *e = engine;
    struct sock *s = fd < e->by_fd_size ? e->by_fd[fd] : NULL;
    if (s && s->pending_error && sock_of(e, fd) == s) {
        int error = s->pending_error;
        s->pending_error = 0;
        return error;
    }
    const int error = option_of(fd, SOL_SOCKET, SO_ERROR, 0);
    if (error || !s || !s->dropped_error || sock_of(e, fd) != s)
        return error;
    s->dropped_error = false;
    return -1;
}

int uzc_msg_zerocopy_message(uzc_msg_zerocopy *e, int fd, uzc_message *out) {
    int error = fd < 0 ? -EBADF : uzc_slots_begin_any(e->slots);
    if (error)
        return error;
    struct sock *s = sock_of(e, fd);
    int got = s && s->ids ? 0 : -ENOENT;
    if (!got) {
        read_error_queue(e, s);
        s->pending_error = 0;
        update_epoll(e, s);
    }
    for (int i = 0; !got && i < e->message_count; i++) {
        if (e->messages[i].socket != s)
            continue;
        *out = e->messages[i];
        e->message_count--;
        memmove(&e->messages[i], &e->messages[i + 1], (size_t)(e->message_count - i) * sizeof *out);
        got = 1;
    }
    uzc_slots_end(e->slots);
    msg_zerocopy_signal(e);
    return got;
}

uint64_t uzc_msg_zerocopy_retried(const uzc_msg_zerocopy *e) {
    return e->retried;
}

void uzc_msg_zerocopy_mark_unused(uzc_msg_zerocopy *e, int fd) {
    if (fd < 0 || uzc_slots_begin_any(e->slots))
        return;
    struct sock *s = sock_of(e, fd);
    if (s && s->ids && !uzc_ids_outstanding(s->ids)) {
        uzc_ids_set(s->ids, 0);
        s->verified = true;
    }
    uzc_slots_end(e->slots);
}

/* Sockets with requests in flight are in the epoll set, or polled. */
static int msg_zerocopy_needs_enter(const void *engine) {
    const uzc_msg_zerocopy *e = engine;
    return e->epoll_count || e->poll_count;
}

const uzc_calls *uzc_msg_zerocopy_calls(void) {
    static const uzc_calls calls = {.queue = msg_zerocopy_queue,
                                    .enter = msg_zerocopy_enter,
                                    .needs_enter = msg_zerocopy_needs_enter,
                                    .signal = msg_zerocopy_signal,
                                    .revoke = msg_zerocopy_revoke,
                                    .take_socket_error = msg_zerocopy_take_socket_error,
                                    UZC_SLOT_CALLS};
    return &calls;
}
