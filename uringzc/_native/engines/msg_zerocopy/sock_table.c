/* SPDX-License-Identifier: MIT */
#include "engines/msg_zerocopy/sock_table.h"

#define MIN_CHAINS 64

static struct sock_link **chain_of(struct sock_link **chains, uint32_t size, uint64_t cookie,
                                   uint64_t inode) {
    uint64_t hash = (cookie + 31 * inode) * 0x9e3779b97f4a7c15; /* 2^64 / golden ratio */
    return &chains[(hash >> 32) & (size - 1)];
}

struct sock_link *sock_table_find(const struct sock_table *t, uint64_t cookie, uint64_t inode) {
    struct sock_link *link = t->count ? *chain_of(t->chains, t->size, cookie, inode) : NULL;
    while (link && (link->cookie != cookie || link->inode != inode))
        link = link->next;
    return link;
}

/* Doubles the chains; without memory the old ones stay, and grow longer. */
static void grow_chains(struct sock_table *t) {
    const uint32_t size = t->size ? 2 * t->size : MIN_CHAINS;
    struct sock_link **chains = size ? calloc(size, sizeof(struct sock_link *)) : NULL;
    if (!chains)
        return;
    for (uint32_t i = 0; i < t->size; i++)
        for (struct sock_link *link = t->chains[i], *next; link; link = next) {
            struct sock_link **chain = chain_of(chains, size, link->cookie, link->inode);
            next = link->next;
            link->next = *chain;
            *chain = link;
        }
    free(t->chains);
    t->chains = chains;
    t->size = size;
}

bool sock_table_insert(struct sock_table *t, struct sock_link *link) {
    if (t->count >= t->size)
        grow_chains(t);
    if (!t->size)
        return false;
    struct sock_link **chain = chain_of(t->chains, t->size, link->cookie, link->inode);
    link->next = *chain;
    *chain = link;
    t->count++;
    return true;
}

void sock_table_remove(struct sock_table *t, struct sock_link *link) {
    struct sock_link **at = chain_of(t->chains, t->size, link->cookie, link->inode);
    while (*at != link)
        at = &(*at)->next;
    *at = link->next;
    t->count--;
}
