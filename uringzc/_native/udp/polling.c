/* SPDX-License-Identifier: MIT
 *
 * fileno() of a sender that does not wait: readable when a call that raised BlockingIOError is worth a try,
 * and not readable while no call has. It is an epoll set; as long as a call awaits them, there are in it:
 *
 * - the engine's descriptor: memory comes back;
 * - the socket: there is room in its buffer, or the first request to a destination has left for the device.
 *   Both are an skb that is freed, which the kernel makes an event (sock_wfree). Only new events are taken
 *   (EPOLLET): there may be room all the time, and an error queue that nobody reads is an event all the time;
 * - a timer, for what may give no event.
 *
 * Events from before are taken out: whoever awaits something looks once more whether it is there.
 */
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "request/refuse.h"
#include "udp/batcher.h"

static bool add(const UdpBatcher *g, int fd, uint32_t events) {
    struct epoll_event event = {.events = events};
    return epoll_ctl(g->poll.set, EPOLL_CTL_ADD, fd, &event) == 0 ||
           (errno == EEXIST && epoll_ctl(g->poll.set, EPOLL_CTL_MOD, fd, &event) == 0);
}

static void set_timer(const UdpBatcher *g, int64_t deadline) {
    const struct itimerspec time = {.it_value = {deadline / 1000000000, deadline % 1000000000}};
    timerfd_settime(g->poll.timer, TFD_TIMER_ABSTIME, &time, NULL);
}

static void remove_sock(UdpBatcher *g) {
    if (g->poll.sock >= 0)
        epoll_ctl(g->poll.set, EPOLL_CTL_DEL, g->poll.sock, NULL);
    g->poll.sock = -1;
}

void poll_until(UdpBatcher *g, int what, int64_t deadline) {
    struct epoll_event events[3];
    if (g->poll.set < 0)
        return;
    g->poll.awaited |= what;
    bool all = add(g, g->poll.engine, EPOLLIN);
    if (what & POLL_ROOM) {
        if (g->poll.sock != g->fd)
            remove_sock(g);
        g->poll.sock = g->fd;
        all &= add(g, g->fd, EPOLLOUT | EPOLLET);
    }
    if (!all)
        deadline = nanoseconds() + POLL_RETRY;
    if (!all || what & POLL_ROOM)
        set_timer(g, deadline);
    epoll_wait(g->poll.set, events, 3, 0);
}

void poll_leave(UdpBatcher *g, int what) {
    g->poll.awaited &= ~what;
    if (what & POLL_ROOM) {
        remove_sock(g);
        set_timer(g, 0);
    }
    if (!g->poll.awaited)
        epoll_ctl(g->poll.set, EPOLL_CTL_DEL, g->poll.engine, NULL);
}

void poll_end(UdpBatcher *g) {
    const int set = g->poll.set, timer = g->poll.timer;
    g->poll.set = g->poll.timer = g->poll.sock = -1;
    g->poll.awaited = 0;
    if (set >= 0)
        close(set);
    if (timer >= 0)
        close(timer);
}

/* poll(engine): makes the set. `engine`: the descriptor that is readable when memory comes back. */
PyObject *batcher_open_epoll(PyObject *self, PyObject *engine) {
    UdpBatcher *g = (UdpBatcher *)self;
    const long fd = PyLong_AsLong(engine);
    if (PyErr_Occurred())
        return NULL;
    poll_end(g);
    g->poll.engine = (int)fd;
    g->poll.set = epoll_create1(EPOLL_CLOEXEC);
    g->poll.timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (g->poll.set < 0 || g->poll.timer < 0 || !add(g, g->poll.timer, EPOLLIN)) {
        PyErr_SetFromErrno(PyExc_OSError);
        poll_end(g);
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *batcher_fileno(PyObject *self, PyObject *unused) {
    (void)unused;
    UdpBatcher *g = (UdpBatcher *)self;
    if (g->poll.set < 0)
        return refuse(g->queue, UZC_E_CLOSED);
    return PyLong_FromLong(g->poll.set);
}
