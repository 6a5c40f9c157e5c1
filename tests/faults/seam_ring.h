/* SPDX-License-Identifier: MIT */
/* SQEs are changed before they are submitted, and CQEs held back after a call has entered the kernel. A CQE
 * is put back by moving the head of the queue back: the kernel writes there only when the queue is full. */
#pragma once

#include "seam_hold.h"

struct held_cqe {
    struct ticket ticket;
    struct io_uring_cqe cqe;
};

struct wanted { /* the result of a request that was changed */
    uint64_t user_data;
    int result;
};

struct shortened {
    struct msghdr *message;
    struct iovec *last, before;
    size_t pieces;
    unsigned position; /* of the SQE */
};

#define MAX_HELD 8192
struct ring {
    struct io_uring *ring;
    pthread_t thread;
    unsigned seen; /* the SQE after the last that was looked at */
    struct held_cqe held[MAX_HELD];
    int held_count;
    struct wanted wanted[1024];
    int wanted_count;
    struct shortened shortened[64];
    int shortened_count;
};

static struct ring *rings[64];

static struct ring *find_ring_locked(struct io_uring *ring) {
    int free_place = -1;
    for (int i = 63; i >= 0; i--)
        if (!rings[i])
            free_place = i;
        else if (rings[i]->ring == ring)
            return rings[i];
    struct ring *r = free_place < 0 ? NULL : calloc(1, sizeof *r);
    if (r) {
        r->ring = ring;
        r->thread = pthread_self();
        r->seen = *ring->sq.khead;
        rings[free_place] = r;
    }
    return r;
}

static struct ring *find_ring(struct io_uring *ring) {
    pthread_mutex_lock(&lock);
    struct ring *r = find_ring_locked(ring);
    pthread_mutex_unlock(&lock);
    return r;
}

/* -- before */

static void want_result(struct ring *r, struct io_uring_sqe *sqe, const struct plan *p) {
    if (r->wanted_count == (int)(sizeof r->wanted / sizeof *r->wanted))
        return;
    r->wanted[r->wanted_count++] = (struct wanted){sqe->user_data, -p->value};
    if (p->alone)
        *sqe = (struct io_uring_sqe){.opcode = IORING_OP_NOP, .fd = -1, .user_data = sqe->user_data};
    sqe->fd = -1;
    sqe->flags &= (uint8_t)~IOSQE_FIXED_FILE;
}

static void shorten_message(struct ring *r, unsigned position, struct msghdr *m, size_t bytes) {
    if (r->shortened_count == (int)(sizeof r->shortened / sizeof *r->shortened))
        return;
    struct shortened *s = &r->shortened[r->shortened_count++];
    *s = (struct shortened){.message = m, .pieces = m->msg_iovlen, .position = position};
    s->before = shorten(m, bytes);
    s->last = &m->msg_iov[m->msg_iovlen - 1];
}

static void change_sqe(struct ring *r, unsigned position) {
    struct io_uring_sqe *sqe = &r->ring->sq.sqes[position & *r->ring->sq.kring_mask];
    const int fd = sqe->flags & IOSQE_FIXED_FILE ? NONE : sqe->fd;
    const bool message = sqe->opcode == IORING_OP_SENDMSG || sqe->opcode == IORING_OP_SENDMSG_ZC;
    struct msghdr *header = message ? (struct msghdr *)(uintptr_t)sqe->addr : NULL;
    calls_made[N_SQE]++;
    const struct plan *p = take_plan(N_SQE, FAIL, fd);
    if (p) {
        want_result(r, sqe, p);
        return;
    }
    const size_t bytes = message ? bytes_of(header) : sqe->len;
    if (bytes < 2 || !(p = take_plan(N_SQE, SHORTEN, fd)) || bytes <= (size_t)p->value)
        return;
    if (message)
        shorten_message(r, position, header, (size_t)p->value);
    else
        sqe->len = (uint32_t)p->value;
}

static void before_enter(struct ring *r) {
    const struct io_uring_sq *sq = &r->ring->sq;
    if ((int)(r->seen - *sq->khead) < 0)
        r->seen = *sq->khead;
    for (; r->seen != sq->sqe_tail; r->seen++)
        change_sqe(r, r->seen);
}

/* -- after */

/* The program's own memory is as it was, when the kernel has copied it. */
static void restore_shortened(struct ring *r) {
    int kept = 0;
    for (int i = 0; i < r->shortened_count; i++) {
        const struct shortened *s = &r->shortened[i];
        if ((int)(s->position - *r->ring->sq.khead) >= 0) {
            r->shortened[kept++] = *s;
            continue;
        }
        *s->last = s->before;
        s->message->msg_iovlen = s->pieces;
    }
    r->shortened_count = kept;
}

static void change_result(struct ring *r, struct io_uring_cqe *cqe) {
    for (int i = 0; i < r->wanted_count && !(cqe->flags & IORING_CQE_F_NOTIF); i++)
        if (r->wanted[i].user_data == cqe->user_data) {
            cqe->res = r->wanted[i].result;
            r->wanted[i] = r->wanted[--r->wanted_count];
            return;
        }
}

/* The result of a request comes before its notification. */
static bool is_behind_held(const struct ring *r, int until, const struct io_uring_cqe *cqe) {
    for (int i = 0; i < until; i++)
        if (r->held[i].cqe.user_data == cqe->user_data)
            return true;
    return false;
}

static bool is_to_hold(const struct io_uring_cqe *cqe) {
    return cqe->flags & IORING_CQE_F_NOTIF ? hold.notifications : hold.results;
}

/* Puts CQEs behind those that are in the queue: all are written in front of its tail. */
static void put_back(struct ring *r, const struct io_uring_cqe *cqes, unsigned count) {
    struct io_uring_cq *cq = &r->ring->cq;
    const unsigned mask = *cq->kring_mask, head = *cq->khead, ready = io_uring_cq_ready(r->ring);
    for (unsigned i = 0; i < ready; i++)
        cq->cqes[(head - count + i) & mask] = cq->cqes[(head + i) & mask];
    for (unsigned i = 0; i < count; i++)
        cq->cqes[(head + ready - count + i) & mask] = cqes[i];
    io_uring_smp_store_release(cq->khead, head - count);
}

static unsigned room_to_put_back(const struct ring *r) {
    const unsigned entries = *r->ring->cq.kring_entries, ready = io_uring_cq_ready(r->ring);
    return entries > ready ? entries - ready : 0;
}

static void give_due(struct ring *r) {
    int kept = 0;
    for (int i = 0; i < r->held_count; i++)
        if (is_due(&r->held[i].ticket) && room_to_put_back(r) && !is_behind_held(r, kept, &r->held[i].cqe))
            put_back(r, &r->held[i].cqe, 1);
        else
            r->held[kept++] = r->held[i];
    r->held_count = kept;
}

/* Takes out what is to be held of the CQEs that came; `known` were there before. The others move to the tail.
 */
static void hold_cqes(struct ring *r, unsigned known) {
    static struct io_uring_cqe staying[65536];
    struct io_uring_cq *cq = &r->ring->cq;
    const unsigned mask = *cq->kring_mask, head = *cq->khead, ready = io_uring_cq_ready(r->ring);
    unsigned stay = 0;
    for (unsigned i = 0; i < ready; i++) {
        struct io_uring_cqe cqe = cq->cqes[(head + i) & mask];
        if (i >= known)
            change_result(r, &cqe);
        if (i >= known && r->held_count < MAX_HELD &&
            (is_to_hold(&cqe) || is_behind_held(r, r->held_count, &cqe)))
            r->held[r->held_count++] = (struct held_cqe){new_ticket(), cqe};
        else
            staying[stay++] = cqe;
    }
    for (unsigned i = 0; i < stay; i++)
        cq->cqes[(head + ready - stay + i) & mask] = staying[i];
    io_uring_smp_store_release(cq->khead, head + ready - stay);
}

static void after_enter(struct ring *r, unsigned known) {
    restore_shortened(r);
    hold_cqes(r, known);
    give_due(r);
}

/* -- the calls */

static int submission_refusal(int call, const struct io_uring *ring) {
    const int error = refusal(call, NONE);
    return !error && io_uring_sq_ready(ring) ? refusal(N_submission, NONE) : error;
}

/* Whether the call may not wait, since the kernel has nothing that could end it: something is given instead.
 */
static bool gives_instead(struct ring *r, unsigned wait, bool without_limit) {
    if (io_uring_cq_ready(r->ring) >= wait || !r->held_count || !ends_wait(without_limit))
        return false;
    r->held[0].ticket.left = 0;
    return true;
}

/* The library's waits without a limit are repeated waits of this time. */
static bool is_without_limit(const struct __kernel_timespec *time) {
    return !time || time->tv_sec || time->tv_nsec >= LONGEST_WAIT_MS * 1000000LL;
}

static unsigned begin_enter(struct ring *r) {
    pthread_mutex_lock(&lock);
    before_enter(r);
    const unsigned known = io_uring_cq_ready(r->ring);
    pthread_mutex_unlock(&lock);
    return known;
}

static int end_enter(struct ring *r, unsigned known, int result) {
    const int saved = errno;
    pthread_mutex_lock(&lock);
    after_enter(r, known);
    pthread_mutex_unlock(&lock);
    errno = saved;
    return result;
}

/* Submits only the first SQEs, as the kernel does where it has no memory for more; then it does not wait. -1:
 * all may be submitted. */
static int submit_some(struct ring *r, int call) {
    struct io_uring_sq *sq = &r->ring->sq;
    const unsigned all = sq->sqe_tail - *sq->khead, some = (unsigned)amount(call, NONE, all);
    if (some >= all)
        return -1;
    sq->sqe_tail -= all - some;
    const int result = real.io_uring_submit(r->ring);
    sq->sqe_tail += all - some;
    return result;
}

static int seam_io_uring_submit_and_wait(struct io_uring *ring, unsigned wait) {
    const int error = submission_refusal(N_io_uring_submit_and_wait, ring);
    struct ring *r = error ? NULL : find_ring(ring);
    if (!r)
        return error ? -error : real.io_uring_submit_and_wait(ring, wait);
    const unsigned known = begin_enter(r);
    int result = submit_some(r, N_io_uring_submit_and_wait);
    if (result < 0)
        result = real.io_uring_submit_and_wait(ring, gives_instead(r, wait, true) ? 0 : wait);
    return end_enter(r, known, result);
}

static int seam_io_uring_submit_and_wait_timeout(struct io_uring *ring, struct io_uring_cqe **cqe,
                                                 unsigned wait, struct __kernel_timespec *time,
                                                 sigset_t *mask) {
    const int error = submission_refusal(N_io_uring_submit_and_wait_timeout, ring);
    struct ring *r = error ? NULL : find_ring(ring);
    if (!r)
        return error ? -error : real.io_uring_submit_and_wait_timeout(ring, cqe, wait, time, mask);
    const unsigned known = begin_enter(r);
    int result = submit_some(r, N_io_uring_submit_and_wait_timeout);
    if (result < 0)
        result = real.io_uring_submit_and_wait_timeout(
            ring, cqe, gives_instead(r, wait, is_without_limit(time)) ? 0 : wait, time, mask);
    return end_enter(r, known, result);
}

static int seam_io_uring_get_events(struct io_uring *ring) {
    const int error = refusal(N_io_uring_get_events, NONE);
    struct ring *r = error ? NULL : find_ring(ring);
    if (!r)
        return error ? -error : real.io_uring_get_events(ring);
    const unsigned known = begin_enter(r);
    return end_enter(r, known, real.io_uring_get_events(ring));
}

/* The number of a registered ring is one of its thread. */
static struct ring *ring_of(unsigned fd) {
    struct ring *found = NULL;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 64; i++)
        if (rings[i] && (unsigned)rings[i]->ring->enter_ring_fd == fd &&
            pthread_equal(rings[i]->thread, pthread_self()))
            found = rings[i];
    pthread_mutex_unlock(&lock);
    return found;
}

static int seam_io_uring_enter2(unsigned fd, unsigned submit, unsigned wait, unsigned flags, sigset_t *arg,
                                size_t size) {
    const int error = refusal(N_io_uring_enter2, NONE);
    struct ring *r = error ? NULL : ring_of(fd);
    if (!r)
        return error ? -error : real.io_uring_enter2(fd, submit, wait, flags, arg, size);
    const unsigned known = begin_enter(r);
    const struct io_uring_getevents_arg *waits = (const struct io_uring_getevents_arg *)(const void *)arg;
    if (gives_instead(r, wait, is_without_limit((const struct __kernel_timespec *)(uintptr_t)waits->ts)))
        wait = 0;
    return end_enter(r, known, real.io_uring_enter2(fd, submit, wait, flags, arg, size));
}

static int seam_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
                                           struct io_uring_params *params) {
    const int error = refusal(N_io_uring_queue_init_params, NONE);
    return error ? -error : real.io_uring_queue_init_params(entries, ring, params);
}

static int seam_io_uring_register_ring_fd(struct io_uring *ring) {
    const int error = refusal(N_io_uring_register_ring_fd, NONE);
    if (error)
        return -error;
    find_ring(ring);
    return real.io_uring_register_ring_fd(ring);
}

static void forget_ring(struct io_uring *ring) {
    for (int i = 0; i < 64; i++)
        if (rings[i] && rings[i]->ring == ring) {
            free(rings[i]);
            rings[i] = NULL;
        }
}

static void seam_io_uring_queue_exit(struct io_uring *ring) {
    refusal(N_io_uring_queue_exit, NONE);
    pthread_mutex_lock(&lock);
    forget_ring(ring);
    pthread_mutex_unlock(&lock);
    real.io_uring_queue_exit(ring);
}

/* -- what is held is given */

static void give_cqe(struct ring *r, int at) {
    const struct io_uring_cqe cqe = r->held[at].cqe;
    memmove(&r->held[at], &r->held[at + 1], (size_t)(--r->held_count - at) * sizeof *r->held);
    put_back(r, &cqe, 1);
}
