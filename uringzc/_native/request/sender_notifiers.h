/* SPDX-License-Identifier: MIT
 *
 * The internal slot of a sender: its notifiers that were flushed, and are not known to be done. */
#ifndef UZC_SENDER_NOTIFIERS_H
#define UZC_SENDER_NOTIFIERS_H

#include "request/queue.h"

typedef struct {
    int64_t *numbers;
    uint32_t count, room;
} Notifiers;
/* Forgets those that are done; whether any was. */
bool notifiers_compact(const Queue *q, Notifiers *n);
/* Flushes the slot. 1 if that notifier is done already, 0, or -1 with an exception. */
int notifiers_flush(const Queue *q, uint32_t slot, Notifiers *n);
/* Reads the slot's notifications, for `told`.posted() where that is not NULL, and sets *to_report. 0 or -1.
 */
int notifiers_read(const Queue *q, uint32_t slot, PyObject *told, char *to_report);
/* Ends the slot; false while requests of it are in flight, and in another thread. May be repeated. */
bool close_internal_slot(const Queue *q, uint32_t *slot);
/* As a tuple. */
PyObject *notifiers_numbers(const Notifiers *n);

#endif
