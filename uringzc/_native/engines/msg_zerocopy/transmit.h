/* SPDX-License-Identifier: MIT */
#ifndef UZC_MSG_ZEROCOPY_TRANSMIT_H
#define UZC_MSG_ZEROCOPY_TRANSMIT_H

#include "engines/msg_zerocopy/state.h"

/* What was queued leaves, or waits with its socket. */
void send_queued(uzc_msg_zerocopy *e);
/* What waits with this one. */
void send_waiting(uzc_msg_zerocopy *e, struct sock *s);

#endif
