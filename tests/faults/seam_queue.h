/* SPDX-License-Identifier: MIT */
/* Notifications of MSG_ZEROCOPY sends, held back from the error queues of sockets. The epoll set of the
 * engine does not see them, so the wrappers of epoll_wait() and poll() report them when they are due. */
#pragma once

#include "seam_hold.h"

#include <linux/errqueue.h>
#include <netinet/in.h>

struct message {
    struct ticket ticket;
    ino_t inode; /* of the socket */
    char control[256];
    size_t length;
    int flags;
};

struct watched { /* by an epoll descriptor */
    int epoll, fd;
    ino_t inode;
    epoll_data_t data;
};

#define MAX_MESSAGES 4096
#define MAX_WATCHED 4096
static struct message messages[MAX_MESSAGES];
static struct watched watched[MAX_WATCHED];
static int message_count, watched_count;

static ino_t inode_of(int fd) {
    struct stat status;
    return fstat(fd, &status) == 0 ? status.st_ino : 0;
}

static struct sock_extended_err *notification_of(struct msghdr *m) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        struct sock_extended_err *error = (struct sock_extended_err *)CMSG_DATA(c);
        if (((c->cmsg_level == SOL_IP && c->cmsg_type == IP_RECVERR) ||
             (c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_RECVERR)) &&
            error->ee_origin == SO_EE_ORIGIN_ZEROCOPY && !error->ee_errno)
            return error;
    }
    return NULL;
}

static void hold_range(ino_t inode, const struct msghdr *m, uint32_t first, uint32_t last) {
    struct message *kept = &messages[message_count++];
    *kept = (struct message){
        .ticket = new_ticket(), .inode = inode, .length = m->msg_controllen, .flags = m->msg_flags};
    memcpy(kept->control, m->msg_control, kept->length);
    struct msghdr own = {.msg_control = kept->control, .msg_controllen = kept->length};
    notification_of(&own)->ee_info = first;
    notification_of(&own)->ee_data = last;
}

/* False: it is no notification, or there is no room. */
static bool hold_message(ino_t inode, struct msghdr *m) {
    const struct sock_extended_err *n = notification_of(m);
    if (!n || m->msg_controllen > sizeof messages->control || message_count == MAX_MESSAGES)
        return false;
    const uint32_t last = n->ee_data;
    for (uint32_t first = n->ee_info, end;; first = end + 1) {
        const bool parts = hold.split && message_count + 1 < MAX_MESSAGES;
        end = parts ? first + random_below(last - first < 3 ? last - first + 1 : 3) : last;
        hold_range(inode, m, first, end);
        if (end == last)
            return true;
    }
}

static int find_due(ino_t inode) {
    for (int i = 0; i < message_count; i++)
        if (messages[i].inode == inode && messages[i].ticket.left == 0)
            return i;
    return -1;
}

static void remove_message(int at) {
    memmove(&messages[at], &messages[at + 1], (size_t)(--message_count - at) * sizeof *messages);
}

static void give_message(struct mmsghdr *out, int at) {
    const struct message *m = &messages[at];
    memcpy(out->msg_hdr.msg_control, m->control, m->length);
    out->msg_hdr.msg_controllen = m->length;
    out->msg_hdr.msg_flags = m->flags;
    out->msg_hdr.msg_namelen = 0;
    out->msg_len = 0;
    remove_message(at);
}

/* An invalid send that is made to learn the socket's counter is notified at once: that is not held. */
static int read_error_queue(int fd, struct mmsghdr *out, unsigned count, int flags) {
    const ino_t inode = inode_of(fd);
    const bool holds = hold.notifications && probed_fd != fd;
    unsigned came = 0;
    probed_fd = -1;
    for (int at; came < count && (at = find_due(inode)) >= 0;)
        give_message(&out[came++], at);
    while (came < count) {
        const struct msghdr before = out[came].msg_hdr;
        if (real.recvmmsg(fd, &out[came], 1, flags, NULL) < 1)
            break;
        if (holds && hold_message(inode, &out[came].msg_hdr))
            out[came].msg_hdr = before;
        else
            came++;
    }
    return came ? (int)came : MINUS(EAGAIN);
}

static int seam_recvmmsg(int fd, struct mmsghdr *out, unsigned count, int flags, struct timespec *timeout) {
    const int error = refusal(N_recvmmsg, fd);
    if (error)
        return MINUS(error);
    if (!(flags & MSG_ERRQUEUE))
        return real.recvmmsg(fd, out, count, flags, timeout);
    pthread_mutex_lock(&lock);
    const int came = read_error_queue(fd, out, count, flags);
    pthread_mutex_unlock(&lock);
    return came;
}

/* -- epoll */

static struct watched *find_watched(int epoll, int fd) {
    for (int i = 0; i < watched_count; i++)
        if (watched[i].epoll == epoll && watched[i].fd == fd)
            return &watched[i];
    return NULL;
}

static void watch(int epoll, int operation, int fd, const struct epoll_event *event) {
    struct watched *w = find_watched(epoll, fd);
    if (operation == EPOLL_CTL_DEL) {
        if (w)
            *w = watched[--watched_count];
        return;
    }
    if (!w && watched_count < MAX_WATCHED)
        w = &watched[watched_count++];
    if (w)
        *w = (struct watched){epoll, fd, inode_of(fd), event->data};
}

static int seam_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
    const int error = refusal(N_epoll_ctl, fd);
    const int result = error ? MINUS(error) : real.epoll_ctl(epoll, operation, fd, event);
    if (result < 0)
        return result;
    pthread_mutex_lock(&lock);
    watch(epoll, operation, fd, event);
    pthread_mutex_unlock(&lock);
    return result;
}

static void forget_fd(int fd) {
    pthread_mutex_lock(&lock);
    for (int i = watched_count; i--;) {
        if (watched[i].epoll != fd && watched[i].fd != fd)
            continue;
        for (int m = message_count; watched[i].fd == fd && m--;) /* nobody waits for them any more */
            if (messages[m].inode == watched[i].inode)
                remove_message(m);
        watched[i] = watched[--watched_count];
    }
    pthread_mutex_unlock(&lock);
}

/* A held message of a socket in the set; NULL: there is none. */
static struct message *held_for(int epoll) {
    for (int m = 0; m < message_count; m++)
        for (int i = 0; i < watched_count; i++)
            if (watched[i].epoll == epoll && watched[i].inode == messages[m].inode)
                return &messages[m];
    return NULL;
}

static int seam_epoll_wait(int epoll, struct epoll_event *events, int count, int timeout) {
    const int error = refusal(N_epoll_wait, epoll);
    int came = error ? MINUS(error) : real.epoll_wait(epoll, events, count, timeout);
    if (came < 0 || !message_count)
        return came;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < message_count; i++)
        is_due(&messages[i].ticket);
    for (int i = 0; i < watched_count && came < count; i++)
        if (watched[i].epoll == epoll && find_due(watched[i].inode) >= 0)
            events[came++] = (struct epoll_event){.events = EPOLLERR, .data = watched[i].data};
    pthread_mutex_unlock(&lock);
    return came;
}

static int seam_poll(struct pollfd *fds, nfds_t count, int timeout) {
    const int error = refusal(N_poll, count ? fds->fd : NONE);
    if (error)
        return MINUS(error);
    pthread_mutex_lock(&lock);
    struct message *held = count == 1 ? held_for(fds->fd) : NULL;
    if (held && held->ticket.left && timeout && ends_wait(timeout < 0 || timeout >= LONGEST_WAIT_MS))
        held->ticket.left = 0;
    const bool due = held && !held->ticket.left;
    pthread_mutex_unlock(&lock);
    if (!due)
        return real.poll(fds, count, timeout);
    fds->revents = POLLIN;
    return 1;
}
