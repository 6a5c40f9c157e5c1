/* SPDX-License-Identifier: MIT */
#ifndef UZC_MSG_ZEROCOPY_SOCKETS_H
#define UZC_MSG_ZEROCOPY_SOCKETS_H

#include "engines/msg_zerocopy/state.h"

/* The socket that this descriptor is now, NULL without memory. */
struct sock *sock_of(uzc_msg_zerocopy *e, int fd);
/* A descriptor of our own, -1 if there is none. */
int hold(struct sock *s);
void touch(uzc_msg_zerocopy *e, struct sock *s);
void settle_down(uzc_msg_zerocopy *e, struct sock *s);
void free_socks(uzc_msg_zerocopy *e);
void end_closed(uzc_msg_zerocopy *e, uint32_t most);

#endif
