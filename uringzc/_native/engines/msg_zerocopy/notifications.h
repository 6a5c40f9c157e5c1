/* SPDX-License-Identifier: MIT */
#pragma once

#include "engines/msg_zerocopy/state.h"

/* Takes all that is in the socket's error queue, and settles what it reports. */
void read_error_queue(uzc_msg_zerocopy *e, struct sock *s);
/* Whether the kernel holds no memory of zero-copy sends of the socket, with all notifications read. */
bool kernel_holds_nothing(const struct sock *s);
