/* SPDX-License-Identifier: MIT */
/* Destinations: trains and requests name one by its index. Numeric addresses are found in a dict; a host name
 * is resolved each time that it is given. */
#include "udp/destinations.h"

#include <sys/socket.h>

#include "request/sockets.h"
#include "udp/batch.h"
#include "udp/polling.h"
#include "udp/results.h"
#include "udp/submit.h"

static int new_destination(UdpBatcher *g, PyObject *packed, uint32_t *destination) {
    if (g->destination_count == g->destination_capacity) {
        uint32_t room = g->destination_capacity ? 2 * g->destination_capacity : 4;
        struct destination *grown = PyMem_Realloc(g->destinations, room * sizeof *grown);
        if (!grown)
            return PyErr_NoMemory(), -1;
        g->destinations = grown;
        g->destination_capacity = room;
    }
    struct destination *d = &g->destinations[g->destination_count];
    *d = (struct destination){.max_segments = g->max_segments};
    Py_ssize_t length = packed ? PyBytes_Size(packed) : 0;
    if (length < 0 || (size_t)length > sizeof d->address)
        return PyErr_Format(PyExc_SystemError, "no address"), -1;
    if (length)
        memcpy(&d->address, PyBytes_AsString(packed), (size_t)length);
    d->address_length = (uint32_t)length;
    PyObject *start = PyObject_CallMethod(g->slow_path, "add_destination", "kO",
                                          (unsigned long)g->destination_count, packed ? packed : Py_None);
    int zero_copy = 0;
    int parsed = start && PyArg_ParseTuple(start, "pIII", &zero_copy, &d->review_after, &d->max_segment_size,
                                           &d->min_zero_copy);
    Py_XDECREF(start);
    if (!parsed)
        return -1;
    d->zero_copy = zero_copy;
    *destination = g->destination_count;
    COUNT(g->destination_count, 1);
    return 0;
}

static int cache_number(UdpBatcher *g, PyObject *key, uint32_t destination) {
    PyObject *number = PyLong_FromUnsignedLong(destination);
    int error = number ? PyDict_SetItem(g->destination_numbers, key, number) : -1;
    Py_XDECREF(number);
    return error;
}

/* 1 if it is in the dict, 0 if not, -1 with an exception. */
static int cached_number(UdpBatcher *g, PyObject *key, uint32_t *destination) {
    PyObject *number = PyDict_GetItemWithError(g->destination_numbers, key);
    if (!number)
        return PyErr_Occurred() ? -1 : 0;
    *destination = (uint32_t)PyLong_AsUnsignedLong(number);
    return 1;
}

static void forget_recent(UdpBatcher *g) {
    for (uint32_t i = 0; g->recent && i < RECENT_ADDRESSES; i++)
        Py_CLEAR(g->recent[i].address);
}

void free_destinations(UdpBatcher *g) {
    forget_recent(g);
    PyMem_Free(g->recent);
    Py_XDECREF(g->default_address);
    PyMem_Free(g->destinations);
    for (uint32_t i = 0; i < g->group_count; i++) {
        if (g->groups[i])
            PyMem_Free(g->groups[i]->members);
        PyMem_Free(g->groups[i]);
    }
    PyMem_Free(g->groups);
}

/* The sockaddrs of all members of groups, in their order. */
static PyObject *members_addresses(const UdpBatcher *g) {
    PyObject *addresses = PyList_New(0);
    for (uint32_t i = 0; addresses && i < g->group_count; i++)
        for (uint32_t j = 0; addresses && g->groups[i] && j < g->groups[i]->count; j++) {
            const struct destination *d = &g->destinations[g->groups[i]->members[j]];
            PyObject *packed = PyBytes_FromStringAndSize((const char *)&d->address, d->address_length);
            if (!packed || PyList_Append(addresses, packed) < 0)
                Py_CLEAR(addresses);
            Py_XDECREF(packed);
        }
    return addresses;
}

/* Empties the table, but for the default destination and the members of groups. */
static int empty_table(UdpBatcher *g) {
    PyObject *addresses = members_addresses(g);
    Py_ssize_t at = 0;
    if (!addresses)
        return -1;
    PyDict_Clear(g->destination_numbers);
    forget_recent(g);
    WRITE_SHARED(g->destination_count, 1);
    int error = g->default_address ? cache_number(g, g->default_address, 0) : 0;
    for (uint32_t i = 0; i < g->group_count; i++)
        for (uint32_t j = 0; g->groups[i] && j < g->groups[i]->count; j++) {
            PyObject *packed = PyList_GetItem(addresses, at++);
            if (!error)
                error = destination_of(g, packed, &g->groups[i]->members[j]);
            if (error) /* the other members are not valid any more */
                g->groups[i]->count = j;
        }
    Py_DECREF(addresses);
    return error;
}

/* The table is full: sends what waits, waits for what is in flight, and empties the table. */
static int reset_destinations(UdpBatcher *g) {
    int code = submit_all(g, UNTIL_EMPTY);
    while (code == 0 && g->in_flight)
        code = wait_for_memory(g);
    if (code > 0)
        arm_poll(g, AWAIT_BLOCK, 0);
    if (code)
        return raise_would_block(code, "too many destinations while the network takes no more");
    if (empty_table(g) < 0)
        return -1;
    if (g->destination_count < MAX_DESTINATIONS)
        return 0;
    PyErr_SetString(PyExc_ValueError, "the sender's groups have as many members as it has destinations");
    return -1;
}

int destination_of(UdpBatcher *g, PyObject *packed, uint32_t *destination) {
    int found = cached_number(g, packed, destination);
    if (found)
        return found < 0 ? -1 : 0;
    if (g->destination_count == MAX_DESTINATIONS && reset_destinations(g) < 0)
        return -1;
    if (new_destination(g, packed, destination) < 0)
        return -1;
    return cache_number(g, packed, *destination);
}

/* 1 if the address always means this destination, 0 if not, -1 with an exception. */
static int resolve_address(UdpBatcher *g, PyObject *to, uint32_t *destination) {
    bool lasting = PyTuple_CheckExact(to);
    int found = lasting ? cached_number(g, to, destination) : 0;
    if (found > 0)
        return 1;
    PyErr_Clear(); /* what cannot be hashed is no address, and pack() raises */
    PyObject *packed = PyObject_CallMethod(g->slow_path, "pack", "(O)", to);
    if (!packed)
        return -1;
    lasting &= PyBytes_CheckExact(packed); /* not a name that was resolved */
    int error = destination_of(g, packed, destination);
    Py_DECREF(packed);
    if (!error && lasting)
        error = cache_number(g, to, *destination);
    return error ? -1 : lasting;
}

/* Destination 0, when it is first used: without an address the socket must be connected. */
static int use_default_destination(UdpBatcher *g) {
    struct sockaddr_in6 peer;
    if (g->default_used)
        return 0;
    if (!g->destinations[0].address_length) {
        int fd;
        if (fileno_of(g->sock, &fd) < 0)
            return -1;
        if (getpeername(fd, (struct sockaddr *)&peer, &(socklen_t){sizeof peer}) < 0 && errno == ENOTCONN)
            return refuse(g->queue, -EDESTADDRREQ), -1;
    }
    WRITE_SHARED(g->default_used, true);
    return 0;
}

int find_destination(UdpBatcher *g, PyObject *to, uint32_t *destination) {
    *destination = 0;
    if (!to || to == Py_None)
        return use_default_destination(g);
    if (recent_destination(g, to, destination))
        return 0;
    int lasting = resolve_address(g, to, destination);
    if (lasting < 0)
        return -1;
    if (!g->recent && !(g->recent = PyMem_Calloc(RECENT_ADDRESSES, sizeof *g->recent)))
        return PyErr_NoMemory(), -1;
    if (lasting) {
        PyObject *old = recent_slot(g, to)->address;
        *recent_slot(g, to) = (struct recent_address){Py_NewRef(to), *destination};
        Py_XDECREF(old);
    }
    return 0;
}

static struct destination *destination_at(UdpBatcher *g, unsigned number) {
    if (number < g->destination_count)
        return &g->destinations[number];
    PyErr_Format(PyExc_IndexError, "no destination %u", number);
    return NULL;
}

/* set_limits(destination, max_segments, max_segment_size): of its trains from now on */
PyObject *batcher_set_limits(PyObject *self, PyObject *args) {
    unsigned index, max_segments, max_segment_size;
    if (!PyArg_ParseTuple(args, "III", &index, &max_segments, &max_segment_size))
        return NULL;
    struct destination *d = destination_at((UdpBatcher *)self, index);
    if (!d)
        return NULL;
    d->max_segments = max_segments;
    d->max_segment_size = max_segment_size;
    Py_RETURN_NONE;
}

/* destination(index) -> (sockaddr, max_segments, max_segment_size) */
PyObject *batcher_destination(PyObject *self, PyObject *number) {
    unsigned long n = PyLong_AsUnsignedLong(number);
    if (PyErr_Occurred())
        return NULL;
    struct destination *d = destination_at((UdpBatcher *)self, n > UINT32_MAX ? UINT32_MAX : (unsigned)n);
    return d ? Py_BuildValue("(y#II)", &d->address, (Py_ssize_t)d->address_length, d->max_segments,
                             d->max_segment_size)
             : NULL;
}

/* set_default(sockaddr, connected): where send() goes without `to`. `connected`: the socket is, to that
 * address, or to what the program may change; then the address is None. */
PyObject *batcher_set_default(PyObject *self, PyObject *args) {
    UdpBatcher *g = (UdpBatcher *)self;
    PyObject *packed;
    int connected;
    uint32_t destination;
    if (!PyArg_ParseTuple(args, "Op", &packed, &connected))
        return NULL;
    if (g->destination_count || !(PyBytes_Check(packed) || (connected && packed == Py_None)))
        return PyErr_Format(PyExc_RuntimeError, "the default destination is made once, of bytes");
    if (new_destination(g, connected ? NULL : packed, &destination) < 0)
        return NULL;
    if (packed == Py_None)
        Py_RETURN_NONE;
    g->default_address = Py_NewRef(packed);
    return cache_number(g, packed, destination) < 0 ? NULL : Py_NewRef(Py_None);
}
