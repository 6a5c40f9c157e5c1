/* SPDX-License-Identifier: MIT
 *
 * The notifiers of a sender's own slot: flushed, told of, and remembered until they are done. */
#include "request/sender_notifiers.h"

static uzc_slots *slots_of(const Queue *q) {
    return q->calls->slots(q->engine);
}

bool notifiers_compact(const Queue *q, Notifiers *n) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n->count; i++)
        if (q->calls->unsettled(slots_of(q), (uint64_t)n->numbers[i]))
            n->numbers[kept++] = n->numbers[i];
    bool some = kept < n->count;
    n->count = kept;
    return some;
}

static int make_room(const Queue *q, Notifiers *n) {
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
    if (make_room(q, n) < 0)
        return -1;
    int64_t number = q->calls->flush_slot(slots_of(q), slot);
    bool done = number > 0 && !q->calls->unsettled(slots_of(q), (uint64_t)number);
    if (number > 0 && !done)
        n->numbers[n->count++] = number;
    return done;
}

int notifiers_read(const Queue *q, uint32_t slot, PyObject *told, char *to_report) {
    uzc_notification n;
    int error = 0;
    while (!error && q->calls->read_slot(slots_of(q), slot, &n, 1) == 1) {
        if (!told)
            continue;
        PyObject *heard = PyObject_CallMethod(told, "posted", "IKKLK", (unsigned)n.sequence,
                                              (unsigned long long)n.requests, (unsigned long long)n.nbytes,
                                              (long long)n.copied, (unsigned long long)n.failed);
        *to_report = 1;
        error = heard ? 0 : -1;
        Py_XDECREF(heard);
    }
    return error;
}

bool close_internal_slot(const Queue *q, uint32_t *slot) {
    if (*slot != UZC_NO_SLOT) {
        if (!q->calls->is_owner(slots_of(q)) || q->calls->close_slot(slots_of(q), *slot) == -EBUSY)
            return false;
        *slot = UZC_NO_SLOT;
    }
    return true;
}

PyObject *notifiers_numbers(const Notifiers *n) {
    PyObject *numbers = PyTuple_New(n->count);
    for (uint32_t i = 0; numbers && i < n->count; i++)
        PyTuple_SetItem(numbers, i, PyLong_FromLongLong(n->numbers[i]));
    return numbers;
}
