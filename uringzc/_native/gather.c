/* SPDX-License-Identifier: MIT
 *
 * The per-datagram path. Staging a datagram is one call that keeps the GIL: a check of the thread, a copy
 * into the open train, and two additions. Everything else happens once per train, or once per submission.
 */
#include <limits.h>
#include <time.h>

#include "gather.h"

#define LINGER 200 /* ticks without a datagram, before the timer's thread goes to sleep */

static PyObject *name_c_contiguous, *name_tobytes;

int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Begins a call that changes the sender. Its own thread waits for the timer; a call inside a call is refused.
 */
int gather_begin(Gather *g) {
    unsigned long thread = PyThread_get_thread_ident();
    if (g->closed || !g->queue->engine)
        return refuse(g->queue, UZC_E_CLOSED), -1;
    if (!g->thread) { /* the first call */
        if (!g->queue->calls->mine(g->queue->calls->slots(g->queue->engine)))
            return refuse(g->queue, UZC_E_THREAD), -1;
        g->thread = thread;
        PyObject *begun = PyObject_CallMethod(g->mender, "begin", "O", g);
        Py_XDECREF(begun);
        if (!begun) {
            g->thread = 0;
            return -1;
        }
    }
    if (g->thread != thread)
        return refuse(g->queue, UZC_E_THREAD), -1;
    if (g->inside == thread || g->queue->busy)
        return refuse(g->queue, UZC_E_BUSY), -1;
    if (!PyThread_acquire_lock(g->lock, NOWAIT_LOCK)) {
        Py_BEGIN_ALLOW_THREADS;
        PyThread_acquire_lock(g->lock, WAIT_LOCK);
        Py_END_ALLOW_THREADS;
    }
    g->ready = 0;
    g->inside = thread;
    return 0;
}

void gather_end(Gather *g) {
    g->inside = 0;
    g->ready = g->closed ? 0 : g->thread;
    PyThread_release_lock(g->lock);
}

/* Ends a call; then what the mender has to tell is told, which may raise. */
static PyObject *leave(Gather *g, PyObject *result) {
    gather_end(g);
    if (!g->news || !result)
        return result;
    g->news = 0;
    PyObject *told = PyObject_CallMethod(g->mender, "deliver", NULL);
    Py_XDECREF(told);
    if (!told)
        Py_CLEAR(result);
    return result;
}

/* What a call raises that can not be waited for: code 1, else it has raised already. Always -1. */
static int would_block(int code, const char *why) {
    PyObject *arguments = code > 0 ? Py_BuildValue("(is)", EAGAIN, why) : NULL;
    if (arguments)
        PyErr_SetObject(PyExc_BlockingIOError, arguments);
    Py_XDECREF(arguments);
    return -1;
}

/* -- destinations */

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
    *r = (struct route){.segments = g->limit, .segment_most = g->most, .zero_copy = true};
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
    if (code)
        return would_block(code, "too many destinations while the network takes no more");
    PyDict_Clear(g->destinations);
    g->route_count = 1;
    Py_CLEAR(g->last_to);
    return 0;
}

static int look_up(Gather *g, PyObject *to, uint32_t *route) {
    bool lasting = PyTuple_CheckExact(to);
    int found = lasting ? known_route(g, to, route) : 0;
    if (found)
        return found < 0 ? -1 : 0;
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
    if (found > 0 && lasting)
        found = remember(g, to, *route) < 0 ? -1 : 1;
    return found > 0 ? 0 : -1;
}

/* The number of the route to an address, None for the sender's own. Inside only. */
int find_route(Gather *g, PyObject *to, uint32_t *route) {
    *route = 0;
    if (!to || to == Py_None) {
        if (g->route_count)
            return 0;
        PyErr_Format(PyExc_SystemError, "no routes");
        return -1;
    }
    if (to == g->last_to) {
        *route = g->last_route;
        return 0;
    }
    if (look_up(g, to, route) < 0)
        return -1;
    PyObject *old = g->last_to;
    g->last_to = PyTuple_CheckExact(to) ? (Py_INCREF(to), to) : NULL;
    g->last_route = *route;
    Py_XDECREF(old);
    return 0;
}

/* -- staging */

/* The timer counts from the first datagram that waits. */
static void start_clock(Gather *g) {
    if (!g->max_delay || atomic_load_explicit(&g->since, memory_order_relaxed))
        return;
    atomic_store(&g->since, nanoseconds());
    if (atomic_load(&g->asleep)) {
        pthread_mutex_lock(&g->mutex);
        pthread_cond_signal(&g->woken);
        pthread_mutex_unlock(&g->mutex);
    }
}

static void leave_block(Gather *g) {
    arena_drop(g->arena, g->block);
    g->block = NO_BLOCK;
    g->at = g->end = NULL;
}

void close_train(Gather *g) {
    struct train *t = &g->open;
    if (t->size == NO_TRAIN)
        return;
    t->count = t->size ? (t->nbytes + t->size - 1) / t->size : 1;
    g->datagrams += t->count;
    g->nbytes += t->nbytes;
    g->trains[g->count++] = *t;
    t->size = NO_TRAIN;
    g->room = 0;
}

static int submit_if_full(Gather *g) {
    return g->count < BATCH ? 0 : trains_submit(g);
}

/* The next datagram begins a train: place for it in the batch. */
static int close_for_next(Gather *g) {
    close_train(g);
    int code = submit_if_full(g);
    return code ? would_block(code, "the network takes no more at the moment") : 0;
}

/* Other senders of this engine give their blocks back; 1 if that gave nothing. */
static int squeeze(Gather *g) {
    PyObject *free_now = PyObject_CallMethod(g->mender, "squeeze", "O", g);
    int some = free_now ? PyObject_IsTrue(free_now) : -1;
    Py_XDECREF(free_now);
    return some < 0 ? -1 : !some;
}

/* A block with nothing in it: another one, or the one that it has if only this sender counts it. */
static bool take_block(Gather *g) {
    uint16_t block = g->block;
    if (block == NO_BLOCK || atomic_load_explicit(&g->arena->uses[block], memory_order_acquire) > 1) {
        block = arena_take(g->arena);
        if (block == NO_BLOCK)
            return false;
        leave_block(g);
    }
    g->block = block;
    g->at = g->arena->base + (size_t)block * BLOCK;
    g->end = g->at + BLOCK;
    return true;
}

/* Makes place for `n` bytes at g->at. May close the open train. */
static int make_place(Gather *g, size_t n) {
    if (g->block != NO_BLOCK && (size_t)(g->end - g->at) >= n)
        return 0;
    if (close_for_next(g) < 0)
        return -1;
    while (!take_block(g)) {
        int code = trains_submit(g);
        if (code == 0 && take_block(g))
            break; /* that has freed one, and maybe nothing else is to come */
        if (code == 0 && g->in_flight)
            code = trains_wait(g);
        else if (code == 0) /* others that share the arena have it */
            code = squeeze(g);
        if (code > 0 && !g->in_flight)
            return would_block(1, "leases that were not sent hold the whole arena: send or release them");
        if (code)
            return would_block(code, "the kernel still holds the whole arena");
    }
    return 0;
}

/* Bytes that the open train can still have. */
static uint32_t left(const Gather *g) {
    const struct train *t = &g->open;
    uint64_t most = (uint64_t)g->routes[t->route].segments * t->size;
    return (uint32_t)(most < TRAIN_MOST ? most : TRAIN_MOST) - t->nbytes;
}

/* The train has grown: is it full, and what can be appended at g->at? */
static void grown(Gather *g) {
    const struct train *t = &g->open;
    uint32_t most = left(g), place = g->block == NO_BLOCK ? 0 : (uint32_t)(g->end - g->at);
    if (most < t->size)
        close_train(g);
    else
        g->room = t->data + t->nbytes != g->at ? 0 : most < place ? most : place;
}

static void begin_train(Gather *g, const char *data, size_t n, uint32_t route, uint16_t block) {
    const struct route *r = &g->routes[route];
    if (!g->count)
        start_clock(g);
    g->open = (struct train){.data = data,
                             .size = (uint32_t)n,
                             .nbytes = (uint32_t)n,
                             .route = route,
                             .first = g->datagrams,
                             .block = block,
                             .buffer = -1};
    arena_use(g->arena, block);
    if (n && n <= r->segment_most && r->segments > 1)
        grown(g);
    else
        close_train(g);
}

int add_datagram(Gather *g, const char *data, size_t n, uint32_t route, uint16_t block) {
    struct train *t = &g->open;
    bool joins = t->size != NO_TRAIN && n && n <= t->size && route == t->route && block == t->block &&
                 data == t->data + t->nbytes && n <= left(g);
    if (!joins) {
        if (close_for_next(g) < 0)
            return -1;
        begin_train(g, data, n, route, block);
        return 0;
    }
    t->nbytes += (uint32_t)n;
    if (n < t->size)
        close_train(g);
    else
        grown(g);
    return 0;
}

/* A train that is complete, of memory that `t->holder` or the program's fan_out() keeps. */
static int add_train(Gather *g, const struct train *t) {
    if (close_for_next(g) < 0)
        return -1;
    if (!g->count)
        start_clock(g);
    struct train *place = &g->trains[g->count++];
    *place = *t;
    place->first = g->datagrams;
    Py_XINCREF(place->holder);
    arena_use(g->arena, place->block);
    g->datagrams += t->count;
    g->nbytes += t->nbytes;
    return 0;
}

/* One datagram that does not simply continue the open train. `immutable` keeps it where it is, if not NULL.
 */
static int stage(Gather *g, const char *data, size_t n, uint32_t route, PyObject *immutable) {
    if (n > g->most)
        return refuse(g->queue, -EMSGSIZE), -1;
    if (immutable && n >= g->large) {
        struct train t = {.data = data,
                          .holder = immutable,
                          .nbytes = (uint32_t)n,
                          .size = (uint32_t)n,
                          .count = 1,
                          .route = route,
                          .block = NO_BLOCK,
                          .buffer = -1};
        return add_train(g, &t);
    }
    const struct train *t = &g->open;
    if ((t->size == NO_TRAIN || n > t->size || !n || route != t->route || n > g->room) &&
        (close_for_next(g) < 0 || make_place(g, n) < 0))
        return -1;
    char *place = g->at;
    memcpy(place, data, n);
    g->at += n;
    return add_datagram(g, place, n, route, g->block); /* place was made for it above */
}

/* The int that send() returns. */
inline PyObject *sent_bytes(Gather *g, size_t n) {
    if (g->length_value != n || !g->length) {
        PyObject *length = PyLong_FromSize_t(n);
        if (!length)
            return NULL;
        Py_XDECREF(g->length);
        g->length = length;
        g->length_value = n;
    }
    Py_INCREF(g->length);
    return g->length;
}

/* The bytes of what is no bytes object; a new reference in *holder keeps them. */
static int bytes_of(PyObject *data, const char **bytes, size_t *n, PyObject **holder) {
    if (PyByteArray_CheckExact(data)) {
        Py_INCREF(data);
        *holder = data;
        *bytes = PyByteArray_AsString(data);
        *n = (size_t)PyByteArray_Size(data);
        return 0;
    }
    PyObject *view = PyMemoryView_FromObject(data);
    if (!view)
        return -1; /* TypeError: a bytes-like object is required */
    PyObject *contiguous = PyObject_GetAttr(view, name_c_contiguous);
    if (contiguous == Py_False)
        PyErr_SetString(PyExc_BufferError, "memory to be sent must be contiguous");
    Py_XDECREF(contiguous);
    *holder = PyErr_Occurred() ? NULL : PyObject_CallMethodObjArgs(view, name_tobytes, NULL);
    Py_DECREF(view);
    if (!*holder)
        return -1;
    *bytes = PyBytes_AsString(*holder);
    *n = (size_t)PyBytes_Size(*holder);
    return 0;
}

/* One datagram, inside. Its size, or -1. */
static Py_ssize_t send_one(Gather *g, PyObject *data, uint32_t route) {
    if (PyBytes_CheckExact(data)) {
        size_t n = (size_t)PyBytes_Size(data);
        return stage(g, PyBytes_AsString(data), n, route, data) < 0 ? -1 : (Py_ssize_t)n;
    }
    PyObject *holder;
    const char *bytes;
    size_t n;
    if (bytes_of(data, &bytes, &n, &holder) < 0)
        return -1;
    int error = stage(g, bytes, n, route, holder != data && n >= g->large ? holder : NULL);
    Py_DECREF(holder);
    return error < 0 ? -1 : (Py_ssize_t)n;
}

static inline bool continues(const Gather *g, uint32_t route, size_t n) {
    return n == g->open.size && route == g->open.route && n <= g->room;
}

/* A datagram like the one before it. */
static inline void append(Gather *g, const char *data, size_t n) {
    memcpy(g->at, data, n);
    g->at += n;
    g->open.nbytes += (uint32_t)n;
    g->room -= (uint32_t)n;
}

/* A datagram was accepted; a batch that it filled leaves. What becomes of others is not this call's news. */
static int after(Gather *g) {
    if (g->room < g->open.size)
        close_train(g);
    return submit_if_full(g) < 0 ? -1 : 0;
}

static PyObject *send_slowly(Gather *g, PyObject *data, PyObject *to) {
    if (gather_begin(g) < 0)
        return NULL;
    uint32_t route;
    Py_ssize_t n = find_route(g, to, &route) == 0 ? send_one(g, data, route) : -1;
    return leave(g, n >= 0 && after(g) == 0 ? sent_bytes(g, (size_t)n) : NULL);
}

static PyObject *gather_send(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords) {
    Gather *g = (Gather *)self;
    PyObject *to = NULL;
    if (count == 1 && !keywords) {
        PyObject *data = args[0];
        if (PyBytes_CheckExact(data) && g->ready == PyThread_get_thread_ident()) {
            size_t n = (size_t)PyBytes_Size(data);
            if (continues(g, 0, n)) {
                append(g, PyBytes_AsString(data), n);
                if (g->room >= n)
                    return sent_bytes(g, n);
                if (gather_begin(g) < 0)
                    return NULL;
                return leave(g, after(g) == 0 ? sent_bytes(g, n) : NULL);
            }
        }
        return send_slowly(g, data, NULL);
    }
    Py_ssize_t named = keywords ? PyTuple_Size(keywords) : 0;
    PyObject *data = count ? args[0] : NULL;
    to = count > 1 ? args[1] : NULL;
    for (Py_ssize_t i = 0; i < named; i++) {
        PyObject *name = PyTuple_GetItem(keywords, i);
        PyObject **place = PyUnicode_CompareWithASCIIString(name, "to") == 0     ? &to
                           : PyUnicode_CompareWithASCIIString(name, "data") == 0 ? &data
                                                                                 : NULL;
        if (!place || *place)
            return PyErr_Format(PyExc_TypeError, "send() got '%U' twice, or does not know it", name);
        *place = args[count + i];
    }
    if (!data || count > 2)
        return PyErr_Format(PyExc_TypeError, "send() takes data, and to");
    return send_slowly(g, data, to);
}

static PyObject *gather_sendto(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    if (count == 3) { /* data, flags, address: as the socket's */
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
    return send_slowly((Gather *)self, args[0], args[count - 1]);
}

/* ("host", port), and not an iterable of such. */
static bool is_address(PyObject *to) {
    PyObject *first = PyTuple_Check(to) && PyTuple_Size(to) ? PyTuple_GetItem(to, 0)
                      : PyList_Check(to) && PyList_Size(to) ? PyList_GetItem(to, 0)
                                                            : NULL;
    return first && PyUnicode_Check(first);
}

static void count_in_error(Py_ssize_t done) {
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

/* Inside again after code of the program, which may have raised, or closed the sender. */
static int again(Gather *g) {
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    if (gather_begin(g) == 0) {
        PyErr_Restore(type, value, trace);
        return 0;
    }
    if (type) { /* the first of the two */
        PyErr_Clear();
        PyErr_Restore(type, value, trace);
    }
    return -1;
}

/* send_many(datagrams, to): an iterable, and one address or an iterable of addresses beside it */
static PyObject *gather_send_many(PyObject *self, PyObject *args) {
    Gather *g = (Gather *)self;
    PyObject *datagrams, *to;
    uint32_t route = 0;
    Py_ssize_t sent = 0;
    if (!PyArg_ParseTuple(args, "OO", &datagrams, &to))
        return NULL;
    bool paired = to != Py_None && !is_address(to);
    PyObject *items = PyObject_GetIter(datagrams), *addresses = paired ? PyObject_GetIter(to) : NULL;
    if (!items || (paired && !addresses) || gather_begin(g) < 0) {
        Py_XDECREF(items);
        Py_XDECREF(addresses);
        return NULL;
    }
    /* what runs code of the program does so outside: it may take its time, while the timer sends what waits
     */
    const bool slow = !PyList_CheckExact(datagrams) && !PyTuple_CheckExact(datagrams);
    bool ok = paired || find_route(g, to, &route) == 0;
    while (ok) {
        if (slow)
            gather_end(g);
        PyObject *data = PyIter_Next(items);
        PyObject *address = data && paired ? PyIter_Next(addresses) : NULL;
        if (slow && again(g) < 0) {
            Py_CLEAR(data);
            Py_CLEAR(address);
            Py_DECREF(items);
            Py_XDECREF(addresses);
            return NULL;
        }
        if (!data)
            break;
        if (slow && !paired && find_route(g, to, &route) < 0) { /* the table may have been begun afresh */
            Py_DECREF(data);
            break;
        }
        if (paired) {
            if (!address && !PyErr_Occurred())
                PyErr_Format(PyExc_ValueError, "there are more datagrams than the %zd addresses", sent);
            ok = address && find_route(g, address, &route) == 0;
            Py_XDECREF(address);
        }
        size_t n = PyBytes_CheckExact(data) ? (size_t)PyBytes_Size(data) : NO_TRAIN;
        if (ok && n != NO_TRAIN && continues(g, route, n))
            append(g, PyBytes_AsString(data), n);
        else
            ok = ok && send_one(g, data, route) >= 0;
        Py_DECREF(data);
        sent += ok;
        if (ok && (g->room < g->open.size || g->count == BATCH))
            ok = after(g) == 0;
    }
    if (PyErr_Occurred())
        count_in_error(sent);
    Py_DECREF(items);
    Py_XDECREF(addresses);
    return leave(g, PyErr_Occurred() ? NULL : PyLong_FromSsize_t(sent));
}

/* fan_out(data, addresses): one payload in one place, a request for each address */
static PyObject *gather_fan_out(PyObject *self, PyObject *args) {
    Gather *g = (Gather *)self;
    PyObject *data, *addresses, *holder = NULL;
    const char *bytes;
    size_t n;
    Py_ssize_t sent = 0;
    if (!PyArg_ParseTuple(args, "OO", &data, &addresses))
        return NULL;
    if (PyBytes_CheckExact(data)) {
        bytes = PyBytes_AsString(data);
        n = (size_t)PyBytes_Size(data);
        Py_INCREF(data);
        holder = data;
    } else if (bytes_of(data, &bytes, &n, &holder) < 0)
        return NULL;
    PyObject *items = PyObject_GetIter(addresses);
    if (!items || gather_begin(g) < 0) {
        Py_XDECREF(items);
        Py_DECREF(holder);
        return NULL;
    }
    bool stays = n >= g->large && PyBytes_CheckExact(holder), placed = false;
    int error = n > g->most ? (refuse(g->queue, -EMSGSIZE), -1) : close_for_next(g);
    if (!error && !stays && (error = make_place(g, n)) == 0) {
        memcpy(g->at, bytes, n);
        bytes = g->at;
        g->at += n;
        placed = true;
        arena_use(g->arena, g->block);
    }
    uint16_t block = placed ? g->block : NO_BLOCK;
    while (!error) {
        PyObject *to = PyIter_Next(items);
        uint32_t route;
        if (!to)
            break;
        error = find_route(g, to, &route);
        Py_DECREF(to);
        struct train t = {.data = bytes,
                          .holder = stays ? holder : NULL,
                          .buffer = -1,
                          .nbytes = (uint32_t)n,
                          .size = (uint32_t)n,
                          .count = 1,
                          .route = route,
                          .block = block};
        if (!error)
            error = add_train(g, &t);
        sent += !error;
    }
    if (placed)
        arena_drop(g->arena, block);
    if (PyErr_Occurred())
        count_in_error(sent);
    Py_DECREF(items);
    Py_DECREF(holder);
    return leave(g, PyErr_Occurred() ? NULL : PyLong_FromSsize_t(sent));
}

static PyObject *gather_lease(PyObject *self, PyObject *size) {
    Gather *g = (Gather *)self;
    size_t n = PyLong_AsSize_t(size);
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError))
            return NULL;
        PyErr_Clear();
        n = SIZE_MAX;
    }
    if (n > g->most)
        return PyErr_Format(PyExc_ValueError, "a lease is 0 to %u bytes, what a datagram can carry, not %S",
                            g->most, size);
    if (gather_begin(g) < 0)
        return NULL;
    Lease *l = NULL;
    if ((g->block != NO_BLOCK && (size_t)(g->end - g->at) >= n) || make_place(g, n) == 0)
        l = (Lease *)PyType_GenericAlloc(lease_type, 0);
    if (l) {
        Py_INCREF(g);
        Py_INCREF(g->arena);
        l->gather = g;
        l->arena = g->arena;
        l->data = g->at;
        l->length = n;
        l->block = g->block;
        l->held = true;
        arena_use(g->arena, g->block);
        atomic_fetch_add_explicit(&g->arena->leases, 1, memory_order_relaxed);
        g->at += n;
        if (n)
            g->room = 0; /* the open train ends here, unless this lease continues it */
    }
    gather_end(g);
    return (PyObject *)l;
}

/* Memory of the program's own, as the request path resolves it: a holder for `length` bytes from `offset`. */
static int own_memory(Gather *g, PyObject *data, uint64_t offset, uint64_t length, struct train *t) {
    uzc_send send = {0};
    uint64_t nbytes;
    PyObject *holder, *from = PyLong_FromUnsignedLongLong(offset),
                      *size = PyLong_FromUnsignedLongLong(length);
    int error = from && size ? resolve(g->queue, data, from, size, &send, &nbytes, &holder) : -1;
    Py_XDECREF(from);
    Py_XDECREF(size);
    if (error < 0)
        return -1;
    if (offset > nbytes || length > nbytes - offset) {
        Py_DECREF(holder);
        PyErr_Format(PyExc_ValueError, "bytes %llu to %llu are not all in the %llu bytes of the memory",
                     (unsigned long long)offset, (unsigned long long)(offset + length),
                     (unsigned long long)nbytes);
        return -1;
    }
    *t = (struct train){.data = send.data + offset,
                        .holder = holder,
                        .base = send.base,
                        .buffer = send.buffer,
                        .buffers = send.buffers,
                        .block = NO_BLOCK};
    return 0;
}

/* What send_block() and send_slices() return: how much, unless it was nothing. */
static PyObject *finish_block(Gather *g, unsigned long long done) {
    if (PyErr_Occurred() && done && PyErr_ExceptionMatches(PyExc_BlockingIOError))
        PyErr_Clear(); /* the count says it */
    if (!PyErr_Occurred())
        submit_if_full(g);
    return leave(g, PyErr_Occurred() ? NULL : PyLong_FromUnsignedLongLong(done));
}

/* send_block(data, offset, length, segment, to): about as many bytes as one batch takes; returns how many */
static PyObject *gather_send_block(PyObject *self, PyObject *args) {
    Gather *g = (Gather *)self;
    PyObject *data, *to;
    unsigned long long offset, length, done = 0;
    unsigned segment;
    uint32_t route;
    if (!PyArg_ParseTuple(args, "OKKIO", &data, &offset, &length, &segment, &to) || gather_begin(g) < 0)
        return NULL;
    struct train whole = {.holder = NULL};
    const bool checked = g->queue->released != NULL; /* debug: a checksum for each train */
    int error = find_route(g, to, &route);
    if (!error && !checked)
        error = own_memory(g, data, offset, length, &whole);
    for (uint32_t trains = 0; !error && done < length && trains < BATCH; trains++) {
        const struct route *r = &g->routes[route];
        uint64_t n =
            segment <= r->segment_most && r->segments > 1 ? (uint64_t)r->segments * segment : segment;
        if (n > TRAIN_MOST && n > segment)
            n = TRAIN_MOST / segment * segment;
        if (n > length - done)
            n = length - done;
        struct train t = whole;
        if (checked)
            error = own_memory(g, data, offset + done, n, &t);
        else
            t.data += done;
        t.nbytes = (uint32_t)n;
        t.size = n < segment ? (uint32_t)n : segment;
        t.count = (uint32_t)((n + segment - 1) / segment);
        t.route = route;
        if (!error)
            error = add_train(g, &t);
        if (checked)
            Py_XDECREF(t.holder);
        if (!error)
            done += n;
    }
    Py_XDECREF(whole.holder);
    return finish_block(g, done);
}

/* An array of integers in memory: of 4 or 8 bytes, signed (then negative) or not. */
static uint64_t integer(const char *array, int kind, size_t i) {
    switch (kind) {
    case 4:
        return ((const uint32_t *)array)[i];
    case -4:
        return (uint64_t)(int64_t)((const int32_t *)array)[i];
    default:
        return ((const uint64_t *)array)[i]; /* a negative one is larger than any memory */
    }
}

/* send_slices(data, offsets, kind, lengths, kind, first, last, to): pieces [first, last) of the memory. With
 * `to` not given they are only checked. Returns how many are right, or were sent. */
static PyObject *gather_send_slices(PyObject *self, PyObject *args) {
    Gather *g = (Gather *)self;
    PyObject *data, *to = NULL;
    unsigned long long offsets, lengths, first, last;
    int offset_kind, length_kind;
    uint32_t route = 0;
    if (!PyArg_ParseTuple(args, "OKiKiKK|O", &data, &offsets, &offset_kind, &lengths, &length_kind, &first,
                          &last, &to) ||
        gather_begin(g) < 0)
        return NULL;
    struct train whole = {.holder = NULL};
    uzc_send send = {0};
    uint64_t nbytes = 0, at = first;
    static PyObject *nothing;
    int error = nothing || (nothing = PyLong_FromLong(0)) ? 0 : -1;
    if (!error)
        error = resolve(g->queue, data, nothing, nothing, &send, &nbytes, &whole.holder);
    if (!error && to)
        error = find_route(g, to, &route);
    for (; !error && at < last; at++) {
        uint64_t offset = integer((const char *)(uintptr_t)offsets, offset_kind, at);
        uint64_t n = integer((const char *)(uintptr_t)lengths, length_kind, at);
        if (n > g->most || offset > nbytes || n > nbytes - offset)
            break;
        const char *piece = send.data + offset;
        if (!to)
            continue;
        if (continues(g, route, n)) {
            append(g, piece, n);
        } else if (n < g->large) {
            error = stage(g, piece, n, route, NULL);
        } else {
            struct train t;
            error = own_memory(g, data, offset, n, &t);
            t.nbytes = t.size = (uint32_t)n;
            t.count = 1;
            t.route = route;
            if (!error) {
                error = add_train(g, &t);
                Py_DECREF(t.holder);
            }
        }
        if (!error && g->open.size != NO_TRAIN && g->room < g->open.size)
            error = close_for_next(g);
    }
    Py_XDECREF(whole.holder);
    return finish_block(g, at - first);
}

/* -- what leaves */

/* flush() -> None if nothing of the sender is in flight, else the numbers of its notifiers that are not done
 */
static PyObject *gather_flush(PyObject *self, PyObject *unused) {
    (void)unused;
    Gather *g = (Gather *)self;
    if (gather_begin(g) < 0)
        return NULL;
    close_train(g);
    int code = trains_submit(g);
    if (code == 0)
        code = trains_flush(g);
    if (code > 0)
        would_block(code, "the network takes no more at the moment: what is left stays taken");
    PyObject *numbers = NULL;
    if (!PyErr_Occurred() && !g->notifier_count) {
        Py_INCREF(Py_None);
        numbers = Py_None;
    } else if (!PyErr_Occurred() && (numbers = PyTuple_New(g->notifier_count))) {
        for (uint32_t i = 0; i < g->notifier_count; i++)
            PyTuple_SetItem(numbers, i, PyLong_FromLongLong(g->notifiers[i]));
    }
    return leave(g, numbers);
}

/* spare(): sends what waits, and gives the block back that it fills */
static PyObject *gather_spare(PyObject *self, PyObject *unused) {
    (void)unused;
    Gather *g = (Gather *)self;
    if (gather_begin(g) < 0)
        return NULL;
    close_train(g);
    int code = trains_submit(g);
    if (code == 0)
        code = trains_flush(g);
    if (code >= 0)
        leave_block(g);
    return leave(g, code < 0 ? NULL : PyBool_FromLong(!code));
}

/* look() -> whether nothing is in flight. Submits what may go. */
static PyObject *gather_look(PyObject *self, PyObject *unused) {
    (void)unused;
    Gather *g = (Gather *)self;
    if (gather_begin(g) < 0)
        return NULL;
    int error = trains_look(g);
    return leave(g, error < 0 ? NULL : PyBool_FromLong(!g->in_flight));
}

/* rescue(late): sends what waits by system calls, in any thread; with `late` only if it waits for too long.
 * Returns 0, or -errno: something stays. */
static PyObject *gather_rescue(PyObject *self, PyObject *late) {
    Gather *g = (Gather *)self;
    unsigned long thread = PyThread_get_thread_ident();
    int only_late = PyObject_IsTrue(late), code = 0;
    if (only_late < 0)
        return NULL;
    if (g->inside == thread)
        return PyLong_FromLong(-EBUSY);
    if (!PyThread_acquire_lock(g->lock, NOWAIT_LOCK)) {
        Py_BEGIN_ALLOW_THREADS;
        PyThread_acquire_lock(g->lock, WAIT_LOCK);
        Py_END_ALLOW_THREADS;
    }
    g->ready = 0;
    g->inside = thread;
    int64_t since = atomic_load(&g->since), now = nanoseconds();
    if (!only_late || (since && now - since >= g->max_delay)) {
        if (g->count < BATCH)
            close_train(g);
        code = trains_rescue(g);
        if (code)
            atomic_store(&g->since, now); /* again a little later */
    }
    gather_end(g);
    return code == INT_MIN ? NULL : PyLong_FromLong(code);
}

/* For the timer's thread: returns True when something has waited for too long, False when there is no more.
 */
static PyObject *gather_wait(PyObject *self, PyObject *unused) {
    (void)unused;
    Gather *g = (Gather *)self;
    bool late = false;
    Py_BEGIN_ALLOW_THREADS;
    pthread_mutex_lock(&g->mutex);
    for (int idle = 0; !atomic_load(&g->ended);) {
        int64_t since = atomic_load(&g->since), now = nanoseconds();
        if (since && now - since >= g->max_delay) {
            late = true;
            break;
        }
        if (!since && idle++ == LINGER) { /* it is worth nothing to be woken for each single datagram */
            atomic_store(&g->asleep, true);
            if (!atomic_load(&g->since) && !atomic_load(&g->ended))
                pthread_cond_wait(&g->woken, &g->mutex);
            atomic_store(&g->asleep, false);
            idle = 0;
            continue;
        }
        if (since)
            idle = 0;
        int64_t until = (since ? since : now) + g->max_delay;
        struct timespec time = {until / 1000000000, until % 1000000000};
        pthread_cond_timedwait(&g->woken, &g->mutex, &time);
    }
    pthread_mutex_unlock(&g->mutex);
    Py_END_ALLOW_THREADS;
    return PyBool_FromLong(late);
}

/* Takes no more: what waits must have been sent. Any thread. */
static PyObject *gather_close(PyObject *self, PyObject *unused) {
    (void)unused;
    Gather *g = (Gather *)self;
    g->closed = true;
    g->ready = 0;
    pthread_mutex_lock(&g->mutex);
    atomic_store(&g->ended, true);
    pthread_cond_broadcast(&g->woken);
    pthread_mutex_unlock(&g->mutex);
    Py_RETURN_NONE;
}

/* Forgets what waits, and gives its block back; of a closed sender. Returns how many datagrams were lost. */
static PyObject *gather_discard(PyObject *self, PyObject *unused) {
    (void)unused;
    Gather *g = (Gather *)self;
    unsigned long long lost = 0;
    if (!g->closed || g->inside || g->awaited)
        return PyErr_Format(PyExc_RuntimeError, "discard() is for a closed sender");
    if (g->count < BATCH)
        close_train(g);
    for (uint32_t i = 0; i < g->count; i++) {
        lost += g->trains[i].count;
        arena_drop(g->arena, g->trains[i].block);
        Py_CLEAR(g->trains[i].holder);
    }
    g->count = g->next = 0;
    leave_block(g);
    return PyLong_FromUnsignedLongLong(lost);
}

/* Ends its slot. False while requests of it are in flight. */
static PyObject *gather_unwatch(PyObject *self, PyObject *unused) {
    (void)unused;
    Gather *g = (Gather *)self;
    if (!g->queue->engine)
        Py_RETURN_TRUE;
    int error = g->queue->calls->unwatch(g->queue->calls->slots(g->queue->engine), g->slot);
    return PyBool_FromLong(error != -EBUSY);
}

/* -- for the mender: Python, inside a call */

static struct train *failed_train(Gather *g, unsigned train) {
    if (g->inside == PyThread_get_thread_ident() && train < g->next)
        return &g->trains[train];
    PyErr_SetString(PyExc_RuntimeError, "this is for what has failed, while it is mended");
    return NULL;
}

/* resend(train, from, count) -> 0 or -errno: datagrams of a train by a system call, as a train if count > 1
 */
static PyObject *gather_resend(PyObject *self, PyObject *args) {
    Gather *g = (Gather *)self;
    unsigned train, from, count;
    if (!PyArg_ParseTuple(args, "III", &train, &from, &count))
        return NULL;
    struct train *t = failed_train(g, train);
    if (!t)
        return NULL;
    if (!count || from >= t->count || count > t->count - from)
        return PyErr_Format(PyExc_ValueError, "no datagrams %u to %u in the train", from, from + count);
    int code = trains_resend(g, t, from, count);
    return code == INT_MIN ? NULL : PyLong_FromLong(code);
}

/* writable(milliseconds): waits for the socket */
static PyObject *gather_writable(PyObject *self, PyObject *milliseconds) {
    long time = PyLong_AsLong(milliseconds);
    if (PyErr_Occurred() || trains_writable((Gather *)self, (int)time) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* mended(train): it was sent again, or given up */
static PyObject *gather_mended(PyObject *self, PyObject *number) {
    unsigned long train = PyLong_AsUnsignedLong(number);
    if (PyErr_Occurred())
        return NULL;
    struct train *t = failed_train((Gather *)self, train > UINT32_MAX ? UINT32_MAX : (unsigned)train);
    if (!t)
        return NULL;
    t->state = DONE;
    t->result = 0;
    Py_RETURN_NONE;
}

static struct route *route_at(Gather *g, unsigned number) {
    if (number < g->route_count)
        return &g->routes[number];
    PyErr_Format(PyExc_IndexError, "no route %u", number);
    return NULL;
}

/* limit(route, segments, segment_most): what its trains can be from now on */
static PyObject *gather_limit(PyObject *self, PyObject *args) {
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

/* route(n) -> (sockaddr, segments, segment_most, zero_copy) */
static PyObject *gather_route(PyObject *self, PyObject *number) {
    unsigned long n = PyLong_AsUnsignedLong(number);
    if (PyErr_Occurred())
        return NULL;
    struct route *r = route_at((Gather *)self, n > UINT32_MAX ? UINT32_MAX : (unsigned)n);
    return r ? Py_BuildValue("(y#IIi)", &r->to, (Py_ssize_t)r->to_length, r->segments, r->segment_most,
                             (int)r->zero_copy)
             : NULL;
}

/* -- the type */

/* default(sockaddr): the first route, where send() goes without `to`; b"" is where the socket is connected to
 */
static PyObject *gather_default(PyObject *self, PyObject *packed) {
    Gather *g = (Gather *)self;
    uint32_t route;
    if (g->route_count || !PyBytes_Check(packed))
        return PyErr_Format(PyExc_RuntimeError, "the default route is made once, of bytes");
    return new_route(g, packed, &route) < 0 ? NULL : PyLong_FromUnsignedLong(route);
}

static int gather_setup(PyObject *self, PyObject *args, PyObject *keywords) {
    Gather *g = (Gather *)self;
    static char *accepted[] = {"queue",    "arena",  "sock",         "mender",    "own",
                               "blocking", "strict", "always",       "most",      "large",
                               "least",    "limit",  "max_inflight", "max_delay", NULL};
    PyObject *queue, *arena, *sock, *mender;
    int own, blocking, strict, always;
    unsigned max_inflight;
    long long max_delay;
    if (g->lock) {
        PyErr_SetString(PyExc_TypeError, "a Gather is made once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OOOOppppIIIIIL", accepted, &queue, &arena, &sock,
                                     &mender, &own, &blocking, &strict, &always, &g->most, &g->large,
                                     &g->least, &g->limit, &max_inflight, &max_delay))
        return -1;
    if (Py_TYPE(arena) != arena_type || !((Arena *)arena)->memory ||
        !PyObject_HasAttrString(queue, "readmit")) {
        PyErr_SetString(PyExc_TypeError, "a Gather is made of a Queue and an Arena");
        return -1;
    }
    Queue *q = (Queue *)queue;
    uzc_watcher watcher;
    trains_watcher(g, &watcher);
    long long slot = q->engine ? q->calls->watch(q->calls->slots(q->engine), &watcher) : UZC_E_CLOSED;
    if (slot < 0)
        return refuse(q, slot), -1;
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&g->mutex, NULL);
    pthread_cond_init(&g->woken, &clock);
    pthread_condattr_destroy(&clock);
    g->lock = PyThread_allocate_lock();
    g->destinations = PyDict_New();
    if (!g->lock || !g->destinations)
        return PyErr_NoMemory(), -1;
    Py_INCREF(queue);
    Py_INCREF(arena);
    Py_INCREF(sock);
    Py_INCREF(mender);
    g->queue = q;
    g->arena = (Arena *)arena;
    g->sock = sock;
    g->mender = mender;
    g->own = (char)own;
    g->blocking = (char)blocking;
    g->strict = (char)strict;
    g->always = (char)always;
    g->slot = (uint32_t)slot;
    g->block = NO_BLOCK;
    g->open.size = NO_TRAIN;
    g->max_delay = max_delay;
    g->flush_requests = max_inflight / 4 ? max_inflight / 4 : 1;
    g->flush_bytes = (uint64_t)g->arena->blocks * BLOCK / 4;
    return 0;
}

static void gather_dealloc(PyObject *self) {
    Gather *g = (Gather *)self;
    if (g->lock) {
        PyThread_free_lock(g->lock);
        pthread_mutex_destroy(&g->mutex);
        pthread_cond_destroy(&g->woken);
    }
    for (uint32_t i = 0; i < g->count; i++)
        Py_XDECREF(g->trains[i].holder);
    PyMem_Free(g->routes);
    PyMem_Free(g->notifiers);
    Py_XDECREF(g->destinations);
    Py_XDECREF(g->last_to);
    Py_XDECREF(g->length);
    Py_XDECREF((PyObject *)g->queue);
    Py_XDECREF((PyObject *)g->arena);
    Py_XDECREF(g->sock);
    Py_XDECREF(g->mender);
    free_object(self);
}

static uint32_t open_count(const Gather *g) {
    return g->open.size == NO_TRAIN ? 0 : (g->open.nbytes + g->open.size - 1) / g->open.size;
}

static PyObject *gather_datagrams(PyObject *self, void *unused) {
    (void)unused;
    const Gather *g = (Gather *)self;
    return PyLong_FromUnsignedLongLong(g->datagrams + open_count(g));
}

static PyObject *gather_nbytes(PyObject *self, void *unused) {
    (void)unused;
    const Gather *g = (Gather *)self;
    return PyLong_FromUnsignedLongLong(g->nbytes + (g->open.size == NO_TRAIN ? 0 : g->open.nbytes));
}

static PyObject *gather_waiting(PyObject *self, void *unused) {
    (void)unused;
    const Gather *g = (Gather *)self;
    unsigned long long waiting = 0;
    for (uint32_t i = 0; i < g->count; i++)
        waiting += g->trains[i].state == CLOSED ? g->trains[i].count : 0;
    return PyLong_FromUnsignedLongLong(waiting + open_count(g));
}

static PyMethodDef gather_methods[] = {
    {"send", (PyCFunction)(void (*)(void))gather_send, METH_FASTCALL | METH_KEYWORDS, "See UdpSender.send."},
    {"sendto", (PyCFunction)(void (*)(void))gather_sendto, METH_FASTCALL, "See UdpSender.sendto."},
    {"send_many", gather_send_many, METH_VARARGS, "See UdpSender.send_many."},
    {"fan_out", gather_fan_out, METH_VARARGS, "See UdpSender.fan_out."},
    {"lease", gather_lease, METH_O, "See UdpSender.lease."},
    {"send_block", gather_send_block, METH_VARARGS, "A part of UdpSender.send_region."},
    {"send_slices", gather_send_slices, METH_VARARGS, "A part of UdpSender.send_slices."},
    {"flush", gather_flush, METH_NOARGS,
     "Submits all; the numbers of its notifiers that are not done, or None."},
    {"spare", gather_spare, METH_NOARGS, "Sends what waits, and gives back the block that it fills."},
    {"look", gather_look, METH_NOARGS, "Takes what has come back; whether nothing is in flight."},
    {"wait", gather_wait, METH_NOARGS,
     "The timer's: True when something waits for too long, False at the end."},
    {"rescue", gather_rescue, METH_O, "Sends what waits by system calls, in any thread."},
    {"close", gather_close, METH_NOARGS, "Takes no more, and ends the timer."},
    {"discard", gather_discard, METH_NOARGS, "Forgets what waits; returns how many datagrams."},
    {"unwatch", gather_unwatch, METH_NOARGS, "Ends its slot; False while requests are in flight."},
    {"resend", gather_resend, METH_VARARGS, "For the mender."},
    {"writable", gather_writable, METH_O, "For the mender."},
    {"mended", gather_mended, METH_O, "For the mender."},
    {"limit", gather_limit, METH_VARARGS, "Limits the trains of a route."},
    {"route", gather_route, METH_O, "What is known of a route."},
    {"default", gather_default, METH_O, "Makes the route of send() without `to`."},
    {NULL, NULL, 0, NULL}};

#define COUNTER(name)                                                                                        \
    { #name, T_ULONGLONG, offsetof(Gather, name), READONLY, NULL }
static PyMemberDef gather_members[] = {COUNTER(requests),
                                       COUNTER(plain),
                                       COUNTER(waits),
                                       COUNTER(settled),
                                       COUNTER(copied),
                                       COUNTER(reordered),
                                       {"in_flight", T_UINT, offsetof(Gather, in_flight), READONLY, NULL},
                                       {"routes", T_UINT, offsetof(Gather, route_count), READONLY, NULL},
                                       {"sndbuf", T_INT, offsetof(Gather, sndbuf), READONLY, NULL},
                                       {"slot", T_UINT, offsetof(Gather, slot), READONLY, NULL},
                                       {"closed", T_BOOL, offsetof(Gather, closed), READONLY, NULL},
                                       {"thread", T_ULONG, offsetof(Gather, thread), READONLY, NULL},
                                       {"mender", T_OBJECT, offsetof(Gather, mender), READONLY, NULL},
                                       {NULL, 0, 0, 0, NULL}};
static PyGetSetDef gather_getset[] = {{"datagrams", gather_datagrams, NULL, "taken", NULL},
                                      {"nbytes", gather_nbytes, NULL, "taken", NULL},
                                      {"waiting", gather_waiting, NULL, "datagrams that were not sent", NULL},
                                      {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot gather_slots[] = {{Py_tp_init, gather_setup},
                                     {Py_tp_dealloc, gather_dealloc},
                                     {Py_tp_new, PyType_GenericNew},
                                     {Py_tp_methods, gather_methods},
                                     {Py_tp_members, gather_members},
                                     {Py_tp_getset, gather_getset},
                                     {0, NULL}};
static PyType_Spec gather_spec = {"uringzc._send.Gather", sizeof(Gather), 0, Py_TPFLAGS_DEFAULT,
                                  gather_slots};

int gather_init(PyObject *module) {
    name_c_contiguous = PyUnicode_InternFromString("c_contiguous");
    name_tobytes = PyUnicode_InternFromString("tobytes");
    PyObject *type = PyType_FromSpec(&gather_spec);
    return !type || !name_c_contiguous || !name_tobytes || PyModule_AddObject(module, "Gather", type) < 0 ? -1
                                                                                                          : 0;
}
