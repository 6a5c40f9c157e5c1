/* SPDX-License-Identifier: MIT
 *
 * The engine's own structures, shared by engine.c, transmit.c, notifications.c and sockets.c.
 */
#ifndef UZC_MSG_ZEROCOPY_STATE_H
#define UZC_MSG_ZEROCOPY_STATE_H

#define _GNU_SOURCE
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "engines/gso_cmsg.h"
#include "engines/msg_zerocopy/sock_table.h"
#include "slots/accounting.h"

#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif

#define GROUP 32u /* messages of one sendmmsg(), and of one look at an error queue */
#define MESSAGES 256

struct entry {
    uint64_t key;
    const char *data;
    struct iovec *vector; /* instead of data */
    struct sockaddr_in6 to;
    uint32_t to_length, length, segment, msg_flags;
    int fd; /* -1: the socket was closed before this was submitted */
    bool zero_copy;
};

/* A request that found no room. */
struct waiter {
    struct entry entry;
    struct waiter *next;
    struct iovec vector[]; /* the entry's own */
};

/* What is known of a socket. It is found by the program's descriptor, and told from another that has the same
 * number by what identifies it. */
struct sock {
    struct sock_link link;
    uzc_ids *ids; /* NULL: it sends copies */
    struct waiter *first, *last;
    struct sock *next, *previous; /* of the engine */
    struct sock *next_touched;
    uint64_t settled; /* notifications so far */
    uint64_t starved; /* 1 + settled when there was no memory for one more zero-copy send */
    int fd;           /* the program's */
    int held;         /* ours, of the same socket, while anything of it is outstanding; or -1 */
    int error;        /* from the error queue: the next send fails with it */
    bool watched;     /* by epoll */
    bool unheard;     /* busy, and its event may not come */
    bool touched, gone;
    bool stream;        /* TCP */
    bool off;           /* the program has taken SO_ZEROCOPY back, as far as was looked */
    bool more;          /* the last one was a part of a datagram: MSG_MORE */
    bool asking, found; /* where its counter stands: at `number` */
    bool sure;          /* where its counter stands: it was asked for, or the library opened it */
    uint32_t number;
    bool apart, together; /* sendmmsg() may take several: with addresses; to where it is connected */
};

struct uzc_msg_zerocopy {
    uzc_slots *slots;
    struct entry *entries; /* queued and not submitted */
    uint32_t size, count;
    struct sock **by_fd, *socks, *touched;
    struct sock_table table; /* of the same */
    struct sock *turn;       /* whom end_closed() asks next; NULL: the first */
    int fds;
    uint32_t watched_count, unheard_count;
    int epoll, event_fd;
    bool zero_copy, owned, asked, signalled;
    uint64_t progress; /* results and notifications so far */
    uzc_message *messages;
    int message_count;
};

static inline void give_result(uzc_msg_zerocopy *e, uint64_t key, int32_t result) {
    uzc_slots_result(e->slots, key, result, 0);
    e->progress++;
}

static inline void settle(uzc_msg_zerocopy *e, uint64_t key, int copied) {
    uzc_slots_settle(e->slots, key, copied, 0);
    e->progress++;
}

/* A descriptor of this socket. The program's may be another's by now, unless it was just looked up. */
static inline int fd_of(const struct sock *s) {
    return s->held >= 0 ? s->held : s->fd;
}

#endif
