/* SPDX-License-Identifier: MIT
 *
 * Where a socket's zero-copy counter stands, which the kernel does not say.
 */
#include "engines/msg_zerocopy/counter.h"
#include "engines/msg_zerocopy/notifications.h"

#include <netinet/udp.h>

#ifndef MSG_PROBE
#define MSG_PROBE 0x10
#endif

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
