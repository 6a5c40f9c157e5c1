/* SPDX-License-Identifier: MIT */
/* Sending by system calls, without the ring: small single datagrams, what has waited for too long, what
 * failed, and what a dropped sender leaves. Any thread that has the sender's lock may do this. */
#define _GNU_SOURCE /* sendmmsg() */
#include "udp/syscalls.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include "engines/gso_cmsg.h"
#include "request/sockets.h"
#include "udp/admission.h"
#include "udp/results.h"
#include "udp/socket.h"
#include "udp/timestamps.h"
#include "udp/trains.h"

/* With a control message for UDP_SEGMENT, where the socket's option is another. */
static ssize_t send_with_cmsg(int fd, const struct sockaddr *to, socklen_t to_length, const char *data,
                              uint32_t length, uint32_t segment) {
    uzc_gso_control control;
    uzc_gso_cmsg(&control, segment);
    struct iovec piece = {(void *)data, length};
    struct msghdr message = {.msg_name = (void *)to,
                             .msg_namelen = to_length,
                             .msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* 0 or SEND_RAISED. */
static int check_socket(UdpBatcher *g) {
    if (fileno_of(g->sock, &g->fd) < 0)
        return SEND_RAISED;
    if (g->fd < 0)
        return refuse(g->queue, -EBADF), SEND_RAISED;
    if (g->closed) /* a fork in between: the parent sends it */
        return refuse_as(g->slow_path, UZC_E_CLOSED), SEND_RAISED;
    return 0;
}

/* Without the GIL: sends the first `count` datagrams of a train. 0 or -errno. */
static int send_datagrams(const UdpBatcher *g, const struct train *t, uint32_t count) {
    const struct destination *d = &g->destinations[t->destination];
    const struct sockaddr *to = d->address_length ? (const struct sockaddr *)&d->address : NULL;
    const uint32_t length = count < t->count ? count * t->size : t->nbytes;
    const uint32_t segment = count > 1 ? t->size : 0;
    ssize_t sent;
    if (segment == g->segment_option)
        sent = sendto(g->fd, t->data, length, MSG_DONTWAIT | MSG_NOSIGNAL, to, d->address_length);
    else
        sent = send_with_cmsg(g->fd, to, d->address_length, t->data, length, segment);
    return sent < 0 ? -errno : 0;
}

static int syscall_send(UdpBatcher *g, const struct train *t, uint32_t count) {
    int error = check_socket(g);
    if (error)
        return error;
    Py_BEGIN_ALLOW_THREADS;
    error = send_datagrams(g, t, count);
    Py_END_ALLOW_THREADS;
    if (error)
        return error;
    COUNT(g->syscalls, 1);
    count_left(g, 1, count);
    return 0;
}

/* Without the GIL: sends the first trains of the batch, all single datagrams. Returns how many, or -errno of
 * the first. */
static int send_singles(const UdpBatcher *g, uint32_t count) {
    struct mmsghdr messages[BATCH_SIZE];
    struct iovec pieces[BATCH_SIZE];
    uzc_gso_control control;
    uzc_gso_cmsg(&control, 0);
    for (uint32_t i = 0; i < count; i++) {
        const struct train *t = g->trains[i];
        struct destination *d = &g->destinations[t->destination];
        pieces[i] = (struct iovec){(void *)t->data, t->nbytes};
        messages[i].msg_hdr = (struct msghdr){.msg_name = d->address_length ? &d->address : NULL,
                                              .msg_namelen = d->address_length,
                                              .msg_iov = &pieces[i],
                                              .msg_iovlen = 1,
                                              .msg_control = g->segment_option ? &control : NULL,
                                              .msg_controllen = g->segment_option ? sizeof control : 0};
    }
    int sent = sendmmsg(g->fd, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 ? -errno : sent;
}

/* How many of the first trains one system call sends. If sendmmsg() has sent some, it drops the error of the
 * next, which may be a pending one of the socket. */
static uint32_t sent_together(const UdpBatcher *g, uint32_t admitted) {
    uint32_t singles = 0;
    while (singles < admitted && g->trains[singles]->count == 1)
        singles++;
    return singles > 1 && keeps_errors(g) ? singles : 1;
}

/* Only what needs none of what trains are for: memory that is held, timestamps, pacing, an arrival. */
static bool may_send_directly(const UdpBatcher *g, size_t n, uint32_t destination) {
    return g->leaves && !g->count && !g->open_count && n <= g->max_payload && n < g->hold_threshold &&
           !g->always_zero_copy && !g->frames && !g->timestamps && !g->pacing.ns && !is_group(destination) &&
           g->destinations[destination].state == WARM;
}

bool send_directly(UdpBatcher *g, const char *data, size_t n, uint32_t destination) {
    struct train t; /* send_datagrams() reads no more of it */
    int error;
    if (!may_send_directly(g, n, destination))
        return false;
    if (check_socket(g))
        return PyErr_Clear(), false;
    t.data = data;
    t.nbytes = t.size = (uint32_t)n;
    t.count = 1;
    t.destination = destination;
    Py_BEGIN_ALLOW_THREADS;
    error = send_datagrams(g, &t, 1);
    Py_END_ALLOW_THREADS;
    if (error) {
        g->direct_error = error == -EAGAIN ? 0 : error;
        return false;
    }
    g->leaves = false;
    begin_change(g);
    COUNT(g->datagrams, 1);
    COUNT(g->nbytes, n);
    end_change(g);
    COUNT(g->syscalls, 1);
    count_left(g, 1, 1);
    if (g->max_delay > 0)
        g->left_at = monotonic_ns();
    return true;
}

int fail_directly(UdpBatcher *g) {
    struct train *t = g->trains[0];
    g->next = 1;
    t->result = g->direct_error;
    WRITE_SHARED(t->state, FAILED);
    g->direct_error = 0;
    return complete_batch(g);
}

int syscall_first(UdpBatcher *g, uint32_t admitted) {
    const uint32_t count = sent_together(g, admitted);
    int sent = check_socket(g);
    if (sent)
        return sent;
    Py_BEGIN_ALLOW_THREADS;
    if (count > 1)
        sent = send_singles(g, count);
    else
        sent = send_datagrams(g, g->trains[0], g->trains[0]->count);
    Py_END_ALLOW_THREADS;
    if (sent == -EAGAIN) { /* somebody else has filled the socket */
        WRITE_SHARED(g->waits_for, WAIT_ROOM);
        return g->timestamps && report_send_failed(g) < 0 ? SEND_RAISED : sent;
    }
    const int error = sent < 0 ? sent : 0;
    g->next = count > 1 && !error ? (uint32_t)sent : 1;
    COUNT(g->syscalls, !error);
    if (!error)
        count_left(g, g->next, g->trains[0]->count);
    for (uint32_t i = 0; i < g->next; i++) {
        struct train *t = g->trains[i];
        t->zero_copy = false;
        t->result = error ? error : (int32_t)t->nbytes;
        WRITE_SHARED(t->state, error ? FAILED : DONE);
    }
    const bool stopped = !error && g->next < count;
    if (stopped && report_dropped_error(g) < 0)
        return SEND_RAISED;
    int code = complete_batch(g);
    if (!code && stopped && g->timestamps)
        code = report_send_failed(g);
    return code < 0 ? SEND_RAISED : code > 0 ? -EAGAIN : 0;
}

int syscall_all(UdpBatcher *g) {
    if (g->awaited && g->lock_thread != g->owner)
        return -EAGAIN; /* in the ring, which only the owner may enter */
    int code = complete_batch(g);
    for (bool all = false; !code && !all;) {
        int closed = close_all(g);
        if (closed < 0)
            return SEND_RAISED;
        all = !closed; /* else the batch is full */
        while (g->count && !code) {
            if (refresh_socket(g) < 0)
                return SEND_RAISED;
            uint32_t admitted = admit_trains(g);
            code = admitted ? syscall_first(g, admitted) : -EAGAIN;
        }
    }
    return code > 0 ? -EAGAIN : code == -1 ? SEND_RAISED : code;
}

/* -- for the slow path: in a call of the owner, or of the timer */

static struct train *failed_train(UdpBatcher *g, unsigned train) {
    if (g->lock_thread == PyThread_get_thread_ident() && train < g->next)
        return g->trains[train];
    PyErr_SetString(PyExc_RuntimeError, "only for a train that has failed, from retry_failed()");
    return NULL;
}

/* resend(train, count) -> 0 or -errno: sends its first datagrams, as a train if count > 1 */
PyObject *batcher_resend(PyObject *self, PyObject *args) {
    UdpBatcher *g = (UdpBatcher *)self;
    unsigned train, count;
    if (!PyArg_ParseTuple(args, "II", &train, &count))
        return NULL;
    struct train *t = failed_train(g, train);
    if (!t)
        return NULL;
    if (!count || count > t->count)
        return PyErr_Format(PyExc_ValueError, "the train has %u datagrams, not %u", t->count, count);
    int code = syscall_send(g, t, count);
    return code == SEND_RAISED ? NULL : PyLong_FromLong(code);
}

/* writable(milliseconds): waits until the socket can be written to */
PyObject *batcher_writable(PyObject *self, PyObject *milliseconds) {
    long time = PyLong_AsLong(milliseconds);
    if (PyErr_Occurred() || wait_writable((UdpBatcher *)self, (int)time) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* resolved(train, count): its first datagrams were sent again, or given up; the train keeps the others */
PyObject *batcher_resolved(PyObject *self, PyObject *args) {
    unsigned train, count;
    if (!PyArg_ParseTuple(args, "II", &train, &count))
        return NULL;
    UdpBatcher *g = (UdpBatcher *)self;
    struct train *t = failed_train(g, train);
    if (!t)
        return NULL;
    const uint64_t first = count < t->count ? number_of(t, count) : 0;
    begin_change(g);
    if (count < t->count) {
        if (t->interleaved)
            memmove(t->numbers, &t->numbers[count], (t->count - count) * sizeof *t->numbers);
        t->data += (size_t)count * t->size;
        t->nbytes -= count * t->size;
        t->count -= count;
        t->number = first;
    } else {
        t->state = DONE;
        t->result = 0;
    }
    end_change(g);
    Py_RETURN_NONE;
}

/* number(train, index) -> the number of its datagram */
PyObject *batcher_number(PyObject *self, PyObject *args) {
    unsigned train, index;
    if (!PyArg_ParseTuple(args, "II", &train, &index))
        return NULL;
    const struct train *t = failed_train((UdpBatcher *)self, train);
    if (!t)
        return NULL;
    if (index >= t->count)
        return PyErr_Format(PyExc_ValueError, "the train has %u datagrams", t->count);
    return PyLong_FromUnsignedLongLong(number_of(t, index));
}
