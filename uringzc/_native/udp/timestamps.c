/* SPDX-License-Identifier: MIT */
/* Transmit timestamps: the slow path is passed what the kernel took, in the order in which it did, and
 * matches the timestamps of the socket's error queue with it (senders/timestamps.py). The queue of a socket
 * of the sender's own is read here; others' by the engine, which knows whether another one reads it. */
#define _GNU_SOURCE
#include "udp/timestamps.h"

#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#include <linux/errqueue.h> /* needs struct timespec */

#include "udp/socket.h"
#include "udp/trains.h"

#define MESSAGES 32u /* of one recvmmsg() */

struct message {
    _Alignas(struct cmsghdr) char control[256];
    char data[128];
    struct sockaddr_in6 from;
};

/* The numbers of its datagrams: a range, or a tuple. */
static PyObject *numbers_of_train(const struct train *t) {
    if (!t->interleaved)
        return PyObject_CallFunction((PyObject *)&PyRange_Type, "KKI", (unsigned long long)t->number,
                                     (unsigned long long)(t->number + (uint64_t)t->count * t->step), t->step);
    PyObject *numbers = PyTuple_New(t->count);
    for (uint32_t i = 0; numbers && i < t->count; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(number_of(t, i));
        if (!number || PyTuple_SetItem(numbers, i, number) < 0)
            Py_CLEAR(numbers);
    }
    return numbers;
}

static int append(PyObject *list, PyObject *item) {
    int error = item ? PyList_Append(list, item) : -1;
    Py_XDECREF(item);
    return error;
}

static int add_row(PyObject *rows, const struct train *t) {
    PyObject *numbers = numbers_of_train(t);
    return numbers
               ? append(rows, Py_BuildValue("(NIIi)", numbers, t->nbytes, t->destination, t->state == FAILED))
               : -1;
}

int report_sent(UdpBatcher *g) {
    if (g->timed) /* what failed is being sent again */
        return 0;
    PyObject *rows = PyList_New(0);
    int error = rows ? 0 : -1;
    for (uint32_t i = 0; !error && i < g->next; i++)
        error = add_row(rows, g->trains[i]);
    int known = error ? -1 : bool_result(PyObject_CallMethod(g->slow_path, "trains_sent", "OO", g, rows));
    Py_XDECREF(rows);
    g->timed = known >= 0;
    g->ids_unknown |= known == 0;
    return known < 0 ? -1 : 0;
}

static long long nanoseconds(const struct timespec *t) {
    return (long long)t->tv_sec * 1000000000 + t->tv_nsec;
}

/* (id, ns by software, ns by hardware); or None for another message, or NULL. */
static PyObject *parse_timestamp(struct msghdr *header) {
    const struct sock_extended_err *error = NULL;
    const struct scm_timestamping *times = NULL;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPING)
            times = (const struct scm_timestamping *)CMSG_DATA(c);
        else if ((c->cmsg_level == SOL_IP && c->cmsg_type == IP_RECVERR) ||
                 (c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_RECVERR))
            error = (const struct sock_extended_err *)CMSG_DATA(c);
    if (!times || !error || error->ee_origin != SO_EE_ORIGIN_TIMESTAMPING || error->ee_info != SCM_TSTAMP_SND)
        Py_RETURN_NONE;
    return Py_BuildValue("(ILL)", error->ee_data, nanoseconds(&times->ts[0]), nanoseconds(&times->ts[2]));
}

static PyObject *bytes_of(const void *data, size_t length) {
    return PyBytes_FromStringAndSize(data, (Py_ssize_t)length);
}

/* An ICMP error, for example. */
static int keep_message(UdpBatcher *g, const struct mmsghdr *m) {
    const struct msghdr *h = &m->msg_hdr;
    return check_result(PyObject_CallMethod(
        g->slow_path, "keep_message", "NNiN", bytes_of(h->msg_iov->iov_base, m->msg_len),
        bytes_of(h->msg_control, h->msg_controllen), h->msg_flags, bytes_of(h->msg_name, h->msg_namelen)));
}

static int take_messages(UdpBatcher *g, PyObject *stamps, struct mmsghdr *messages, int count) {
    for (int i = 0; i < count; i++) {
        PyObject *stamp = parse_timestamp(&messages[i].msg_hdr);
        int error;
        if (stamp == Py_None) {
            Py_DECREF(stamp);
            error = keep_message(g, &messages[i]);
        } else
            error = append(stamps, stamp);
        if (error)
            return -1;
    }
    return 0;
}

/* Whether there is something to report, or -1. */
static int read_queue(UdpBatcher *g) {
    struct message texts[MESSAGES];
    struct mmsghdr messages[MESSAGES];
    struct iovec data[MESSAGES];
    PyObject *stamps = PyList_New(0);
    int came, error = stamps ? 0 : -1;
    do {
        for (uint32_t i = 0; i < MESSAGES; i++) {
            data[i] = (struct iovec){texts[i].data, sizeof texts[i].data};
            messages[i].msg_hdr = (struct msghdr){.msg_name = &texts[i].from,
                                                  .msg_namelen = sizeof texts[i].from,
                                                  .msg_iov = &data[i],
                                                  .msg_iovlen = 1,
                                                  .msg_control = texts[i].control,
                                                  .msg_controllen = sizeof texts[i].control};
        }
        came = error ? 0 : recvmmsg(g->fd, messages, MESSAGES, MSG_ERRQUEUE | MSG_DONTWAIT, NULL);
        if (!error)
            error = take_messages(g, stamps, messages, came);
    } while (!error && came == (int)MESSAGES);
    int some = error ? -1 : bool_result(PyObject_CallMethod(g->slow_path, "take_timestamps", "O", stamps));
    Py_XDECREF(stamps);
    return some;
}

/* It restarts the ids after a failure, and then is to read until no timestamp from before can come. */
static int read_by_slow_path(UdpBatcher *g) {
    PyObject *result = PyObject_CallMethod(g->slow_path, "read_timestamps", NULL);
    int some = 0, again = 0;
    bool parsed = result && PyArg_ParseTuple(result, "pp", &some, &again);
    Py_XDECREF(result);
    if (parsed)
        g->ids_unknown = again;
    return parsed ? some : -1;
}

/* A readable error queue is POLLERR, which need not be asked for. */
static bool none_came(const UdpBatcher *g) {
    return poll(&(struct pollfd){.fd = g->fd}, 1, 0) == 0;
}

/* Not while requests are without a result, or are sent again: ids may be restarted. */
int read_timestamps(UdpBatcher *g) {
    if (g->awaited || g->next || g->lock_thread != g->owner)
        return 0;
    g->timestamps_read = true;
    int some;
    if (!g->ids_unknown && !g->engine_reads_queue && none_came(g))
        return 0;
    if (!g->ids_unknown && !g->engine_reads_queue && g->own_socket)
        some = read_queue(g);
    else
        some = read_by_slow_path(g);
    if (some > 0)
        WRITE_SHARED(g->to_report, 1); /* last, as in retry_failed() */
    return some < 0 ? -1 : 0;
}

int report_send_failed(UdpBatcher *g) {
    g->ids_unknown = true;
    int error = check_result(PyObject_CallMethod(g->slow_path, "send_failed", NULL));
    return error ? error : read_timestamps(g);
}
