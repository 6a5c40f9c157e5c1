/* SPDX-License-Identifier: MIT */
/* liburing, and the ring's structures, private to this folder. */
#pragma once

#include <liburing.h>

#include "engines/gso_cmsg.h"
#include "slots/accounting.h"

/* not in liburing 2.3 */
#ifndef IORING_SEND_ZC_REPORT_USAGE
#define IORING_SEND_ZC_REPORT_USAGE (1U << 3) /* Linux 6.2, liburing 2.4 */
#endif
#ifndef IORING_NOTIF_USAGE_ZC_COPIED
#define IORING_NOTIF_USAGE_ZC_COPIED (1U << 31)
#endif

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
