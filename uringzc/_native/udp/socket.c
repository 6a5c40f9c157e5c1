/* SPDX-License-Identifier: MIT */
/* The socket of a sender: its descriptor and buffer, its pending error, and waiting for it. */
#include "udp/socket.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#include "request/sockets.h"

/* By the owner: another thread may not use the engine, and goes on with what was found last. */
static void refresh_room_fd(UdpBatcher *g) {
    const Queue *q = g->queue;
    if (!q->calls->room_fileno || !q->engine || g->lock_thread != g->owner)
        return;
    const int fd = q->calls->room_fileno(q->engine);
    if (fd != g->room_fd)
        g->sndbuf = 0;
    g->room_fd = fd;
}

static int sndbuf_of(int fd) {
    int bytes = 0;
    getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, &(socklen_t){sizeof bytes});
    return bytes;
}

static int queued_bytes(int fd) {
    int bytes = 0;
    return fd >= 0 && ioctl(fd, SIOCOUTQ, &bytes) == 0 ? bytes : 0;
}

int refresh_socket(UdpBatcher *g) {
    if (fileno_of(g->sock, &g->fd) < 0)
        return -1;
    if (g->fd < 0)
        return refuse(g->queue, -EBADF), -1;
    refresh_room_fd(g);
    if (!g->own_socket || !g->sndbuf) { /* the program may have changed it */
        const int socket = sndbuf_of(g->fd), engine = g->room_fd < 0 ? INT_MAX : sndbuf_of(g->room_fd);
        g->sndbuf = socket < engine ? socket : engine;
    }
    return 0;
}

int outq_bytes(const UdpBatcher *g) {
    return queued_bytes(g->fd) + queued_bytes(g->room_fd);
}

int charged_fd(const UdpBatcher *g) {
    return g->room_fd >= 0 && queued_bytes(g->room_fd) >= queued_bytes(g->fd) ? g->room_fd : g->fd;
}

static int report_error(UdpBatcher *g, int error) {
    int raised = check_result(PyObject_CallMethod(g->slow_path, "report_socket_error", "i", error));
    WRITE_SHARED(g->to_report, 1); /* last, as in retry_failed() */
    return raised;
}

int report_socket_error(UdpBatcher *g) {
    void *engine = g->queue->engine;
    int error = engine ? g->queue->calls->take_socket_error(engine, g->fd) : 0;
    return error ? report_error(g, error > 0 ? error : 0) : 0;
}

int report_dropped_error(UdpBatcher *g) {
    return report_error(g, 0);
}

/* Without IP_RECVERR, the kernel reports such errors to connected sockets only. */
bool keeps_errors(const UdpBatcher *g) {
    struct sockaddr_in6 peer;
    int four = 0, six = 0;
    if (g->own_socket)
        return true;
    getsockopt(g->fd, IPPROTO_IP, IP_RECVERR, &four, &(socklen_t){sizeof four});
    getsockopt(g->fd, IPPROTO_IPV6, IPV6_RECVERR, &six, &(socklen_t){sizeof six});
    return !four && !six && getpeername(g->fd, (struct sockaddr *)&peer, &(socklen_t){sizeof peer}) < 0;
}

static int wait_for_pollout(UdpBatcher *g, int fd, int milliseconds) {
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    Py_BEGIN_ALLOW_THREADS;
    poll(&p, 1, milliseconds);
    if (p.revents & POLLERR &&
        !(p.revents & POLLOUT)) /* poll() does not wait while the error queue is not read */
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    Py_END_ALLOW_THREADS;
    return check_signals(g->queue);
}

int wait_writable(UdpBatcher *g, int milliseconds) {
    return wait_for_pollout(g, g->fd, milliseconds);
}

int wait_for_room(UdpBatcher *g, int milliseconds) {
    return wait_for_pollout(g, charged_fd(g), milliseconds);
}
