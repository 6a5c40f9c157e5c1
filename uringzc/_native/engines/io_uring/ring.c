/* SPDX-License-Identifier: MIT
 *
 * io_uring: requests into the submission queue, results out of the completion queue and into the accounts.
 * There is one way in (queue), one way to the kernel (enter), and one way out (reap).
 * user_data is the key of the request.
 */
#define _GNU_SOURCE
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engines/gso_cmsg.h"
#include "engines/io_uring/compat.h"
#include "slots/accounting.h"

/* What an SQE points at; free again when the kernel has taken the SQE. */
struct message {
    struct msghdr header;
    struct iovec iov;
    struct sockaddr_in6 to;
};

struct uzc_ring {
    struct io_uring ring;
    uzc_slots *slots;
    struct message *messages;  /* one for each entry of the submission queue */
    uzc_gso_control *controls; /* a UDP_SEGMENT control message for each size, constant once written */
    bool report_usage, sendmsg_zc, fixed_message;
    bool enabled, registered, dead;
    int event_fd; /* of fileno(), -1 until it is called */
};

int uzc_ring_new(uzc_ring **out, uint32_t entries, uint32_t cq_entries, uint32_t flags, uzc_slots *slots) {
    uzc_ring *r = calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    struct io_uring_params params = {.flags = flags | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE,
                                     .cq_entries = cq_entries};
    int error = io_uring_queue_init_params(entries, &r->ring, &params);
    if (error) {
        free(r);
        return error;
    }
    r->slots = slots;
    r->event_fd = -1;
    r->messages = calloc(params.sq_entries, sizeof *r->messages);
    error = r->messages ? io_uring_ring_dontfork(&r->ring) : -ENOMEM;
    if (error) {
        uzc_ring_exit(&r);
        return error;
    }
    *out = r;
    return 0;
}

void uzc_ring_features(uzc_ring *r, int report_usage, int sendmsg_zc, int fixed_message) {
    r->report_usage = report_usage;
    r->sendmsg_zc = sendmsg_zc;
    r->fixed_message = fixed_message;
}

void uzc_ring_exit(uzc_ring **ring) {
    uzc_ring *r = *ring;
    *ring = NULL;
    if (!r)
        return;
    io_uring_unregister_buffers(&r->ring); /* or it counts as locked for some time yet */
    io_uring_queue_exit(&r->ring);
    if (r->event_fd >= 0)
        close(r->event_fd);
    free(r->messages);
    free(r->controls);
    free(r);
}

void uzc_ring_abandon(uzc_ring **ring) {
    uzc_ring *r = *ring;
    *ring = NULL;
    if (!r)
        return;
    r->dead = true;
    close(r->ring.ring_fd);
    if (r->event_fd >= 0)
        close(r->event_fd);
}

/* Sizes take turns, so their blocks must not share memory: a poll-armed request reads its block again. */
static void *control(uzc_ring *r, uint32_t segment) {
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

static void prepare(uzc_ring *r, struct io_uring_sqe *sqe, const uzc_send *s, const char *data,
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

static int64_t queue(void *engine, const uzc_send *s) {
    uzc_ring *r = engine;
    int error = uzc_slots_begin(r->slots);
    if (error)
        return error;
    unsigned room = io_uring_sq_space_left(&r->ring);
    if (!io_uring_sq_ready(&r->ring))
        uzc_tick(r->slots);
    void *segment_control = s->segment ? control(r, s->segment) : NULL;
    int64_t queued = 0, why = s->segment && !segment_control ? -ENOMEM : room ? 0 : UZC_E_QUEUE;
    while (!why && queued < s->count && queued < room) {
        int64_t key = uzc_slots_attach(r->slots, s, s->user_data + (uint64_t)queued);
        if (key < 0) {
            why = key;
            break;
        }
        struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
        prepare(r, sqe, s, s->data + (uint64_t)queued * s->stride, segment_control);
        sqe->user_data = (uint64_t)key;
        if (s->flush)
            uzc_slots_flush_inside(r->slots, s->slot);
        queued++;
    }
    uzc_slots_end(r->slots);
    return queued ? queued : why;
}

static void revoke_fd(void *engine, int fd) {
    struct io_uring_sq *sq = &((uzc_ring *)engine)->ring.sq;
    for (unsigned i = *sq->khead; i != sq->sqe_tail; i++) {
        struct io_uring_sqe *sqe = &sq->sqes[i & *sq->kring_mask];
        if (sqe->fd == fd && !(sqe->flags & IOSQE_FIXED_FILE))
            sqe->fd = -1;
    }
}

/* Flags decide, never the sign of res: NOTIF first, then MORE, then the result alone. */
static void take(uzc_ring *r, const struct io_uring_cqe *cqe) {
    uint64_t key = cqe->user_data;
    if (cqe->flags & IORING_CQE_F_NOTIF) {
        int copied = r->report_usage ? ((uint32_t)cqe->res & IORING_NOTIF_USAGE_ZC_COPIED) != 0 : -1;
        uzc_slots_settle(r->slots, key, copied, cqe->flags);
    } else if (cqe->flags & IORING_CQE_F_MORE) {
        uzc_slots_result(r->slots, key, cqe->res, cqe->flags);
    } else if (!uzc_slots_result(r->slots, key, cqe->res, cqe->flags)) {
        uzc_slots_settle(r->slots, key, true, 0);
    }
}

static void reap(uzc_ring *r) {
    struct io_uring_cqe *cqe;
    unsigned head, count;
    for (;;) {
        count = 0;
        io_uring_for_each_cqe(&r->ring, head, cqe) {
            take(r, cqe);
            count++;
        }
        io_uring_cq_advance(&r->ring, count);
        if (!(IO_URING_READ_ONCE(*r->ring.sq.kflags) & IORING_SQ_CQ_OVERFLOW))
            break;
        if (io_uring_get_events(&r->ring) < 0)
            break;
    }
    if (IO_URING_READ_ONCE(*r->ring.cq.koverflow))
        uzc_slots_poison(r->slots);
}

static int enable(uzc_ring *r) {
    int error = uzc_slots_claim(r->slots);
    if (error)
        return error;
    /* by number: the shared library of liburing 2.3 does not export io_uring_enable_rings() */
    if (syscall(__NR_io_uring_register, r->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0)
        return -errno;
    r->registered = io_uring_register_ring_fd(&r->ring) == 1; /* if not, the plain descriptor serves */
    r->enabled = true;
    return 0;
}

/* One call into the kernel: liburing's own goes in again when a signal came, and Python would not see it. */
static int wait_until(uzc_ring *r, uint32_t wait, int64_t timeout_ns) {
    struct __kernel_timespec time = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    struct io_uring_getevents_arg arg = {.ts = (uint64_t)(uintptr_t)&time};
    unsigned flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
    if (r->registered)
        flags |= IORING_ENTER_REGISTERED_RING;
    return io_uring_enter2((unsigned)r->ring.enter_ring_fd, 0, wait, flags, (sigset_t *)&arg, sizeof arg);
}

static int64_t enter(void *engine, int submit, uint32_t wait, int64_t timeout_ns) {
    uzc_ring *r = engine;
    unsigned ready = r->dead ? 0 : io_uring_sq_ready(&r->ring);
    if (r->dead)
        return UZC_E_CLOSED;
    int error = uzc_slots_begin_any(r->slots);
    if (error)
        return error;
    if (uzc_slots_poisoned(r->slots)) /* nothing that was in flight is believed to be free again */
        error = UZC_E_POISONED;
    else if (!r->enabled && ready && (submit || wait))
        error = enable(r);
    if (error || !r->enabled) {
        uzc_slots_end(r->slots);
        return error;
    }
    if (wait && timeout_ns < 0)
        error = io_uring_submit_and_wait(&r->ring, wait);
    else if (ready && (submit || wait))
        error = io_uring_submit_and_get_events(&r->ring);
    else if (wait)
        error = wait_until(r, wait, timeout_ns);
    else
        error = io_uring_get_events(&r->ring);
    if (error == -EBADR)
        uzc_slots_poison(r->slots);
    reap(r);
    unsigned submitted = ready - io_uring_sq_ready(&r->ring);
    uzc_slots_end(r->slots);
    uzc_ring_signal(r);
    if (uzc_slots_poisoned(r->slots))
        return UZC_E_POISONED;
    return error >= 0 || submitted || error == -ETIME || error == -EBUSY ? (int64_t)submitted : error;
}

static uzc_slots *slots(void *engine) {
    return ((uzc_ring *)engine)->slots;
}

static int news(void *engine, int fd) {
    int error = 0;
    (void)engine;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error}) == 0 ? error : 0;
}

const uzc_calls *uzc_ring_calls(void) {
    static const uzc_calls calls = {.queue = queue,
                                    .enter = enter,
                                    .revoke = revoke_fd,
                                    .slots = slots,
                                    .take_socket_error = news,
                                    UZC_SLOT_CALLS};
    return &calls;
}

/* An eventfd that the ring signals when there is work, before its CQEs can be seen. A poll on the ring itself
 * is not woken by deferred work. */
int uzc_ring_fileno(uzc_ring *r) {
    if (r->event_fd >= 0)
        return r->event_fd;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    int error = io_uring_register_eventfd(&r->ring, fd);
    if (error) {
        close(fd);
        return error;
    }
    r->event_fd = fd;
    uzc_ring_signal(r);
    return fd;
}

/* Cleared first and looked at after, so that what comes in between is not lost. */
void uzc_ring_signal(uzc_ring *r) {
    if (r->event_fd < 0)
        return;
    uzc_stats stats;
    uint64_t count = 1;
    (void)!read(r->event_fd, &count, sizeof count);
    uzc_slots_stats(r->slots, &stats);
    unsigned work = IO_URING_READ_ONCE(*r->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
    count = 1;
    if (stats.unread_completions || stats.unread_notifications || work || io_uring_cq_ready(&r->ring))
        (void)!write(r->event_fd, &count, sizeof count);
}

static int begin_register(uzc_ring *r) {
    return !r || r->dead ? UZC_E_CLOSED : uzc_slots_begin(r->slots);
}

int uzc_ring_buffers(uzc_ring *r, uint32_t count) {
    int error = begin_register(r);
    if (error)
        return error;
    error = io_uring_register_buffers_sparse(&r->ring, count);
    uzc_slots_end(r->slots);
    return error;
}

int uzc_ring_set_buffer(uzc_ring *r, uint32_t index, uint64_t address, uint64_t length) {
    int error = begin_register(r);
    if (error)
        return error;
    struct iovec iov = {length ? (void *)address : NULL, length};
    error = io_uring_register_buffers_update_tag(&r->ring, index, &iov, NULL, 1);
    uzc_slots_end(r->slots);
    return error < 0 ? error : 0;
}

int uzc_ring_files(uzc_ring *r, uint32_t count) {
    int error = begin_register(r);
    if (error)
        return error;
    /* by number: liburing's own raises the limit for descriptors, of the whole process, to make it fit */
    struct io_uring_rsrc_register table = {.nr = count, .flags = IORING_RSRC_REGISTER_SPARSE};
    if (syscall(__NR_io_uring_register, r->ring.ring_fd, IORING_REGISTER_FILES2, &table, sizeof table) < 0)
        error = -errno;
    uzc_slots_end(r->slots);
    return error;
}

int uzc_ring_set_file(uzc_ring *r, uint32_t index, int fd) {
    int error = begin_register(r);
    if (error)
        return error;
    error = io_uring_register_files_update(&r->ring, index, &fd, 1);
    uzc_slots_end(r->slots);
    return error < 0 ? error : 0;
}
