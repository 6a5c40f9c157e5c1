/* SPDX-License-Identifier: MIT */
/* Submitting a batch: trains are queued as requests as far as they are admitted, and submitted together.
 * Where nothing is admitted, or memory is missing, it is waited for, or with blocking=False fileno() is
 * armed. */
#include "udp/submit.h"

#include <netinet/udp.h>
#include <sys/socket.h>

#include "request/memory.h"
#include "request/sockets.h"
#include "udp/admission.h"
#include "udp/pacing.h"
#include "udp/polling.h"
#include "udp/results.h"
#include "udp/socket.h"
#include "udp/syscalls.h"
#include "udp/timer.h"
#include "udp/timestamps.h"
#include "udp/trains.h"

#define SMALL 4096u /* bytes: of several single datagrams */
#define NOT_READY 2 /* nothing is admitted */
#define OTHERS_FAILED 2

/* On a socket of its own the sender sets the UDP_SEGMENT option to the datagram size of the first train,
 * which is cheaper than a control message for each; trains of other sizes have one. With the option the
 * kernel would split, or refuse, a single datagram that is larger, so there is none if the batch has such. */
static void set_segment_option(UdpBatcher *g, uint32_t until) {
    uint32_t segment = 0, single = 0;
    for (uint32_t i = 0; i < until && g->own_socket && !g->frames; i++) {
        const struct train *t = g->trains[i];
        if (t->count > 1 && !segment)
            segment = t->size;
        if (t->count == 1 && t->size > single)
            single = t->size;
    }
    if (single > segment)
        segment = 0;
    if (segment != g->segment_option &&
        setsockopt(g->fd, IPPROTO_UDP, UDP_SEGMENT, &(int){(int)segment}, sizeof(int)) == 0)
        g->segment_option = segment;
}

static void describe_request(const UdpBatcher *g, const struct train *t, uzc_send *send) {
    const struct destination *d = &g->destinations[t->destination];
    const Memory *m = (const Memory *)g->arena->memory;
    send->data = t->data;
    send->length = t->nbytes;
    send->memory = t->holder ? t->holder : g->arena->memory;
    send->base = t->holder ? t->base : g->arena->base;
    send->buffer = t->holder ? t->buffer : m->buffer;
    send->buffers = t->holder ? t->buffers : m->buffers;
    send->may_fault = t->holder && may_fault(t->holder);
    send->to = d->address_length ? &d->address : NULL;
    send->to_length = d->address_length;
    send->segment = t->count > 1 && t->size != g->segment_option ? t->size : 0;
    send->zero_copy = t->zero_copy;
}

/* Queues a request, making room in the ring and in the request table as needed. 0, 1, -1, or OTHERS_FAILED:
 * requests that were queued before, which this one must not overtake. */
static int queue_request(UdpBatcher *g, uzc_send *send) {
    int code = 0;
    for (bool polled = false; !code;) {
        long long done = queue_requests(g->queue, send);
        if (done == 1)
            return 0;
        if (done == UZC_E_QUEUE) {
            code = enter_engine(g->queue, 1, 0, 0);
        } else if (done == UZC_E_REQUESTS || done == UZC_E_FRAMES || done == UZC_E_NOTIFICATIONS) {
            code = polled ? wait_for_memory(g) : enter_engine(g->queue, 1, 0, 0); /* may free entries */
            if (!code)
                code = flush_notifier(g);
            polled = true;
        } else {
            if (done != INT64_MIN)
                refuse(g->queue, done);
            code = -1;
        }
        if (!code && g->some_failed)
            code = OTHERS_FAILED;
        if (!code) /* the socket may have been closed meanwhile, and its descriptor reused */
            code = bind_request_socket(g->queue, g->sock, send);
    }
    return code;
}

/* Queues requests for the trains before `until`. 0; 1: not for all of them; -1. */
static int queue_trains(UdpBatcher *g, uint32_t until) {
    uzc_send send = {
        .slot = g->slot, .count = 1, .socket = g->sock, .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL};
    int code = bind_request_socket(g->queue, g->sock, &send);
    g->some_failed = false;
    if (!code)
        set_segment_option(g, until);
    for (; !code && g->next < until; g->next++) {
        struct train *t = g->trains[g->next];
        describe_request(g, t, &send);
        send.user_data = request_user_data(t, g->next);
        code = queue_request(g, &send);
        if (code)
            break;
        g->awaited++;
        COUNT(g->in_flight, 1);
        arena_hold(g->arena, t->block);
        WRITE_SHARED(t->state, QUEUED);
        g->unflushed++;
        g->unflushed_bytes += t->nbytes;
        COUNT(g->requests, 1);
    }
    return code == OTHERS_FAILED ? 0 : code; /* complete_batch() submits what was queued */
}

/* Whether the first trains of the batch are single datagrams, so small that system calls, which copy, send
 * them faster than the ring. */
static bool are_small_singles(const UdpBatcher *g, uint32_t until) {
    const uint32_t limit = until > 1 ? SMALL : g->hold_threshold;
    bool small = !g->always_zero_copy && !g->frames;
    for (uint32_t i = 0; i < until && small; i++)
        small = g->trains[i]->count == 1 && g->trains[i]->nbytes < limit;
    return small;
}

/* With blocking=False: arms fileno() for the room, or the arrival, that is missing. Arming takes out earlier
 * events, so then it checks again: 0 if both are there, 1 or -1. */
static int await_admission(UdpBatcher *g) {
    if (pace_blocks(g))
        return arm_poll(g, AWAIT_RATE, pace_ready_at(g)), 1;
    const struct destination *d = &g->destinations[g->trains[0]->destination];
    const bool room = outq_bytes(g) < g->sndbuf;
    arm_poll(g, AWAIT_SEND, room && d->state == FIRST ? d->first_deadline : 0);
    if (poll_engine(g) < 0)
        return -1;
    const int outq = outq_bytes(g);
    return outq >= g->sndbuf || (d->state == FIRST && !first_arrived(g, d, outq));
}

/* Nothing is admitted: waits until the socket has room, or a destination's first request has arrived. 0; 1:
 * the sender does not block; -1. */
static int wait_for_admission(UdpBatcher *g) {
    if (!g->blocking)
        return await_admission(g);
    COUNT(g->waits[g->waits_for], 1);
    if (pace_blocks(g))
        return pace_sleep(g);
    if (g->waits_for == WAIT_ARRIVAL) {
        const struct destination *d = &g->destinations[g->trains[0]->destination];
        int64_t waited = monotonic_ns() - (d->first_deadline - FIRST_ARRIVAL);
        int64_t pause = 20000 + waited / 4; /* ns; there is no event for its arrival */
        Py_BEGIN_ALLOW_THREADS;
        nanosleep(&(struct timespec){0, pause < 1000000 ? pause : 1000000}, NULL);
        Py_END_ALLOW_THREADS;
    } else if (wait_for_room(g, 100) < 0 || report_socket_error(g) < 0)
        return -1;
    if (poll_engine(g) < 0)
        return -1;
    return g->timestamps ? read_timestamps(g) : 0; /* unread, they would keep poll() from waiting */
}

/* complete_batch(). With blocking=False, arms fileno() if what failed could not be retried. */
static int complete_or_arm(UdpBatcher *g) {
    int code = complete_batch(g);
    if (code <= 0 || g->blocking)
        return code;
    if (refresh_socket(g) < 0)
        return -1;
    arm_poll(g, AWAIT_SEND, 0);
    if (outq_bytes(g) >= g->sndbuf)
        return 1;
    code = complete_batch(g); /* there is room, for which no event may come */
    if (code > 0 && refresh_socket(g) < 0)
        return -1;
    if (code > 0)
        arm_poll(g, AWAIT_SEND, monotonic_ns() + EPOLL_RETRY);
    return code;
}

/* A frame: what it waits for is no room in a socket's buffer. 0, 1 (not sent), or -1. */
static int submit_frame(UdpBatcher *g) {
    g->trains[0]->zero_copy = wants_zero_copy(g, g->trains[0]);
    int code = refresh_socket(g) < 0 || report_socket_error(g) < 0 ? -1 : queue_trains(g, 1);
    if (!code)
        code = complete_or_arm(g);
    return code ? code : g->count > 0;
}

/* One small datagram, or frame, to where others were sent before: it is not asked whether there is room. 0, 1
 * (not sent), or -1. */
static int submit_single(UdpBatcher *g) {
    if (g->count != 1 || g->destinations[g->trains[0]->destination].state != WARM ||
        !(g->frames || are_small_singles(g, 1)))
        return 1;
    int64_t credit = pace_credit(g);
    if (!pace_allows(g, g->trains[0], &credit))
        return 1;
    if (g->frames)
        return submit_frame(g);
    int code = syscall_first(g, 1);
    return code == SEND_RAISED ? -1 : code == -EAGAIN;
}

/* 0; 1: memory is missing; NOT_READY: somebody else has filled the socket; -1. */
static int submit_admitted(UdpBatcher *g, uint32_t admitted) {
    int code;
    if (are_small_singles(g, admitted)) {
        code = syscall_first(g, admitted);
        return code == SEND_RAISED ? -1 : code == -EAGAIN ? NOT_READY : 0;
    }
    code = queue_trains(g, admitted);
    if (code > 0) {
        WRITE_SHARED(g->waits_for, WAIT_MEMORY);
        arm_poll(g, AWAIT_SEND, 0);
    }
    return code;
}

static bool may_wait(const UdpBatcher *g, enum until until) {
    return until == UNTIL_EMPTY || (until == UNTIL_ROOM && g->count == BATCH_SIZE);
}

static int submit_trains(UdpBatcher *g, enum until until) {
    int code = complete_or_arm(g);
    if (code || !g->count)
        return code;
    if ((code = submit_single(g)) <= 0)
        return code;
    if (refresh_socket(g) < 0 || report_socket_error(g) < 0)
        return -1;
    for (code = 0; g->count && !code;) {
        uint32_t admitted = admit_trains(g);
        code = admitted ? submit_admitted(g, admitted) : NOT_READY;
        if (code == NOT_READY && !may_wait(g, until))
            return until == WHILE_READY;
        if (code == NOT_READY)
            code = wait_for_admission(g);
        int completed = code < 0 ? 0 : complete_or_arm(g);
        if (completed)
            code = completed;
    }
    return code;
}

int submit_batch(UdpBatcher *g, enum until until) {
    int code = submit_trains(g, until);
    if (!code && !g->count)
        disarm_poll(g, AWAIT_SEND | AWAIT_RATE);
    if (code >= 0 && (g->unflushed >= g->flush_requests || g->unflushed_bytes >= g->flush_bytes))
        return flush_notifier(g) < 0 ? -1 : code;
    return code;
}

int submit_all(UdpBatcher *g, enum until until) {
    for (;;) {
        int closed = close_all(g);
        int code = closed < 0 ? -1 : submit_batch(g, until);
        if (code || !closed)
            return code;
    }
}

/* What was refused is staged now, if there was memory for it. 0, 1 or -1. */
static int fail_direct(UdpBatcher *g) {
    int code = close_all(g);
    if (!code && g->count)
        code = fail_directly(g);
    g->direct_error = 0;
    return code;
}

int leave_at_once(UdpBatcher *g) {
    PyObject *type, *value, *trace;
    if (!g->leaves)
        return 0;
    g->leaves = false;
    PyErr_Fetch(&type, &value, &trace);
    g->must_not_wait = g->max_delay != 0;
    int code = g->direct_error ? fail_direct(g) : 0;
    if (!code)
        code = submit_all(g, g->max_delay ? WHILE_READY : UNTIL_EMPTY);
    g->must_not_wait = 0;
    if (code > 0 && g->on_waiting)
        g->waiting = BEGUN;
    if (code) /* something waits, also where this has failed */
        arm_timer(g, monotonic_ns());
    if (code < 0 && PyErr_ExceptionMatches(PyExc_OSError)) {
        log_failure(g); /* what the call has taken waits, so this is no error of the call */
        code = 0;
    }
    if (type) {
        PyErr_Clear();
        PyErr_Restore(type, value, trace);
    }
    return code < 0 && !type ? -1 : 0;
}
