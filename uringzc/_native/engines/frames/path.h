/* SPDX-License-Identifier: MIT */
#pragma once

#include "engines/frames/frames.h"

/* How what a socket sends to an address leaves: an entry of the table of paths. */
struct path {
    struct path *next; /* in its chain */
    uzc_path info;
    uint32_t ip_sum;     /* of the IPv4 header, with lengths, id and checksum 0 */
    uint32_t pseudo_sum; /* of the pseudo header of the UDP checksum, without the length */
    int fd;
    bool asked; /* a request has left through the socket, as `ask` wants */
    uint32_t to_length, peer_length;
    char to[28];
    char peer[28]; /* where the socket was connected to, of a path without `to` */
};
