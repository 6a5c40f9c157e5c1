/* SPDX-License-Identifier: MIT
 *
 * Destinations: each has a number, by which trains and the accounts name it. Numeric addresses are looked up
 * in a dict; a name is resolved each time that it is given.
 */
#include "request/refuse.h"
#include "request/sockets.h"
#include "udp/batcher.h"

static int new_destination(UdpBatcher *g, PyObject *packed, uint32_t *destination) {
    if (g->destination_count == g->destination_room) {
        uint32_t room = g->destination_room ? 2 * g->destination_room : 4;
        struct destination *grown = PyMem_Realloc(g->destinations, room * sizeof *grown);
        if (!grown)
            return PyErr_NoMemory(), -1;
        g->destinations = grown;
        g->destination_room = room;
    }
    struct destination *r = &g->destinations[g->destination_count];
    *r = (struct destination){.segments = g->limit};
    Py_ssize_t length = packed ? PyBytes_Size(packed) : 0;
    if (length < 0 || (size_t)length > sizeof r->to)
        return PyErr_Format(PyExc_SystemError, "no address"), -1;
    if (length)
        memcpy(&r->to, PyBytes_AsString(packed), (size_t)length);
    r->to_length = (uint32_t)length;
    PyObject *start = PyObject_CallMethod(g->slow_path, "destination", "kO",
                                          (unsigned long)g->destination_count, packed ? packed : Py_None);
    int zero_copy = 0;
    int parsed = start && PyArg_ParseTuple(start, "pII", &zero_copy, &r->look, &r->segment_most);
    Py_XDECREF(start);
    if (!parsed)
        return -1;
    r->zero_copy = zero_copy;
    *destination = g->destination_count++;
    return 0;
}

static int remember(UdpBatcher *g, PyObject *key, uint32_t destination) {
    PyObject *number = PyLong_FromUnsignedLong(destination);
    int error = number ? PyDict_SetItem(g->destination_numbers, key, number) : -1;
    Py_XDECREF(number);
    return error;
}

/* 1 if it is known, 0 if not, -1 with an exception. */
static int known_destination(UdpBatcher *g, PyObject *key, uint32_t *destination) {
    PyObject *number = PyDict_GetItemWithError(g->destination_numbers, key);
    if (!number)
        return PyErr_Occurred() ? -1 : 0;
    *destination = (uint32_t)PyLong_AsUnsignedLong(number);
    return 1;
}

/* The table is full: what is queued leaves, what is in flight is waited for, and it starts afresh. */
static int forget_destinations(UdpBatcher *g) {
    close_train(g);
    int code = trains_submit(g);
    while (code == 0 && g->in_flight)
        code = trains_wait(g);
    if (code > 0)
        poll_until(g, POLL_PLACE, 0);
    if (code)
        return raise_would_block(code, "too many destinations while the network takes no more");
    PyDict_Clear(g->destination_numbers);
    g->destination_count = 1;
    Py_CLEAR(g->last_to);
    return 0;
}

/* 1 if the address always means this destination, 0 if not, -1 with an exception. */
static int look_up(UdpBatcher *g, PyObject *to, uint32_t *destination) {
    bool lasting = PyTuple_CheckExact(to);
    int found = lasting ? known_destination(g, to, destination) : 0;
    if (found > 0)
        return 1;
    PyErr_Clear(); /* what can not be hashed is no address, and pack() says so */
    PyObject *packed = PyObject_CallMethod(g->slow_path, "pack", "(O)", to);
    if (!packed)
        return -1;
    lasting &= PyBytes_CheckExact(packed); /* not a name that was resolved */
    found = known_destination(g, packed, destination);
    if (!found && g->destination_count == MAX_DESTINATIONS)
        found = forget_destinations(g);
    if (!found && new_destination(g, packed, destination) == 0)
        found = remember(g, packed, *destination) < 0 ? -1 : 1;
    Py_DECREF(packed);
    if (found <= 0)
        return -1;
    return lasting ? (remember(g, to, *destination) < 0 ? -1 : 1) : 0;
}

/* The first destination, when it is first used: with no address, the socket has to be connected. */
static int use_default(UdpBatcher *g) {
    struct sockaddr_in6 peer;
    if (g->default_used)
        return 0;
    if (!g->destinations[0].to_length) {
        int fd;
        if (fileno_of(g->sock, &fd) < 0)
            return -1;
        if (getpeername(fd, (struct sockaddr *)&peer, &(socklen_t){sizeof peer}) < 0 && errno == ENOTCONN)
            return refuse(g->queue, -EDESTADDRREQ), -1;
    }
    g->default_used = true;
    return 0;
}

/* The number of the destination to an address, None for the sender's own. Inside only. */
int find_destination(UdpBatcher *g, PyObject *to, uint32_t *destination) {
    *destination = 0;
    if (!to || to == Py_None)
        return use_default(g);
    if (to == g->last_to) {
        *destination = g->last_destination;
        return 0;
    }
    int lasting = look_up(g, to, destination);
    if (lasting < 0)
        return -1;
    PyObject *old = g->last_to;
    g->last_to = lasting ? (Py_INCREF(to), to) : NULL;
    g->last_destination = *destination;
    Py_XDECREF(old);
    return 0;
}

static struct destination *destination_at(UdpBatcher *g, unsigned number) {
    if (number < g->destination_count)
        return &g->destinations[number];
    PyErr_Format(PyExc_IndexError, "no destination %u", number);
    return NULL;
}

/* limit(destination, segments, segment_most): what its trains can be from now on */
PyObject *batcher_limit(PyObject *self, PyObject *args) {
    unsigned number, segments, segment_most;
    if (!PyArg_ParseTuple(args, "III", &number, &segments, &segment_most))
        return NULL;
    struct destination *r = destination_at((UdpBatcher *)self, number);
    if (!r)
        return NULL;
    r->segments = segments;
    r->segment_most = segment_most;
    Py_RETURN_NONE;
}

/* destination(n) -> (sockaddr, segments, segment_most) */
PyObject *batcher_destination(PyObject *self, PyObject *number) {
    unsigned long n = PyLong_AsUnsignedLong(number);
    if (PyErr_Occurred())
        return NULL;
    struct destination *r = destination_at((UdpBatcher *)self, n > UINT32_MAX ? UINT32_MAX : (unsigned)n);
    return r ? Py_BuildValue("(y#II)", &r->to, (Py_ssize_t)r->to_length, r->segments, r->segment_most) : NULL;
}

/* default(sockaddr): the first destination, where send() goes without `to`; b"" is where the socket is
 * connected to
 */
PyObject *batcher_default(PyObject *self, PyObject *packed) {
    UdpBatcher *g = (UdpBatcher *)self;
    uint32_t destination;
    if (g->destination_count || !PyBytes_Check(packed))
        return PyErr_Format(PyExc_RuntimeError, "the default destination is made once, of bytes");
    return new_destination(g, packed, &destination) < 0 ? NULL : PyLong_FromUnsignedLong(destination);
}
