/* SPDX-License-Identifier: MIT */
#include "engines/af_xdp/rings.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef XDP_MAX_TX_SKB_BUDGET
#define XDP_MAX_TX_SKB_BUDGET 9 /* Linux 6.17 */
#endif

#define SNDBUF (256 << 20) /* the frames are the limit, not the socket's buffer */
#define QUEUES_MAX 4096u   /* of a device, as of the kernel */

static int set_option(const struct rings *r, int name, uint32_t value) {
    return setsockopt(r->fd, SOL_XDP, name, &value, sizeof value) < 0 ? -errno : 0;
}

static int map_ring(const struct rings *r, struct ring *out, const struct xdp_ring_offset *at, uint32_t size,
                    size_t entry, off_t offset) {
    const size_t length = at->desc + size * entry;
    char *map = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, offset);
    if (map == MAP_FAILED)
        return -errno;
    *out = (struct ring){.producer = (_Atomic uint32_t *)(map + at->producer),
                         .consumer = (_Atomic uint32_t *)(map + at->consumer),
                         .flags = (const _Atomic uint32_t *)(map + at->flags),
                         .entries = map + at->desc,
                         .mask = size - 1,
                         .map = map,
                         .length = length};
    return 0;
}

static int map_rings(struct rings *r, uint32_t size) {
    struct xdp_mmap_offsets at;
    socklen_t length = sizeof at;
    if (getsockopt(r->fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &length) < 0)
        return -errno;
    if (length != sizeof at) /* before Linux 5.4 */
        return -EOPNOTSUPP;
    int error = map_ring(r, &r->tx, &at.tx, size, sizeof(struct xdp_desc), XDP_PGOFF_TX_RING);
    return error ? error
                 : map_ring(r, &r->completions, &at.cr, 2 * size, sizeof(uint64_t),
                            (off_t)XDP_UMEM_PGOFF_COMPLETION_RING);
}

int open_rings(struct rings *r, char *base, uint32_t stride, uint32_t count) {
    const struct xdp_umem_reg memory = {
        .addr = (uintptr_t)base, .len = (uint64_t)count * stride, .chunk_size = stride};
    uint32_t size = 2; /* a power of two */
    while (size < count)
        size *= 2;
    r->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (r->fd < 0 || setsockopt(r->fd, SOL_XDP, XDP_UMEM_REG, &memory, sizeof memory) < 0)
        return -errno;
    int error = set_option(r, XDP_UMEM_FILL_RING, 2); /* nothing is received, but bind() wants one */
    if (!error)
        error = set_option(r, XDP_UMEM_COMPLETION_RING, 2 * size);
    if (!error)
        error = set_option(r, XDP_TX_RING, size);
    if (!error)
        error = map_rings(r, size);
    /* One call takes all, else 32 or 16. It came with the publishing of what a call took. */
    r->publishes = set_option(r, XDP_MAX_TX_SKB_BUDGET, size) != -ENOPROTOOPT;
    if (setsockopt(r->fd, SOL_SOCKET, SO_SNDBUFFORCE, &(int){SNDBUF}, sizeof(int)) < 0)
        setsockopt(r->fd, SOL_SOCKET, SO_SNDBUF, &(int){SNDBUF}, sizeof(int));
    return error;
}

int bind_rings(const struct rings *r, uint32_t ifindex, uint16_t flags) {
    for (uint32_t queue = 0; queue < QUEUES_MAX; queue++) {
        const struct sockaddr_xdp at = {
            .sxdp_family = AF_XDP, .sxdp_flags = flags, .sxdp_ifindex = ifindex, .sxdp_queue_id = queue};
        if (bind(r->fd, (const struct sockaddr *)&at, sizeof at) == 0)
            return 0;
        if (errno != EBUSY) /* EINVAL: it has no more queues */
            return queue && errno == EINVAL ? -EBUSY : -errno;
    }
    return -EBUSY;
}

void close_rings(struct rings *r) {
    if (r->tx.map)
        munmap(r->tx.map, r->tx.length);
    if (r->completions.map)
        munmap(r->completions.map, r->completions.length);
    if (r->fd >= 0)
        close(r->fd);
}
