/* SPDX-License-Identifier: MIT
 *
 * The error queue: notifications are ranges of numbers. Whatever else is there, and not of the engine's
 * making, is kept for the program.
 */
#include "engines/msg_zerocopy/notifications.h"

#include <linux/errqueue.h>
#include <linux/sock_diag.h>

#ifndef SO_EE_ORIGIN_ZEROCOPY
#define SO_EE_ORIGIN_ZEROCOPY 5
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
bool nothing_held(const struct sock *s) {
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
