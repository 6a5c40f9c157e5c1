/* SPDX-License-Identifier: MIT
 *
 * What may go now. The kernel loses the order of datagrams when the socket's buffer fills: so room =
 * SO_SNDBUF - SIOCOUTQ is asked for before each submission, and only as many trains are queued as it holds.
 */
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#include "request/enter.h"
#include "request/refuse.h"
#include "request/sockets.h"
#include "udp/batcher.h"

#define PAGE 4096u
#define ARRIVAL 200000000 /* ns: how long the first request to a destination is waited for */

/* The socket's descriptor, and how large its buffer is: one that is not ours may have changed. */
int take_socket(UdpBatcher *g) {
    if (fileno_of(g->sock, &g->fd) < 0)
        return -1;
    if (g->fd < 0)
        return refuse(g->queue, -EBADF), -1;
    if (!g->own || !g->sndbuf)
        getsockopt(g->fd, SOL_SOCKET, SO_SNDBUF, &g->sndbuf, &(socklen_t){sizeof g->sndbuf});
    return 0;
}

int waiting_bytes(const UdpBatcher *g) {
    int bytes = 0;
    return ioctl(g->fd, SIOCOUTQ, &bytes) == 0 ? bytes : 0;
}

/* What the socket is charged at most until the request has left. A qdisc may cut a train up, and then there
 * is a head for each datagram; a copy is charged by what was allocated for it. */
static int64_t charge(const struct train *t) {
    uint64_t heads = 1024 + (uint64_t)t->count * 768;
    if (!t->zero_copy)
        return (int64_t)(2 * (uint64_t)t->nbytes + heads + 1280);
    uint64_t offset = (uintptr_t)t->data % PAGE;
    return (int64_t)((offset + t->nbytes + PAGE - 1) / PAGE * PAGE + heads);
}

/* Whether the first request to a destination has arrived at the device: a neighbour that must be asked for
 * drops all but a few that come meanwhile. CachedSocket by its return, by the socket's queue, or not at all.
 */
static bool arrived(const UdpBatcher *g, const struct destination *r, int outq) {
    return r->returned > r->mark || (outq <= r->outq && r->admission != g->admission) ||
           nanoseconds() >= r->deadline;
}

bool may_go(UdpBatcher *g, struct destination *r, int outq) {
    if (r->state == WARM)
        return true;
    if (r->state == FIRST) {
        if (!arrived(g, r, outq))
            return false;
        r->state = WARM;
        return true;
    }
    r->state = FIRST;
    r->outq = outq;
    r->mark = r->returned;
    r->admission = g->admission;
    r->deadline = nanoseconds() + ARRIVAL;
    return true;
}

/* Up to which train what waits may go now. No further than where the policy is asked again: what it learns of
 * the few that are to tell it counts for the rest. (Trains that are admitted twice are counted twice.) */
uint32_t admit(UdpBatcher *g) {
    int outq = waiting_bytes(g);
    int64_t room = g->sndbuf - outq;
    uint32_t at = 0;
    g->admission++;
    for (bool enough = false; at < g->count && room > 0 && !enough; at++) {
        struct train *t = &g->trains[at];
        struct destination *r = &g->destinations[t->destination];
        const bool larger = t->count > 1 && t->size > r->proved;
        if ((at && (g->strict || larger)) || !may_go(g, r, outq))
            break;
        t->zero_copy =
            t->nbytes && (g->always || (r->zero_copy && t->nbytes >= g->least && t->size <= r->segment_most));
        room -= charge(t);
        /* a destination that can not segment is found out before anything can overtake */
        enough = ++r->requests >= r->look || larger;
    }
    return at;
}

/* Word of earlier datagrams, an ICMP error say, would fail one that has nothing to do with it, and those
 * behind it would overtake: it is taken before. */
int take_socket_error(UdpBatcher *g) {
    int error = g->queue->calls->take_socket_error(g->queue->engine, g->fd);
    if (!error)
        return 0;
    g->to_report = 1;
    PyObject *told = PyObject_CallMethod(g->slow_path, "socket_error", "i", error);
    Py_XDECREF(told);
    return told ? 0 : -1;
}

/* Waits until the socket can be written to. An error queue that is not read ends a poll at once. */
int wait_writable(UdpBatcher *g, int milliseconds) {
    struct pollfd p = {.fd = g->fd, .events = POLLOUT};
    Py_BEGIN_ALLOW_THREADS;
    poll(&p, 1, milliseconds);
    if (p.revents & POLLERR && !(p.revents & POLLOUT))
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    Py_END_ALLOW_THREADS;
    return check_signals(g->queue);
}

/* The same for the program, which polls. Whether something may go is found out once more: it may have come
 * before the set was ready for it. */
static int await_room(UdpBatcher *g) {
    const struct destination *r = &g->destinations[g->trains[0].destination];
    const bool room = waiting_bytes(g) < g->sndbuf;
    poll_until(g, POLL_ROOM, room && r->state == FIRST ? r->deadline : 0);
    if (trains_look(g) < 0)
        return -1;
    const int outq = waiting_bytes(g);
    return outq >= g->sndbuf || (r->state == FIRST && !arrived(g, r, outq));
}

int await_resend(UdpBatcher *g) {
    for (int64_t deadline = 0;; deadline = nanoseconds() + POLL_RETRY) {
        if (take_socket(g) < 0)
            return -1;
        poll_until(g, POLL_ROOM, deadline);
        if (deadline || waiting_bytes(g) >= g->sndbuf)
            return 1;
        int code = conclude(g); /* it may have been room since */
        if (code <= 0)
            return code;
    }
}

/* Nothing may go now: until the socket has room, or the first request to a destination has arrived. 1 if the
 * sender does not wait. */
int wait_for_room(UdpBatcher *g) {
    if (!g->blocking)
        return await_room(g);
    g->waits++;
    const struct destination *r = &g->destinations[g->trains[0].destination];
    if (r->state == FIRST && waiting_bytes(g) < g->sndbuf) {
        int64_t waited = nanoseconds() - (r->deadline - ARRIVAL), pause = 20000 + waited / 4;
        Py_BEGIN_ALLOW_THREADS; /* its arrival gives no event */
        nanosleep(&(struct timespec){0, pause < 1000000 ? pause : 1000000}, NULL);
        Py_END_ALLOW_THREADS;
    } else if (wait_writable(g, 100) < 0 || take_socket_error(g) < 0)
        return -1;
    return trains_look(g);
}
