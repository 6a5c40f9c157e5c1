/* SPDX-License-Identifier: MIT
 *
 * How the bytes of a stream leave: by plain system calls, straight from the program's memory, which may be
 * written to as soon as they return; or as zero-copy requests of what can not change, which the accounts hold
 * until the notification. Both carry MSG_DONTWAIT: a request has its result when enter() comes back, and what
 * waits is a poll(), which any signal ends.
 */
#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "request/enter.h"
#include "request/refuse.h"
#include "request/sockets.h"
#include "tcp/tcp.h"

#define SLICE                                                                                                \
    100 /* milliseconds of one poll(): the socket may be closed meanwhile, or a signal just missed */

/* -- what the accounts tell; without the GIL, but in the thread that is inside */

static void on_result(void *context, uint64_t name, int32_t result) {
    (void)name;
    TcpStream *s = context;
    s->result = result;
    s->awaited = false;
    s->nbytes += result > 0 ? (uint32_t)result : 0;
}

static void on_settled(void *context, uint64_t name, int copied) {
    (void)name;
    TcpStream *s = context;
    s->in_flight--;
    s->settled++;
    s->copied += copied > 0;
    if (s->zero_copy && copied >= 0) { /* what the kernel can not tell, or tells late, decides nothing */
        s->settled_now++;
        s->copied_now += copied > 0;
    }
}

void stream_listener(TcpStream *s, uzc_listener *listener) {
    *listener = (uzc_listener){s, on_result, on_settled};
}

/* -- notifiers */

static int read_notifications(TcpStream *s) {
    return notifiers_read(s->queue, s->slot, s->notify ? s->slow_path : NULL, &s->to_report);
}

int flow_flush(TcpStream *s) {
    int done = notifiers_flush(s->queue, s->slot, &s->notifiers);
    if (done < 0)
        return -1;
    s->attached = 0;
    release_references(s->queue);
    return read_notifications(s);
}

int flow_look(TcpStream *s) {
    s->unlooked = 0;
    return enter_engine(s->queue, 0, 0, 0) < 0 ? -1 : read_notifications(s);
}

/* -- waiting */

int32_t flow_socket(TcpStream *s) {
    if (fileno_of(s->sock, &s->fd) < 0)
        return EXCEPTION;
    if (s->closed) /* by a fork in between: the parent sends the rest */
        return refuse_as(s->slow_path, UZC_E_CLOSED), EXCEPTION;
    return s->fd < 0 ? -EBADF : 0;
}

static void nap(void) {
    Py_BEGIN_ALLOW_THREADS;
    nanosleep(&(struct timespec){0, 1000000}, NULL);
    Py_END_ALLOW_THREADS;
}

/* An error queue that has something ends a poll at once: the engine reads what is its own; what is not may
 * stay for long. */
int32_t flow_wait(TcpStream *s, bool again) {
    s->waits++;
    if (again)
        nap();
    for (;;) {
        struct pollfd p = {.fd = s->fd, .events = POLLOUT};
        Py_BEGIN_ALLOW_THREADS;
        poll(&p, 1, SLICE);
        Py_END_ALLOW_THREADS;
        if (check_signals(s->queue) < 0)
            return EXCEPTION;
        if (p.revents & ~POLLERR)
            return 0;
        if (p.revents) {
            uint32_t before = s->in_flight;
            if (before && flow_look(s) < 0)
                return EXCEPTION;
            if (s->in_flight == before)
                return nap(), 0;
        }
        int32_t code = flow_socket(s);
        if (code)
            return code;
    }
}

/* -- sending: bytes, -errno, or EXCEPTION */

int32_t flow_plainly(TcpStream *s, uint32_t count, bool more) {
    struct msghdr message = {.msg_iov = s->vector, .msg_iovlen = count};
    int flags = MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0);
    ssize_t sent;
    Py_BEGIN_ALLOW_THREADS;
    if (count == 1)
        sent = send(s->fd, s->vector[0].iov_base, s->vector[0].iov_len, flags);
    else
        sent = sendmsg(s->fd, &message, flags);
    if (sent < 0)
        sent = -errno;
    Py_END_ALLOW_THREADS;
    s->syscalls++;
    s->nbytes += sent > 0 ? (size_t)sent : 0;
    return (int32_t)sent;
}

int flow_conclude(TcpStream *s) {
    for (unsigned wait = 0; s->awaited; wait = 1)
        if (enter_engine(s->queue, 1, wait, SLICE * 1000000LL) < 0)
            return -1;
    return 0;
}

/* Queues it, making room in the queue and in the accounts, where a look does. */
static int32_t push(TcpStream *s, uzc_send *send) {
    for (bool looked = false;;) {
        if (bind_request_socket(s->queue, s->sock, send) < 0)
            return EXCEPTION;
        long long done = s->queue->calls->queue(s->queue->engine, send);
        bool full = done == UZC_E_REQUESTS || done == UZC_E_NOTIFICATIONS;
        if (done == 1)
            return 0;
        if (full && looked)
            return -ENOBUFS;
        if (!full && done != UZC_E_QUEUE)
            return refuse(s->queue, done), EXCEPTION;
        if (enter_engine(s->queue, 1, 0, 0) < 0 || (full && flow_flush(s) < 0))
            return EXCEPTION;
        looked = full;
    }
}

int32_t flow_zero_copy(TcpStream *s, uint32_t count, bool more, PyObject *holder) {
    uzc_send send = {.socket = s->sock,
                     .memory = holder,
                     .count = 1,
                     .slot = s->slot,
                     .zero_copy = 1,
                     .buffer = -1,
                     .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0)};
    send.data = s->vector[0].iov_base;
    send.length = (uint32_t)s->vector[0].iov_len;
    if (count > 1) {
        send.message = s->vector;
        send.length = count;
    }
    int32_t code = push(s, &send);
    if (code) {
        if (!s->queue->queued) /* refused: its socket is not kept */
            forget_pending_sockets(s->queue);
        return code;
    }
    s->awaited = true;
    s->in_flight++;
    s->attached++;
    s->requests++;
    s->unlooked = 0;
    s->queue->queued++;
    Py_INCREF(s->sock);
    Py_INCREF(holder);
    if (flow_conclude(s) == 0)
        return s->result;
    if (s->awaited) /* queued, and not submitted: it will fail, and send nothing */
        s->queue->calls->revoke(s->queue->engine, s->fd);
    return EXCEPTION;
}
