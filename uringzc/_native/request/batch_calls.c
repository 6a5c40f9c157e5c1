/* SPDX-License-Identifier: MIT */
/* The calls that a program makes once per batch: flush, submit, and reading what came. Each is one call of C
 * while nothing is special; it enters the kernel only when there is something to submit or to take. */
#include "request/batch_calls.h"

#include "request/arguments.h"
#include "request/poll.h"
#include "request/records.h"
#include "request/refuse.h"

enum { COMPLETIONS, NOTIFICATIONS };

static struct {
    PyObject *engine, *completion, *notification;
    PyObject *wait_completions, *wait_notifications, *wait_cqes;
} names;

int batch_calls_init(void) {
    static const struct {
        PyObject **name;
        const char *text;
    } all[] = {{&names.engine, "_engine"},
               {&names.completion, "completion"},
               {&names.notification, "notification"},
               {&names.wait_completions, "_wait_completions"},
               {&names.wait_notifications, "_wait_notifications"},
               {&names.wait_cqes, "_wait_cqes"}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!(*all[i].name = PyUnicode_InternFromString(all[i].text)))
            return -1;
    return 0;
}

PyObject *queue_flush(PyObject *self, PyObject *owner, PyObject *const *args, Py_ssize_t count,
                      PyObject *keywords) {
    static const Signature signature = {"flush", 1, 1, 1, {SLOT}};
    Queue *q = (Queue *)self;
    PyObject *a[ARGUMENTS] = {NULL};
    uint64_t index = 0;
    if (parse_arguments(&signature, args, count, keywords, a) < 0 ||
        parse_number(a[SLOT], SLOT, UZC_MAX_SLOTS - 1, &index) < 0 || begin_exclusive(q) < 0)
        return NULL;
    int64_t number = q->calls->flush(q->slots, (uint32_t)index);
    int error = number < 0 ? 0 : tidy(q);
    set_busy(q, 0);
    if (number < 0) /* which raises */
        return PyObject_CallMethod(q->slots_object, "flush", "O", a[SLOT]);
    if (error)
        return NULL;
    signal_engine(q);
    if (!number)
        Py_RETURN_NONE;
    return make_notifier(q->notifier_type, PyObject_GetAttr(owner, names.engine), number);
}

static PyObject *newly_submitted(Queue *q) {
    unsigned long long before = q->reported;
    q->reported = q->submitted;
    return PyLong_FromUnsignedLongLong(q->submitted - before);
}

PyObject *queue_submit(PyObject *self) {
    Queue *q = (Queue *)self;
    return poll_queue(q, 1) < 0 ? NULL : newly_submitted(q);
}

static uint32_t count_unread(const Queue *q, int kind) {
    uzc_stats stats;
    q->calls->stats(q->records, &stats);
    return kind == COMPLETIONS ? stats.unread_completions : stats.unread_notifications;
}

static size_t record_size(int kind) {
    return kind == COMPLETIONS ? sizeof(uzc_completion) : sizeof(uzc_notification);
}

/* The Record that says what they are. */
static PyObject *record_of(const Queue *q, int kind) {
    return PyObject_GetAttr(q->slots_object, kind == COMPLETIONS ? names.completion : names.notification);
}

/* A Batch without records: one for all calls that find none. */
static PyObject *empty_batch(Queue *q, int kind) {
    PyObject *empty;
    Py_BEGIN_CRITICAL_SECTION((PyObject *)q); /* any thread may read what a closed engine has */
    if (!q->empty[kind])
        q->empty[kind] = make_batch(q->batch_type, PyByteArray_FromStringAndSize(NULL, 0), record_of(q, kind),
                                    record_size(kind));
    empty = Py_XNewRef(q->empty[kind]);
    Py_END_CRITICAL_SECTION();
    return empty;
}

/* All unread records, as a Batch, which is made before they are taken: they are not lost for want of memory.
 */
static PyObject *take_records(Queue *q, int kind) {
    const size_t size = record_size(kind);
    const uint32_t unread = count_unread(q, kind);
    if (!unread)
        return empty_batch(q, kind);
    PyObject *data = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)(unread * size));
    PyObject *batch = make_batch(q->batch_type, Py_XNewRef(data), data ? record_of(q, kind) : NULL, size);
    if (batch) {
        void *out = PyByteArray_AsString(data);
        int64_t count = kind == COMPLETIONS ? q->calls->completions(q->records, out, unread)
                                            : q->calls->notifications(q->records, out, unread);
        if (count < 0)
            refuse(q, count);
        if (count < 0 ||
            (count < unread && PyByteArray_Resize(data, (Py_ssize_t)(count * (int64_t)size)) < 0))
            Py_CLEAR(batch);
    }
    Py_XDECREF(data);
    return batch;
}

/* Submits and waits, in Python, unless `wait` records can be read, or the engine is polled. 0, or -1 with an
 * exception. */
static int wait_or_poll(Queue *q, int kind, long long wait, PyObject *owner, PyObject *method, PyObject **a) {
    if (wait <= 0 || count_unread(q, kind) >= (unsigned long long)wait)
        return poll_queue(q, wait > 0);
    if (begin_exclusive(q) < 0)
        return -1;
    set_busy(q, 0); /* the method begins anew */
    return check_result(
        PyObject_CallMethodObjArgs(owner, method, a[WAIT], a[TIMEOUT] ? a[TIMEOUT] : Py_None, NULL));
}

/* A closed engine is not polled, and any thread may read what is there; but not the child of a fork. */
static PyObject *reap(Queue *q, int kind, long long wait, PyObject *owner, PyObject *method, PyObject **a) {
    if (q->abandoned)
        return refuse(q, UZC_E_CLOSED);
    bool closed = q->calls->check(q->slots) == UZC_E_CLOSED;
    if (!closed && wait_or_poll(q, kind, wait, owner, method, a) < 0)
        return NULL;
    PyObject *batch = take_records(q, kind);
    if (!closed)
        signal_engine(q);
    return batch;
}

static PyObject *reap_waiting(PyObject *self, int kind, PyObject *owner, PyObject *method,
                              const Signature *signature, PyObject *const *args, Py_ssize_t count,
                              PyObject *keywords) {
    PyObject *a[ARGUMENTS] = {NULL};
    long long wait = 0;
    if (parse_arguments(signature, args, count, keywords, a) < 0 || parse_signed(a[WAIT], &wait) < 0)
        return NULL;
    if (wait < 0)
        return PyErr_Format(PyExc_ValueError, "wait must not be negative: %S", a[WAIT]);
    return reap((Queue *)self, kind, wait, owner, method, a);
}

PyObject *queue_reap_completions(PyObject *self, PyObject *owner, PyObject *const *args, Py_ssize_t count,
                                 PyObject *keywords) {
    static const Signature signature = {"reap_completions", 0, 2, 2, {WAIT, TIMEOUT}};
    return reap_waiting(self, COMPLETIONS, owner, names.wait_completions, &signature, args, count, keywords);
}

PyObject *queue_reap_notifications(PyObject *self, PyObject *owner, PyObject *const *args, Py_ssize_t count,
                                   PyObject *keywords) {
    static const Signature signature = {"reap_notifications", 0, 2, 2, {WAIT, TIMEOUT}};
    return reap_waiting(self, NOTIFICATIONS, owner, names.wait_notifications, &signature, args, count,
                        keywords);
}

PyObject *queue_submit_raw(PyObject *self, PyObject *owner, PyObject *const *args, Py_ssize_t count,
                           PyObject *keywords) {
    static const Signature signature = {"submit", 0, 2, 2, {WAIT, TIMEOUT}};
    Queue *q = (Queue *)self;
    PyObject *a[ARGUMENTS] = {NULL};
    long long wait = 0;
    if (parse_arguments(&signature, args, count, keywords, a) < 0 || parse_signed(a[WAIT], &wait) < 0 ||
        poll_queue(q, 1) < 0)
        return NULL;
    if (wait > 0 && wait_or_poll(q, COMPLETIONS, wait, owner, names.wait_cqes, a) < 0)
        return NULL;
    return newly_submitted(q);
}

PyObject *queue_reap_raw(PyObject *self) {
    return reap((Queue *)self, COMPLETIONS, 0, NULL, NULL, NULL);
}
