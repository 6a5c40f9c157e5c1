/* SPDX-License-Identifier: MIT */
/* Sending with sendmmsg(), in order for each socket. A request for which the socket has no room waits, and
 * those behind it with it; with MSG_DONTWAIT it fails instead. */
#include "engines/msg_zerocopy/transmit.h"
#include "engines/msg_zerocopy/counter.h"
#include "engines/msg_zerocopy/sockets.h"

#include <netinet/udp.h>

struct mmsg_batch {
    struct mmsghdr messages[BATCH];
    struct iovec pieces[BATCH];
    uzc_gso_control controls[BATCH];
};

static void end_request(uzc_msg_zerocopy *e, const struct entry *entry, int error) {
    report_result(e, entry->key, error);
    report_settled(e, entry->key, 1);
}

static size_t entry_bytes(const struct entry *entry) {
    size_t bytes = entry->vector ? 0 : entry->length;
    for (uint32_t i = 0; entry->vector && i < entry->length; i++)
        bytes += entry->vector[i].iov_len;
    return bytes;
}

/* Empty sends are copied: the kernel assigns an id to an empty datagram and none to an empty write. So are
 * all after an ENOBUFS for want of option memory, until a notification has freed some. */
static bool is_zero_copy(const struct entry *entry, const struct sock *s) {
    uint32_t next;
    return entry->zero_copy && s->ids && !s->zero_copy_off && s->no_optmem != s->settled + 1 &&
           entry_bytes(entry) && uzc_ids_next(s->ids, &next);
}

static void fill_message(struct mmsg_batch *g, uint32_t i, struct entry *entry) {
    struct msghdr *m = &g->messages[i].msg_hdr;
    g->pieces[i] = (struct iovec){(void *)entry->data, entry->length};
    *m = (struct msghdr){.msg_name = entry->to_length ? &entry->to : NULL,
                         .msg_namelen = entry->to_length,
                         .msg_iov = entry->vector ? entry->vector : &g->pieces[i],
                         .msg_iovlen = entry->vector ? entry->length : 1};
    g->messages[i].msg_len = 0;
    if (!entry->segment)
        return;
    uzc_gso_cmsg(&g->controls[i], entry->segment);
    m->msg_control = &g->controls[i];
    m->msg_controllen = sizeof g->controls[i];
}

/* Returns how many of these entries, which share socket and flags, the kernel took; -errno: not one. */
static int transmit(struct mmsg_batch *g, struct entry **entries, uint32_t count, int fd, bool zero_copy) {
    for (uint32_t i = 0; i < count; i++)
        fill_message(g, i, entries[i]);
    int flags = (int)entries[0]->msg_flags | MSG_DONTWAIT | MSG_NOSIGNAL | (zero_copy ? MSG_ZEROCOPY : 0);
    int sent = sendmmsg(fd, g->messages, count, flags);
    return sent < 0 ? -errno : sent;
}

/* The program may clear SO_ZEROCOPY at any time; then the kernel ignores MSG_ZEROCOPY, and assigns no id. */
static void refresh_zero_copy_off(struct sock *s) {
    s->zero_copy_off = s->ids && !option_of(fd_of(s), SOL_SOCKET, SO_ZEROCOPY, 1);
}

/* The program may change these options too. See can_batch(). */
static void refresh_batching(struct sock *s) {
    if (s->stream)
        return;
    s->batchable_with_address = !option_of(fd_of(s), IPPROTO_UDP, UDP_CORK, 0);
    s->batchable_connected =
        s->batchable_with_address && (option_of(fd_of(s), IPPROTO_IP, IP_RECVERR, 0) ||
                                      option_of(fd_of(s), IPPROTO_IPV6, IPV6_RECVERR, 0));
}

/* Whether the entry may follow others in one sendmmsg(), which returns an error for its first message alone:
 * a later one that failed is sent again, and must fail the same way. That does not hold for a stream, for
 * parts of one datagram, and for the pending error of an earlier datagram, which the kernel returns once
 * (unless IP_RECVERR keeps it in the error queue). */
static bool can_batch(const struct entry *entry, const struct sock *s) {
    return !s->stream && !(entry->msg_flags & MSG_MORE) &&
           (entry->to_length ? s->batchable_with_address : s->batchable_connected);
}

/* Whether ENOBUFS meant that there is no option memory for the notification, or RLIMIT_MEMLOCK is reached;
 * if it came from a full queue of the device, the send was assigned an id. */
static bool is_optmem_error(uzc_msg_zerocopy *e, struct sock *s, const struct entry *entry, uint32_t before) {
    uint32_t after;
    if (!s->stream)
        learn_counter(e, s, entry);
    return s->stream || !uzc_ids_next(s->ids, &after) || after - before == 1;
}

/* Sends the first of up to BATCH entries, and those that can go with it. Returns how many were sent or have
 * failed; 0: the first must wait for room. */
static uint32_t send_batch(uzc_msg_zerocopy *e, struct mmsg_batch *g, struct entry **entries, uint32_t count,
                           struct sock *s) {
    uint32_t same = 1, before = 0;
    if (entries[0]->zero_copy && s->ids)
        learn_counter(e, s, entries[0]);
    if (s->pending_error) {
        end_request(e, entries[0], -s->pending_error);
        s->pending_error = 0;
        return 1;
    }
    bool zero_copy = is_zero_copy(entries[0], s);
    while (same < count && can_batch(entries[same], s) && entries[same]->msg_flags == entries[0]->msg_flags &&
           is_zero_copy(entries[same], s) == zero_copy)
        same++;
    if (zero_copy && (hold_open(s) < 0 || uzc_ids_reserve(s->ids, same) < 0))
        zero_copy = false;
    if (zero_copy)
        uzc_ids_next(s->ids, &before);
    int sent = transmit(g, entries, same, fd_of(s), zero_copy);
    s->dropped_error |= sent > 0 && sent < (int)same;
    for (int i = 0; i < sent; i++) {
        report_result(e, entries[i]->key, (int32_t)g->messages[i].msg_len);
        if (zero_copy)
            uzc_ids_assign(s->ids, entries[i]->key);
        else
            report_settled(e, entries[i]->key, 1);
    }
    s->more_pending = entries[sent > 0 ? sent - 1 : 0]->msg_flags & MSG_MORE;
    if (zero_copy && !s->stream && sent < (int)same && sent != -EAGAIN)
        uzc_ids_invalidate(s->ids);
    e->retried += sent > 0 && sent < (int)same; /* the next one's error is lost */
    if (sent > 0)
        return (uint32_t)sent;
    if (sent == -ENOBUFS && zero_copy && is_optmem_error(e, s, entries[0], before)) {
        s->no_optmem = s->settled + 1;
        e->retried++;
        return send_batch(e, g, entries, count, s);
    }
    if (sent == -EAGAIN && !(entries[0]->msg_flags & MSG_DONTWAIT))
        return 0;
    end_request(e, entries[0], sent);
    return 1;
}

static void add_waiting(uzc_msg_zerocopy *e, struct sock *s, const struct entry *entry) {
    uint32_t pieces = entry->vector ? entry->length : 0;
    struct waiter *w = hold_open(s) < 0 ? NULL : malloc(sizeof *w + pieces * sizeof(struct iovec));
    if (entry->msg_flags & MSG_DONTWAIT || !w) {
        end_request(e, entry, entry->msg_flags & MSG_DONTWAIT ? -EAGAIN : s->dup_fd < 0 ? -EMFILE : -ENOMEM);
        free(w);
        return;
    }
    w->entry = *entry;
    w->next = NULL;
    if (pieces) {
        memcpy(w->vector, entry->vector, pieces * sizeof(struct iovec));
        w->entry.vector = w->vector;
    }
    *(s->last_waiting ? &s->last_waiting->next : &s->first_waiting) = w;
    s->last_waiting = w;
}

void send_waiters(uzc_msg_zerocopy *e, struct sock *s) {
    struct mmsg_batch g;
    if (s->first_waiting) {
        refresh_batching(s);
        refresh_zero_copy_off(s);
    }
    while (s->first_waiting) {
        struct entry *run[BATCH];
        uint32_t count = 0;
        for (struct waiter *w = s->first_waiting; w && count < BATCH; w = w->next)
            run[count++] = &w->entry;
        uint32_t done = send_batch(e, &g, run, count, s);
        if (!done)
            return;
        while (done--) {
            struct waiter *w = s->first_waiting;
            s->first_waiting = w->next;
            free(w);
        }
        if (!s->first_waiting)
            s->last_waiting = NULL;
    }
}

static void send_entries(uzc_msg_zerocopy *e, struct sock *s, struct entry *first, uint32_t count) {
    struct mmsg_batch g;
    struct entry *run[BATCH];
    uint32_t at = 0;
    mark_dirty(e, s);
    refresh_zero_copy_off(s);
    if (count > 1)
        refresh_batching(s);
    send_waiters(e, s);
    while (at < count && !s->first_waiting) {
        uint32_t some = 0;
        for (; some < BATCH && at + some < count; some++)
            run[some] = &first[at + some];
        uint32_t done = send_batch(e, &g, run, some, s);
        at += done;
        if (!done)
            break;
    }
    for (; at < count; at++)
        add_waiting(e, s, &first[at]);
}

void send_queued(uzc_msg_zerocopy *e) {
    for (uint32_t at = 0, count; at < e->entry_count; at += count) {
        struct entry *first = &e->entries[at];
        for (count = 1; at + count < e->entry_count && e->entries[at + count].fd == first->fd;)
            count++;
        struct sock *s = first->fd < 0 ? NULL : sock_of(e, first->fd);
        if (s)
            send_entries(e, s, first, count);
        for (uint32_t i = 0; !s && i < count; i++)
            end_request(e, &first[i], first->fd < 0 ? -EBADF : -ENOMEM);
    }
    e->entry_count = 0;
}
