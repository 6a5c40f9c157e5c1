/* SPDX-License-Identifier: MIT */
/* The type UdpBatcher: its life, its attributes, and the methods that are not in files of their own. */
#include "udp/sender.h"

#include "request/queue_type.h"
#include "udp/background.h"
#include "udp/batch.h"
#include "udp/call.h"
#include "udp/destinations.h"
#include "udp/leading_edge.h"
#include "udp/lease.h"
#include "udp/pacing.h"
#include "udp/polling.h"
#include "udp/results.h"
#include "udp/send.h"
#include "udp/send_region.h"
#include "udp/socket.h"
#include "udp/submit.h"
#include "udp/syscalls.h"
#include "udp/timer.h"
#include "udp/timestamps.h"
#include "udp/trains.h"

/* What fails flushes too, as no other call may come: close() after its socket was closed. */
static int submit_and_flush(UdpBatcher *g) {
    int code = submit_all(g, UNTIL_EMPTY);
    if (code >= 0)
        return code ? code : flush_notifier(g);
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    if (flush_notifier(g) < 0)
        PyErr_Clear();
    PyErr_Restore(type, value, trace);
    return code;
}

PyObject *batcher_flush(PyObject *self, PyObject *Py_UNUSED(unused)) {
    UdpBatcher *g = (UdpBatcher *)self;
    if (batcher_begin(g) < 0)
        return NULL;
    g->timestamps_read = false;
    end_turn(g);
    int code = submit_and_flush(g);
    if (!code)
        g->waiting = QUIET;
    if (code >= 0 && g->timestamps && !g->timestamps_read && read_timestamps(g) < 0)
        code = -1;
    if (code)
        raise_would_block(
            code, pace_blocks(g) ? PACED ": the rest still waits"
                                 : "the network takes no more at the moment: what was not sent still waits");
    return batcher_return(g, code ? NULL : notifiers_numbers(&g->notifiers));
}

/* release_block() -> whether all was sent: for another sender that needs the memory. Reports nothing: the
 * sender's own next call does. */
static PyObject *batcher_release_block(PyObject *self, PyObject *Py_UNUSED(unused)) {
    UdpBatcher *g = (UdpBatcher *)self;
    if (batcher_begin(g) < 0)
        return NULL;
    int code = submit_and_flush(g);
    if (code >= 0)
        release_block(g);
    batcher_end(g);
    return code < 0 ? NULL : PyBool_FromLong(!code);
}

/* poll() -> whether nothing is in flight: takes what has come back */
static PyObject *batcher_poll(PyObject *self, PyObject *Py_UNUSED(unused)) {
    UdpBatcher *g = (UdpBatcher *)self;
    if (batcher_begin(g) < 0)
        return NULL;
    int error = poll_engine(g);
    if (!error && g->timestamps)
        error = read_timestamps(g);
    if (g->in_flight)
        arm_poll(g, AWAIT_SETTLED, 0);
    else
        disarm_poll(g, AWAIT_SETTLED);
    return batcher_return(g, error < 0 ? NULL : PyBool_FromLong(!g->in_flight));
}

/* take_error_queue() -> its messages. The pending error is taken first: reading them would clear it. */
static PyObject *batcher_take_error_queue(PyObject *self, PyObject *Py_UNUSED(unused)) {
    UdpBatcher *g = (UdpBatcher *)self;
    if (batcher_begin(g) < 0)
        return NULL;
    PyObject *messages = NULL;
    if (refresh_socket(g) == 0 && report_socket_error(g) == 0)
        messages = PyObject_CallMethod(g->slow_path, "take_error_queue", NULL);
    WRITE_SHARED(g->to_report, 1); /* last, as in report_socket_error() */
    return batcher_return(g, messages);
}

/* close(), abandon() in the child of a fork: refuses calls from now on. What waits must have been sent. */
static PyObject *batcher_close(PyObject *self, PyObject *Py_UNUSED(unused)) {
    UdpBatcher *g = (UdpBatcher *)self;
    g->closed = 1; /* before the next, see allow_fast_path() */
    g->fast_thread = 0;
    timer_remove(g);
    close_poll(g);
    Py_RETURN_NONE;
}

/* set_pacing((ns, counts_bytes, burst, lateness, most, gather)): see pacing.h. What waits leaves at the new
 * rate. */
static PyObject *batcher_set_pacing(PyObject *self, PyObject *pacing) {
    UdpBatcher *g = (UdpBatcher *)self;
    if (batcher_begin(g) < 0)
        return NULL;
    int error = close_all(g) < 0 ? -1 : pace_set(g, pacing); /* open ones had room by the old rate */
    if (g->poll.armed & AWAIT_RATE)
        arm_poll(g, AWAIT_RATE, monotonic_ns());
    if (atomic_load(&g->due)) {
        atomic_store(&g->due, monotonic_ns());
        timer_wake();
    }
    return batcher_return(g, error ? NULL : Py_NewRef(Py_None));
}

/* close_slot() -> False while requests of it are in flight */
static PyObject *batcher_close_slot(PyObject *self, PyObject *Py_UNUSED(unused)) {
    UdpBatcher *g = (UdpBatcher *)self;
    return PyBool_FromLong(close_internal_slot(g->queue, &g->slot));
}

static uint32_t smaller(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

/* What is larger than a frame cannot be sent; nothing is held, since the engine would copy it to a frame. */
static void set_limits_by_arena(UdpBatcher *g) {
    const Arena *arena = g->arena;
    g->frames = arena->frames != NULL;
    g->max_payload = smaller(g->max_payload, arena->capacity);
    g->max_train = smaller(MAX_TRAIN_BYTES, arena->capacity);
    g->max_open = g->frames ? smaller(MAX_OPEN, (arena->limit + 1) / 2) : MAX_OPEN;
    if (g->frames)
        g->hold_threshold = UINT32_MAX;
    g->flush_bytes = (uint64_t)arena->limit * arena->capacity / 4;
}

static int batcher_setup(UdpBatcher *g, PyObject *args, PyObject *keywords) {
    static char *accepted[] = {"queue",
                               "arena",
                               "sock",
                               "slow_path",
                               "own_socket",
                               "blocking",
                               "strict_order",
                               "always_zero_copy",
                               "notify",
                               "timestamps",
                               "engine_reads_queue",
                               "max_payload",
                               "hold_threshold",
                               "max_segments",
                               "max_inflight",
                               "max_delay",
                               "pacing",
                               "on_waiting",
                               NULL};
    PyObject *queue, *arena, *sock, *slow_path, *pacing, *on_waiting;
    int blocking;
    unsigned max_inflight;
    long long max_delay;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!O!OOpppppppIIIILOO", accepted, queue_type, &queue,
                                     arena_type, &arena, &sock, &slow_path, &g->own_socket, &blocking,
                                     &g->strict_order, &g->always_zero_copy, &g->notify, &g->timestamps,
                                     &g->engine_reads_queue, &g->max_payload, &g->hold_threshold,
                                     &g->max_segments, &max_inflight, &max_delay, &pacing, &on_waiting))
        return -1;
    g->lock = PyThread_allocate_lock();
    g->destination_numbers = PyDict_New();
    g->deferred = PyList_New(0);
    if (!g->lock || !g->destination_numbers || !g->deferred)
        return PyErr_NoMemory(), -1;
    g->queue = (Queue *)Py_NewRef(queue);
    g->slot = UZC_NO_SLOT;
    g->arena = (Arena *)Py_NewRef(arena);
    g->sock = Py_NewRef(sock);
    g->slow_path = Py_NewRef(slow_path);
    g->on_waiting = on_waiting == Py_None ? NULL : Py_NewRef(on_waiting);
    g->blocking = (char)blocking;
    g->block = NO_BLOCK;
    g->room_fd = -1;
    g->none.size = NO_TRAIN;
    g->none.destination = NO_TRAIN;
    g->open = &g->none;
    if (g->max_segments > MAX_SEGMENTS)
        g->max_segments = MAX_SEGMENTS;
    set_limits_by_arena(g);
    g->max_delay = max_delay;
    g->flush_requests = max_inflight / 4 ? max_inflight / 4 : 1;
    return pace_set(g, pacing) < 0 ? -1 : batcher_open_slot(g);
}

static PyObject *batcher_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    PyObject *self = PyType_GenericAlloc(type, 0);
    if (!self)
        return NULL;
    UdpBatcher *g = (UdpBatcher *)self;
    g->poll.set = g->poll.timer = g->poll.sock = -1;
    enable_try_incref(self); /* for the timer */
    if (batcher_setup(g, args, keywords) < 0)
        Py_CLEAR(self);
    return self;
}

/* The slow path holds the program's callbacks, which may hold the sender. */
static int batcher_traverse(PyObject *self, visitproc visit, void *arg) {
    UdpBatcher *g = (UdpBatcher *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT((PyObject *)g->queue);
    Py_VISIT(g->slow_path);
    Py_VISIT(g->on_waiting);
    Py_VISIT(g->sock);
    Py_VISIT(g->destination_numbers);
    Py_VISIT(g->deferred);
    return 0;
}

static void batcher_dealloc(PyObject *self) {
    UdpBatcher *g = (UdpBatcher *)self;
    timer_remove(g); /* first: so the timer takes no new reference */
    PyObject_GC_UnTrack(self);
    close_poll(g);
    if (g->queue) /* a constructor was interrupted */
        close_internal_slot(g->queue, &g->slot);
    if (g->lock)
        PyThread_free_lock(g->lock);
    free_trains(g);
    free_destinations(g);
    Py_XDECREF(g->deferred);
    PyMem_Free(g->notifiers.numbers);
    Py_XDECREF(g->destination_numbers);
    Py_XDECREF(g->sent_length);
    Py_XDECREF((PyObject *)g->queue);
    Py_XDECREF((PyObject *)g->arena);
    Py_XDECREF(g->sock);
    Py_XDECREF(g->slow_path);
    Py_XDECREF(g->on_waiting);
    free_object(self);
}

struct datagrams {
    unsigned long long taken, waiting, waiting_bytes, nbytes;
};

static struct datagrams count_once(const UdpBatcher *g) {
    struct datagrams n = {.taken = READ_SHARED(g->datagrams), .nbytes = READ_SHARED(g->nbytes)};
    const uint32_t count = READ_SHARED(g->count);
    for (uint32_t i = 0; i < count; i++) {
        const struct train *t = READ_SHARED(g->trains[i]);
        const unsigned state = READ_SHARED(t->state);
        if (state == CLOSED || state == FAILED) /* to be sent again */
            n.waiting += READ_SHARED(t->count), n.waiting_bytes += READ_SHARED(t->nbytes);
    }
    const struct train *open = READ_SHARED(g->open);
    const uint64_t step = READ_SHARED(open->step), more = uncounted(open) * step;
    n.taken += more;
    n.waiting += READ_SHARED(g->gathered) + more;
    const uint64_t more_bytes = (READ_SHARED(open->nbytes) - READ_SHARED(open->counted)) * step;
    n.nbytes += more_bytes;
    n.waiting_bytes += READ_SHARED(g->gathered_bytes) + more_bytes;
    return n;
}

/* Without the GIL a thread may be changing what is counted: then it is counted again. */
static struct datagrams count_datagrams(const UdpBatcher *g) {
    for (;;) {
        const uint32_t before = atomic_load(&g->changes);
        const struct datagrams n = count_once(g);
        if (before % 2 == 0 && before == atomic_load(&g->changes))
            return n;
    }
}

static PyObject *batcher_datagrams(PyObject *self, void *Py_UNUSED(unused)) {
    return PyLong_FromUnsignedLongLong(count_datagrams((UdpBatcher *)self).taken);
}

static PyObject *batcher_destinations(PyObject *self, void *Py_UNUSED(unused)) {
    const UdpBatcher *g = (UdpBatcher *)self;
    return PyLong_FromUnsignedLong(READ_SHARED(g->destination_count) - !READ_SHARED(g->default_used));
}

static PyObject *batcher_nbytes(PyObject *self, void *Py_UNUSED(unused)) {
    return PyLong_FromUnsignedLongLong(count_datagrams((UdpBatcher *)self).nbytes);
}

static PyObject *batcher_waiting(PyObject *self, void *Py_UNUSED(unused)) {
    return PyLong_FromUnsignedLongLong(count_datagrams((UdpBatcher *)self).waiting);
}

static PyObject *batcher_waiting_bytes(PyObject *self, void *Py_UNUSED(unused)) {
    return PyLong_FromUnsignedLongLong(count_datagrams((UdpBatcher *)self).waiting_bytes);
}

/* As `stats` has them; WAIT_NOTHING: nothing is in the way, and they gather. */
static const char *const wait_names[WAITS] = {"", "room", "arrival", "memory", "rate"};

/* Sets dict[key] = value, and drops the key. 0 or -1. */
static int set_counter(PyObject *dict, PyObject *key, unsigned long long value) {
    PyObject *number = PyLong_FromUnsignedLongLong(value);
    int error = key && number ? PyDict_SetItem(dict, key, number) : -1;
    Py_XDECREF(key);
    Py_XDECREF(number);
    return error;
}

static PyObject *batcher_trains(PyObject *self, void *Py_UNUSED(unused)) {
    const UdpBatcher *g = (UdpBatcher *)self;
    PyObject *dict = PyDict_New();
    for (unsigned power = 0; dict && power < TRAIN_LENGTHS; power++)
        if (set_counter(dict, PyLong_FromUnsignedLong(1u << power), READ_SHARED(g->left.trains[power])) < 0)
            Py_CLEAR(dict);
    return dict;
}

static PyObject *batcher_waited_for(PyObject *self, void *Py_UNUSED(unused)) {
    const UdpBatcher *g = (UdpBatcher *)self;
    PyObject *dict = PyDict_New();
    for (unsigned what = WAIT_NOTHING + 1; dict && what < WAITS; what++)
        if (set_counter(dict, PyUnicode_FromString(wait_names[what]), READ_SHARED(g->waits[what])) < 0)
            Py_CLEAR(dict);
    return dict;
}

static PyObject *batcher_waiting_for(PyObject *self, void *Py_UNUSED(unused)) {
    return PyUnicode_FromString(wait_names[READ_SHARED(((UdpBatcher *)self)->waits_for)]);
}

/* Where there is no text, the function has a comment. */
static PyMethodDef batcher_methods[] = {
    {"send", (PyCFunction)(void (*)(void))batcher_send, METH_FASTCALL | METH_KEYWORDS, "See UdpSender.send."},
    {"sendto", (PyCFunction)(void (*)(void))batcher_sendto, METH_FASTCALL, "See UdpSender.sendto."},
    {"send_many", batcher_send_many, METH_VARARGS, "See UdpSender.send_many."},
    {"fan_out", batcher_fan_out, METH_VARARGS, "See UdpSender.fan_out."},
    {"lease", batcher_lease, METH_O, "See UdpSender.lease."},
    {"send_block", batcher_send_block, METH_VARARGS, NULL},
    {"send_slices", batcher_send_slices, METH_VARARGS, NULL},
    {"flush", batcher_flush, METH_NOARGS, NULL},
    {"release_block", batcher_release_block, METH_NOARGS, NULL},
    {"poll", batcher_poll, METH_NOARGS, NULL},
    {"take_error_queue", batcher_take_error_queue, METH_NOARGS, NULL},
    {"send_late", batcher_send_late, METH_NOARGS, NULL},
    {"send_at_exit", batcher_send_at_exit, METH_NOARGS, NULL},
    {"close", batcher_close, METH_NOARGS, NULL},
    {"abandon", batcher_close, METH_NOARGS, NULL},
    {"drop", batcher_drop, METH_NOARGS, NULL},
    {"discard", batcher_discard, METH_NOARGS, NULL},
    {"close_slot", batcher_close_slot, METH_NOARGS, NULL},
    {"open_epoll", batcher_open_epoll, METH_O, NULL},
    {"fileno", batcher_fileno, METH_NOARGS, "See UdpSender.fileno."},
    {"resend", batcher_resend, METH_VARARGS, NULL},
    {"writable", batcher_writable, METH_O, NULL},
    {"resolved", batcher_resolved, METH_VARARGS, NULL},
    {"number", batcher_number, METH_VARARGS, NULL},
    {"set_pacing", batcher_set_pacing, METH_O, NULL},
    {"set_limits", batcher_set_limits, METH_VARARGS, NULL},
    {"destination", batcher_destination, METH_O, NULL},
    {"set_default", batcher_set_default, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL}};

#define COUNTER(name)                                                                                        \
    { #name, T_ULONGLONG, offsetof(UdpBatcher, name), READONLY, NULL }
static PyMemberDef batcher_members[] = {
    COUNTER(requests),
    COUNTER(syscalls),
    COUNTER(settled),
    COUNTER(copied),
    COUNTER(reordered),
    {"left", T_ULONGLONG, offsetof(UdpBatcher, left.datagrams), READONLY, NULL},
    {"max_delay", T_LONGLONG, offsetof(UdpBatcher, max_delay), READONLY, NULL},
    {"in_flight", T_UINT, offsetof(UdpBatcher, in_flight), READONLY, NULL},
    {"blocking", T_BOOL, offsetof(UdpBatcher, blocking), 0, NULL},
    {"no_timer", T_BOOL, offsetof(UdpBatcher, no_timer), READONLY, NULL},
    {"must_not_wait", T_BOOL, offsetof(UdpBatcher, must_not_wait), READONLY, NULL},
    {"owner", T_ULONG, offsetof(UdpBatcher, owner), READONLY, NULL},
    {NULL, 0, 0, 0, NULL}};
static PyObject *batcher_busy(PyObject *self, void *Py_UNUSED(unused)) {
    const UdpBatcher *g = (UdpBatcher *)self;
    const unsigned long thread = PyThread_get_thread_ident();
    return PyBool_FromLong(g->lock_thread == thread || (g->reporting && g->owner == thread));
}

static PyObject *batcher_closed(PyObject *self, void *Py_UNUSED(unused)) {
    const UdpBatcher *g = (UdpBatcher *)self;
    return PyBool_FromLong(g->closed || g->dropped);
}

static PyGetSetDef batcher_getset[] = {
    {"closed", batcher_closed, NULL, "refuses calls", NULL},
    {"busy", batcher_busy, NULL, "this thread is inside a call", NULL},
    {"datagrams", batcher_datagrams, NULL, "datagrams taken", NULL},
    {"destinations", batcher_destinations, NULL, "destinations that were sent to", NULL},
    {"nbytes", batcher_nbytes, NULL, "bytes taken", NULL},
    {"trains", batcher_trains, NULL, "trains and single datagrams that left, by length", NULL},
    {"waited_for", batcher_waited_for, NULL, "how often a call waited, by what for", NULL},
    {"waiting_for", batcher_waiting_for, NULL, "what was missing when datagrams were last to leave", NULL},
    {"waiting", batcher_waiting, NULL, "datagrams taken and not sent", NULL},
    {"waiting_bytes", batcher_waiting_bytes, NULL, "their bytes", NULL},
    {NULL, NULL, NULL, NULL, NULL}};
static PyType_Slot batcher_slots[] = {{Py_tp_traverse, batcher_traverse},
                                      {Py_tp_dealloc, batcher_dealloc},
                                      {Py_tp_new, batcher_new},
                                      {Py_tp_methods, batcher_methods},
                                      {Py_tp_members, batcher_members},
                                      {Py_tp_getset, batcher_getset},
                                      {0, NULL}};
PyType_Spec batcher_spec = {"uringzc._send.UdpBatcher", sizeof(UdpBatcher), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, batcher_slots};

PyTypeObject *batcher_type;
