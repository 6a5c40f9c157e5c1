/* SPDX-License-Identifier: MIT */
/* Sending what is queued: frames by the kernel interface, in runs of one device; the rest through sockets. */
#include "engines/frames/transmit.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "engines/frames/results.h"
#include "engines/gso_cmsg.h"

static bool is_frame(const struct entry *n) {
    return n->kind == UZC_PATH_FRAME || n->kind == UZC_PATH_RAW;
}

/* The entry does not leave in a frame. */
static void end_entry(uzc_frames *e, struct entry *n, int32_t result, int copied) {
    if (n->duplicated)
        close(n->fd);
    if (n->frame != NO_FRAME)
        release_copy(e, n->frame);
    report_end(e, n, result, copied);
}

/* Bytes, or -errno. */
static int32_t send_through_socket(const struct entry *n) {
    uzc_gso_control control;
    struct iovec piece = {(void *)n->data, n->length};
    struct msghdr message = {.msg_name = n->to_length ? (void *)n->to : NULL,
                             .msg_namelen = n->to_length,
                             .msg_iov = &piece,
                             .msg_iovlen = 1};
    if (n->segment) {
        uzc_gso_cmsg(&control, n->segment);
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
    }
    const ssize_t sent = sendmsg(n->fd, &message, (int)n->msg_flags | MSG_DONTWAIT | MSG_NOSIGNAL);
    return sent < 0 ? -errno : (int32_t)sent;
}

/* Sends the first of the entries that is no frame: 1, or 0 and *error. */
static uint32_t send_one(uzc_frames *e, struct entry *n, int *error) {
    const int32_t sent = n->fd < 0 ? -EBADF : n->kind == UZC_PATH_ERROR ? -n->error : send_through_socket(n);
    if (sent < 0) {
        *error = -sent;
        return 0;
    }
    end_entry(e, n, sent, 1);
    return 1;
}

/* Frames of one device that follow each other. */
static uint32_t run_of(const struct entry *first, uint32_t most) {
    uint32_t count = 1;
    while (count < most && is_frame(&first[count]) && first[count].device == first->device &&
           first[count].fd >= 0)
        count++;
    return count;
}

static uint32_t send_run(uzc_frames *e, struct entry *first, uint32_t count, int *error) {
    if (first->fd < 0) {
        *error = EBADF;
        return 0;
    }
    const uint32_t taken = e->link->transmit(e, first, count, error);
    report_taken(e, first, taken);
    return taken;
}

/* Makes sure that the entry can wait though the program closes its socket. */
static bool keep_open(struct entry *n) {
    if (is_frame(n) || n->duplicated)
        return true;
    const int fd = fcntl(n->fd, F_DUPFD_CLOEXEC, 0);
    n->duplicated = fd >= 0;
    if (n->duplicated)
        n->fd = fd;
    return n->duplicated;
}

/* The kernel has no room for the entry: it fails, unless it may wait. False: it waits. */
static bool fail_for_room(uzc_frames *e, struct entry *n) {
    if (!(n->msg_flags & MSG_DONTWAIT) && keep_open(n))
        return false;
    end_entry(e, n, -EAGAIN, 0);
    return true;
}

void send_entries(uzc_frames *e) {
    uint32_t at = 0, full = 0; /* `full`: the device, or for a socket NO_FRAME, that has no room */
    while (at < e->entry_count) {
        struct entry *n = &e->entries[at];
        const uint32_t way = is_frame(n) ? n->device : NO_FRAME;
        const uint32_t count = is_frame(n) && n->fd >= 0 ? run_of(n, e->entry_count - at) : 1;
        int error = EAGAIN;
        uint32_t sent = 0;
        if (!full || full != way || n->kind == UZC_PATH_ERROR) /* else none may overtake those before */
            sent = is_frame(n) ? send_run(e, n, count, &error) : send_one(e, n, &error);
        at += sent;
        if (sent == count)
            continue;
        n = &e->entries[at];
        if (error != EAGAIN)
            end_entry(e, n, -error, 0);
        else if (!fail_for_room(e, n))
            break;
        else
            full = way;
        at++;
    }
    e->entry_count -= at;
    memmove(e->entries, e->entries + at, e->entry_count * sizeof *e->entries);
    e->waiting = e->entry_count;
}
