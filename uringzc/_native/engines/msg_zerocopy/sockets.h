/* SPDX-License-Identifier: MIT */
#pragma once

#include "engines/msg_zerocopy/state.h"

/* The socket that this descriptor is now; NULL: no memory. */
struct sock *sock_of(uzc_msg_zerocopy *e, int fd);
void free_socks(uzc_msg_zerocopy *e);
/* Makes sure that there is a dup_fd, and returns it; -1: no descriptor is free. */
int hold_open(struct sock *s);
/* Adds the socket to the list of those whose epoll set is to be updated. */
void mark_dirty(uzc_msg_zerocopy *e, struct sock *s);
/* To be called when requests may have begun or ended: updates the epoll set and needs_poll; closes dup_fd,
 * and frees a socket whose descriptor was reused, when nothing is outstanding. */
void update_epoll(uzc_msg_zerocopy *e, struct sock *s);
/* Checks the next `max` sockets. */
void abort_closed_connections(uzc_msg_zerocopy *e, uint32_t max);
