/* SPDX-License-Identifier: MIT
 *
 * Trains leave: queued as requests, submitted together. A datagram request carries MSG_DONTWAIT, so every one
 * has its result when enter() comes back, and nothing that is submitted later can overtake it. What fails is
 * left to the slow_path, in Python.
 */
#include <limits.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include "request/enter.h"
#include "request/memory.h"
#include "request/refuse.h"
#include "request/sockets.h"
#include "udp/batcher.h"

/* -- what the accounts tell; without the GIL, but in the thread that is inside */

/* A request's user_data: its place in the batch, whether it is zero-copy, its block, its destination. */
static uint64_t name_request(const struct train *t, uint32_t number) {
    return (uint64_t)number << 56 | (uint64_t)t->zero_copy << 48 | (uint64_t)t->block << 32 | t->destination;
}

static void on_result(void *context, uint64_t name, int32_t result) {
    UdpBatcher *g = context;
    struct train *t = &g->trains[name >> 56];
    t->result = result;
    t->state = result < 0 ? FAILED : DONE;
    g->awaited--;
}

static void on_settled(void *context, uint64_t name, int copied) {
    UdpBatcher *g = context;
    struct destination *r = &g->destinations[(uint32_t)name];
    arena_drop(g->arena, (uint16_t)(name >> 32));
    g->in_flight--;
    if (!(name >> 48 & 1))
        return;
    r->returned += copied <= 0; /* a copy is free before it has left */
    g->settled++;
    g->copied += copied > 0;
    if (copied < 0) /* the kernel has merged what it tells of several: the policy learns from others */
        return;
    r->settled++;
    r->copied += copied > 0;
}

void batcher_listener(UdpBatcher *g, uzc_listener *listener) {
    *listener = (uzc_listener){g, on_result, on_settled};
}

/* The notifications of its notifiers: for the program's callback, if it has one. */
static int trains_read(UdpBatcher *g) {
    return notifiers_read(g->queue, g->slot, g->notify ? g->slow_path : NULL, &g->to_report);
}

int trains_look(UdpBatcher *g) {
    return enter_engine(g->queue, 0, 0, 0) < 0 ? -1 : trains_read(g);
}

/* -- requests */

/* A socket of our own has the size of the trains as its option, which is cheaper than a control message. But
 * a single datagram that is not smaller would be cut, or refused where it is to be fragmented. */
static void set_segment(UdpBatcher *g, uint32_t until) {
    uint32_t segment = 0, single = 0;
    for (uint32_t i = 0; i < until && g->own; i++) {
        const struct train *t = &g->trains[i];
        if (t->count > 1 && !segment)
            segment = t->size;
        if (t->count == 1 && t->size > single)
            single = t->size;
    }
    if (single > segment)
        segment = 0;
    if (segment != g->sock_segment &&
        setsockopt(g->fd, IPPROTO_UDP, UDP_SEGMENT, &(int){(int)segment}, sizeof(int)) == 0)
        g->sock_segment = segment;
}

static void describe(const UdpBatcher *g, const struct train *t, uzc_send *send) {
    const struct destination *r = &g->destinations[t->destination];
    const Memory *m = (const Memory *)g->arena->memory;
    send->data = t->data;
    send->length = t->nbytes;
    send->memory = t->holder ? t->holder : g->arena->memory;
    send->base = t->holder ? t->base : g->arena->base;
    send->buffer = t->holder ? t->buffer : m->buffer;
    send->buffers = t->holder ? t->buffers : m->buffers;
    send->to = r->to_length ? &r->to : NULL;
    send->to_length = r->to_length;
    send->segment = t->count > 1 && t->size != g->sock_segment ? t->size : 0;
    send->zero_copy = t->zero_copy;
}

/* Flushes the notifier; returns 1 if a notifier of this sender has posted, and so its requests are free. */
static int flush_notifier(UdpBatcher *g) {
    bool some = notifiers_compact(g->queue, &g->notifiers);
    int done = notifiers_flush(g->queue, g->slot, &g->notifiers);
    if (done < 0)
        return -1;
    g->attached = 0;
    g->attached_bytes = 0;
    release_references(g->queue);
    return trains_read(g) < 0 ? -1 : some || done;
}

int trains_flush(UdpBatcher *g) {
    return flush_notifier(g) < 0 ? -1 : 0;
}

/* Waits until something that is this sender's comes back. 1 if it does not wait, or nothing would come. */
int trains_wait(UdpBatcher *g) {
    const uint32_t before = g->in_flight;
    int posted = flush_notifier(g);
    if (posted)
        return posted < 0 ? -1 : 0;
    if (!g->in_flight)
        return 1;
    if (!g->blocking) {
        posted = trains_look(g) < 0 ? -1 : flush_notifier(g);
        return posted < 0 ? -1 : !posted && g->in_flight == before;
    }
    g->waits++;
    return enter_engine(g->queue, 1, 1, -1) < 0 ? -1 : trains_flush(g);
}

/* Queues one, making room in the ring and in the accounts as needed. 0, 1, or -1. */
static int push(UdpBatcher *g, uzc_send *send) {
    int code = 0;
    for (bool looked = false; !code;) {
        long long done = g->queue->calls->queue(g->queue->engine, send);
        if (done == 1)
            return 0;
        if (done == UZC_E_QUEUE) {
            code = enter_engine(g->queue, 1, 0, 0);
        } else if (done == UZC_E_REQUESTS || done == UZC_E_NOTIFICATIONS) {
            code = looked ? trains_wait(g) : enter_engine(g->queue, 1, 0, 0); /* that may be enough */
            if (!code)
                code = trains_flush(g);
            looked = true;
        } else {
            refuse(g->queue, done);
            code = -1;
        }
        if (!code) /* the socket may have been closed meanwhile, and its descriptor be another's */
            code = bind_request_socket(g->queue, g->sock, send);
    }
    return code;
}

/* Makes requests of the trains up to `until`. 0, 1: not of all of them, or -1. */
static int submit_some(UdpBatcher *g, uint32_t until) {
    Queue *q = g->queue;
    uzc_send send = {
        .slot = g->slot, .count = 1, .socket = g->sock, .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL};
    int code = bind_request_socket(q, g->sock, &send);
    if (!code)
        set_segment(g, until);
    for (; !code && g->next < until; g->next++) {
        struct train *t = &g->trains[g->next];
        describe(g, t, &send);
        send.user_data = name_request(t, g->next);
        code = push(g, &send);
        if (code)
            break;
        g->awaited++;
        g->in_flight++;
        arena_use(g->arena, t->block);
        Py_INCREF(g->sock);
        Py_INCREF((PyObject *)send.memory);
        q->queued++;
        t->state = QUEUED;
        g->attached++;
        g->attached_bytes += t->nbytes;
        g->requests++;
    }
    return code; /* conclude() submits them */
}

/* -- after a submission */

/* The trains that were queued, as rows, for the slow_path: it sends again what failed, and says mended(). */
static int mend(UdpBatcher *g) {
    PyObject *rows = PyList_New(0);
    for (uint32_t i = 0; rows && i < g->next; i++) {
        const struct train *t = &g->trains[i];
        PyObject *row =
            Py_BuildValue("(IKiIIII)", i, (unsigned long long)t->first, t->state == FAILED ? t->result : 0,
                          t->destination, t->size, t->count, t->nbytes);
        if (!row || PyList_Append(rows, row) < 0)
            Py_CLEAR(rows);
        Py_XDECREF(row);
    }
    g->to_report = 1;
    PyObject *mended = rows ? PyObject_CallMethod(g->slow_path, "retry_failed", "OO", g, rows) : NULL;
    Py_XDECREF(rows);
    Py_XDECREF(mended);
    return mended ? 0 : -1;
}

/* Where somebody else filled the socket, trains wait again, in their order. Whether any other failed. */
static bool put_back(UdpBatcher *g) {
    bool failed = false;
    for (uint32_t i = 0; i < g->next; i++) {
        struct train *t = &g->trains[i];
        if (t->state != FAILED)
            continue;
        for (uint32_t j = i + 1; j < g->next; j++) /* what left meanwhile has overtaken it */
            if (g->trains[j].state == DONE && g->trains[j].destination == t->destination &&
                !g->trains[j].ahead) {
                g->trains[j].ahead = true;
                g->reordered += g->trains[j].count;
            }
        if (t->result == -EAGAIN)
            t->state = CLOSED;
        else
            failed = true;
    }
    return failed;
}

/* What was learned of the destinations of trains that have left; asks the policy where it is time. */
static int learn(UdpBatcher *g) {
    for (uint32_t i = 0; i < g->next; i++) {
        const struct train *t = &g->trains[i];
        struct destination *r = &g->destinations[t->destination];
        if (t->state == DONE && t->result > 0 && t->count > 1 && t->size > r->proved)
            r->proved = t->size;
        if (r->requests < r->look)
            continue;
        PyObject *decision =
            PyObject_CallMethod(g->slow_path, "observe", "III", t->destination, r->settled, r->copied);
        int zero_copy = 0;
        int parsed = decision && PyArg_ParseTuple(decision, "pI", &zero_copy, &r->look);
        Py_XDECREF(decision);
        if (!parsed)
            return -1;
        r->zero_copy = zero_copy;
        r->requests = r->settled = r->copied = 0;
    }
    return 0;
}

void let_go(UdpBatcher *g, struct train *t) {
    if (t->holder && g->inside != g->thread) {
        g->any_spent = 1;
        if (PyList_Append(g->spent, t->holder) < 0)
            PyErr_Clear();
    }
    Py_CLEAR(t->holder);
}

/* Forgets trains that have left: their requests have references of their own. */
static void finish(UdpBatcher *g) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < g->count; i++) {
        struct train *t = &g->trains[i];
        if (t->state == CLOSED) {
            g->trains[kept++] = *t;
            continue;
        }
        arena_drop(g->arena, t->block);
        let_go(g, t);
    }
    g->count = kept;
    g->next = 0;
    if (!kept)
        g->stuck = 0;
    if (!kept && g->open.size == NO_TRAIN)
        atomic_store_explicit(&g->due, 0, memory_order_relaxed);
}

static bool any_failed(const UdpBatcher *g) {
    for (uint32_t i = 0; i < g->next; i++)
        if (g->trains[i].state == FAILED)
            return true;
    return false;
}

int conclude(UdpBatcher *g) {
    while (g->awaited)
        if (enter_engine(g->queue, 1, 0, 0) < 0)
            return -1;
    if (!g->next)
        return 0;
    if (put_back(g) && mend(g) < 0)
        return -1;
    if (any_failed(g)) /* the slow_path may not wait */
        return 1;
    if (learn(g) < 0)
        return -1;
    finish(g);
    return 0;
}

/* A single small datagram, and nothing before it: nothing is faster than a plain send. */
static bool is_lone(const UdpBatcher *g) {
    const struct train *t = &g->trains[0];
    return g->count == 1 && !g->next && t->count == 1 && t->nbytes < g->large && !g->always;
}

static int submit_all(UdpBatcher *g) {
    int code = conclude(g);
    if (code > 0 && !g->blocking)
        code = await_resend(g);
    if (code)
        return code;
    if (!g->count)
        return 0;
    if (is_lone(g)) {
        code = send_by_syscall(g);
        if (code != -EAGAIN)
            return code == INT_MIN ? -1 : 0;
    }
    if (take_socket(g) < 0 || take_socket_error(g) < 0)
        return -1;
    for (code = 0; g->count && !code;) {
        uint32_t until = admit(g);
        code = until ? submit_some(g, until) : wait_for_room(g);
        if (code > 0 && until) /* memory has to come back */
            poll_until(g, POLL_ROOM, 0);
        int concluded = code < 0 ? 0 : conclude(g);
        if (concluded > 0 && !g->blocking)
            concluded = await_resend(g);
        if (concluded)
            code = concluded;
    }
    return code;
}

int trains_submit(UdpBatcher *g) {
    int code = submit_all(g);
    if (!code)
        poll_no_more(g, POLL_ROOM);
    if (code >= 0 && (g->attached >= g->flush_requests || g->attached_bytes >= g->flush_bytes))
        return trains_flush(g) < 0 ? -1 : code;
    return code;
}
