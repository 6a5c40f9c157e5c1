/* SPDX-License-Identifier: MIT
 *
 * The error queue: notifications are ranges of numbers. Whatever else is there, and not of the engine's
 * making, is kept for the program.
 */
#include "engines/msg_zerocopy/state.h"

#include <linux/errqueue.h>
#include <linux/sock_diag.h>

#ifndef SO_EE_ORIGIN_ZEROCOPY
#define SO_EE_ORIGIN_ZEROCOPY 5
#endif
#ifndef MSG_PROBE
#define MSG_PROBE 0x10
#endif
#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif
#ifndef SO_EE_CODE_ZEROCOPY_COPIED
#define SO_EE_CODE_ZEROCOPY_COPIED 1
#endif

/* A range that was merged has the code of its first number. */
static void take_range(uzc_msg_zerocopy *e, struct sock *s, uint32_t first, uint32_t last, bool copied) {
    const uint32_t told = first;
    if (s->asking && (!s->found || (int32_t)(last + 1 - s->number) > 0)) {
        s->number = last + 1;
        s->found = true;
    }
    if (!uzc_ids_clip(s->ids, &first, &last))
        return;
    for (uint32_t id = first;; id++) {
        uint64_t key = uzc_ids_take(s->ids, id);
        if (key)
            settle(e, key, id == told ? copied : -1);
        s->settled += key != 0;
        if (id == last)
            break;
    }
}

static const struct sock_extended_err *extended(struct msghdr *header) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c))
        if ((c->cmsg_level == SOL_IP && c->cmsg_type == IP_RECVERR) ||
            (c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_RECVERR))
            return (const struct sock_extended_err *)CMSG_DATA(c);
    return NULL;
}

/* Of an ICMP error the kernel forgets, once it is read, that the next send is to fail with it. */
static void take_message(uzc_msg_zerocopy *e, struct sock *s, struct mmsghdr *message, uzc_message *kept) {
    struct msghdr *header = &message->msg_hdr;
    const struct sock_extended_err *error = extended(header);
    if (error && error->ee_origin == SO_EE_ORIGIN_ZEROCOPY && !error->ee_errno) {
        take_range(e, s, error->ee_info, error->ee_data, error->ee_code & SO_EE_CODE_ZEROCOPY_COPIED);
        return;
    }
    if (error && (error->ee_origin == SO_EE_ORIGIN_ICMP || error->ee_origin == SO_EE_ORIGIN_ICMP6))
        s->error = (int)error->ee_errno;
    if (e->message_count == MESSAGES)
        return;
    kept->socket = s;
    kept->msg_flags = (uint32_t)header->msg_flags;
    kept->data_length = message->msg_len;
    kept->control_length = (uint32_t)header->msg_controllen;
    kept->from_length = header->msg_namelen;
    e->messages[e->message_count++] = *kept;
}

/* Whether the kernel holds no memory of zero-copy sends, and their notifications were all read: each is
 * charged as memory for options, from its send until then. So are filters, and memberships of groups. */
static bool nothing_held(const struct sock *s) {
    uint32_t memory[SK_MEMINFO_OPTMEM + 1];
    socklen_t length = sizeof memory;
    return getsockopt(fd_of(s), SOL_SOCKET, SO_MEMINFO, memory, &length) == 0 && length == sizeof memory &&
           memory[SK_MEMINFO_OPTMEM] == 0;
}

static void read_queue(uzc_msg_zerocopy *e, struct sock *s) {
    uzc_message texts[GROUP];
    struct mmsghdr messages[GROUP];
    struct iovec data[GROUP];
    int came;
    do {
        for (uint32_t i = 0; i < GROUP; i++) {
            data[i] = (struct iovec){texts[i].data, sizeof texts[i].data};
            messages[i] = (struct mmsghdr){.msg_hdr = {.msg_name = texts[i].from,
                                                       .msg_namelen = sizeof texts[i].from,
                                                       .msg_iov = &data[i],
                                                       .msg_iovlen = 1,
                                                       .msg_control = texts[i].control,
                                                       .msg_controllen = sizeof texts[i].control}};
        }
        came = recvmmsg(fd_of(s), messages, GROUP, MSG_ERRQUEUE | MSG_DONTWAIT, NULL);
        for (int i = 0; i < came; i++)
            take_message(e, s, &messages[i], &texts[i]);
    } while (came == (int)GROUP);
}

void read_errors(uzc_msg_zerocopy *e, struct sock *s) {
    uint64_t key;
    read_queue(e, s);
    if (!uzc_ids_disbelieved(s->ids) || !nothing_held(s))
        return;
    while ((key = uzc_ids_take_any(s->ids))) {
        settle(e, key, -1);
        s->settled++;
    }
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

/* A datagram to be cut into more pieces than the kernel allows. It is not to have a timestamp: the program
 * may count those of its own. */
static int send_refused(const struct sock *s, const struct entry *entry, int flags) {
    static char nothing[32768];
    struct {
        uzc_gso_control cut;
        union {
            char bytes[CMSG_SPACE(sizeof(uint32_t))];
            struct cmsghdr header;
        } unstamped;
    } control;
    uzc_gso_cmsg(&control.cut, 1);
    control.unstamped.header = (struct cmsghdr){CMSG_LEN(sizeof(uint32_t)), SOL_SOCKET, SO_TIMESTAMPING};
    memset(CMSG_DATA(&control.unstamped.header), 0, sizeof(uint32_t));
    struct iovec piece = {nothing, sizeof nothing};
    struct msghdr message = {.msg_name = entry->to_length ? (void *)&entry->to : NULL,
                             .msg_namelen = entry->to_length,
                             .msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    return sendmsg(fd_of(s), &message, flags | MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* It fails when it has its number already, and its notification comes at once. Whether it did, and nothing
 * else that is not known to take no number. */
static bool use_up_a_number(uzc_msg_zerocopy *e, struct sock *s, const struct entry *entry) {
    if (send_refused(s, entry, MSG_ZEROCOPY) != -EINVAL)
        return false;
    s->found = false;
    s->asking = true;
    read_errors(e, s);
    s->asking = false;
    return s->found;
}

/* One that nobody here has sent zero-copy through, or where a send has failed that may have used up a number,
 * and may tell of it later: one more that does so tells where the counter stands. Of the first, what was in
 * the queue may be of others; so it has to count up, and not to fail on its way (MSG_PROBE sends nothing). */
static void ask_for_number(uzc_msg_zerocopy *e, struct sock *s, const struct entry *entry) {
    uint32_t next;
    int corked = 0;
    getsockopt(fd_of(s), IPPROTO_UDP, UDP_CORK, &corked, &(socklen_t){sizeof corked});
    if (corked || s->more) /* it would become a part of another datagram */
        return;
    if (entry->to_length && !entry->to.sin6_port) /* EINVAL, and no number */
        return;
    if (!s->error) /* or it would fail with that, and nobody would hear of it */
        getsockopt(fd_of(s), SOL_SOCKET, SO_ERROR, &s->error, &(socklen_t){sizeof s->error});
    uzc_ids_next(s->ids, &next);
    if ((!s->sure && send_refused(s, entry, MSG_PROBE) < 0) || !use_up_a_number(e, s, entry))
        return;
    if (s->sure) { /* of all that it was given */
        if ((int32_t)(s->number - next) > 0)
            uzc_ids_set(s->ids, s->number);
        return;
    }
    next = s->number;
    s->sure = use_up_a_number(e, s, entry) && s->number == next + 1;
    if (s->sure)
        uzc_ids_set(s->ids, s->number);
}

/* A stream has nothing that would tell, and none of its failures use up a number. */
static void guess_number(uzc_msg_zerocopy *e, struct sock *s) {
    if (uzc_ids_outstanding(s->ids))
        return;
    uzc_ids_guess(s->ids);
    if (nothing_held(s))
        return;
    read_errors(e, s); /* others' notifications: it makes a better guess */
    uzc_ids_guess(s->ids);
    if (!nothing_held(s))
        uzc_ids_doubt(s->ids);
}

/* Of a socket that the library did not open nothing is certain: the program may have sent zero-copy through
 * it, with SO_ZEROCOPY set and taken back. */
void find_number(uzc_msg_zerocopy *e, struct sock *s, const struct entry *entry) {
    uint32_t next;
    if (s->off) /* the kernel would give no number */
        return;
    if (s->stream && !s->sure)
        guess_number(e, s);
    else if (!s->stream && !uzc_ids_next(s->ids, &next))
        ask_for_number(e, s, entry);
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
