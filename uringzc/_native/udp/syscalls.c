/* SPDX-License-Identifier: MIT */
/* Sending by system calls, without the ring: a single small datagram, what has waited for too long, what
 * failed, and what a dropped sender leaves. Any thread that has the sender's lock may do this. */
#include "udp/syscalls.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include "engines/gso_cmsg.h"
#include "request/sockets.h"
#include "udp/admission.h"
#include "udp/results.h"
#include "udp/socket.h"

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

int syscall_send(UdpBatcher *g, const struct train *t, uint32_t count) {
    const struct destination *d = &g->destinations[t->destination];
    const struct sockaddr *to = d->address_length ? (const struct sockaddr *)&d->address : NULL;
    const char *data = t->data;
    uint32_t length = count < t->count ? count * t->size : t->nbytes;
    uint32_t segment = count > 1 ? t->size : 0;
    if (fileno_of(g->sock, &g->fd) < 0)
        return SEND_RAISED;
    if (g->fd < 0)
        return refuse(g->queue, -EBADF), SEND_RAISED;
    if (g->closed) /* a fork in between: the parent sends it */
        return refuse_as(g->slow_path, UZC_E_CLOSED), SEND_RAISED;
    ssize_t sent;
    Py_BEGIN_ALLOW_THREADS;
    if (segment == g->segment_option)
        sent = sendto(g->fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL, to, d->address_length);
    else
        sent = send_with_cmsg(g->fd, to, d->address_length, data, length, segment);
    if (sent < 0)
        sent = -errno;
    Py_END_ALLOW_THREADS;
    COUNT(g->syscalls, sent >= 0);
    return sent < 0 ? (int)sent : 0;
}

static int syscall_code(int code) {
    return code < 0 ? SEND_RAISED : code > 0 ? -EAGAIN : 0;
}

int send_by_syscall(UdpBatcher *g) {
    if (g->awaited && g->lock_thread != g->owner)
        return -EAGAIN; /* in the ring, which only the owner may enter */
    int code = syscall_code(complete_batch(g));
    while (g->count && !code) {
        struct train *t = &g->trains[0];
        struct destination *d = &g->destinations[t->destination];
        if (d->state != WARM) {
            if (refresh_socket(g) < 0)
                return SEND_RAISED;
            g->admissions++;
            if (!admit_to(g, d, outq_bytes(g)))
                return -EAGAIN;
        }
        code = syscall_send(g, t, t->count);
        if (code == SEND_RAISED || code == -EAGAIN)
            return code;
        t->zero_copy = false;
        t->result = code ? code : (int32_t)t->nbytes;
        WRITE_SHARED(t->state, code ? FAILED : DONE);
        g->next = 1;
        code = syscall_code(complete_batch(g));
    }
    return code;
}

/* -- for the slow path: in a call of the owner, or of the timer */

static struct train *failed_train(UdpBatcher *g, unsigned train) {
    if (g->lock_thread == PyThread_get_thread_ident() && train < g->next)
        return &g->trains[train];
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
    begin_change(g);
    if (count < t->count) {
        t->data += (size_t)count * t->size;
        t->nbytes -= count * t->size;
        t->count -= count;
        t->number += count;
    } else {
        t->state = DONE;
        t->result = 0;
    }
    end_change(g);
    Py_RETURN_NONE;
}
