/* SPDX-License-Identifier: MIT */
/* What this kernel can do, found by trying. Flags are tried on an AF_UNIX socket, which has no zero-copy
 * sends: EOPNOTSUPP means that the kernel has the flag, EINVAL that it has not, and nothing is ever sent. */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engines/io_uring/state.h"

/* -errno: the ring cannot be entered, which a seccomp filter may forbid while it allows the setup. */
static int try_send(struct io_uring *ring, int opcode, int fd, unsigned ioprio, int *result) {
    struct iovec iov = {"", 1};
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    struct io_uring_cqe *cqe;
    if (opcode == IORING_OP_SEND_ZC)
        io_uring_prep_send_zc(sqe, fd, iov.iov_base, 1, 0, ioprio);
    else
        io_uring_prep_sendmsg_zc(sqe, fd, &header, 0);
    sqe->ioprio = (uint16_t)ioprio;
    int error = io_uring_submit(ring);
    *result = 0;
    for (bool more = error >= 0; more;) { /* the result, and the notification that may follow it */
        while ((error = io_uring_wait_cqe(ring, &cqe)) == -EINTR)
            ;
        if (error < 0)
            break;
        more = cqe->flags & IORING_CQE_F_MORE;
        if (!(cqe->flags & IORING_CQE_F_NOTIF))
            *result = cqe->res;
        io_uring_cqe_seen(ring, cqe);
    }
    return error < 0 ? error : 0;
}

int uzc_probe(uzc_features *out) {
    struct io_uring ring;
    int pair[2];
    memset(out, 0, sizeof *out);
    int error = io_uring_queue_init(4, &ring, 0);
    if (error)
        return error;
    struct io_uring_probe *probe = io_uring_get_probe_ring(&ring);
    out->send_zc = probe && io_uring_opcode_supported(probe, IORING_OP_SEND_ZC);
    out->sendmsg_zc = probe && io_uring_opcode_supported(probe, IORING_OP_SENDMSG_ZC);
    io_uring_free_probe(probe);
    if (out->send_zc && socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) < 0) {
        if (errno == EMFILE || errno == ENFILE) /* a passing error: the caller must not keep the answer */
            error = -errno;
    } else if (out->send_zc) {
        int result;
        error = try_send(&ring, IORING_OP_SEND_ZC, pair[0], IORING_SEND_ZC_REPORT_USAGE, &result);
        out->report_usage = result == -EOPNOTSUPP;
        if (!error && out->sendmsg_zc) {
            /* EFAULT: the kernel looked for a registered buffer, and this entry has none. Without a table
             * older ones answer so too, before they look at the opcode. */
            int no_table = io_uring_register_buffers_sparse(&ring, 1);
            error = try_send(&ring, IORING_OP_SENDMSG_ZC, pair[0], IORING_RECVSEND_FIXED_BUF, &result);
            out->fixed_message = !no_table && result != -EINVAL;
        }
        close(pair[0]);
        close(pair[1]);
    }
    io_uring_queue_exit(&ring);
    return error;
}
