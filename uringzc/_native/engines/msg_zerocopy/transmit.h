/* SPDX-License-Identifier: MIT */
#pragma once

#include "engines/msg_zerocopy/state.h"

/* Sends all queued entries; those for which there is no room wait with their socket. */
void send_queued(uzc_msg_zerocopy *e);
/* Sends what waits with this socket, as far as there is room. */
void send_waiters(uzc_msg_zerocopy *e, struct sock *s);
