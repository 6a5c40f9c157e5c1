/* SPDX-License-Identifier: MIT */
/* The structures that the files of this engine share. A file calls and includes only those on its right:
 * engine, transmit, counter, {sockets, notifications}, state.h, {zerocopy_ids, sock_table}.
 *
 * Only the thread between uzc_slots_begin() and uzc_slots_end() uses it: no field needs a lock. */
#pragma once

#define _GNU_SOURCE
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "engines/gso_cmsg.h"
#include "engines/msg_zerocopy/sock_table.h"
#include "slots/accounting.h"

#define BATCH 32u        /* messages of one sendmmsg() or recvmmsg() */
#define MAX_MESSAGES 256 /* error queue messages that are kept for the program */

/* A request that was queued and not sent. */
struct entry {
    uint64_t key; /* of the request table */
    const char *data;
    struct iovec *vector; /* instead of data; then length counts iovecs */
    struct sockaddr_in6 to;
    uint32_t to_length, length, segment, msg_flags;
    int fd; /* -1: the socket was closed before this was submitted */
    bool zero_copy;
};

/* A request for which the socket had no room (EAGAIN). */
struct waiter {
    struct entry entry;
    struct waiter *next;
    struct iovec vector[]; /* the entry's own copy */
};

/* A socket, found by the program's descriptor. A descriptor number may be reused: the cookie and inode in
 * `link` identify the socket. */
struct sock {
    struct sock_link link;
    uzc_ids *ids;                                /* NULL: everything is copied */
    struct waiter *first_waiting, *last_waiting; /* oldest first */
    struct sock *next, *previous;                /* in socks */
    struct sock *next_dirty;
    uint64_t settled;            /* requests that notifications have settled */
    uint64_t no_optmem;          /* `settled` + 1 at the last ENOBUFS for want of option memory; else 0 */
    int fd;                      /* the program's */
    int dup_fd;                  /* a dup of it, while requests are outstanding or wait; else -1 */
    int pending_error;           /* from the error queue: the next send fails with it */
    bool dropped_error;          /* sendmmsg() stopped, and did not say why */
    bool in_epoll;               /* dup_fd is in the epoll set */
    bool needs_poll;             /* busy, and epoll may not report it */
    bool dirty;                  /* in the list of sockets for update_epoll() */
    bool fd_reused;              /* the program closed it, and fd is another socket by now */
    bool stream;                 /* TCP */
    bool zero_copy_off;          /* SO_ZEROCOPY was off when it was last read */
    bool more_pending;           /* the last send had MSG_MORE: a datagram is not complete */
    bool batchable_with_address; /* sendmmsg() may take several requests that have addresses */
    bool batchable_connected;    /* the same, of requests without */
    bool verified;               /* the counter was probed, or the library opened the socket */
    bool probing;                /* notifications are read for probe_result */
    bool has_probe_result;       /* since probing began */
    uint32_t probe_result;       /* one more than the highest id reported */
};

struct uzc_msg_zerocopy {
    uzc_slots *slots;
    struct entry *entries;
    uint32_t max_entries, entry_count;
    struct sock **by_fd;
    int by_fd_size;
    struct sock_table by_cookie;
    struct sock *socks, *dirty;
    struct sock *next_checked;        /* where abort_closed_connections() goes on; NULL: at the first */
    uint32_t epoll_count, poll_count; /* sockets with in_epoll, with needs_poll */
    int epoll_fd, event_fd;           /* event_fd is in epoll_fd's set */
    bool zero_copy;
    bool claimed;      /* by the thread that submitted first */
    bool fileno_used;  /* the program polls epoll_fd */
    bool readable;     /* event_fd */
    uint64_t progress; /* results and notifications so far */
    uint64_t retried;  /* sends that failed, and were made again without a result */
    uzc_message *messages;
    int message_count;
};

static inline void report_result(uzc_msg_zerocopy *e, uint64_t key, int32_t result) {
    uzc_slots_result(e->slots, key, result, 0);
    e->progress++;
}

static inline void report_settled(uzc_msg_zerocopy *e, uint64_t key, int copied) {
    uzc_slots_settle(e->slots, key, copied, 0);
    e->progress++;
}

/* An int option of a socket; `otherwise` where it cannot be read. */
static inline int option_of(int fd, int level, int option, int otherwise) {
    int value = otherwise;
    return getsockopt(fd, level, option, &value, &(socklen_t){sizeof value}) == 0 ? value : otherwise;
}

/* A descriptor of this socket. s->fd alone may be another's by now, unless sock_of() just returned it. */
static inline int fd_of(const struct sock *s) {
    return s->dup_fd >= 0 ? s->dup_fd : s->fd;
}
