/* SPDX-License-Identifier: MIT
 *
 * The type Gather: a sender from its making to its end.
 */
#include <limits.h>
#include <time.h>

#include "udp/udp.h"

int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int submit_all(Gather *g) {
    close_train(g);
    int code = trains_submit(g);
    return code ? code : trains_flush(g);
}

/* flush() -> the numbers of its notifiers that are not done */
static PyObject *gather_flush(PyObject *self, PyObject *unused) {
    (void)unused;
    Gather *g = (Gather *)self;
    if (gather_begin(g) < 0)
        return NULL;
    int code = submit_all(g);
    if (code)
        would_block(code, "the network takes no more at the moment: what is left stays taken");
    return leave(g, code ? NULL : notifiers_numbers(&g->notifiers));
}

/* spare(): sends what waits, and gives the block back that it fills */
static PyObject *gather_spare(PyObject *self, PyObject *unused) {
    (void)unused;
    Gather *g = (Gather *)self;
    if (gather_begin(g) < 0)
        return NULL;
    int code = submit_all(g);
    if (code >= 0)
        leave_block(g);
    gather_end(g); /* what it has to tell it tells in a call of its own */
    return code < 0 ? NULL : PyBool_FromLong(!code);
}

/* look() -> whether nothing is in flight, as far as it has come back */
static PyObject *gather_look(PyObject *self, PyObject *unused) {
    (void)unused;
    Gather *g = (Gather *)self;
    if (gather_begin(g) < 0)
        return NULL;
    int error = trains_look(g);
    if (g->in_flight)
        poll_until(g, POLL_RETURN, 0);
    else
        poll_no_more(g, POLL_RETURN);
    return leave(g, error < 0 ? NULL : PyBool_FromLong(!g->in_flight));
}

/* Takes no more: what waits must have been sent. */
static PyObject *gather_close(PyObject *self, PyObject *unused) {
    (void)unused;
    Gather *g = (Gather *)self;
    g->closed = 1;
    g->ready = 0;
    timer_remove(g);
    poll_end(g);
    Py_RETURN_NONE;
}

/* Ends its slot. False while requests of it are in flight. */
static PyObject *gather_unwatch(PyObject *self, PyObject *unused) {
    (void)unused;
    Gather *g = (Gather *)self;
    return PyBool_FromLong(end_slot(g->queue, &g->slot));
}

/* -- the type */

static int set_up(Gather *g, PyObject *args, PyObject *keywords) {
    static char *accepted[] = {"queue",  "arena",        "sock",      "mender", "own",   "blocking",
                               "strict", "always",       "notify",    "most",   "large", "least",
                               "limit",  "max_inflight", "max_delay", NULL};
    PyObject *queue, *arena, *sock, *mender;
    int own, blocking, strict, always, notify;
    unsigned max_inflight;
    long long max_delay;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OOOOpppppIIIIIL", accepted, &queue, &arena, &sock,
                                     &mender, &own, &blocking, &strict, &always, &notify, &g->most, &g->large,
                                     &g->least, &g->limit, &max_inflight, &max_delay))
        return -1;
    if (Py_TYPE(arena) != arena_type || !((Arena *)arena)->memory || !is_queue(queue)) {
        PyErr_SetString(PyExc_TypeError, "a Gather is made of a Queue and an Arena");
        return -1;
    }
    Queue *q = (Queue *)queue;
    g->lock = PyThread_allocate_lock();
    g->destinations = PyDict_New();
    g->spent = PyList_New(0);
    if (!g->lock || !g->destinations || !g->spent)
        return PyErr_NoMemory(), -1;
    Py_INCREF(queue);
    Py_INCREF(arena);
    Py_INCREF(sock);
    Py_INCREF(mender);
    g->queue = q;
    g->slot = UZC_NO_SLOT;
    g->arena = (Arena *)arena;
    g->sock = sock;
    g->mender = mender;
    g->own = (char)own;
    g->blocking = (char)blocking;
    g->strict = (char)strict;
    g->always = (char)always;
    g->notify = (char)notify;
    g->block = NO_BLOCK;
    g->open.size = NO_TRAIN;
    g->max_delay = max_delay;
    g->flush_requests = max_inflight / 4 ? max_inflight / 4 : 1;
    g->flush_bytes = (uint64_t)g->arena->blocks * BLOCK / 4;
    uzc_watcher watcher;
    trains_watcher(g, &watcher);
    long long slot = q->calls->watch(q->calls->slots(q->engine), &watcher);
    if (slot < 0)
        return refuse(q, slot), -1;
    g->slot = (uint32_t)slot;
    return 0;
}

static PyObject *gather_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    PyObject *self = PyType_GenericAlloc(type, 0);
    if (!self)
        return NULL;
    Gather *g = (Gather *)self;
    g->poll.set = g->poll.timer = g->poll.sock = -1;
    if (set_up(g, args, keywords) < 0)
        Py_CLEAR(self);
    return self;
}

/* The program's callbacks are behind the mender, and may hold the sender. */
static int gather_traverse(PyObject *self, visitproc visit, void *arg) {
    Gather *g = (Gather *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)g->queue);
    Py_VISIT(g->mender);
    Py_VISIT(g->sock);
    Py_VISIT(g->destinations);
    Py_VISIT(g->spent);
    return 0;
}

static void gather_dealloc(PyObject *self) {
    Gather *g = (Gather *)self;
    timer_remove(g); /* first: the timer takes no reference of what is not there */
    PyObject_GC_UnTrack(self);
    poll_end(g);
    if (g->queue) /* its constructor, or the sender's, was interrupted */
        end_slot(g->queue, &g->slot);
    if (g->lock)
        PyThread_free_lock(g->lock);
    for (uint32_t i = 0; i < g->count; i++)
        Py_XDECREF(g->trains[i].holder);
    Py_XDECREF(g->spent);
    PyMem_Free(g->routes);
    PyMem_Free(g->notifiers.numbers);
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

static PyObject *gather_destinations(PyObject *self, void *unused) {
    (void)unused;
    const Gather *g = (Gather *)self;
    return PyLong_FromUnsignedLong(g->route_count - !g->default_used);
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
        if (g->trains[i].state == CLOSED || g->trains[i].state == FAILED) /* to be sent again */
            waiting += g->trains[i].count;
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
    {"flush", gather_flush, METH_NOARGS, "Submits all; the numbers of its notifiers that are not done."},
    {"spare", gather_spare, METH_NOARGS, "Sends what waits, and gives back the block that it fills."},
    {"look", gather_look, METH_NOARGS, "Takes what has come back; whether nothing is in flight."},
    {"tick", gather_tick, METH_NOARGS, "The timer's: sends by system calls what has waited for too long."},
    {"rescue", gather_rescue, METH_NOARGS, "Sends what waits by system calls, in any thread."},
    {"close", gather_close, METH_NOARGS, "Takes no more."},
    {"abandon", gather_close, METH_NOARGS, "In the child of a fork: takes no more."},
    {"drop", gather_drop, METH_NOARGS, "Sends what waits, and ends; in any thread, and waits for nobody."},
    {"discard", gather_discard, METH_NOARGS, "Forgets what waits; returns how many datagrams."},
    {"unwatch", gather_unwatch, METH_NOARGS, "Ends its slot; False while requests are in flight."},
    {"poll", gather_poll, METH_O, "Makes what fileno() returns, of the engine's descriptor."},
    {"fileno", gather_fileno, METH_NOARGS, "See UdpSender.fileno."},
    {"resend", gather_resend, METH_VARARGS, "For the mender."},
    {"writable", gather_writable, METH_O, "For the mender."},
    {"mended", gather_mended, METH_VARARGS, "For the mender."},
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
                                       {"blocking", T_BOOL, offsetof(Gather, blocking), 0, NULL},
                                       {"untimed", T_BOOL, offsetof(Gather, untimed), READONLY, NULL},
                                       {"in_timer", T_BOOL, offsetof(Gather, in_timer), READONLY, NULL},
                                       {"thread", T_ULONG, offsetof(Gather, thread), READONLY, NULL},
                                       {NULL, 0, 0, 0, NULL}};
static PyObject *gather_busy(PyObject *self, void *unused) {
    (void)unused;
    const Gather *g = (Gather *)self;
    const unsigned long thread = PyThread_get_thread_ident();
    return PyBool_FromLong(g->inside == thread || (g->reporting && g->thread == thread));
}

static PyObject *gather_closed(PyObject *self, void *unused) {
    (void)unused;
    const Gather *g = (Gather *)self;
    return PyBool_FromLong(g->closed || g->dropped);
}

static PyGetSetDef gather_getset[] = {{"closed", gather_closed, NULL, "takes no more", NULL},
                                      {"busy", gather_busy, NULL, "this thread is inside a call", NULL},
                                      {"datagrams", gather_datagrams, NULL, "taken", NULL},
                                      {"destinations", gather_destinations, NULL, "that were sent to", NULL},
                                      {"nbytes", gather_nbytes, NULL, "taken", NULL},
                                      {"waiting", gather_waiting, NULL, "datagrams that were not sent", NULL},
                                      {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot gather_slots[] = {{Py_tp_traverse, gather_traverse},
                                     {Py_tp_dealloc, gather_dealloc},
                                     {Py_tp_new, gather_new},
                                     {Py_tp_methods, gather_methods},
                                     {Py_tp_members, gather_members},
                                     {Py_tp_getset, gather_getset},
                                     {0, NULL}};
static PyType_Spec gather_spec = {"uringzc._send.Gather", sizeof(Gather), 0,
                                  Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, gather_slots};

PyTypeObject *gather_type;

int gather_init(PyObject *module) {
    gather_type = (PyTypeObject *)PyType_FromSpec(&gather_spec);
    return gather_type && PyModule_AddObject(module, "Gather", Py_NewRef((PyObject *)gather_type)) == 0 ? 0
                                                                                                        : -1;
}
