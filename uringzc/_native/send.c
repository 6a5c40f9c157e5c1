/* SPDX-License-Identifier: MIT
 *
 * The per-request path: send() and run() as a small CPython type beside the cffi module. A method in C holds
 * the GIL from its first check to the moment the request is in the accounts, so no signal handler, thread or
 * exception can come between a buffer and the record that keeps it alive; and it costs a tenth of a Python
 * method with a cffi call in it. The references it takes are C references, stored in the request's entry:
 * interpreter shutdown never drops them.
 *
 * Queue works for every engine through uzc_calls. What needs policy or is not on the fast path is asked of
 * Python callables: admit(sock), pin(data, offset, length), pack(family, to), refuse(code), and claimed(),
 * which is told when the first submit has made this thread the engine's owner.
 */
#include <sys/socket.h>

#include "send.h"

static PyObject *name_fileno;

static int descriptor(PyObject *sock, int *fd) {
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

/* Requests of sockets that were closed since must not go to whoever has the descriptor now. */
static int check_pending(Queue *q) {
    for (Py_ssize_t i = 0; i < q->pending_count;) {
        int fd, queued_on = q->pending[i].fd;
        if (descriptor(q->pending[i].sock, &fd) < 0)
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

static Pending *add_pending(Queue *q, PyObject *sock) {
    if (check_pending(q) < 0)
        return NULL;
    PyObject *admitted = PyObject_CallFunctionObjArgs(q->admit, sock, NULL);
    if (!admitted)
        return NULL;
    Pending entry = {.sock = sock};
    int zero_copy;
    int parsed =
        PyArg_ParseTuple(admitted, "iiiIp", &entry.fd, &entry.index, &entry.family, &entry.most, &zero_copy);
    Py_DECREF(admitted);
    if (!parsed)
        return NULL;
    entry.zero_copy = zero_copy;
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

static PyObject *refuse(Queue *q, long long code) {
    PyObject *raised = PyObject_CallFunction(q->refuse, "L", code);
    if (raised) {
        Py_DECREF(raised);
        PyErr_Format(PyExc_SystemError, "refusal %lld was not raised", code);
    }
    return NULL;
}

static void release(Queue *q) {
    void *sock, *memory;
    uzc_slots *slots = q->calls->slots(q->engine);
    while (q->calls->release(slots, &sock, &memory)) {
        if (q->released && PyList_Append(q->released, memory) < 0)
            PyErr_Clear();
        Py_XDECREF((PyObject *)sock);
        Py_XDECREF((PyObject *)memory);
    }
}

/* Submits what is queued, waits for `wait` CQEs, takes all results, drops what is free again. */
static long long enter(Queue *q, int submit, unsigned wait, long long timeout_ns) {
    long long done;
    char was = q->busy;
    if (!q->calls->mine(q->calls->slots(q->engine)))
        return UZC_E_THREAD;
    q->busy = 1; /* what a finalizer in here calls on this engine is refused */
    if (check_pending(q) < 0) {
        q->busy = was;
        return INT64_MIN;
    }
    Py_BEGIN_ALLOW_THREADS;
    done = q->calls->enter(q->engine, submit, wait, timeout_ns);
    Py_END_ALLOW_THREADS;
    if (done > 0)
        q->queued -= done;
    while (q->queued <= 0 && q->pending_count)
        forget_pending(q, q->pending_count - 1);
    if (done > -4096) /* not refused */
        release(q);
    if (done > 0 && !q->owned) {
        q->owned = 1;
        PyObject *told = PyObject_CallFunctionObjArgs(q->claimed, NULL);
        if (!told)
            PyErr_WriteUnraisable(q->claimed);
        Py_XDECREF(told);
    }
    q->busy = was;
    return done;
}

static int full(long long code) {
    return code == UZC_E_QUEUE || code == UZC_E_REQUESTS || code == UZC_E_COMPLETIONS ||
           code == UZC_E_NOTIFICATIONS;
}

/* Names the socket in `send`, if it is open and can send that. */
static int aim(Queue *q, PyObject *sock, uzc_send *send) {
    int fd;
    if (descriptor(sock, &fd) < 0)
        return -1;
    Pending *p = find_pending(q, sock);
    if (!p || p->fd != fd)
        p = add_pending(q, sock);
    if (!p)
        return -1;
    send->fixed_file = p->index >= 0;
    send->fd = send->fixed_file ? p->index : p->fd;
    if (send->zero_copy && !p->zero_copy)
        return refuse(q, -EOPNOTSUPP), -1;
    if (p->most && !send->message && send->length > p->most)
        return refuse(q, -EMSGSIZE), -1;
    if (!p->most && send->segment) {
        PyErr_SetString(PyExc_ValueError, "segment needs a UDP socket");
        return -1;
    }
    return 0;
}

/* Queues up to send->count requests. A full queue is submitted, and when there is no room in the accounts a
 * look may make some, once. Returns how many, or -1 with an exception set when not one was queued. */
static long long push(Queue *q, PyObject *sock, PyObject *holder, uzc_send *send) {
    const uint32_t wanted = send->count;
    long long total = 0;
    bool looked = false;
    send->socket = sock;
    send->memory = holder;
    while (total < wanted && aim(q, sock, send) == 0) {
        send->count = wanted - (uint32_t)total;
        long long done = q->calls->queue(q->engine, send);
        if (done > 0) {
            for (long long i = 0; i < done; i++) { /* the entries' references; release() drops them */
                Py_INCREF(sock);
                Py_INCREF(holder);
            }
            q->queued += done;
            total += done;
            send->data += (uint64_t)done * send->stride;
            send->user_data += (uint64_t)done;
            looked = false;
            continue;
        }
        if (full(done) && !(looked && done != UZC_E_QUEUE)) {
            looked = done != UZC_E_QUEUE;
            done = enter(q, 1, 0, 0);
        }
        if (done < 0 && done != -EINTR) {
            if (done != INT64_MIN)
                refuse(q, done);
            break;
        }
    }
    if (total)
        PyErr_Clear(); /* what stopped a run that has begun will stop the next call */
    return total ? total : -1;
}

static int address(Queue *q, PyObject *to, PyObject *sock, uzc_send *send) {
    if (!to || to == Py_None)
        return 0;
    Pending *p = find_pending(q, sock);
    if (!p && !(p = add_pending(q, sock)))
        return -1;
    int family = p->family;
    if (to != q->last_to || family != q->last_family) {
        PyObject *packed = PyObject_CallFunction(q->pack, "iO", family, to);
        if (!packed)
            return -1;
        PyObject *old_to = q->last_to, *old_packed = q->last_packed;
        q->last_to = PyTuple_CheckExact(to) ? (Py_INCREF(to), to) : NULL; /* only what cannot change */
        q->last_packed = packed;
        q->last_family = family;
        Py_XDECREF(old_to);
        Py_XDECREF(old_packed);
    }
    send->to = PyBytes_AsString(q->last_packed);
    send->to_length = (uint32_t)PyBytes_Size(q->last_packed);
    return 0;
}

static int common(Queue *q, PyObject **a, uzc_send *send) {
    uint64_t slot = 0, segment = 0, flags = 0;
    send->zero_copy = 1;
    if (as_number(a[SLOT], SLOT, UZC_NO_SLOT - 1, &slot) < 0 ||
        as_number(a[SEGMENT], SEGMENT, UINT16_MAX, &segment) < 0 ||
        as_number(a[FLAGS], FLAGS, INT32_MAX, &flags) < 0 ||
        as_number(a[USER_DATA], USER_DATA, UINT64_MAX, &send->user_data) < 0 ||
        as_bool(a[ZERO_COPY], &send->zero_copy) < 0 || as_bool(a[FLUSH], &send->flush) < 0)
        return -1;
    int refusal = !q->engine                                    ? UZC_E_CLOSED
                  : !q->calls->mine(q->calls->slots(q->engine)) ? UZC_E_THREAD
                  : q->busy                                     ? UZC_E_BUSY
                                                                : 0;
    if (refusal)
        return refuse(q, refusal), -1;
    send->slot = (uint32_t)slot;
    send->segment = (uint32_t)segment;
    send->msg_flags = (uint32_t)flags | MSG_NOSIGNAL;
    return 0;
}

static PyObject *out_of_range(PyObject *data, uint64_t offset, uint64_t length, uint64_t nbytes) {
    return PyErr_Format(PyExc_ValueError, "bytes %llu to %llu are not all in the %llu bytes of %s", offset,
                        offset + length, nbytes, PyBytes_CheckExact(data) ? "the data" : "the memory");
}

static PyObject *queue_send(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords) {
    Queue *q = (Queue *)self;
    PyObject *a[ARGUMENTS] = {NULL}, *holder = NULL;
    uzc_send send = {.count = 1};
    uint64_t offset = 0, length = UINT64_MAX, nbytes;
    if (parse("send", 2, args, count, keywords, a) < 0 || common(q, a, &send) < 0)
        return NULL;
    if (a[LENGTH] == Py_None)
        a[LENGTH] = NULL;
    if (as_number(a[OFFSET], OFFSET, INT64_MAX, &offset) < 0 ||
        as_number(a[LENGTH], LENGTH, INT64_MAX, &length) < 0)
        return NULL;
    if (resolve(q, a[DATA], a[OFFSET], a[LENGTH], &send, &nbytes, &holder) < 0)
        return NULL;
    if (!a[LENGTH])
        length = offset <= nbytes ? nbytes - offset : 0;
    long long done = -1;
    if (offset > nbytes || length > nbytes - offset)
        out_of_range(a[DATA], offset, length, nbytes);
    else if (length > UINT32_MAX)
        PyErr_Format(PyExc_ValueError, "one send takes less than 4 GiB, not %llu bytes", length);
    else if (address(q, a[TO], a[SOCK], &send) == 0) {
        send.data += offset;
        send.length = (uint32_t)length;
        done = push(q, a[SOCK], holder, &send);
    }
    Py_DECREF(holder);
    if (done < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *queue_run(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *keywords) {
    Queue *q = (Queue *)self;
    PyObject *a[ARGUMENTS] = {NULL}, *holder = NULL;
    uzc_send send = {0};
    uint64_t offset = 0, size = 0, datagrams = 0, nbytes;
    if (parse("send_run", 5, args, count, keywords, a) < 0 || common(q, a, &send) < 0)
        return NULL;
    if (a[STRIDE] == Py_None)
        a[STRIDE] = NULL;
    if (as_number(a[SIZE], SIZE, UINT32_MAX, &size) < 0 ||
        as_number(a[COUNT], COUNT, UINT32_MAX, &datagrams) < 0 ||
        as_number(a[OFFSET], OFFSET, INT64_MAX, &offset) < 0)
        return NULL;
    send.stride = size;
    if (as_number(a[STRIDE], STRIDE, UINT32_MAX, &send.stride) < 0 ||
        resolve(q, a[DATA], NULL, NULL, &send, &nbytes, &holder) < 0)
        return NULL;
    long long done = datagrams ? -1 : 0;
    uint64_t span = datagrams ? (datagrams - 1) * send.stride + size : 0;
    if (offset > nbytes || span > nbytes - offset)
        done = (out_of_range(a[DATA], offset, span, nbytes), -1);
    else if (datagrams && address(q, a[TO], a[SOCK], &send) == 0) {
        send.data += offset;
        send.length = (uint32_t)size;
        send.count = (uint32_t)datagrams;
        done = push(q, a[SOCK], holder, &send);
    }
    Py_DECREF(holder);
    return done < 0 ? NULL : PyLong_FromLongLong(done);
}

static PyObject *queue_enter(PyObject *self, PyObject *args) {
    Queue *q = (Queue *)self;
    int submit;
    unsigned wait;
    long long timeout_ns;
    if (!PyArg_ParseTuple(args, "iIL", &submit, &wait, &timeout_ns))
        return NULL;
    if (!q->engine)
        return refuse(q, UZC_E_CLOSED);
    long long done = enter(q, submit, wait, timeout_ns);
    if (done == INT64_MIN || PyErr_CheckSignals() < 0)
        return NULL;
    if (done < 0 && done != -EINTR)
        return refuse(q, done);
    return PyLong_FromLongLong(done > 0 ? done : 0);
}

static PyObject *queue_release(PyObject *self, PyObject *unused) {
    (void)unused;
    if (((Queue *)self)->engine)
        release((Queue *)self);
    Py_RETURN_NONE;
}

static PyObject *queue_detach(PyObject *self, PyObject *unused) {
    (void)unused;
    Queue *q = (Queue *)self;
    q->engine = NULL;
    q->queued = 0;
    while (q->pending_count)
        forget_pending(q, q->pending_count - 1);
    Py_RETURN_NONE;
}

static PyObject *queue_busy(PyObject *self, PyObject *unused) {
    (void)unused;
    Queue *q = (Queue *)self;
    if (q->engine && !q->calls->mine(q->calls->slots(q->engine)))
        return refuse(q, UZC_E_THREAD);
    if (q->busy)
        return refuse(q, UZC_E_BUSY);
    q->busy = 1;
    Py_INCREF(self);
    return self;
}

static PyObject *queue_unbusy(PyObject *self, PyObject *unused) {
    (void)unused;
    ((Queue *)self)->busy = 0;
    Py_RETURN_NONE;
}

static int queue_init(PyObject *self, PyObject *args, PyObject *keywords) {
    Queue *q = (Queue *)self;
    static char *accepted[] = {"engine",      "calls",   "admit",   "pin",   "pack", "refuse",
                               "region_type", "retired", "claimed", "debug", NULL};
    unsigned long long engine, calls;
    int debug = 0;
    if (q->engine || q->admit) {
        PyErr_SetString(PyExc_TypeError, "a Queue is made once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "KKOOOOOOO|p", accepted, &engine, &calls, &q->admit,
                                     &q->pin, &q->pack, &q->refuse, &q->region_type, &q->retired, &q->claimed,
                                     &debug)) {
        q->admit = q->pin = q->pack = q->refuse = q->region_type = q->retired = q->claimed = NULL;
        return -1;
    }
    Py_INCREF(q->admit);
    Py_INCREF(q->pin);
    Py_INCREF(q->pack);
    Py_INCREF(q->refuse);
    Py_INCREF(q->region_type);
    Py_INCREF(q->retired);
    Py_INCREF(q->claimed);
    q->engine = (void *)(uintptr_t)engine;
    q->calls = (const uzc_calls *)(uintptr_t)calls;
    if (debug && !(q->released = PyList_New(0)))
        return -1;
    return 0;
}

static void queue_dealloc(PyObject *self) {
    Queue *q = (Queue *)self;
    while (q->pending_count)
        forget_pending(q, q->pending_count - 1);
    PyMem_Free(q->pending);
    Py_XDECREF(q->admit);
    Py_XDECREF(q->pin);
    Py_XDECREF(q->pack);
    Py_XDECREF(q->refuse);
    Py_XDECREF(q->region_type);
    Py_XDECREF(q->retired);
    Py_XDECREF(q->claimed);
    Py_XDECREF(q->released);
    Py_XDECREF(q->last_to);
    Py_XDECREF(q->last_packed);
    free_object(self);
}

static PyMethodDef queue_methods[] = {
    {"send", (PyCFunction)(void (*)(void))queue_send, METH_FASTCALL | METH_KEYWORDS, "See Scheduler.send."},
    {"run", (PyCFunction)(void (*)(void))queue_run, METH_FASTCALL | METH_KEYWORDS, "See Scheduler.send_run."},
    {"enter", queue_enter, METH_VARARGS,
     "enter(submit, wait, timeout_ns) -> requests submitted; releases the GIL"},
    {"release", queue_release, METH_NOARGS, "Drops the references of requests whose notifier was posted."},
    {"detach", queue_detach, METH_NOARGS, "Forgets the engine: every later call raises ClosedError."},
    {"__enter__", queue_busy, METH_NOARGS, "Marks the engine as inside a call; BusyError if it is already."},
    {"__exit__", queue_unbusy, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL}};

static PyMemberDef queue_members[] = {{"busy", T_BOOL, offsetof(Queue, busy), READONLY, NULL},
                                      {"released", T_OBJECT, offsetof(Queue, released), READONLY, NULL},
                                      {NULL, 0, 0, 0, NULL}};

static PyType_Slot queue_slots[] = {{Py_tp_init, queue_init},       {Py_tp_dealloc, queue_dealloc},
                                    {Py_tp_new, PyType_GenericNew}, {Py_tp_methods, queue_methods},
                                    {Py_tp_members, queue_members}, {0, NULL}};
static PyType_Spec queue_spec = {"uringzc._send.Queue", sizeof(Queue), 0, Py_TPFLAGS_DEFAULT, queue_slots};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_send", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__send(void) {
    PyObject *module = PyModule_Create(&definition);
    PyObject *queue_type = PyType_FromSpec(&queue_spec), *memory_type = memory_init();
    name_fileno = PyUnicode_InternFromString("fileno");
    if (!module || !queue_type || !memory_type || !name_fileno || arguments_init() < 0 ||
        PyModule_AddObject(module, "Queue", queue_type) < 0 ||
        PyModule_AddObject(module, "Memory", memory_type) < 0)
        return NULL;
    return module;
}
