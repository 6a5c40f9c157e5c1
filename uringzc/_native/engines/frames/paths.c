/* SPDX-License-Identifier: MIT */
/* The table of paths: how what a socket sends to an address leaves. Python finds them (engines/paths.py). */
#include "engines/frames/paths.h"

#include <sys/socket.h>

#include "engines/frames/headers.h"

#define MAX_PATHS 65536u /* then all are forgotten */

static uint32_t hash_of(int fd, const void *to, uint32_t to_length) {
    uint32_t hash = 2166136261u ^ (uint32_t)fd;
    for (uint32_t i = 0; i < to_length; i++)
        hash = (hash ^ ((const unsigned char *)to)[i]) * 16777619u;
    return hash ^ hash >> 15;
}

static struct path **chain_of(uzc_frames *e, int fd, const void *to, uint32_t to_length) {
    struct path **link = &e->paths[hash_of(fd, to, to_length) & (e->path_room - 1)];
    while (*link && ((*link)->fd != fd || (*link)->to_length != to_length ||
                     (to_length && memcmp((*link)->to, to, to_length) != 0)))
        link = &(*link)->next;
    return link;
}

static uint32_t peer_of(int fd, char *peer) {
    struct sockaddr_storage at;
    socklen_t length = sizeof at;
    if (getpeername(fd, (struct sockaddr *)&at, &length) < 0 || length > 28)
        return 0;
    memcpy(peer, &at, length);
    return length;
}

/* The program may have connected the socket again. */
static bool is_peer(const struct path *p) {
    char peer[28];
    const uint32_t length = peer_of(p->fd, peer);
    return length == p->peer_length && memcmp(peer, p->peer, length) == 0;
}

struct path *path_of(uzc_frames *e, const uzc_send *send) {
    struct path *p = e->path_room ? *chain_of(e, send->fd, send->to, send->to_length) : NULL;
    return p && !p->to_length && !e->entry_count && !is_peer(p) ? NULL : p;
}

static bool grow(uzc_frames *e) {
    const uint32_t room = e->path_room ? 2 * e->path_room : 64;
    struct path **grown = calloc(room, sizeof(struct path *));
    if (!grown)
        return false;
    for (uint32_t i = 0; i < e->path_room; i++)
        for (struct path *p = e->paths[i], *next; p; p = next) {
            struct path **chain = &grown[hash_of(p->fd, p->to, p->to_length) & (room - 1)];
            next = p->next;
            p->next = *chain;
            *chain = p;
        }
    free(e->paths);
    e->paths = grown;
    e->path_room = room;
    return true;
}

int uzc_frames_set_path(uzc_frames *e, int fd, const char *to, uint32_t to_length, const uzc_path *path) {
    if (to_length > 28 || path->header_length > sizeof path->header)
        return -EINVAL;
    if (e->path_count >= MAX_PATHS)
        uzc_frames_forget_paths(e, -1);
    if (e->path_count >= e->path_room && !grow(e) && !e->path_room)
        return -ENOMEM;
    struct path **chain = chain_of(e, fd, to, to_length), *p = *chain;
    if (!p) {
        p = calloc(1, sizeof *p);
        if (!p)
            return -ENOMEM;
        *chain = p;
        e->path_count++;
    }
    *p = (struct path){.next = p->next, .info = *path, .fd = fd, .to_length = to_length};
    if (to_length)
        memcpy(p->to, to, to_length);
    else
        p->peer_length = peer_of(fd, p->peer);
    if (path->kind == UZC_PATH_FRAME)
        sum_headers(p);
    return 0;
}

static void forget(uzc_frames *e, struct path **link) {
    struct path *p = *link;
    *link = p->next;
    free(p);
    e->path_count--;
}

void uzc_frames_forget_path(uzc_frames *e, int fd, const char *to, uint32_t to_length) {
    struct path **chain = e->path_room ? chain_of(e, fd, to, to_length) : NULL;
    if (chain && *chain)
        forget(e, chain);
}

void uzc_frames_forget_paths(uzc_frames *e, int fd) {
    for (uint32_t i = 0; i < e->path_room; i++)
        for (struct path **link = &e->paths[i]; *link;)
            if (fd < 0 || (*link)->fd == fd)
                forget(e, link);
            else
                link = &(*link)->next;
}

void free_paths(uzc_frames *e) {
    uzc_frames_forget_paths(e, -1);
    free(e->paths);
}
