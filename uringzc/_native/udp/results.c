/* SPDX-License-Identifier: MIT */
/* What becomes of requests. A datagram request carries MSG_DONTWAIT, so it has its result when the submission
 * returns, and nothing that is submitted later can overtake it. Failed trains are retried by the slow path,
 * in their order. The notifier of the sender's slot is flushed at intervals, and when memory is needed. */
#include "udp/results.h"

#include "udp/leading_edge.h"
#include "udp/pacing.h"
#include "udp/timestamps.h"
#include "udp/trains.h"

/* From the high bits: 8 for the index in the batch, 8 for zero-copy, 16 for the block, 32 for the
 * destination. */
_Static_assert(BATCH_SIZE <= 1 << 8, "a train's index has 8 bits");
_Static_assert(sizeof((struct train){0}.block) == 2, "a block's index has 16 bits");
uint64_t request_user_data(const struct train *t, uint32_t index) {
    return (uint64_t)index << 56 | (uint64_t)t->zero_copy << 48 | (uint64_t)t->block << 32 | t->destination;
}

/* The request table calls this and the next: without the GIL, in the thread that has the lock. */
static void on_result(void *context, uint64_t user_data, int32_t result) {
    UdpBatcher *g = context;
    struct train *t = g->trains[user_data >> 56];
    t->result = result;
    WRITE_SHARED(t->state, result < 0 ? FAILED : DONE);
    g->some_failed |= result < 0;
    g->awaited--;
    if (result >= 0)
        count_left(g, 1, t->count);
}

static void on_settled(void *context, uint64_t user_data, int copied) {
    UdpBatcher *g = context;
    struct destination *d = &g->destinations[(uint32_t)user_data];
    arena_release(g->arena, (uint16_t)(user_data >> 32));
    COUNT(g->in_flight, -1u);
    if (!(user_data >> 48 & 1))
        return;
    COUNT(d->left_host,
          copied <= 0); /* a copy is free before the device has sent it; -1: not known, merged */
    COUNT(g->settled, 1);
    COUNT(g->copied, copied > 0);
    if (copied < 0)
        return;
    COUNT(d->settled, 1);
    COUNT(d->copied, copied > 0);
}

int batcher_open_slot(UdpBatcher *g) {
    return open_internal_slot(g->queue, &(uzc_listener){g, on_result, on_settled}, &g->slot);
}

static int read_notifications(UdpBatcher *g) {
    return notifiers_read(g->queue, g->slot, g->notify ? g->slow_path : NULL, &g->to_report);
}

int poll_engine(UdpBatcher *g) {
    return enter_engine(g->queue, 0, 0, 0) < 0 ? -1 : read_notifications(g);
}

/* Flushes the notifier. 1 if a notifier of this sender is done, and so memory is free; 0 or -1. */
static int flush_and_check(UdpBatcher *g) {
    bool some_done = notifiers_compact(g->queue, &g->notifiers);
    int done = notifiers_flush(g->queue, g->slot, &g->notifiers);
    if (done < 0)
        return -1;
    g->unflushed = 0;
    g->unflushed_bytes = 0;
    release_references(g->queue);
    return read_notifications(g) < 0 ? -1 : some_done || done;
}

int flush_notifier(UdpBatcher *g) {
    return flush_and_check(g) < 0 ? -1 : 0;
}

/* Of other senders of the engine, whose copies take frames too. */
static bool others_in_flight(const UdpBatcher *g) {
    uzc_stats stats;
    g->queue->calls->stats(g->queue->slots, &stats);
    return stats.in_flight > 0;
}

int wait_for_memory(UdpBatcher *g) {
    const uint32_t before = g->in_flight;
    int posted = flush_and_check(g);
    if (posted)
        return posted < 0 ? -1 : 0;
    if (!g->in_flight && !(g->frames && others_in_flight(g)))
        return 1;
    if (!g->blocking) {
        posted = poll_engine(g) < 0 ? -1 : flush_and_check(g);
        return posted < 0 ? -1 : !posted && g->in_flight == before;
    }
    COUNT(g->waits[WAIT_MEMORY], 1);
    if (enter_engine(g->queue, 1, 1, -1) < 0)
        return -1;
    if (g->max_delay > 0) /* this was no pause of the program, after which a datagram would leave at once */
        g->left_at = monotonic_ns();
    return flush_notifier(g);
}

/* Passes the queued trains as rows to the slow path, which sends those again that failed. 0, 1 or -1. */
static int retry_failed(UdpBatcher *g) {
    PyObject *rows = PyList_New(0);
    for (uint32_t i = 0; rows && i < g->next; i++) {
        const struct train *t = g->trains[i];
        PyObject *row = Py_BuildValue("(IiIIII)", i, t->state == FAILED ? t->result : 0, t->destination,
                                      t->size, t->count, t->nbytes);
        if (!row || PyList_Append(rows, row) < 0)
            Py_CLEAR(rows);
        Py_XDECREF(row);
    }
    int code = rows ? bool_result(PyObject_CallMethod(g->slow_path, "retry_failed", "OO", g, rows)) : -1;
    WRITE_SHARED(g->to_report,
                 1); /* last: the owner clears it before it reports, and this may be the timer's thread */
    Py_XDECREF(rows);
    return code;
}

/* Trains that failed because the socket's buffer was full (EAGAIN) wait again, in their order. Counts in
 * `reordered` what overtook a train that failed. Returns whether others are left for retry_failed(). */
static bool requeue_blocked(UdpBatcher *g) {
    bool others = false;
    for (uint32_t i = 0; i < g->next; i++) {
        struct train *t = g->trains[i];
        if (t->state != FAILED)
            continue;
        for (uint32_t j = i + 1; j < g->next; j++)
            if (g->trains[j]->state == DONE && g->trains[j]->destination == t->destination &&
                !g->trains[j]->overtook) {
                g->trains[j]->overtook = true;
                COUNT(g->reordered, g->trains[j]->count);
            }
        if (t->result == -EAGAIN)
            WRITE_SHARED(t->state, CLOSED);
        else
            others = true;
    }
    return others;
}

/* Records what the trains that were sent say about their destinations, and lets the policy decide again. */
static int update_destinations(UdpBatcher *g) {
    for (uint32_t i = 0; i < g->next; i++) {
        const struct train *t = g->trains[i];
        struct destination *d = &g->destinations[t->destination];
        if (t->state == DONE && t->result > 0 && t->count > 1 && t->size > d->largest_sent)
            d->largest_sent = t->size;
        if (d->requests < d->review_after)
            continue;
        PyObject *decision = PyObject_CallMethod(g->slow_path, "observe", "III", t->destination,
                                                 READ_SHARED(d->settled), READ_SHARED(d->copied));
        int zero_copy = 0;
        int parsed = decision && PyArg_ParseTuple(decision, "pI", &zero_copy, &d->review_after);
        Py_XDECREF(decision);
        if (!parsed)
            return -1;
        d->zero_copy = zero_copy;
        d->requests = 0;
        WRITE_SHARED(d->settled, 0);
        WRITE_SHARED(d->copied, 0);
    }
    return 0;
}

/* The requests of trains that were sent have their own references to block and holder. */
static void remove_sent(UdpBatcher *g) {
    struct train *sent[BATCH_SIZE] = {NULL};
    uint32_t kept = 0, gone = 0;
    begin_change(g);
    for (uint32_t i = 0; i < g->count; i++)
        if (g->trains[i]->state == CLOSED)
            WRITE_SHARED(g->trains[kept++], g->trains[i]);
        else
            sent[gone++] = g->trains[i];
    WRITE_SHARED(g->count, kept);
    end_change(g);
    if (gone)
        WRITE_SHARED(g->waits_for, WAIT_NOTHING);
    pace_charge(g, sent, gone);
    while (gone--) {
        release_train(g, sent[gone]);
        free_train(g, sent[gone]);
    }
    g->next = 0;
    if (g->max_delay > 0)
        g->left_at = monotonic_ns();
    g->timed = false;
    if (!kept)
        g->blocked_since = 0;
    if (!kept && !g->open_count) {
        atomic_store_explicit(&g->due, 0, memory_order_relaxed);
        end_delay(g);
    }
}

int complete_batch(UdpBatcher *g) {
    while (g->awaited) /* enter may return before all results are there */
        if (enter_engine(g->queue, 1, 0, 0) < 0)
            return -1;
    if (!g->next)
        return 0;
    int code = g->timestamps ? report_sent(g) : 0;
    if (!code && requeue_blocked(g))
        code = retry_failed(g);
    if (!code)
        code = update_destinations(g);
    if (code)
        return code;
    remove_sent(g);
    return g->timestamps ? read_timestamps(g) : 0;
}

void log_failure(UdpBatcher *g) {
    PyObject *value = take_exception();
    if (check_result(PyObject_CallMethod(g->slow_path, "log_failure", "O", value ? value : Py_None)) < 0)
        PyErr_Clear();
    Py_XDECREF(value);
    WRITE_SHARED(g->to_report, 1);
}
