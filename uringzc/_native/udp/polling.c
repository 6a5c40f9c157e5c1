/* SPDX-License-Identifier: MIT */
/* fileno() of a sender with blocking=False is an epoll set: readable when a call that raised BlockingIOError
 * is worth a try, and not readable before any has. While something is awaited, there are in the set:
 *
 * - the engine's descriptor: memory is free;
 * - the socket, or the engine's own descriptor that is charged for what is sent: its buffer has room, or the
 *   first request to a destination has reached the device. Both free an skb, for which the kernel gives an
 *   event (sock_wfree). Edge-triggered (EPOLLET): room, and an error queue that is not read, would be events
 *   all the time;
 * - a timerfd, where no event may come.
 *
 * Arming takes out earlier events, so the caller checks afterwards whether what it awaits is there. */
#include "udp/polling.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "udp/socket.h"

static bool add_to_epoll(const UdpBatcher *g, int fd, uint32_t events) {
    struct epoll_event event = {.events = events};
    return epoll_ctl(g->poll.set, EPOLL_CTL_ADD, fd, &event) == 0 ||
           (errno == EEXIST && epoll_ctl(g->poll.set, EPOLL_CTL_MOD, fd, &event) == 0);
}

static void set_timerfd(const UdpBatcher *g, int64_t deadline) {
    const struct itimerspec time = {.it_value = {deadline / 1000000000, deadline % 1000000000}};
    timerfd_settime(g->poll.timer, TFD_TIMER_ABSTIME, &time, NULL);
}

static void remove_socket(UdpBatcher *g) {
    if (g->poll.sock >= 0)
        epoll_ctl(g->poll.set, EPOLL_CTL_DEL, g->poll.sock, NULL);
    g->poll.sock = -1;
}

static void end_unknown(UdpBatcher *g) {
    if (g->poll.unknown)
        set_timerfd(g, 0);
    g->poll.unknown = false;
}

void arm_poll(UdpBatcher *g, int what, int64_t deadline) {
    struct epoll_event events[3];
    g->poll.armed |= what;
    if (g->poll.set < 0)
        return;
    end_unknown(g);
    bool all = what == AWAIT_RATE || add_to_epoll(g, g->poll.engine, EPOLLIN);
    if (what & AWAIT_SEND) {
        const int fd = charged_fd(g);
        if (g->poll.sock != fd)
            remove_socket(g);
        g->poll.sock = fd;
        all &= add_to_epoll(g, fd, EPOLLOUT | EPOLLET);
    }
    if (!all)
        deadline = monotonic_ns() + EPOLL_RETRY;
    if (!all || what & (AWAIT_SEND | AWAIT_RATE))
        set_timerfd(g, deadline);
    epoll_wait(g->poll.set, events, 3, 0);
}

void remove_from_poll(UdpBatcher *g, int what) {
    g->poll.armed &= ~what;
    if (g->poll.set < 0)
        return;
    end_unknown(g);
    if (what & AWAIT_SEND)
        remove_socket(g);
    if (what & (AWAIT_SEND | AWAIT_RATE))
        set_timerfd(g, 0);
    if (!g->poll.armed)
        epoll_ctl(g->poll.set, EPOLL_CTL_DEL, g->poll.engine, NULL);
}

void close_poll(UdpBatcher *g) {
    const int set = g->poll.set, timer = g->poll.timer;
    g->poll.set = g->poll.timer = g->poll.sock = -1;
    g->poll.armed = 0;
    if (set >= 0)
        close(set);
    if (timer >= 0)
        close(timer);
}

/* open_epoll(engine): makes the set, once. `engine`: the descriptor that is readable when memory is free. */
PyObject *batcher_open_epoll(PyObject *self, PyObject *engine) {
    UdpBatcher *g = (UdpBatcher *)self;
    const long fd = PyLong_AsLong(engine);
    if (PyErr_Occurred())
        return NULL;
    if (g->poll.set >= 0)
        Py_RETURN_NONE;
    if (g->closed)
        return refuse(g->queue, UZC_E_CLOSED);
    g->poll.engine = (int)fd;
    g->poll.set = epoll_create1(EPOLL_CLOEXEC);
    g->poll.timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (g->poll.set < 0 || g->poll.timer < 0 || !add_to_epoll(g, g->poll.timer, EPOLLIN)) {
        PyErr_SetFromErrno(PyExc_OSError);
        close_poll(g);
        return NULL;
    }
    if ((g->poll.unknown = g->poll.armed)) /* awaited before: readable, until the next call arms it */
        set_timerfd(g, 1);
    Py_RETURN_NONE;
}

PyObject *batcher_fileno(PyObject *self, PyObject *Py_UNUSED(unused)) {
    UdpBatcher *g = (UdpBatcher *)self;
    if (g->poll.set < 0)
        return refuse(g->queue, UZC_E_CLOSED);
    return PyLong_FromLong(g->poll.set);
}
