/* SPDX-License-Identifier: MIT */
/* The sockets of an engine: identity, lifetime, epoll. While requests of a socket are outstanding, or wait
 * for room, the engine holds a dup of its descriptor: if the program's were the last, closing it would lose
 * the notifications, and nothing would say when the memory is free. */
#include "engines/msg_zerocopy/sockets.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

/* SO_COOKIE is unique among all sockets since Linux 5.10, before that within one network namespace.
 * SO_NETNS_COOKIE (5.14) shows a kernel that is new enough. */
static bool cookies_are_unique(int fd) {
    static atomic_int unique = -1; /* not known; any thread may set it */
    int known = unique;
    if (known < 0) {
        uint64_t cookie;
        known = getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &(socklen_t){sizeof cookie}) == 0;
        if (known || errno == ENOPROTOOPT)
            unique = known;
    }
    return known;
}

/* Before Linux 4.12 there is no cookie, and the inode alone identifies a socket. */
static struct sock_link identify(int fd) {
    struct sock_link found = {0};
    struct stat status;
    getsockopt(fd, SOL_SOCKET, SO_COOKIE, &found.cookie, &(socklen_t){sizeof found.cookie});
    if (!(found.cookie && cookies_are_unique(fd)) && fstat(fd, &status) == 0)
        found.inode = status.st_ino;
    return found;
}

static bool is_same_socket(const struct sock *s, int fd) {
    struct sock_link found = identify(fd);
    return found.cookie == s->link.cookie && found.inode == s->link.inode;
}

int uzc_msg_zerocopy_taken(int fd) {
    struct sock_link found = identify(fd);
    return uzc_ids_taken(found.cookie, found.inode);
}

/* NULL: the kernel has no zero-copy sends for this socket, or another engine uses them. */
static uzc_ids *open_ids(const struct sock *s) {
    if (!s->link.cookie || setsockopt(s->fd, SOL_SOCKET, SO_ZEROCOPY, &(int){1}, sizeof(int)) < 0)
        return NULL;
    return uzc_ids_open(s->link.cookie, s->link.inode);
}

static void free_sock(uzc_msg_zerocopy *e, struct sock *s) {
    *(s->previous ? &s->previous->next : &e->socks) = s->next;
    if (s->next)
        s->next->previous = s->previous;
    if (e->next_checked == s)
        e->next_checked = s->next;
    sock_table_remove(&e->by_cookie, &s->link);
    if (s->fd < e->by_fd_size && e->by_fd[s->fd] == s)
        e->by_fd[s->fd] = NULL;
    if (s->dup_fd >= 0)
        close(s->dup_fd);
    while (s->first_waiting) {
        struct waiter *w = s->first_waiting;
        s->first_waiting = w->next;
        free(w);
    }
    int kept = 0;
    for (int i = 0; i < e->message_count; i++)
        if (e->messages[i].socket != s)
            e->messages[kept++] = e->messages[i];
    e->message_count = kept;
    uzc_ids_free(s->ids);
    free(s);
}

void free_socks(uzc_msg_zerocopy *e) {
    while (e->socks)
        free_sock(e, e->socks);
    free(e->by_cookie.chains);
    free(e->by_fd);
}

static bool reserve_fd(uzc_msg_zerocopy *e, int fd) {
    if (fd < e->by_fd_size)
        return true;
    int by_fd_size = fd < 32 ? 64 : 2 * fd;
    struct sock **grown = realloc(e->by_fd, (size_t)by_fd_size * sizeof(struct sock *));
    if (!grown)
        return false;
    memset(grown + e->by_fd_size, 0, (size_t)(by_fd_size - e->by_fd_size) * sizeof(struct sock *));
    e->by_fd = grown;
    e->by_fd_size = by_fd_size;
    return true;
}

/* A socket that is known, by this descriptor or another. */
static struct sock *find_sock(uzc_msg_zerocopy *e, const struct sock_link *identity, int fd) {
    if (!identity->cookie && !identity->inode) /* no descriptor */
        return NULL;
    struct sock *s = (struct sock *)sock_table_find(&e->by_cookie, identity->cookie, identity->inode);
    if (!s)
        return NULL;
    if (e->by_fd[s->fd] == s)
        e->by_fd[s->fd] = NULL;
    s->fd = fd;
    s->fd_reused = false;
    return s;
}

static struct sock *new_sock(uzc_msg_zerocopy *e, const struct sock_link *identity, int fd) {
    struct sock *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    *s = (struct sock){.link = *identity, .fd = fd, .dup_fd = -1, .next = e->socks};
    if (!sock_table_insert(&e->by_cookie, &s->link)) {
        free(s);
        return NULL;
    }
    if (e->socks)
        e->socks->previous = s;
    e->socks = s;
    s->stream = option_of(fd, SOL_SOCKET, SO_TYPE, 0) == SOCK_STREAM;
    s->ids = e->zero_copy ? open_ids(s) : NULL;
    return s;
}

struct sock *sock_of(uzc_msg_zerocopy *e, int fd) {
    if (!reserve_fd(e, fd))
        return NULL;
    const struct sock_link identity = identify(fd);
    struct sock *before = e->by_fd[fd];
    if (before && before->link.cookie == identity.cookie && before->link.inode == identity.inode)
        return before;
    struct sock *s = find_sock(e, &identity, fd);
    if (!s)
        s = new_sock(e, &identity, fd);
    if (!s)
        return NULL;
    e->by_fd[fd] = s;
    if (before) { /* the program has closed it */
        before->fd_reused = true;
        update_epoll(e, before);
    }
    return s;
}

static int why_copied(const struct sock *s, int fd) {
    uint32_t next;
    if (!s->ids)
        return uzc_msg_zerocopy_taken(fd) ? UZC_COPIES_OTHER_ENGINE : 0;
    return uzc_ids_next(s->ids, &next) ? 0 : UZC_COPIES_OTHERS_SEND;
}

int uzc_msg_zerocopy_why_copied(uzc_msg_zerocopy *e, int fd) {
    if (!e->zero_copy || fd < 0 || uzc_slots_begin_any(e->slots))
        return 0;
    struct sock *s = fd < e->by_fd_size ? e->by_fd[fd] : NULL;
    int why = s && is_same_socket(s, fd) ? why_copied(s, fd) : 0;
    uzc_slots_end(e->slots);
    return why;
}

/* Whether the program has another descriptor of the socket. */
static bool is_open_elsewhere(const struct sock *s) {
    DIR *descriptors = opendir("/proc/self/fd");
    bool found = !descriptors; /* without /proc: assume so */
    for (struct dirent *entry; !found && (entry = readdir(descriptors));) {
        int fd = atoi(entry->d_name);
        found = fd != s->dup_fd && entry->d_name[0] != '.' && is_same_socket(s, fd);
    }
    if (descriptors)
        closedir(descriptors);
    return found;
}

/* close() with SO_LINGER and a time of 0 resets a connection, but not while dup_fd keeps it open: then
 * connect(AF_UNSPEC) resets it. Only `max` sockets are checked in a call, in turn, as thousands may be in
 * flight. */
void abort_closed_connections(uzc_msg_zerocopy *e, uint32_t max) {
    struct sock *s = e->next_checked ? e->next_checked : e->socks;
    for (e->next_checked = NULL; s; s = s->next) {
        if (!max--) {
            e->next_checked = s;
            return;
        }
        struct linger linger = {0};
        if (!s->stream || s->dup_fd < 0 || is_same_socket(s, s->fd) ||
            getsockopt(s->dup_fd, SOL_SOCKET, SO_LINGER, &linger, &(socklen_t){sizeof linger}) < 0)
            continue;
        if (linger.l_onoff && !linger.l_linger && !is_open_elsewhere(s))
            connect(s->dup_fd, &(struct sockaddr){.sa_family = AF_UNSPEC}, sizeof(struct sockaddr));
    }
}

int hold_open(struct sock *s) {
    if (s->dup_fd < 0)
        s->dup_fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
    return s->dup_fd;
}

void mark_dirty(uzc_msg_zerocopy *e, struct sock *s) {
    if (s->dirty)
        return;
    s->dirty = true;
    s->next_dirty = e->dirty;
    e->dirty = s;
}

/* Edge-triggered: a pending socket error would keep a level-triggered descriptor readable until the next
 * send. Where epoll_ctl() fails (no memory; ENOSPC: fs.epoll.max_user_watches), the next poll tries again. */
static void add_to_epoll(uzc_msg_zerocopy *e, struct sock *s) {
    struct epoll_event event = {.events = EPOLLET | (s->first_waiting ? EPOLLOUT : 0), .data.ptr = s};
    if (epoll_ctl(e->epoll_fd, s->in_epoll ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, s->dup_fd, &event) < 0)
        return;
    e->epoll_count += !s->in_epoll;
    s->in_epoll = true;
}

/* Requests with untrusted ids wait until the kernel holds nothing, which may be a little after the event. */
static bool must_poll(const struct sock *s) {
    return !s->in_epoll || (s->ids && uzc_ids_untrusted(s->ids));
}

void update_epoll(uzc_msg_zerocopy *e, struct sock *s) {
    const bool busy = s->first_waiting || (s->ids && uzc_ids_outstanding(s->ids));
    if (busy && s->dup_fd >= 0 && (!s->in_epoll || s->first_waiting))
        add_to_epoll(e, s);
    const bool needs_poll = busy && must_poll(s);
    e->poll_count += (uint32_t)needs_poll - (uint32_t)s->needs_poll;
    s->needs_poll = needs_poll;
    if (busy)
        return;
    s->no_optmem = 0; /* another socket may have used the option memory */
    if (s->in_epoll) {
        epoll_ctl(e->epoll_fd, EPOLL_CTL_DEL, s->dup_fd, NULL);
        e->epoll_count--;
        s->in_epoll = false;
    }
    if (s->dup_fd >= 0)
        close(s->dup_fd);
    s->dup_fd = -1;
    if (s->fd_reused && !s->dirty)
        free_sock(e, s);
}
