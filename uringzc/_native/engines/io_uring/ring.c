/* SPDX-License-Identifier: MIT */
/* io_uring: setup, submitting and waiting, CQEs into the slot accounting, registered buffers and files. */
#define _GNU_SOURCE
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engines/io_uring/submission.h"

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
    /* The kernel destroys the ring some time after the exit, and counts its buffers as locked until then. */
    io_uring_unregister_buffers(&r->ring);
    io_uring_queue_exit(&r->ring);
    if (r->event_fd >= 0)
        close(r->event_fd);
    free(r->messages);
    free(r->controls);
    free(r);
}

/* The ring is the parent's: to unregister anything would act on it there, and io_uring_queue_exit() reads the
 * rings, which are not mapped in the child (io_uring_ring_dontfork()). `r` leaks on purpose: the call in
 * which the fork happened may still pass it. */
void uzc_ring_abandon(uzc_ring **ring) {
    uzc_ring *r = *ring;
    *ring = NULL;
    if (!r)
        return;
    close(r->ring.ring_fd);
    if (r->event_fd >= 0)
        close(r->event_fd);
}

/* A notification (NOTIF); a result that a notification will follow (MORE), also after an error; or a result
 * alone, after which the kernel does not read the memory: it was copied, and no CQE has said so (flags 0).
 * `places`: of the requests of the run that have this CQE. */
static void take_cqe(uzc_ring *r, const struct io_uring_cqe *cqe, uint32_t places) {
    uint64_t key = cqe->user_data;
    if (cqe->flags & IORING_CQE_F_NOTIF) {
        int copied = r->report_usage ? ((uint32_t)cqe->res & IORING_NOTIF_USAGE_ZC_COPIED) != 0 : -1;
        uzc_slots_settle_all(r->slots, key, places, copied, cqe->flags);
        return;
    }
    places = uzc_slots_results(r->slots, key, places, cqe->res, cqe->flags);
    if (places && !(cqe->flags & IORING_CQE_F_MORE))
        uzc_slots_settle_all(r->slots, key, places, true, 0);
}

static const struct io_uring_cqe *cqe_at(const uzc_ring *r, unsigned position) {
    return &r->ring.cq.cqes[position & *r->ring.cq.kring_mask];
}

/* How many CQEs from `head` on are of one run, one place after the other, and say the same; 1 at least. */
static unsigned count_alike(const uzc_ring *r, unsigned head, unsigned ready) {
    const struct io_uring_cqe *first = cqe_at(r, head);
    const unsigned places = UZC_RUN_SIZE - uzc_key_place(first->user_data);
    const unsigned limit = ready < places ? ready : places;
    unsigned count = 1;
    for (; count < limit; count++) {
        const struct io_uring_cqe *cqe = cqe_at(r, head + count);
        if (cqe->user_data != first->user_data + (uint64_t)count * UZC_KEY_STEP || cqe->res != first->res ||
            cqe->flags != first->flags)
            break;
    }
    return count;
}

static void take_cqes(uzc_ring *r) {
    const unsigned ready = io_uring_cq_ready(&r->ring), head = *r->ring.cq.khead;
    for (unsigned taken = 0, count; taken < ready; taken += count) {
        const struct io_uring_cqe *first = cqe_at(r, head + taken);
        count = count_alike(r, head + taken, ready - taken);
        take_cqe(r, first, UINT32_MAX >> (UZC_RUN_SIZE - count) << uzc_key_place(first->user_data));
    }
    io_uring_cq_advance(&r->ring, ready);
}

/* Work that the kernel has put off until the ring is entered, or CQEs that the queue had no room for. */
static bool has_deferred_work(const uzc_ring *r) {
    return IO_URING_READ_ONCE(*r->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

/* An enter runs only some of the deferred work: it is repeated until it brings nothing more. The flag alone
 * does not say that there is any, since another CPU may set it after the work was done. */
static void reap_cqes(uzc_ring *r) {
    do
        take_cqes(r);
    while (has_deferred_work(r) && io_uring_get_events(&r->ring) >= 0 && io_uring_cq_ready(&r->ring));
    if (IO_URING_READ_ONCE(*r->ring.cq.koverflow))
        uzc_slots_poison(r->slots);
}

/* Clears the eventfd first and checks for work after, so that nothing in between is lost. */
static void ring_signal(void *engine) {
    uzc_ring *r = engine;
    if (r->event_fd < 0)
        return;
    uzc_stats stats;
    uint64_t count = 1;
    (void)!read(r->event_fd, &count, sizeof count);
    uzc_slots_stats(r->slots, &stats);
    count = 1;
    if (stats.unread_completions || stats.unread_notifications || has_deferred_work(r) ||
        io_uring_cq_ready(&r->ring))
        (void)!write(r->event_fd, &count, sizeof count);
}

static int enable_ring(uzc_ring *r) {
    int error = uzc_slots_claim(r->slots);
    if (error)
        return error;
    /* a raw system call: the shared library of liburing 2.3 does not export io_uring_enable_rings() */
    if (syscall(__NR_io_uring_register, r->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0)
        return -errno;
    r->registered = io_uring_register_ring_fd(&r->ring) == 1; /* else enter_ring_fd is ring_fd */
    r->enabled = true;
    return 0;
}

/* One io_uring_enter(), as a rule. A ring with DEFER_TASKRUN runs the deferred work of an enter until there
 * are as many CQEs as it is to wait for, or 20. So who does not wait asks for one for each request, with no
 * time: else notifications would be left behind with every batch of more than 20. */
static int submit_and_wait(uzc_ring *r, unsigned count, int64_t timeout_ns) {
    struct __kernel_timespec time = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    struct io_uring_cqe *first;
    return io_uring_submit_and_wait_timeout(&r->ring, &first, count, &time, NULL);
}

/* One io_uring_enter(), which a signal ends: io_uring_wait_cqes() loops, and Python could not handle it. */
static int wait_cqes(uzc_ring *r, uint32_t wait, int64_t timeout_ns) {
    struct __kernel_timespec time = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    struct io_uring_getevents_arg arg = {.ts = (uint64_t)(uintptr_t)&time};
    unsigned flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
    if (r->registered)
        flags |= IORING_ENTER_REGISTERED_RING;
    return io_uring_enter2((unsigned)r->ring.enter_ring_fd, 0, wait, flags, (sigset_t *)&arg, sizeof arg);
}

static int64_t ring_enter(void *engine, int submit, uint32_t wait, int64_t timeout_ns) {
    uzc_ring *r = engine;
    unsigned ready = io_uring_sq_ready(&r->ring);
    int error = uzc_slots_begin_any(r->slots);
    if (error)
        return error;
    if (uzc_slots_poisoned(r->slots)) /* what is in flight cannot be known to be free */
        error = UZC_E_POISONED;
    else if (!r->enabled && ready && (submit || wait))
        error = enable_ring(r);
    if (error || !r->enabled) {
        uzc_slots_end(r->slots);
        return error;
    }
    if (ready && wait)
        error = submit_and_wait(r, wait, timeout_ns);
    else if (ready && submit)
        error = submit_and_wait(r, ready, 0);
    else if (wait)
        error = wait_cqes(r, wait, timeout_ns);
    else
        error = io_uring_get_events(&r->ring);
    if (error == -EBADR)
        uzc_slots_poison(r->slots);
    reap_cqes(r);
    unsigned submitted = ready - io_uring_sq_ready(&r->ring);
    uzc_slots_end(r->slots);
    ring_signal(r);
    if (uzc_slots_poisoned(r->slots))
        return UZC_E_POISONED;
    /* ETIME: timeout_ns has passed. EBUSY: the CQ had overflowed, and was reaped: the caller tries again. */
    return error >= 0 || submitted || error == -ETIME || error == -EBUSY ? (int64_t)submitted : error;
}

static int ring_take_socket_error(void *engine, int fd) {
    int error = 0;
    (void)engine;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error}) == 0 ? error : 0;
}

/* An eventfd that the kernel signals when there is work: poll() of the ring's own descriptor does not wake up
 * for deferred task work. */
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
    ring_signal(r);
    return fd;
}

/* A raw system call: liburing's function for files raises RLIMIT_NOFILE to make the table fit. */
static int register_resource(uzc_ring *r, unsigned opcode, void *arg, unsigned count) {
    int error = !r ? UZC_E_CLOSED : uzc_slots_begin(r->slots);
    if (error)
        return error;
    if (syscall(__NR_io_uring_register, r->ring.ring_fd, opcode, arg, count) < 0)
        error = -errno;
    uzc_slots_end(r->slots);
    return error;
}

static int register_table(uzc_ring *r, unsigned opcode, uint32_t count) {
    struct io_uring_rsrc_register table = {.nr = count, .flags = IORING_RSRC_REGISTER_SPARSE};
    return register_resource(r, opcode, &table, sizeof table);
}

int uzc_ring_buffers(uzc_ring *r, uint32_t count) {
    return register_table(r, IORING_REGISTER_BUFFERS2, count);
}

int uzc_ring_files(uzc_ring *r, uint32_t count) {
    return register_table(r, IORING_REGISTER_FILES2, count);
}

static int update_table(uzc_ring *r, unsigned opcode, uint32_t index, const void *entry) {
    struct io_uring_rsrc_update2 update = {.offset = index, .data = (uint64_t)(uintptr_t)entry, .nr = 1};
    return register_resource(r, opcode, &update, sizeof update);
}

int uzc_ring_set_buffer(uzc_ring *r, uint32_t index, uint64_t address, uint64_t length) {
    struct iovec iov = {length ? (void *)address : NULL, length};
    return update_table(r, IORING_REGISTER_BUFFERS_UPDATE, index, &iov);
}

int uzc_ring_set_file(uzc_ring *r, uint32_t index, int fd) {
    return update_table(r, IORING_REGISTER_FILES_UPDATE2, index, &fd);
}

/* Without IORING_SETUP_TASKRUN_FLAG the kernel does not say. */
static int ring_needs_enter(const void *engine) {
    const uzc_ring *r = engine;
    return r->enabled &&
           (!(r->ring.flags & IORING_SETUP_TASKRUN_FLAG) || IO_URING_READ_ONCE(*r->ring.cq.koverflow) ||
            has_deferred_work(r) || io_uring_cq_ready(&r->ring));
}

const uzc_calls *uzc_ring_calls(void) {
    static const uzc_calls calls = {.queue = ring_queue,
                                    .enter = ring_enter,
                                    .needs_enter = ring_needs_enter,
                                    .signal = ring_signal,
                                    .revoke = ring_revoke,
                                    .take_socket_error = ring_take_socket_error,
                                    UZC_SLOT_CALLS};
    return &calls;
}
