/* SPDX-License-Identifier: MIT */
#pragma once

#include "request/queue.h"

/* Notifiers flushed and not known to be done, by number. */
typedef struct {
    int64_t *numbers;
    uint32_t count, room;
} Notifiers;

/* 0, or -1 with an exception. */
int open_internal_slot(Queue *q, const uzc_listener *listener, uint32_t *slot);
/* False while the slot's requests are in flight, and in a thread that does not own the engine. May be
 * repeated. */
bool close_internal_slot(const Queue *q, uint32_t *slot);
/* Removes those that are done; whether there were any. */
bool notifiers_compact(const Queue *q, Notifiers *n);
/* Flushes the slot. 1 if that notifier is done already, 0, or -1 with an exception. */
int notifiers_flush(const Queue *q, uint32_t slot, Notifiers *n);
/* Reads the slot's notifications. Passes each to slow_path.posted() and sets *to_report, unless slow_path is
 * NULL. 0, or -1 with an exception. */
int notifiers_read(const Queue *q, uint32_t slot, PyObject *slow_path, char *to_report);
/* A tuple. */
PyObject *notifiers_numbers(const Notifiers *n);
