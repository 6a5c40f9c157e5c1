/* SPDX-License-Identifier: MIT */
/* Calls of the owner's on an engine: one at a time, and each does what was left for it. */
#pragma once

#include "request/queue.h"

/* Begins a call, which ends with set_busy(q, 0). Refuses another thread, and a call inside a call. 0, or -1
 * with an exception. */
int begin_exclusive(Queue *q);
/* The first call of a sender: its thread owns the engine from then on. Refused while another thread is
 * inside, since nobody could close the engine if this one ended meanwhile. 0, or -1 with an exception. */
int claim_engine(Queue *q, PyObject *slow_path);
/* To be called after whatever may post notifiers: drops the references of their requests, and does what waits
 * for a call of the owner's. BufferModifiedError, in debug mode, where memory was changed while the kernel
 * owned it. 0, or -1 with an exception. */
int tidy(Queue *q);
/* Submits what is queued, if `submit`, and takes every result there is; the kernel is entered only if there
 * is something to do. 0, or -1 with an exception. */
int poll_queue(Queue *q, int submit);
