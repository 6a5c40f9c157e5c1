/* SPDX-License-Identifier: MIT
 *
 * sendmmsg() as an engine: with MSG_ZEROCOPY, whose notifications come through each socket's error queue; or
 * without, and then a request's memory is free as soon as it was sent.
 */
#include "engines/msg_zerocopy/notifications.h"
#include "engines/msg_zerocopy/sockets.h"
#include "engines/msg_zerocopy/transmit.h"

#include <limits.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define TURN 32u      /* sockets that one look asks whether they were closed */
#define UNHEARD_MS 10 /* until sockets are looked at whose events may not come */

int uzc_msg_zerocopy_new(uzc_msg_zerocopy **out, uzc_slots *slots, uint32_t entries, int zero_copy) {
    uzc_msg_zerocopy *e = calloc(1, sizeof *e);
    if (!e)
        return -ENOMEM;
    e->slots = slots;
    e->size = entries;
    e->zero_copy = zero_copy;
    e->entries = calloc(entries, sizeof *e->entries);
    e->messages = calloc(zero_copy ? MESSAGES : 1, sizeof *e->messages);
    e->epoll = epoll_create1(EPOLL_CLOEXEC);
    e->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    int error = e->entries && e->messages ? 0 : -ENOMEM;
    if (!error &&
        (e->epoll < 0 || e->event_fd < 0 || epoll_ctl(e->epoll, EPOLL_CTL_ADD, e->event_fd, &event) < 0))
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
    if (e->epoll >= 0)
        close(e->epoll);
    if (e->event_fd >= 0)
        close(e->event_fd);
    free(e->messages);
    free(e->entries);
    free(e);
}

int uzc_msg_zerocopy_fileno(uzc_msg_zerocopy *e) {
    e->asked = true;
    uzc_msg_zerocopy_signal(e);
    return e->epoll;
}

/* The epoll descriptor tells of sockets by itself, and through an eventfd of what is unread, or to be looked
 * at. */
static void tell(uzc_msg_zerocopy *e, bool unread) {
    uint64_t count = 1;
    if (unread == e->signalled)
        return;
    e->signalled = unread;
    if (unread)
        (void)!write(e->event_fd, &count, sizeof count);
    else
        (void)!read(e->event_fd, &count, sizeof count);
}

void uzc_msg_zerocopy_signal(uzc_msg_zerocopy *e) {
    uzc_stats stats;
    if (!e->asked)
        return;
    uzc_slots_stats(e->slots, &stats);
    tell(e, stats.unread_completions || stats.unread_notifications || e->unheard_count);
}

static int64_t queue(void *engine, const uzc_send *send) {
    uzc_msg_zerocopy *e = engine;
    int error = uzc_slots_begin(e->slots);
    if (error)
        return error;
    if (!e->count)
        uzc_tick(e->slots);
    int64_t queued = 0, why = e->count == e->size ? UZC_E_QUEUE : 0;
    while (!why && queued < send->count && e->count < e->size) {
        int64_t key = uzc_slots_attach(e->slots, send, send->user_data + (uint64_t)queued);
        if (key < 0) {
            why = key;
            break;
        }
        struct entry *entry = &e->entries[e->count++];
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
    uzc_msg_zerocopy *e = engine;
    for (uint32_t i = 0; i < e->count; i++)
        if (e->entries[i].fd == fd)
            e->entries[i].fd = -1;
}

static void look_at(uzc_msg_zerocopy *e, struct sock *s) {
    if (s->ids)
        read_errors(e, s);
    send_waiting(e, s);
    settle_down(e, s);
}

/* Everything that sockets have to tell. */
static void look(uzc_msg_zerocopy *e) {
    struct epoll_event events[64];
    int came;
    end_closed(e, TURN);
    do {
        came = epoll_wait(e->epoll, events, 64, 0);
        for (int i = 0; i < came; i++)
            if (events[i].data.ptr)
                look_at(e, events[i].data.ptr);
    } while (came == 64);
    for (struct sock *s = e->unheard_count ? e->socks : NULL, *next; s; s = next) {
        next = s->next;
        if (s->unheard)
            look_at(e, s);
    }
}

static int sleep_until(uzc_msg_zerocopy *e, int64_t timeout_ns) {
    int64_t milliseconds = timeout_ns < 0 ? INT_MAX : (timeout_ns + 999999) / 1000000;
    int64_t most = e->unheard_count ? UNHEARD_MS : INT_MAX;
    struct pollfd p = {.fd = e->epoll, .events = POLLIN};
    tell(e, false); /* what is unread is not what is waited for */
    int came = poll(&p, 1, (int)(milliseconds < most ? milliseconds : most));
    return came < 0 ? -errno : 0;
}

static void settle_touched(uzc_msg_zerocopy *e) {
    while (e->touched) {
        struct sock *s = e->touched;
        e->touched = s->next_touched;
        s->touched = false;
        if (s->held >= 0 && s->ids && uzc_ids_outstanding(s->ids))
            read_errors(e, s);
        settle_down(e, s);
    }
}

static int64_t enter(void *engine, int submit, uint32_t wait, int64_t timeout_ns) {
    uzc_msg_zerocopy *e = engine;
    int error = uzc_slots_begin_any(e->slots);
    if (error)
        return error;
    const uint32_t queued = submit || wait ? e->count : 0;
    const uint64_t before = e->progress;
    if (queued && !e->owned) {
        error = uzc_slots_claim(e->slots);
        e->owned = !error;
    }
    if (!error && queued) {
        send_queued(e);
        settle_touched(e);
    }
    if (!error && (!submit || wait || e->watched_count || e->unheard_count))
        look(e);
    if (!error && wait && e->progress == before) {
        e->turn = NULL;
        end_closed(e, UINT32_MAX);
        error = sleep_until(e, timeout_ns);
        look(e);
    }
    uzc_slots_end(e->slots);
    uzc_msg_zerocopy_signal(e);
    return error && !queued ? error : (int64_t)queued;
}

static uzc_slots *slots(void *engine) {
    return ((uzc_msg_zerocopy *)engine)->slots;
}

static int news(void *engine, int fd) {
    uzc_msg_zerocopy *e = engine;
    int error = 0;
    struct sock *s = fd < e->fds ? e->by_fd[fd] : NULL;
    if (s && s->error && sock_of(e, fd) == s) {
        error = s->error;
        s->error = 0;
        return error;
    }
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error}) == 0 ? error : 0;
}

int uzc_msg_zerocopy_message(uzc_msg_zerocopy *e, int fd, uzc_message *out) {
    int error = fd < 0 ? -EBADF : uzc_slots_begin_any(e->slots);
    if (error)
        return error;
    struct sock *s = sock_of(e, fd);
    int found = s && s->ids ? 0 : -ENOENT;
    if (!found) {
        read_errors(e, s);
        s->error = 0;
        settle_down(e, s);
    }
    for (int i = 0; !found && i < e->message_count; i++) {
        if (e->messages[i].socket != s)
            continue;
        *out = e->messages[i];
        e->message_count--;
        memmove(&e->messages[i], &e->messages[i + 1], (size_t)(e->message_count - i) * sizeof *out);
        found = 1;
    }
    uzc_slots_end(e->slots);
    uzc_msg_zerocopy_signal(e);
    return found;
}

void uzc_msg_zerocopy_own(uzc_msg_zerocopy *e, int fd) {
    if (fd < 0 || uzc_slots_begin_any(e->slots))
        return;
    struct sock *s = sock_of(e, fd);
    if (s && s->ids && !uzc_ids_outstanding(s->ids)) {
        uzc_ids_set(s->ids, 0);
        s->sure = true;
    }
    uzc_slots_end(e->slots);
}

const uzc_calls *uzc_msg_zerocopy_calls(void) {
    static const uzc_calls calls = {.queue = queue,
                                    .enter = enter,
                                    .revoke = revoke_fd,
                                    .slots = slots,
                                    .take_socket_error = news,
                                    UZC_SLOT_CALLS};
    return &calls;
}
