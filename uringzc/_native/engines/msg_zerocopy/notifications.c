/* SPDX-License-Identifier: MIT */
/* Reading a socket's error queue: notifications, which are ranges of zero-copy ids, settle requests; other
 * messages (ICMP errors, timestamps) are kept for the program. */
#include "engines/msg_zerocopy/notifications.h"

#include <linux/errqueue.h>
#include <linux/sock_diag.h>

/* The kernel merges ranges, and keeps the code of the first: `copied` is known of the first id alone. */
static void take_range(uzc_msg_zerocopy *e, struct sock *s, uint32_t first, uint32_t last, bool copied) {
    const uint32_t reported = first;
    if (s->probing && (!s->has_probe_result || (int32_t)(last + 1 - s->probe_result) > 0)) {
        s->probe_result = last + 1;
        s->has_probe_result = true;
    }
    if (!uzc_ids_clip(s->ids, &first, &last))
        return;
    for (uint32_t id = first;; id++) {
        uint64_t key = uzc_ids_take(s->ids, id);
        if (key)
            report_settled(e, key, id == reported ? copied : -1);
        s->settled += key != 0;
        if (id == last)
            break;
    }
}

static const struct sock_extended_err *extended_error(struct msghdr *header) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c))
        if ((c->cmsg_level == SOL_IP && c->cmsg_type == IP_RECVERR) ||
            (c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_RECVERR))
            return (const struct sock_extended_err *)CMSG_DATA(c);
    return NULL;
}

/* Reading an ICMP error clears it as the socket's pending error, so that is kept here. */
static void take_message(uzc_msg_zerocopy *e, struct sock *s, struct mmsghdr *message, uzc_message *kept) {
    struct msghdr *header = &message->msg_hdr;
    const struct sock_extended_err *error = extended_error(header);
    if (error && error->ee_origin == SO_EE_ORIGIN_ZEROCOPY && !error->ee_errno) {
        take_range(e, s, error->ee_info, error->ee_data, error->ee_code & SO_EE_CODE_ZEROCOPY_COPIED);
        return;
    }
    if (error && (error->ee_origin == SO_EE_ORIGIN_ICMP || error->ee_origin == SO_EE_ORIGIN_ICMP6))
        s->pending_error = (int)error->ee_errno;
    if (e->message_count == MAX_MESSAGES)
        return;
    kept->socket = s;
    kept->msg_flags = (uint32_t)header->msg_flags;
    kept->data_length = message->msg_len;
    kept->control_length = (uint32_t)header->msg_controllen;
    kept->from_length = header->msg_namelen;
    e->messages[e->message_count++] = *kept;
}

/* The kernel charges a notification as option memory from its send until it is read. It also charges socket
 * filters and group memberships there: a socket that has any never holds nothing. */
bool kernel_holds_nothing(const struct sock *s) {
    uint32_t memory[SK_MEMINFO_OPTMEM + 1];
    socklen_t length = sizeof memory;
    return getsockopt(fd_of(s), SOL_SOCKET, SO_MEMINFO, memory, &length) == 0 && length == sizeof memory &&
           memory[SK_MEMINFO_OPTMEM] == 0;
}

static void read_queue(uzc_msg_zerocopy *e, struct sock *s) {
    uzc_message texts[BATCH];
    struct mmsghdr messages[BATCH];
    struct iovec data[BATCH];
    int came;
    do {
        for (uint32_t i = 0; i < BATCH; i++) {
            data[i] = (struct iovec){texts[i].data, sizeof texts[i].data};
            messages[i] = (struct mmsghdr){.msg_hdr = {.msg_name = texts[i].from,
                                                       .msg_namelen = sizeof texts[i].from,
                                                       .msg_iov = &data[i],
                                                       .msg_iovlen = 1,
                                                       .msg_control = texts[i].control,
                                                       .msg_controllen = sizeof texts[i].control}};
        }
        came = recvmmsg(fd_of(s), messages, BATCH, MSG_ERRQUEUE | MSG_DONTWAIT, NULL);
        for (int i = 0; i < came; i++)
            take_message(e, s, &messages[i], &texts[i]);
    } while (came == (int)BATCH || (came < 0 && errno == EINTR)); /* edge-triggered: nothing asks again */
}

void read_error_queue(uzc_msg_zerocopy *e, struct sock *s) {
    uint64_t key;
    read_queue(e, s);
    if (!uzc_ids_untrusted(s->ids) || !kernel_holds_nothing(s))
        return;
    while ((key = uzc_ids_take_any(s->ids))) {
        report_settled(e, key, -1);
        s->settled++;
    }
}
