/* SPDX-License-Identifier: MIT */
/* The internal slot of a sender, and the notifiers of it that were flushed and are not done. */
#include "request/sender_notifiers.h"

#include "request/refuse.h"

int open_internal_slot(Queue *q, const uzc_listener *listener, uint32_t *slot) {
    long long opened = q->calls->open_slot(q->slots, listener);
    if (opened < 0)
        return refuse(q, opened), -1;
    *slot = (uint32_t)opened;
    return 0;
}

bool close_internal_slot(const Queue *q, uint32_t *slot) {
    if (*slot != UZC_NO_SLOT) {
        if (!in_owner_thread(q) || q->calls->close_slot(q->slots, *slot) == -EBUSY)
            return false;
        *slot = UZC_NO_SLOT;
    }
    return true;
}

bool notifiers_compact(const Queue *q, Notifiers *n) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n->count; i++)
        if (q->calls->unsettled(q->slots, (uint64_t)n->numbers[i]))
            n->numbers[kept++] = n->numbers[i];
    bool some = kept < n->count;
    n->count = kept;
    return some;
}

static int make_notifier_room(const Queue *q, Notifiers *n) {
    if (n->count < n->room)
        return 0;
    notifiers_compact(q, n);
    if (2 * n->count < n->room)
        return 0;
    uint32_t room = n->room ? 2 * n->room : 16;
    int64_t *grown = PyMem_Realloc(n->numbers, room * sizeof *grown);
    if (!grown)
        return PyErr_NoMemory(), -1;
    n->numbers = grown;
    n->room = room;
    return 0;
}

int notifiers_flush(const Queue *q, uint32_t slot, Notifiers *n) {
    if (make_notifier_room(q, n) < 0)
        return -1;
    int64_t number = q->calls->flush_slot(q->slots, slot);
    bool done = number > 0 && !q->calls->unsettled(q->slots, (uint64_t)number);
    if (number > 0 && !done)
        n->numbers[n->count++] = number;
    return done;
}

int notifiers_read(const Queue *q, uint32_t slot, PyObject *slow_path, char *to_report) {
    uzc_notification n;
    int error = 0;
    while (!error && q->calls->read_slot(q->slots, slot, &n, 1) == 1) {
        if (!slow_path)
            continue;
        *to_report = 1;
        error = check_result(PyObject_CallMethod(slow_path, "posted", "IKKLK", (unsigned)n.sequence,
                                                 (unsigned long long)n.requests, (unsigned long long)n.nbytes,
                                                 (long long)n.copied, (unsigned long long)n.failed));
    }
    return error;
}

PyObject *notifiers_numbers(const Notifiers *n) {
    PyObject *numbers = PyTuple_New(n->count);
    for (uint32_t i = 0; numbers && i < n->count; i++) {
        PyObject *number = PyLong_FromLongLong(n->numbers[i]);
        if (!number || PyTuple_SetItem(numbers, i, number) < 0)
            Py_CLEAR(numbers);
    }
    return numbers;
}
