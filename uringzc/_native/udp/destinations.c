/* SPDX-License-Identifier: MIT
 *
 * Destinations: each has a number, by which trains and the accounts name it. Numeric addresses are looked up
 * in a dict; a name is resolved each time that it is given.
 */
#include "udp/udp.h"

static int new_route(Gather *g, PyObject *packed, uint32_t *route) {
    if (g->route_count == g->route_room) {
        uint32_t room = g->route_room ? 2 * g->route_room : 4;
        struct route *grown = PyMem_Realloc(g->routes, room * sizeof *grown);
        if (!grown)
            return PyErr_NoMemory(), -1;
        g->routes = grown;
        g->route_room = room;
    }
    struct route *r = &g->routes[g->route_count];
    *r = (struct route){.segments = g->limit};
    Py_ssize_t length = packed ? PyBytes_Size(packed) : 0;
    if (length < 0 || (size_t)length > sizeof r->to)
        return PyErr_Format(PyExc_SystemError, "no address"), -1;
    if (length)
        memcpy(&r->to, PyBytes_AsString(packed), (size_t)length);
    r->to_length = (uint32_t)length;
    PyObject *start = PyObject_CallMethod(g->mender, "route", "kO", (unsigned long)g->route_count,
                                          packed ? packed : Py_None);
    int zero_copy = 0;
    int parsed = start && PyArg_ParseTuple(start, "pII", &zero_copy, &r->look, &r->segment_most);
    Py_XDECREF(start);
    if (!parsed)
        return -1;
    r->zero_copy = zero_copy;
    *route = g->route_count++;
    return 0;
}

static int remember(Gather *g, PyObject *key, uint32_t route) {
    PyObject *number = PyLong_FromUnsignedLong(route);
    int error = number ? PyDict_SetItem(g->destinations, key, number) : -1;
    Py_XDECREF(number);
    return error;
}

/* 1 if it is known, 0 if not, -1 with an exception. */
static int known_route(Gather *g, PyObject *key, uint32_t *route) {
    PyObject *number = PyDict_GetItemWithError(g->destinations, key);
    if (!number)
        return PyErr_Occurred() ? -1 : 0;
    *route = (uint32_t)PyLong_AsUnsignedLong(number);
    return 1;
}

/* The table is full: what is queued leaves, what is in flight is waited for, and it starts afresh. */
static int forget_routes(Gather *g) {
    close_train(g);
    int code = trains_submit(g);
    while (code == 0 && g->in_flight)
        code = trains_wait(g);
    if (code > 0)
        poll_until(g, POLL_PLACE, 0);
    if (code)
        return would_block(code, "too many destinations while the network takes no more");
    PyDict_Clear(g->destinations);
    g->route_count = 1;
    Py_CLEAR(g->last_to);
    return 0;
}

/* 1 if the address always means this route, 0 if not, -1 with an exception. */
static int look_up(Gather *g, PyObject *to, uint32_t *route) {
    bool lasting = PyTuple_CheckExact(to);
    int found = lasting ? known_route(g, to, route) : 0;
    if (found > 0)
        return 1;
    PyErr_Clear(); /* what can not be hashed is no address, and pack() says so */
    PyObject *packed = PyObject_CallMethod(g->mender, "pack", "(O)", to);
    if (!packed)
        return -1;
    lasting &= PyBytes_CheckExact(packed); /* not a name that was resolved */
    found = known_route(g, packed, route);
    if (!found && g->route_count == MAX_ROUTES)
        found = forget_routes(g);
    if (!found && new_route(g, packed, route) == 0)
        found = remember(g, packed, *route) < 0 ? -1 : 1;
    Py_DECREF(packed);
    if (found <= 0)
        return -1;
    return lasting ? (remember(g, to, *route) < 0 ? -1 : 1) : 0;
}

/* The first route, when it is first used: with no address, the socket has to be connected. */
static int use_default(Gather *g) {
    struct sockaddr_in6 peer;
    if (g->default_used)
        return 0;
    if (!g->routes[0].to_length) {
        int fd;
        if (descriptor(g->sock, &fd) < 0)
            return -1;
        if (getpeername(fd, (struct sockaddr *)&peer, &(socklen_t){sizeof peer}) < 0 && errno == ENOTCONN)
            return refuse(g->queue, -EDESTADDRREQ), -1;
    }
    g->default_used = true;
    return 0;
}

/* The number of the route to an address, None for the sender's own. Inside only. */
int find_route(Gather *g, PyObject *to, uint32_t *route) {
    *route = 0;
    if (!to || to == Py_None)
        return use_default(g);
    if (to == g->last_to) {
        *route = g->last_route;
        return 0;
    }
    int lasting = look_up(g, to, route);
    if (lasting < 0)
        return -1;
    PyObject *old = g->last_to;
    g->last_to = lasting ? (Py_INCREF(to), to) : NULL;
    g->last_route = *route;
    Py_XDECREF(old);
    return 0;
}

static struct route *route_at(Gather *g, unsigned number) {
    if (number < g->route_count)
        return &g->routes[number];
    PyErr_Format(PyExc_IndexError, "no route %u", number);
    return NULL;
}

/* limit(route, segments, segment_most): what its trains can be from now on */
PyObject *gather_limit(PyObject *self, PyObject *args) {
    unsigned number, segments, segment_most;
    if (!PyArg_ParseTuple(args, "III", &number, &segments, &segment_most))
        return NULL;
    struct route *r = route_at((Gather *)self, number);
    if (!r)
        return NULL;
    r->segments = segments;
    r->segment_most = segment_most;
    Py_RETURN_NONE;
}

/* route(n) -> (sockaddr, segments, segment_most) */
PyObject *gather_route(PyObject *self, PyObject *number) {
    unsigned long n = PyLong_AsUnsignedLong(number);
    if (PyErr_Occurred())
        return NULL;
    struct route *r = route_at((Gather *)self, n > UINT32_MAX ? UINT32_MAX : (unsigned)n);
    return r ? Py_BuildValue("(y#II)", &r->to, (Py_ssize_t)r->to_length, r->segments, r->segment_most) : NULL;
}

/* default(sockaddr): the first route, where send() goes without `to`; b"" is where the socket is connected to
 */
PyObject *gather_default(PyObject *self, PyObject *packed) {
    Gather *g = (Gather *)self;
    uint32_t route;
    if (g->route_count || !PyBytes_Check(packed))
        return PyErr_Format(PyExc_RuntimeError, "the default route is made once, of bytes");
    return new_route(g, packed, &route) < 0 ? NULL : PyLong_FromUnsignedLong(route);
}
