/* SPDX-License-Identifier: MIT */
/* An AF_XDP socket and its rings, which the kernel shares. */
#pragma once

#include <linux/if_xdp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ring {
    _Atomic uint32_t *producer, *consumer; /* entries since the start that were written, and read */
    const _Atomic uint32_t *flags;
    void *entries; /* of the TX ring: struct xdp_desc; of the completion ring: uint64_t */
    uint32_t mask;
    void *map;
    size_t length; /* bytes of the mapping */
};

struct rings {
    int fd;
    struct ring tx, completions;
    bool publishes; /* after each call how many descriptors it took (Linux 6.17) */
};

/* Opens a socket that sends from this memory of `count` frames; -errno. Whatever it returns, close_rings()
 * closes what is open. */
int open_rings(struct rings *r, char *base, uint32_t stride, uint32_t count);
/* Binds the socket to a queue of the device that has no other AF_XDP socket. -EBUSY: there is none. */
int bind_rings(const struct rings *r, uint32_t ifindex, uint16_t flags);
void close_rings(struct rings *r);
