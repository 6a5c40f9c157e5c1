/* SPDX-License-Identifier: MIT */
/* The per-datagram path. A datagram that continues the open train costs one call that keeps the GIL: a check
 * of the thread, a copy, and a few additions. All else is done once per train, or per submission. */
#include "udp/send.h"

#include "udp/batch.h"
#include "udp/call.h"
#include "udp/destinations.h"
#include "udp/fast_path.h"
#include "udp/leading_edge.h"
#include "udp/polling.h"
#include "udp/submit.h"
#include "udp/syscalls.h"
#include "udp/timer.h"

PyObject *sent_bytes(UdpBatcher *g, size_t n) {
    if (g->sent_length_value != n || !g->sent_length) {
        PyObject *length = PyLong_FromSize_t(n);
        if (!length)
            return NULL;
        Py_XDECREF(g->sent_length);
        g->sent_length = length;
        g->sent_length_value = n;
    }
    return Py_NewRef(g->sent_length);
}

/* The bytes of an object; *holder is a new reference that keeps them. */
static int bytes_of(PyObject *data, const char **bytes, size_t *n, PyObject **holder) {
    if (PyBytes_CheckExact(data)) {
        *holder = Py_NewRef(data);
        *bytes = PyBytes_AsString(data);
        *n = (size_t)PyBytes_Size(data);
        return 0;
    }
    PyObject *view = PyMemoryView_FromObject(data);
    if (!view)
        return -1;                      /* TypeError: a bytes-like object is required */
    if (PyByteArray_CheckExact(data)) { /* the view keeps other threads from resizing it */
        *holder = view;
        *bytes = PyByteArray_AsString(data);
        *n = (size_t)PyByteArray_Size(data);
        return 0;
    }
    PyObject *contiguous = PyObject_GetAttrString(view, "c_contiguous");
    if (contiguous == Py_False)
        PyErr_SetString(PyExc_BufferError, "memory to be sent must be contiguous");
    Py_XDECREF(contiguous);
    *holder = PyErr_Occurred() ? NULL : PyObject_CallMethod(view, "tobytes", NULL);
    Py_DECREF(view);
    if (!*holder)
        return -1;
    *bytes = PyBytes_AsString(*holder);
    *n = (size_t)PyBytes_Size(*holder);
    return 0;
}

/* Takes one datagram. `alone`: the only one of its call. Its size, or -1. */
static Py_ssize_t send_one(UdpBatcher *g, PyObject *data, uint32_t destination, bool alone) {
    PyObject *holder;
    const char *bytes;
    size_t n;
    if (bytes_of(data, &bytes, &n, &holder) < 0)
        return -1;
    if (alone && !g->count && !g->open_count)
        start_delay(g);
    int error = 0;
    if (!alone || !send_directly(g, bytes, n, destination))
        error = stage_datagram(g, bytes, n, destination, PyBytes_CheckExact(holder) ? holder : NULL);
    Py_DECREF(holder);
    return error < 0 ? -1 : (Py_ssize_t)n;
}

static bool is_full(const UdpBatcher *g) {
    uint64_t nbytes = 0;
    const bool in_loop = g->on_waiting && !(g->poll.armed & AWAIT_SEND); /* else it is not worth a try */
    for (uint32_t i = 0; in_loop && i < g->count; i++)
        nbytes += g->trains[i]->nbytes;
    return g->count == BATCH_SIZE || nbytes >= LOOP_BATCH;
}

/* After a datagram was taken: submits the batch if it is full. */
static int after_datagram(UdpBatcher *g) {
    return is_full(g) && submit_batch(g, UNTIL_ROOM) < 0 ? -1 : 0;
}

PyObject *send_checked(UdpBatcher *g, PyObject *data, PyObject *to) {
    if (batcher_begin(g) < 0)
        return NULL;
    uint32_t destination;
    Py_ssize_t n = find_destination(g, to, &destination) == 0 ? send_one(g, data, destination, true) : -1;
    return batcher_return(g, n >= 0 && after_datagram(g) == 0 ? sent_bytes(g, (size_t)n) : NULL);
}

bool send_fast(UdpBatcher *g, PyObject *data, PyObject *to) {
    uint32_t destination = 0;
    if (!PyBytes_CheckExact(data) || !begin_fast_path(g, PyThread_get_thread_ident()))
        return false;
    bool taken = (!to || recent_destination(g, to, &destination)) &&
                 append_fast(g, PyBytes_AsString(data), (size_t)PyBytes_Size(data), destination);
    end_fast_path(g);
    return taken;
}

PyObject *batcher_send(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords) {
    UdpBatcher *g = (UdpBatcher *)self;
    PyObject *to = NULL;
    if ((count == 1 || count == 2) && !keywords) {
        to = count == 2 ? args[1] : NULL;
        if (send_fast(g, args[0], to))
            return sent_bytes(g, (size_t)PyBytes_Size(args[0]));
        return send_checked(g, args[0], to);
    }
    Py_ssize_t named = keywords ? PyTuple_Size(keywords) : 0;
    PyObject *data = count ? args[0] : NULL;
    to = count > 1 ? args[1] : NULL;
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GetItem(keywords, i);
        PyObject **place = PyUnicode_CompareWithASCIIString(name, "to") == 0     ? &to
                           : PyUnicode_CompareWithASCIIString(name, "data") == 0 ? &data
                                                                                 : NULL;
        if (!place)
            return PyErr_Format(PyExc_TypeError, "send() got an unexpected keyword argument '%U'", name);
        if (*place)
            return PyErr_Format(PyExc_TypeError, "send() got '%U' twice", name);
        *place = args[count + i];
    }
    if (!data || count > 2)
        return PyErr_Format(PyExc_TypeError,
                            "send() takes data and, unless the sender has a remote, an address");
    return send_checked(g, data, to);
}

PyObject *batcher_sendto(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    if (count == 3) { /* data, flags, address: as socket.sendto() */
        long flags = PyLong_AsLong(args[1]);
        if (flags == -1 && PyErr_Occurred())
            return NULL;
        if (flags)
            return PyErr_Format(PyExc_ValueError, "sendto() takes no flags here, not %ld", flags);
    }
    if (count != 2 && count != 3)
        return PyErr_Format(PyExc_TypeError, "sendto() takes data and an address");
    if (args[count - 1] == Py_None)
        return PyErr_Format(PyExc_TypeError, "sendto() needs an address, not None");
    if (send_fast((UdpBatcher *)self, args[0], args[count - 1]))
        return sent_bytes((UdpBatcher *)self, (size_t)PyBytes_Size(args[0]));
    return send_checked((UdpBatcher *)self, args[0], args[count - 1]);
}

/* ("host", port), and not an iterable of such. */
static bool is_address(PyObject *to) {
    PyObject *first = PyTuple_Check(to) || PyList_Check(to) ? PySequence_GetItem(to, 0) : NULL;
    bool is = first && PyUnicode_Check(first);
    if (!first) /* it is empty */
        PyErr_Clear();
    Py_XDECREF(first);
    return is;
}

static bool is_list_or_tuple(PyObject *items) {
    return PyList_CheckExact(items) || PyTuple_CheckExact(items);
}

static void set_characters_written(Py_ssize_t done) {
    PyObject *type, *value, *trace;
    if (!PyErr_ExceptionMatches(PyExc_BlockingIOError))
        return;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    PyObject *count = PyLong_FromSsize_t(done);
    if (count)
        PyObject_SetAttrString(value, "characters_written", count);
    Py_XDECREF(count);
    PyErr_Clear();
    PyErr_Restore(type, value, trace);
}

/* After code of the program, which may have raised, or closed the sender. */
static int begin_again(UdpBatcher *g) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    int error = batcher_begin(g);
    if (!error || type) /* the first of two */
        PyErr_Restore(type, value, trace);
    return error;
}

/* One of send_many(). Counts it in `sent` if it was taken, whatever fails after that. */
static bool take_one(UdpBatcher *g, PyObject *data, uint32_t destination, Py_ssize_t *sent) {
    size_t n = PyBytes_CheckExact(data) ? (size_t)PyBytes_Size(data) : NO_TRAIN;
    if (n == NO_TRAIN || !append_fast(g, PyBytes_AsString(data), n, destination))
        if (send_one(g, data, destination, false) < 0)
            return false;
    ++*sent;
    return after_datagram(g) == 0;
}

/* CPython returns an iterator of a released memoryview, with an exception set. */
static PyObject *iterate(PyObject *some) {
    PyObject *items = PyObject_GetIter(some);
    if (items && PyErr_Occurred())
        Py_CLEAR(items);
    return items;
}

/* All of an iterable, to one address or to those of an iterable beside it, or to a group. */
static PyObject *send_all(UdpBatcher *g, PyObject *datagrams, PyObject *to, uint32_t group) {
    uint32_t destination = group;
    Py_ssize_t sent = 0;
    bool paired = to != Py_None && !is_address(to) && !PyUnicode_Check(to);
    PyObject *items = iterate(datagrams), *addresses = items && paired ? iterate(to) : NULL;
    if (!items || (paired && !addresses) || batcher_begin(g) < 0) {
        Py_XDECREF(items);
        Py_XDECREF(addresses);
        return NULL;
    }
    /* an iterator runs code of the program, without the lock: meanwhile the timer may send what waits */
    const bool slow = !is_list_or_tuple(datagrams) || (paired && !is_list_or_tuple(to));
    bool ok = paired || group || find_destination(g, to, &destination) == 0;
    while (ok) {
        if (slow) {
            if (g->leaves)
                arm_timer(g, monotonic_ns()); /* should the iterator take long */
            batcher_end(g);
        }
        PyObject *data = PyIter_Next(items);
        PyObject *address = data && paired ? PyIter_Next(addresses) : NULL;
        if (slow && begin_again(g) < 0) {
            Py_CLEAR(data);
            Py_CLEAR(address);
            Py_DECREF(items);
            Py_XDECREF(addresses);
            return NULL;
        }
        if (!data)
            break;
        if (slow && !paired && !group &&
            find_destination(g, to, &destination) < 0) { /* again: the table may have been emptied */
            Py_DECREF(data);
            break;
        }
        if (paired) {
            if (!address && !PyErr_Occurred())
                PyErr_Format(PyExc_ValueError, "there are more datagrams than the %zd addresses", sent);
            ok = address && find_destination(g, address, &destination) == 0;
            Py_XDECREF(address);
        }
        ok = ok && take_one(g, data, destination, &sent);
        Py_DECREF(data);
    }
    if (PyErr_Occurred())
        set_characters_written(sent);
    Py_DECREF(items);
    Py_XDECREF(addresses);
    return batcher_return(g, PyErr_Occurred() ? NULL : PyLong_FromSsize_t(sent));
}

/* send_many(datagrams, to): an iterable, and one address or an iterable of addresses beside it */
PyObject *batcher_send_many(PyObject *self, PyObject *args) {
    PyObject *datagrams, *to;
    if (!PyArg_ParseTuple(args, "OO", &datagrams, &to))
        return NULL;
    return send_all((UdpBatcher *)self, datagrams, to, 0);
}

PyObject *send_to_group(UdpBatcher *g, PyObject *data, uint32_t group) {
    if (PyBytes_CheckExact(data) && begin_fast_path(g, PyThread_get_thread_ident())) {
        const size_t n = (size_t)PyBytes_Size(data);
        const bool taken = append_fast(g, PyBytes_AsString(data), n, group);
        end_fast_path(g);
        if (taken)
            return sent_bytes(g, n);
    }
    if (batcher_begin(g) < 0)
        return NULL;
    Py_ssize_t n = send_one(g, data, group, false);
    return batcher_return(g, n >= 0 && after_datagram(g) == 0 ? sent_bytes(g, (size_t)n) : NULL);
}

PyObject *send_many_to_group(UdpBatcher *g, PyObject *datagrams, uint32_t group) {
    return send_all(g, datagrams, Py_None, group);
}

/* fan_out(data, addresses): one payload in one place, a request for each address */
PyObject *batcher_fan_out(PyObject *self, PyObject *args) {
    UdpBatcher *g = (UdpBatcher *)self;
    PyObject *data, *addresses, *holder;
    const char *bytes;
    size_t n;
    Py_ssize_t sent = 0;
    if (!PyArg_ParseTuple(args, "OO", &data, &addresses))
        return NULL;
    if (bytes_of(data, &bytes, &n, &holder) < 0)
        return NULL;
    PyObject *items = iterate(addresses);
    if (!items || batcher_begin(g) < 0) {
        Py_XDECREF(items);
        Py_DECREF(holder);
        return NULL;
    }
    const bool held = n >= g->hold_threshold && PyBytes_CheckExact(holder);
    uint16_t block = NO_BLOCK;
    int error = n > g->max_payload ? refuse_size(g) : 0;
    if (!error && !held) {
        char *place = reserve_bytes(g, n, &block);
        error = place ? 0 : -1;
        if (place)
            bytes = memcpy(place, bytes, n);
    }
    while (!error) {
        PyObject *to = PyIter_Next(items);
        uint32_t destination;
        if (!to)
            break;
        error = find_destination(g, to, &destination);
        Py_DECREF(to);
        if (!error)
            error = add_single(g, bytes, n, destination, held ? holder : NULL, block);
        sent += !error;
    }
    arena_release(g->arena, block);
    if (PyErr_Occurred())
        set_characters_written(sent);
    Py_DECREF(items);
    Py_DECREF(holder);
    return batcher_return(g, PyErr_Occurred() ? NULL : PyLong_FromSsize_t(sent));
}
