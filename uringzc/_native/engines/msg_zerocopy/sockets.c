/* SPDX-License-Identifier: MIT
 *
 * The sockets of an engine. While requests of one are outstanding, or wait for room, the engine holds a
 * descriptor of its own: closing the program's would lose the notifications, and with them the memory.
 */
#include "engines/msg_zerocopy/sockets.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

/* Since Linux 5.10 no two sockets have the same cookie; before that, none of one network namespace. Where
 * the kernel has SO_NETNS_COOKIE (5.14) it is that new. */
static bool cookies_are_unique(int fd) {
    static atomic_int unique = -1; /* not known */
    int known = unique;
    if (known < 0) {
        uint64_t cookie;
        known = getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &(socklen_t){sizeof cookie}) == 0;
        if (known || errno == ENOPROTOOPT)
            unique = known;
    }
    return known;
}

/* Before Linux 4.12 a socket has no cookie, and is known by its inode alone. */
static struct sock_link identify(int fd) {
    struct sock_link found = {0};
    struct stat status;
    getsockopt(fd, SOL_SOCKET, SO_COOKIE, &found.cookie, &(socklen_t){sizeof found.cookie});
    if (!(found.cookie && cookies_are_unique(fd)) && fstat(fd, &status) == 0)
        found.inode = status.st_ino;
    return found;
}

static bool is_at(const struct sock *s, int fd) {
    struct sock_link found = identify(fd);
    return found.cookie == s->link.cookie && found.inode == s->link.inode;
}

int uzc_msg_zerocopy_taken(int fd) {
    struct sock_link found = identify(fd);
    return uzc_ids_taken(found.cookie, found.inode);
}

/* Its numbers, if the kernel sends this socket's data from where it is when it is asked to. */
static uzc_ids *numbers(const struct sock *s) {
    if (!s->link.cookie || setsockopt(s->fd, SOL_SOCKET, SO_ZEROCOPY, &(int){1}, sizeof(int)) < 0)
        return NULL;
    return uzc_ids_open(s->link.cookie, s->link.inode);
}

static void free_sock(uzc_msg_zerocopy *e, struct sock *s) {
    *(s->previous ? &s->previous->next : &e->socks) = s->next;
    if (s->next)
        s->next->previous = s->previous;
    if (e->turn == s)
        e->turn = s->next;
    sock_table_remove(&e->table, &s->link);
    if (s->fd < e->fds && e->by_fd[s->fd] == s)
        e->by_fd[s->fd] = NULL;
    if (s->held >= 0)
        close(s->held);
    while (s->first) {
        struct waiter *w = s->first;
        s->first = w->next;
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
    free(e->table.chains);
    free(e->by_fd);
}

static bool make_room(uzc_msg_zerocopy *e, int fd) {
    if (fd < e->fds)
        return true;
    int fds = fd < 32 ? 64 : 2 * fd;
    struct sock **grown = realloc(e->by_fd, (size_t)fds * sizeof(struct sock *));
    if (!grown)
        return false;
    memset(grown + e->fds, 0, (size_t)(fds - e->fds) * sizeof(struct sock *));
    e->by_fd = grown;
    e->fds = fds;
    return true;
}

/* The same socket may come by another descriptor. */
static struct sock *find_sock(uzc_msg_zerocopy *e, const struct sock_link *identity, int fd) {
    if (!identity->cookie && !identity->inode) /* no descriptor */
        return NULL;
    struct sock *s = (struct sock *)sock_table_find(&e->table, identity->cookie, identity->inode);
    if (!s)
        return NULL;
    if (e->by_fd[s->fd] == s)
        e->by_fd[s->fd] = NULL;
    s->fd = fd;
    s->gone = false;
    return s;
}

static struct sock *new_sock(uzc_msg_zerocopy *e, const struct sock_link *identity, int fd) {
    struct sock *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    *s = (struct sock){.link = *identity, .fd = fd, .held = -1, .next = e->socks};
    if (!sock_table_insert(&e->table, &s->link)) {
        free(s);
        return NULL;
    }
    if (e->socks)
        e->socks->previous = s;
    e->socks = s;
    int type = 0;
    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){sizeof type});
    s->stream = type == SOCK_STREAM;
    s->ids = e->zero_copy ? numbers(s) : NULL;
    return s;
}

struct sock *sock_of(uzc_msg_zerocopy *e, int fd) {
    if (!make_room(e, fd))
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
    if (before) { /* it was closed */
        before->gone = true;
        settle_down(e, before);
    }
    return s;
}

static int why_copied(const struct sock *s, int fd) {
    uint32_t next;
    if (!s->ids)
        return uzc_msg_zerocopy_taken(fd) ? UZC_COPIES_OTHER_ENGINE : 0;
    return uzc_ids_next(s->ids, &next) ? 0 : UZC_COPIES_OTHERS_SEND;
}

int uzc_msg_zerocopy_copies(uzc_msg_zerocopy *e, int fd) {
    if (!e->zero_copy || fd < 0 || uzc_slots_begin_any(e->slots))
        return 0;
    struct sock *s = fd < e->fds ? e->by_fd[fd] : NULL;
    int why = s && is_at(s, fd) ? why_copied(s, fd) : 0;
    uzc_slots_end(e->slots);
    return why;
}

/* Whether the program has the socket by another descriptor still. */
static bool is_open_elsewhere(const struct sock *s) {
    DIR *descriptors = opendir("/proc/self/fd");
    bool found = !descriptors; /* who can tell? */
    for (struct dirent *entry; !found && (entry = readdir(descriptors));) {
        int fd = atoi(entry->d_name);
        found = fd != s->held && entry->d_name[0] != '.' && is_at(s, fd);
    }
    if (descriptors)
        closedir(descriptors);
    return found;
}

/* A connection that the program closed to end it at once (SO_LINGER with no time) is not to live on. So many
 * sockets are asked, by turns: all of them each time would make a call slow where thousands are in flight. */
void end_closed(uzc_msg_zerocopy *e, uint32_t most) {
    struct sock *s = e->turn ? e->turn : e->socks;
    for (e->turn = NULL; s; s = s->next) {
        if (!most--) {
            e->turn = s;
            return;
        }
        struct linger linger = {0};
        if (!s->stream || s->held < 0 || is_at(s, s->fd) ||
            getsockopt(s->held, SOL_SOCKET, SO_LINGER, &linger, &(socklen_t){sizeof linger}) < 0)
            continue;
        if (linger.l_onoff && !linger.l_linger && !is_open_elsewhere(s))
            connect(s->held, &(struct sockaddr){.sa_family = AF_UNSPEC}, sizeof(struct sockaddr));
    }
}

int hold(struct sock *s) {
    if (s->held < 0)
        s->held = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
    return s->held;
}

void touch(uzc_msg_zerocopy *e, struct sock *s) {
    if (s->touched)
        return;
    s->touched = true;
    s->next_touched = e->touched;
    e->touched = s;
}

/* Edges: an error that the next send will fail with would be a level for as long as there is no next send.
 * Where there is no memory, or no more may be watched (ENOSPC: fs.epoll.max_user_watches), the next look
 * tries again. */
static void watch(uzc_msg_zerocopy *e, struct sock *s) {
    struct epoll_event event = {.events = EPOLLET | (s->first ? EPOLLOUT : 0), .data.ptr = s};
    if (epoll_ctl(e->epoll, s->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, s->held, &event) < 0)
        return;
    e->watched_count += !s->watched;
    s->watched = true;
}

/* That the kernel holds nothing any more, which what is not believed waits for, may be true a little after
 * the event. */
static bool is_unheard(const struct sock *s) {
    return !s->watched || (s->ids && uzc_ids_disbelieved(s->ids));
}

void settle_down(uzc_msg_zerocopy *e, struct sock *s) {
    const bool busy = s->first || (s->ids && uzc_ids_outstanding(s->ids));
    if (busy && s->held >= 0 && (!s->watched || s->first))
        watch(e, s);
    const bool unheard = busy && is_unheard(s);
    e->unheard_count += (uint32_t)unheard - (uint32_t)s->unheard;
    s->unheard = unheard;
    if (busy)
        return;
    s->starved = 0; /* the memory may have been another's */
    if (s->watched) {
        epoll_ctl(e->epoll, EPOLL_CTL_DEL, s->held, NULL);
        e->watched_count--;
        s->watched = false;
    }
    if (s->held >= 0)
        close(s->held);
    s->held = -1;
    if (s->gone && !s->touched)
        free_sock(e, s);
}
