/* SPDX-License-Identifier: MIT
 *
 * Requests leave by sendmmsg(), those of one socket in their order. One that finds no room waits, and those
 * behind it with it, unless it carries MSG_DONTWAIT.
 */
#include "engines/msg_zerocopy/transmit.h"
#include "engines/msg_zerocopy/counter.h"
#include "engines/msg_zerocopy/sockets.h"

#include <netinet/udp.h>

struct group {
    struct mmsghdr messages[GROUP];
    struct iovec pieces[GROUP];
    uzc_gso_control controls[GROUP];
};

static void end_request(uzc_msg_zerocopy *e, const struct entry *entry, int error) {
    give_result(e, entry->key, error);
    settle(e, entry->key, 1);
}

static size_t bytes_of(const struct entry *entry) {
    size_t bytes = entry->vector ? 0 : entry->length;
    for (uint32_t i = 0; entry->vector && i < entry->length; i++)
        bytes += entry->vector[i].iov_len;
    return bytes;
}

/* The kernel gives a number to a datagram of nothing and none to a stream's write of nothing: they are
 * copied. So is what it has no memory to notify of, until a notification has come. */
static bool goes_zero_copy(const struct entry *entry, const struct sock *s) {
    uint32_t next;
    return entry->zero_copy && s->ids && !s->off && s->starved != s->settled + 1 && bytes_of(entry) &&
           uzc_ids_next(s->ids, &next);
}

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
    uzc_gso_cmsg(&g->controls[i], entry->segment);
    m->msg_control = &g->controls[i];
    m->msg_controllen = sizeof g->controls[i];
}

/* How many of these entries, of one socket and one kind, the kernel has taken; -errno: not the first. */
static int transmit(struct group *g, struct entry **entries, uint32_t count, int fd, bool zero_copy) {
    for (uint32_t i = 0; i < count; i++)
        describe(g, i, entries[i]);
    int flags = (int)entries[0]->msg_flags | MSG_DONTWAIT | MSG_NOSIGNAL | (zero_copy ? MSG_ZEROCOPY : 0);
    int sent = sendmmsg(fd, g->messages, count, flags);
    return sent < 0 ? -errno : sent;
}

/* Without SO_ZEROCOPY, which the program may take back at any time, the kernel ignores MSG_ZEROCOPY, and
 * gives no number. */
static void learn_whether_off(struct sock *s) {
    int asked = 1;
    if (s->ids)
        getsockopt(fd_of(s), SOL_SOCKET, SO_ZEROCOPY, &asked, &(socklen_t){sizeof asked});
    s->off = !asked;
}

/* What decides whether several may go along, which the program may change as well. */
static void learn_of(struct sock *s) {
    int corked = 0, v4 = 0, v6 = 0;
    if (s->stream)
        return;
    getsockopt(fd_of(s), IPPROTO_UDP, UDP_CORK, &corked, &(socklen_t){sizeof corked});
    getsockopt(fd_of(s), IPPROTO_IP, IP_RECVERR, &v4, &(socklen_t){sizeof v4});
    getsockopt(fd_of(s), IPPROTO_IPV6, IPV6_RECVERR, &v6, &(socklen_t){sizeof v6});
    s->apart = !corked;
    s->together = !corked && (v4 || v6);
}

/* sendmmsg() says only of its first message why it failed. Later ones are sent again, and that has to give
 * the same: not so for a stream, for the parts of one datagram, and where it was word of an earlier datagram,
 * which is told once (unless the error queue has it too). */
static bool goes_along(const struct entry *entry, const struct sock *s) {
    return !s->stream && !(entry->msg_flags & MSG_MORE) && (entry->to_length ? s->apart : s->together);
}

/* Whether ENOBUFS was for want of memory for the notification, or of memory that may be locked, and not from
 * a full queue on the way: then the send used up a number. */
static bool no_memory(uzc_msg_zerocopy *e, struct sock *s, const struct entry *entry, uint32_t before) {
    uint32_t after;
    if (!s->stream)
        find_number(e, s, entry);
    return s->stream || !uzc_ids_next(s->ids, &after) || after - before == 1;
}

/* How many of up to GROUP entries that follow each other were dealt with; 0: the first must wait. */
static uint32_t send_group(uzc_msg_zerocopy *e, struct group *g, struct entry **entries, uint32_t count,
                           struct sock *s) {
    uint32_t same = 1, before = 0;
    if (entries[0]->zero_copy && s->ids)
        find_number(e, s, entries[0]);
    if (s->error) { /* word of what was sent before */
        end_request(e, entries[0], -s->error);
        s->error = 0;
        return 1;
    }
    bool zero_copy = goes_zero_copy(entries[0], s);
    while (same < count && goes_along(entries[same], s) &&
           entries[same]->msg_flags == entries[0]->msg_flags && goes_zero_copy(entries[same], s) == zero_copy)
        same++;
    if (zero_copy && (hold(s) < 0 || uzc_ids_reserve(s->ids, same) < 0))
        zero_copy = false;
    if (zero_copy)
        uzc_ids_next(s->ids, &before);
    int sent = transmit(g, entries, same, fd_of(s), zero_copy);
    for (int i = 0; i < sent; i++) {
        give_result(e, entries[i]->key, (int32_t)g->messages[i].msg_len);
        if (zero_copy)
            uzc_ids_own(s->ids, entries[i]->key);
        else
            settle(e, entries[i]->key, 1);
    }
    s->more = entries[sent > 0 ? sent - 1 : 0]->msg_flags & MSG_MORE;
    if (zero_copy && !s->stream && sent < (int)same && sent != -EAGAIN)
        uzc_ids_doubt(s->ids);
    if (sent > 0)
        return (uint32_t)sent;
    if (sent == -ENOBUFS && zero_copy && no_memory(e, s, entries[0], before)) {
        s->starved = s->settled + 1;
        return send_group(e, g, entries, count, s);
    }
    if (sent == -EAGAIN && !(entries[0]->msg_flags & MSG_DONTWAIT))
        return 0;
    end_request(e, entries[0], sent);
    return 1;
}

/* It waits with its socket, behind those that do. */
static void wait_for_room(uzc_msg_zerocopy *e, struct sock *s, const struct entry *entry) {
    uint32_t pieces = entry->vector ? entry->length : 0;
    struct waiter *w = hold(s) < 0 ? NULL : malloc(sizeof *w + pieces * sizeof(struct iovec));
    if (entry->msg_flags & MSG_DONTWAIT || !w) {
        end_request(e, entry, entry->msg_flags & MSG_DONTWAIT ? -EAGAIN : s->held < 0 ? -EMFILE : -ENOMEM);
        free(w);
        return;
    }
    w->entry = *entry;
    w->next = NULL;
    if (pieces) {
        memcpy(w->vector, entry->vector, pieces * sizeof(struct iovec));
        w->entry.vector = w->vector;
    }
    *(s->last ? &s->last->next : &s->first) = w;
    s->last = w;
}

void send_waiting(uzc_msg_zerocopy *e, struct sock *s) {
    struct group g;
    if (s->first) {
        learn_of(s);
        learn_whether_off(s);
    }
    while (s->first) {
        struct entry *run[GROUP];
        uint32_t count = 0;
        for (struct waiter *w = s->first; w && count < GROUP; w = w->next)
            run[count++] = &w->entry;
        uint32_t gone = send_group(e, &g, run, count, s);
        if (!gone)
            return;
        while (gone--) {
            struct waiter *w = s->first;
            s->first = w->next;
            free(w);
        }
        if (!s->first)
            s->last = NULL;
    }
}

static void send_run(uzc_msg_zerocopy *e, struct sock *s, struct entry *first, uint32_t count) {
    struct group g;
    struct entry *run[GROUP];
    uint32_t at = 0;
    touch(e, s);
    learn_whether_off(s);
    if (count > 1)
        learn_of(s);
    send_waiting(e, s);
    while (at < count && !s->first) {
        uint32_t some = 0;
        for (; some < GROUP && at + some < count; some++)
            run[some] = &first[at + some];
        uint32_t gone = send_group(e, &g, run, some, s);
        at += gone;
        if (!gone)
            break;
    }
    for (; at < count; at++)
        wait_for_room(e, s, &first[at]);
}

void send_queued(uzc_msg_zerocopy *e) {
    for (uint32_t at = 0, count; at < e->count; at += count) {
        struct entry *first = &e->entries[at];
        for (count = 1; at + count < e->count && e->entries[at + count].fd == first->fd;)
            count++;
        struct sock *s = first->fd < 0 ? NULL : sock_of(e, first->fd);
        if (s)
            send_run(e, s, first, count);
        for (uint32_t i = 0; !s && i < count; i++)
            end_request(e, &first[i], first->fd < 0 ? -EBADF : -ENOMEM);
    }
    e->count = 0;
}
