/* SPDX-License-Identifier: MIT */
/* Requests into the submission queue. user_data of an SQE is the key of its request. */
#include "engines/io_uring/submission.h"

#include "engines/clock.h"

/* The control message for a segment size. A request that is armed for poll reads it again, so each size has
 * its own. NULL: no memory. */
static void *control_of(uzc_ring *r, uint32_t segment) {
    if (!r->controls && !(r->controls = calloc(UINT16_MAX + 1, sizeof *r->controls)))
        return NULL;
    uzc_gso_control *c = &r->controls[segment];
    if (!c->header.cmsg_len)
        uzc_gso_cmsg(c, segment);
    return c;
}

/* The registered buffer that holds all of a datagram, or -1. */
static int buffer_of(const uzc_send *s, const char *data) {
    if (s->buffer < 0 || s->message)
        return -1;
    uint64_t offset = (uint64_t)(data - s->base), part = offset / UZC_BUFFER_STRIDE;
    if (part >= s->buffers)
        part = s->buffers - 1;
    bool whole = offset - part * UZC_BUFFER_STRIDE + s->length <= UZC_BUFFER_MAX;
    return whole ? s->buffer + (int)part : -1;
}

static void prepare_message(struct io_uring_sqe *sqe, struct message *m, const uzc_send *s, const char *data,
                            void *segment_control, bool zero_copy) {
    m->iov = (struct iovec){(void *)data, s->length};
    m->header = (struct msghdr){.msg_iov = s->message ? s->message : &m->iov,
                                .msg_iovlen = s->message ? s->length : 1,
                                .msg_name = s->to ? &m->to : NULL,
                                .msg_namelen = s->to_length,
                                .msg_control = segment_control,
                                .msg_controllen = segment_control ? sizeof(uzc_gso_control) : 0};
    if (zero_copy)
        io_uring_prep_sendmsg_zc(sqe, s->fd, &m->header, s->msg_flags);
    else
        io_uring_prep_sendmsg(sqe, s->fd, &m->header, s->msg_flags);
}

static void prepare_sqe(uzc_ring *r, struct io_uring_sqe *sqe, const uzc_send *s, const char *data,
                        void *segment_control) {
    struct message *m = &r->messages[sqe - r->ring.sq.sqes];
    bool message = s->message || segment_control;
    bool zero_copy = s->zero_copy && (!message || r->sendmsg_zc);
    if (s->to)
        memcpy(&m->to, s->to, s->to_length);
    if (message)
        prepare_message(sqe, m, s, data, segment_control, zero_copy);
    else if (zero_copy)
        io_uring_prep_send_zc(sqe, s->fd, data, s->length, (int)s->msg_flags, 0);
    else
        io_uring_prep_send(sqe, s->fd, data, s->length, (int)s->msg_flags);
    if (s->to && !message)
        io_uring_prep_send_set_addr(sqe, (struct sockaddr *)&m->to, (uint16_t)s->to_length);
    if (zero_copy) {
        int buffer = message && !r->fixed_message ? -1 : buffer_of(s, data);
        if (r->report_usage)
            sqe->ioprio |= IORING_SEND_ZC_REPORT_USAGE;
        if (buffer >= 0) {
            sqe->ioprio |= IORING_RECVSEND_FIXED_BUF;
            sqe->buf_index = (uint16_t)buffer;
        }
    }
    if (s->fixed_file)
        sqe->flags |= IOSQE_FIXED_FILE;
}

/* Whether the SQEs of a run differ in nothing but the address and the key. */
static bool is_uniform(const uzc_send *s, const void *segment_control) {
    return !s->message && !segment_control && !s->to && s->buffers <= 1;
}

/* SQEs for `count` requests of the send, from `at` on. The first is prepared, the others are copies of it. */
static void fill_sqes(uzc_ring *r, const uzc_send *s, uint64_t at, uint32_t count, uint64_t key,
                      void *segment_control) {
    const bool uniform = is_uniform(s, segment_control);
    const struct io_uring_sqe *first = NULL;
    for (uint32_t i = 0; i < count; i++) {
        const char *data = s->data + (at + i) * s->stride;
        struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
        if (first && uniform) {
            *sqe = *first;
            sqe->addr = (uintptr_t)data;
        } else {
            prepare_sqe(r, sqe, s, data, segment_control);
            first = sqe;
        }
        sqe->user_data = key + (uint64_t)i * UZC_KEY_STEP;
    }
}

int64_t ring_queue(void *engine, const uzc_send *s, uint32_t *references) {
    uzc_ring *r = engine;
    int error = uzc_slots_begin(r->slots);
    if (error)
        return error;
    unsigned room = io_uring_sq_space_left(&r->ring);
    if (!io_uring_sq_ready(&r->ring))
        uzc_tick(r->slots);
    void *segment_control = s->segment ? control_of(r, s->segment) : NULL;
    uint32_t queued = 0, limit = s->count < room ? s->count : room;
    int64_t why = s->segment && !segment_control ? -ENOMEM : room ? 0 : UZC_E_QUEUE;
    while (!why && queued < limit) {
        uint32_t count = s->flush ? 1 : limit - queued;
        int64_t key = uzc_slots_attach(r->slots, s, s->user_data + queued, &count, references);
        if (key < 0) {
            why = key;
            break;
        }
        fill_sqes(r, s, queued, count, (uint64_t)key, segment_control);
        if (s->flush)
            uzc_slots_flush_inside(r->slots, s->slot);
        queued += count;
    }
    uzc_slots_end(r->slots);
    return queued ? queued : why;
}

void ring_revoke(void *engine, int fd) {
    struct io_uring_sq *sq = &((uzc_ring *)engine)->ring.sq;
    for (unsigned i = *sq->khead; i != sq->sqe_tail; i++) {
        struct io_uring_sqe *sqe = &sq->sqes[i & *sq->kring_mask];
        if (sqe->fd == fd && !(sqe->flags & IOSQE_FIXED_FILE))
            sqe->fd = -1;
    }
}
