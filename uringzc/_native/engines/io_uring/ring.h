/* SPDX-License-Identifier: MIT
 *
 * The ring's structures, private to this folder: submission <- ring. */
#pragma once

#include "engines/gso_cmsg.h"
#include "engines/io_uring/compat.h"
#include "slots/accounting.h"

/* What an SQE points at. The kernel has copied it when it has taken the SQE. */
struct message {
    struct msghdr header;
    struct iovec iov;
    struct sockaddr_in6 to;
};

struct uzc_ring {
    struct io_uring ring;
    uzc_slots *slots;
    struct message *messages;  /* one for each entry of the submission queue */
    uzc_gso_control *controls; /* one for each segment size, constant once written; or NULL */
    bool report_usage, sendmsg_zc, fixed_message; /* of uzc_features */
    bool enabled;                                 /* its thread has submitted */
    bool registered;                              /* the ring's own descriptor, with the kernel */
    int event_fd;                                 /* of fileno(), -1 until it is called */
};

/* submission.c: members of uzc_calls */
int64_t ring_queue(void *engine, const uzc_send *send);
void ring_revoke(void *engine, int fd);
