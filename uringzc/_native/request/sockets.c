/* SPDX-License-Identifier: MIT
 *
 * Sockets with requests that are not submitted: what they were when a request was queued is what they must
 * still be when it is submitted. */
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

int check_pending_sockets(Queue *q) {
    for (Py_ssize_t i = 0; i < q->pending_count;) {
        int fd, queued_on = q->pending[i].fd;
        if (fileno_of(q->pending[i].sock, &fd) < 0)
            return -1;
        if (fd == queued_on) {
            i++;
            continue;
        }
        if (q->pending[i].index < 0)
            q->calls->revoke(q->engine, queued_on);
        forget_pending(q, i);
    }
    return 0;
}

static Pending *find_pending(Queue *q, PyObject *sock) {
    for (Py_ssize_t i = q->pending_count - 1; i >= 0; i--)
        if (q->pending[i].sock == sock)
            return &q->pending[i];
    return NULL;
}

/* What is known of a socket is remembered while it lives, and as long as it has the same descriptor. */
static CachedSocket *cached(Queue *q, PyObject *sock) {
    return &q->known[((uintptr_t)sock >> 6) % KNOWN];
}

void clear_socket_cache(Queue *q) {
    for (int i = 0; i < KNOWN; i++)
        Py_CLEAR(q->known[i].reference);
}

static int admit(Queue *q, PyObject *sock, int fd, Pending *out) {
    CachedSocket *k = cached(q, sock);
    PyObject *living = k->reference && k->facts.fd == fd ? PyObject_CallNoArgs(k->reference) : NULL;
    Py_XDECREF(living);
    if (living == sock) {
        *out = k->facts;
        return 0;
    }
    PyObject *admitted = PyObject_CallFunctionObjArgs(q->admit, sock, NULL);
    if (!admitted)
        return -1;
    Pending facts = {.sock = sock};
    int zero_copy, parsed = PyArg_ParseTuple(admitted, "iiiIp", &facts.fd, &facts.index, &facts.family,
                                             &facts.most, &zero_copy);
    Py_DECREF(admitted);
    if (!parsed)
        return -1;
    facts.zero_copy = zero_copy;
    PyObject *old = k->reference;
    k->reference = PyWeakref_NewRef(sock, NULL);
    k->facts = *out = facts;
    Py_XDECREF(old);
    return k->reference ? 0 : -1;
}

static Pending *add_pending(Queue *q, PyObject *sock, int fd) {
    Pending entry;
    if (check_pending_sockets(q) < 0 || admit(q, sock, fd, &entry) < 0)
        return NULL;
    if (q->pending_count == q->pending_room) {
        Py_ssize_t room = q->pending_room ? 2 * q->pending_room : 8;
        Pending *grown = PyMem_Realloc(q->pending, (size_t)room * sizeof *grown);
        if (!grown)
            return (Pending *)PyErr_NoMemory();
        q->pending = grown;
        q->pending_room = room;
    }
    Py_INCREF(sock);
    q->pending[q->pending_count] = entry;
    return &q->pending[q->pending_count++];
}

/* The socket's entry: a request on it is about to be queued. NULL with an exception if it is no open socket.
 */
static Pending *pending_of(Queue *q, PyObject *sock) {
    int fd;
    if (fileno_of(sock, &fd) < 0)
        return NULL;
    Pending *p = find_pending(q, sock);
    return p && p->fd == fd ? p : add_pending(q, sock, fd);
}

/* Names the socket in `send`, if it is open and can send that. */
int bind_request_socket(Queue *q, PyObject *sock, uzc_send *send) {
    Pending *p = pending_of(q, sock);
    if (!p)
        return -1;
    send->fixed_file = p->index >= 0;
    send->fd = send->fixed_file ? p->index : p->fd;
    if (!p->zero_copy) /* a notifier does not mind: its memory is free at once */
        send->zero_copy = 0;
    if (p->most && !send->message && send->length > p->most)
        return refuse(q, -EMSGSIZE), -1;
    if (!p->most && send->segment) {
        PyErr_SetString(PyExc_ValueError, "segment needs a UDP socket");
        return -1;
    }
    return 0;
}

int socket_family(Queue *q, PyObject *sock) {
    Pending *p = pending_of(q, sock);
    return p ? p->family : -1;
}

void forget_pending_sockets(Queue *q) {
    while (q->pending_count)
        forget_pending(q, q->pending_count - 1);
}
