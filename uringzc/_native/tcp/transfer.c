/* SPDX-License-Identifier: MIT */
/* One transfer of a stream. System calls send straight from the program's memory, which may be written as
 * soon as they return. Zero-copy requests send what cannot change; the request table holds it until the
 * notification. Both carry MSG_DONTWAIT: a request has its result when enter() returns, and what waits is a
 * poll(), which any signal ends. */
#include "tcp/transfer.h"

#include <limits.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "request/sockets.h"

#define WAIT_MS 100 /* of one wait; after it, signals and the descriptor are checked */

/* -- the listener of the internal slot: without the GIL, in the thread that is inside */

static void on_stream_result(void *context, uint64_t user_data, int32_t result) {
    (void)user_data;
    TcpStream *s = context;
    s->result = result;
    s->awaited = false;
    s->nbytes += result > 0 ? (uint32_t)result : 0;
}

static void on_stream_settled(void *context, uint64_t user_data, int copied) {
    (void)user_data;
    TcpStream *s = context;
    s->in_flight--;
    s->settled++;
    s->copied += copied > 0;
    /* the policy's figures; not where the kernel does not report it, or a new decision was made meanwhile */
    if (s->zero_copy && copied >= 0) {
        s->settled_since++;
        s->copied_since += copied > 0;
    }
}

int stream_open_slot(TcpStream *s) {
    return open_internal_slot(s->queue, &(uzc_listener){s, on_stream_result, on_stream_settled}, &s->slot);
}

static int read_stream_notifications(TcpStream *s) {
    return notifiers_read(s->queue, s->slot, s->notify ? s->slow_path : NULL, &s->to_report);
}

int stream_flush(TcpStream *s) {
    if (notifiers_flush(s->queue, s->slot, &s->notifiers) < 0)
        return -1;
    s->unflushed = 0;
    release_references(s->queue);
    return read_stream_notifications(s);
}

int stream_poll(TcpStream *s) {
    s->calls_since_poll = 0;
    return enter_engine(s->queue, 0, 0, 0) < 0 ? -1 : read_stream_notifications(s);
}

/* Enters the engine. 0; -ENOBUFS: the kernel has no memory for what is queued last; or EXCEPTION. */
static int32_t enter_stream(TcpStream *s, unsigned wait, long long timeout_ns) {
    long long done = try_enter(s->queue, 1, wait, timeout_ns);
    if (done == INT64_MIN || check_signals(s->queue) < 0)
        return EXCEPTION;
    if (done == -EAGAIN && s->queue->queued > 0)
        return -ENOBUFS;
    return done < 0 && done != -EINTR ? (refuse(s->queue, done), EXCEPTION) : 0;
}

/* As enter_stream(). */
static int32_t await_result(TcpStream *s) {
    int32_t code = 0;
    for (unsigned wait = 0; s->awaited && !code; wait = 1)
        code = enter_stream(s, wait, WAIT_MS * 1000000LL);
    return code;
}

int stream_await_result(TcpStream *s) {
    const int32_t code = await_result(s);
    if (code == -ENOBUFS)
        refuse(s->queue, -EAGAIN);
    return code ? -1 : 0;
}

int32_t stream_update_fd(TcpStream *s) {
    if (fileno_of(s->sock, &s->fd) < 0)
        return EXCEPTION;
    if (s->closed) /* fileno() has forked, and this is the child: the parent sends the rest */
        return refuse_as(s->slow_path, UZC_E_CLOSED), EXCEPTION;
    return s->fd < 0 ? -EBADF : 0;
}

static void sleep_1ms(void) {
    Py_BEGIN_ALLOW_THREADS;
    nanosleep(&(struct timespec){0, 1000000}, NULL);
    Py_END_ALLOW_THREADS;
}

/* An error queue that is not empty ends a poll() at once, with POLLERR. The engine reads its notifications;
 * anything else may stay there for long, and then this sleeps. */
int32_t stream_wait_writable(TcpStream *s, bool again) {
    s->waits++;
    if (again)
        sleep_1ms();
    for (;;) {
        struct pollfd p = {.fd = s->fd, .events = POLLOUT};
        Py_BEGIN_ALLOW_THREADS;
        poll(&p, 1, WAIT_MS);
        Py_END_ALLOW_THREADS;
        if (check_signals(s->queue) < 0)
            return EXCEPTION;
        if (p.revents & ~POLLERR)
            return 0;
        if (p.revents) {
            uint32_t before = s->in_flight;
            if (before && stream_poll(s) < 0)
                return EXCEPTION;
            if (s->in_flight == before)
                return sleep_1ms(), 0;
        }
        int32_t code = stream_update_fd(s);
        if (code)
            return code;
    }
}

int32_t transfer_by_syscall(TcpStream *s, uint32_t count, bool more) {
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

/* Queues the request. A full submission queue is submitted; where the request table is full, the engine is
 * entered once for what has completed. 0, -ENOBUFS, or EXCEPTION. */
static int32_t queue_transfer(TcpStream *s, uzc_send *send) {
    for (bool entered = false;;) {
        if (bind_request_socket(s->queue, s->sock, send) < 0)
            return EXCEPTION;
        long long done = queue_requests(s->queue, send);
        bool full = done == UZC_E_REQUESTS || done == UZC_E_NOTIFICATIONS;
        if (done == 1)
            return 0;
        if (full && entered)
            return -ENOBUFS;
        if (!full && done != UZC_E_QUEUE)
            return refuse(s->queue, done), EXCEPTION;
        int32_t code = enter_stream(s, 0, 0);
        if (code || (full && stream_flush(s) < 0))
            return code ? code : EXCEPTION;
        entered = full;
    }
}

int32_t transfer_by_request(TcpStream *s, uint32_t count, bool more, PyObject *holder) {
    uzc_send send = {.socket = s->sock,
                     .memory = holder,
                     .data = s->vector[0].iov_base,
                     .message = count > 1 ? s->vector : NULL,
                     .length = count > 1 ? count : (uint32_t)s->vector[0].iov_len,
                     .count = 1,
                     .slot = s->slot,
                     .zero_copy = 1,
                     .buffer = -1,
                     .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0)};
    int32_t code = await_result(s); /* of one that was revoked */
    if (!code)
        code = queue_transfer(s, &send);
    if (code) {
        if (!s->queue->queued) /* refused: no reference to its socket is kept */
            forget_pending_sockets(s->queue);
        return code;
    }
    s->awaited = true;
    s->in_flight++;
    s->unflushed++;
    s->requests++;
    s->calls_since_poll = 0;
    code = await_result(s);
    if (!code)
        return s->result;
    if (s->awaited) /* queued and not submitted: it will fail, and send nothing */
        revoke_requests(s->queue, s->fd);
    return code;
}
