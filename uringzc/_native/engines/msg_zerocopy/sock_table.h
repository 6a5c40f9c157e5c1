/* SPDX-License-Identifier: MIT */
/* A hash table of sockets by what identifies them: the kernel's cookie (SO_COOKIE), and the inode where
 * cookies are not unique. */
#pragma once

#include "native.h"

/* The first member of an entry. */
struct sock_link {
    uint64_t cookie, inode;
    struct sock_link *next;
};

/* All zero: empty. */
struct sock_table {
    struct sock_link **chains;
    uint32_t size;  /* chains: 0, or a power of 2 */
    uint32_t count; /* entries */
};

struct sock_link *sock_table_find(const struct sock_table *t, uint64_t cookie, uint64_t inode);
/* Of one that is not in the table. False: no memory. */
bool sock_table_insert(struct sock_table *t, struct sock_link *link);
void sock_table_remove(struct sock_table *t, struct sock_link *link);
