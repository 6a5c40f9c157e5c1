/* SPDX-License-Identifier: MIT */
/* Sockets of requests. A request names a descriptor, and the program may close the socket before the request
 * is submitted: so sockets with queued requests are pending, with a reference, until the submission, which
 * first checks that each still has its descriptor. Requests of a registered socket name its fixed file, which
 * the kernel holds open: it is not asked for its descriptor. */
#include "request/sockets.h"

#include "request/refuse.h"

static PyObject *name_fileno;

int sockets_init(void) {
    name_fileno = PyUnicode_InternFromString("fileno");
    return name_fileno ? 0 : -1;
}

int fileno_of(PyObject *sock, int *fd) {
    PyObject *number = PyObject_CallMethodObjArgs(sock, name_fileno, NULL);
    if (!number) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError))
            PyErr_Format(PyExc_TypeError, "sock must be a socket.socket, not %R", sock);
        return -1;
    }
    long value = PyLong_AsLong(number);
    Py_DECREF(number);
    *fd = (int)value;
    return value == -1 && PyErr_Occurred() ? -1 : 0;
}

static void forget_pending(Queue *q, Py_ssize_t at) {
    PyObject *sock = q->pending[at].sock;
    q->pending[at] = q->pending[--q->pending_count];
    Py_DECREF(sock);
}

void forget_pending_sockets(Queue *q) {
    while (q->pending_count)
        forget_pending(q, q->pending_count - 1);
}

int check_pending_sockets(Queue *q) {
    for (Py_ssize_t i = 0; i < q->pending_count;) {
        int fd, queued_on = q->pending[i].fd;
        if (fileno_of(q->pending[i].sock, &fd) < 0)
            return -1;
        if (!q->engine) /* fileno() has forked, and this is the child: nothing is pending */
            return 0;
        if (fd == queued_on) {
            i++;
            continue;
        }
        revoke_requests(q, queued_on);
        forget_pending(q, i);
    }
    return 0;
}

void clear_socket_cache(Queue *q) {
    for (int i = 0; i < CACHED_SOCKETS; i++)
        Py_CLEAR(q->socket_cache[i].reference);
}

static CachedSocket *cached_socket(Queue *q, PyObject *sock) {
    return &q->socket_cache[((uintptr_t)sock >> 6) % CACHED_SOCKETS];
}

/* From the cache, while the socket lives and has the same descriptor; else from Python. 0 or -1. */
static int describe_socket(Queue *q, PyObject *sock, int fd, SocketInfo *out) {
    CachedSocket *cached = cached_socket(q, sock);
    PyObject *living =
        cached->reference && cached->info.fd == fd ? PyObject_CallNoArgs(cached->reference) : NULL;
    Py_XDECREF(living);
    if (living == sock) {
        *out = cached->info;
        return 0;
    }
    PyObject *described = PyObject_CallFunctionObjArgs(q->describe_socket, sock, NULL);
    if (!described)
        return -1;
    SocketInfo info = {.sock = sock};
    int zero_copy, parsed = PyArg_ParseTuple(described, "iiiIp", &info.fd, &info.index, &info.family,
                                             &info.max_payload, &zero_copy);
    Py_DECREF(described);
    if (!parsed)
        return -1;
    info.zero_copy = zero_copy;
    PyObject *old = cached->reference;
    cached->reference = PyWeakref_NewRef(sock, NULL);
    cached->info = *out = info;
    Py_XDECREF(old);
    return cached->reference ? 0 : -1;
}

static const SocketInfo *add_pending(Queue *q, PyObject *sock, const SocketInfo *info) {
    if (q->pending_count == q->pending_room) {
        Py_ssize_t room = q->pending_room ? 2 * q->pending_room : 8;
        SocketInfo *grown = PyMem_Realloc(q->pending, (size_t)room * sizeof *grown);
        if (!grown)
            return (SocketInfo *)PyErr_NoMemory();
        q->pending = grown;
        q->pending_room = room;
    }
    Py_INCREF(sock);
    q->pending[q->pending_count] = *info;
    return &q->pending[q->pending_count++];
}

/* The registered socket, which the engine keeps alive until the cache is cleared. NULL if it is none. */
static const SocketInfo *registered_socket(Queue *q, PyObject *sock) {
    const SocketInfo *info = &cached_socket(q, sock)->info;
    return info->sock == sock && info->index >= 0 && cached_socket(q, sock)->reference ? info : NULL;
}

/* The pending socket. If another one was pending with the descriptor that it has now, that one was closed. */
static int find_pending(Queue *q, PyObject *sock, int fd, const SocketInfo **found) {
    *found = NULL;
    for (Py_ssize_t i = q->pending_count - 1; i >= 0; i--) {
        if (q->pending[i].fd != fd)
            continue;
        if (q->pending[i].sock != sock)
            return check_pending_sockets(q);
        *found = &q->pending[i];
        return 0;
    }
    return 0;
}

/* The socket, which is registered, or pending from now on. NULL with an exception if it is no open socket. */
static const SocketInfo *find_socket(Queue *q, PyObject *sock) {
    const SocketInfo *found = registered_socket(q, sock);
    SocketInfo info;
    int fd;
    if (found)
        return found;
    if (fileno_of(sock, &fd) < 0 || find_pending(q, sock, fd, &found) < 0)
        return NULL;
    if (found)
        return found;
    if (describe_socket(q, sock, fd, &info) < 0)
        return NULL;
    return info.index >= 0 ? registered_socket(q, sock) : add_pending(q, sock, &info);
}

int bind_request_socket(Queue *q, PyObject *sock, uzc_send *send) {
    const SocketInfo *info = find_socket(q, sock);
    if (!info)
        return -1;
    send->fixed_file = info->index >= 0;
    send->fd = send->fixed_file ? info->index : info->fd;
    send->datagram = info->max_payload > 0;
    if (!info->zero_copy) /* copied: the memory is free when the request has its result */
        send->zero_copy = 0;
    if (info->max_payload && !send->message && send->length > info->max_payload)
        return refuse(q, -EMSGSIZE), -1;
    if (!info->max_payload && send->segment) {
        PyErr_SetString(PyExc_ValueError, "segment needs a UDP socket");
        return -1;
    }
    return 0;
}

int socket_family(Queue *q, PyObject *sock) {
    const SocketInfo *info = find_socket(q, sock);
    return info ? info->family : -1;
}
