/* SPDX-License-Identifier: MIT */
/* Where a socket's zero-copy counter stands: the id that the next MSG_ZEROCOPY send will get. No socket
 * option reads it. A UDP socket's counter is learned with sends that are invalid but counted; a TCP socket's
 * is guessed while nothing is outstanding, and zerocopy_ids.c waits for a notification that confirms it. */
#include "engines/msg_zerocopy/counter.h"
#include "engines/msg_zerocopy/notifications.h"

#include <netinet/udp.h>

#ifndef MSG_PROBE
#define MSG_PROBE 0x10
#endif

/* Sends a datagram with more GSO segments than the kernel allows: EINVAL. Timestamping is switched off for
 * it: it would use up one of the program's SOF_TIMESTAMPING_OPT_ID numbers. */
static int send_invalid(const struct sock *s, const struct entry *entry, int flags) {
    static char zeros[32768];
    struct {
        uzc_gso_control segment;
        union {
            char bytes[CMSG_SPACE(sizeof(uint32_t))];
            struct cmsghdr header;
        } no_timestamp;
    } control;
    uzc_gso_cmsg(&control.segment, 1);
    control.no_timestamp.header = (struct cmsghdr){CMSG_LEN(sizeof(uint32_t)), SOL_SOCKET, SO_TIMESTAMPING};
    memset(CMSG_DATA(&control.no_timestamp.header), 0, sizeof(uint32_t));
    struct iovec piece = {zeros, sizeof zeros};
    struct msghdr message = {.msg_name = entry->to_length ? (void *)&entry->to : NULL,
                             .msg_namelen = entry->to_length,
                             .msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    return sendmsg(fd_of(s), &message, flags | MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* The send fails after it was given an id, and its notification comes at once. False: it failed earlier, or
 * the notification did not come. */
static bool probe_once(uzc_msg_zerocopy *e, struct sock *s, const struct entry *entry) {
    if (send_invalid(s, entry, MSG_ZEROCOPY) != -EINVAL)
        return false;
    s->has_probe_result = false;
    s->probing = true;
    read_error_queue(e, s);
    s->probing = false;
    return s->has_probe_result;
}

/* Learns the counter by probes: at the first zero-copy send, and after a failed one, which may have used an
 * id and may report it later. A socket is verified when two probes got consecutive ids: until then the error
 * queue may hold reports of others' sends. MSG_PROBE sends nothing: if it fails, so would a probe, before it
 * gets an id. */
static void probe_counter(uzc_msg_zerocopy *e, struct sock *s, const struct entry *entry) {
    uint32_t next;
    if (entry->to_length && !entry->to.sin6_port) /* EINVAL, and no id */
        return;
    /* the program's datagram is not complete: the probe would become a part of it */
    if (s->more_pending || option_of(fd_of(s), IPPROTO_UDP, UDP_CORK, 0))
        return;
    if (!s->pending_error) /* or the probe would fail with it, and consume it */
        s->pending_error = option_of(fd_of(s), SOL_SOCKET, SO_ERROR, 0);
    uzc_ids_next(s->ids, &next);
    if ((!s->verified && send_invalid(s, entry, MSG_PROBE) < 0) || !probe_once(e, s, entry))
        return;
    if (s->verified) { /* the highest id reported is the probe's, or later */
        if ((int32_t)(s->probe_result - next) > 0)
            uzc_ids_set(s->ids, s->probe_result);
        return;
    }
    next = s->probe_result;
    s->verified = probe_once(e, s, entry) && s->probe_result == next + 1;
    if (s->verified)
        uzc_ids_set(s->ids, s->probe_result);
}

/* TCP has no send that is invalid but counted; its failed sends use no id. */
static void guess_counter(uzc_msg_zerocopy *e, struct sock *s) {
    if (uzc_ids_outstanding(s->ids))
        return;
    uzc_ids_guess(s->ids);
    if (kernel_holds_nothing(s))
        return;
    read_error_queue(e, s); /* notifications of others' sends improve the guess */
    uzc_ids_guess(s->ids);
    if (!kernel_holds_nothing(s))
        uzc_ids_invalidate(s->ids);
}

/* The program may have sent zero-copy through a socket that the library did not open, even if SO_ZEROCOPY is
 * off now. */
void learn_counter(uzc_msg_zerocopy *e, struct sock *s, const struct entry *entry) {
    uint32_t next;
    if (s->zero_copy_off) /* the kernel would assign no id */
        return;
    if (s->stream && !s->verified)
        guess_counter(e, s);
    else if (!s->stream && !uzc_ids_next(s->ids, &next))
        probe_counter(e, s, entry);
}
