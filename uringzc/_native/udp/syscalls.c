/* SPDX-License-Identifier: MIT
 *
 * Plain system calls, without the ring: for a single small datagram, for what has waited for too long, for
 * what failed, and for senders that were left behind. Any thread that is inside may do this.
 */
#include <limits.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "engines/gso_cmsg.h"
#include "request/refuse.h"
#include "request/sockets.h"
#include "udp/batcher.h"

/* With a control message that says how it is to be cut, where the socket's option says otherwise. */
static ssize_t send_cut(int fd, const struct sockaddr *to, socklen_t to_length, const char *data,
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

int resend(UdpBatcher *g, const struct train *t, uint32_t count) {
    const struct destination *r = &g->destinations[t->destination];
    const struct sockaddr *to = r->to_length ? (const struct sockaddr *)&r->to : NULL;
    const char *data = t->data;
    uint32_t length = count < t->count ? count * t->size : t->nbytes;
    uint32_t segment = count > 1 ? t->size : 0;
    if (fileno_of(g->sock, &g->fd) < 0)
        return INT_MIN;
    if (g->fd < 0)
        return refuse(g->queue, -EBADF), INT_MIN;
    if (g->closed) /* by a fork in between: the parent sends it */
        return refuse_as(g->slow_path, UZC_E_CLOSED), INT_MIN;
    ssize_t sent;
    Py_BEGIN_ALLOW_THREADS;
    if (segment == g->sock_segment)
        sent = sendto(g->fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL, to, r->to_length);
    else
        sent = send_cut(g->fd, to, r->to_length, data, length, segment);
    if (sent < 0)
        sent = -errno;
    Py_END_ALLOW_THREADS;
    g->syscalls += sent >= 0;
    return sent < 0 ? (int)sent : 0;
}

static int after_conclude(int code) {
    return code < 0 ? INT_MIN : code > 0 ? -EAGAIN : 0;
}

int send_by_syscall(UdpBatcher *g) {
    if (g->awaited && g->inside != g->thread)
        return -EAGAIN; /* requests are in the ring, which is the owner's */
    int code = after_conclude(conclude(g));
    while (g->count && !code) {
        struct train *t = &g->trains[0];
        struct destination *r = &g->destinations[t->destination];
        if (r->state != WARM) {
            if (take_socket(g) < 0)
                return INT_MIN;
            g->admission++;
            if (!may_go(g, r, waiting_bytes(g)))
                return -EAGAIN;
        }
        code = resend(g, t, t->count);
        if (code == INT_MIN || code == -EAGAIN)
            return code;
        t->zero_copy = false;
        t->result = code ? code : (int32_t)t->nbytes;
        t->state = code ? FAILED : DONE;
        g->next = 1;
        code = after_conclude(conclude(g));
    }
    return code;
}

/* -- for the slow_path: Python, inside a call */

static struct train *failed_train(UdpBatcher *g, unsigned train) {
    if (g->inside == PyThread_get_thread_ident() && train < g->next)
        return &g->trains[train];
    PyErr_SetString(PyExc_RuntimeError, "this is for what has failed, while it is mended");
    return NULL;
}

/* resend(train, count) -> 0 or -errno: its first datagrams by a system call, as a train if count > 1 */
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
    int code = resend(g, t, count);
    return code == INT_MIN ? NULL : PyLong_FromLong(code);
}

/* writable(milliseconds): waits for the socket */
PyObject *batcher_writable(PyObject *self, PyObject *milliseconds) {
    long time = PyLong_AsLong(milliseconds);
    if (PyErr_Occurred() || wait_writable((UdpBatcher *)self, (int)time) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* mended(train, count): its first datagrams were sent again, or given up; the others are what it is now */
PyObject *batcher_resolved(PyObject *self, PyObject *args) {
    unsigned train, count;
    if (!PyArg_ParseTuple(args, "II", &train, &count))
        return NULL;
    struct train *t = failed_train((UdpBatcher *)self, train);
    if (!t)
        return NULL;
    if (count < t->count) {
        t->data += (size_t)count * t->size;
        t->nbytes -= count * t->size;
        t->count -= count;
        t->first += count;
    } else {
        t->state = DONE;
        t->result = 0;
    }
    Py_RETURN_NONE;
}
