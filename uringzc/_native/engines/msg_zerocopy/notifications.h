/* SPDX-License-Identifier: MIT */
#ifndef UZC_MSG_ZEROCOPY_NOTIFICATIONS_H
#define UZC_MSG_ZEROCOPY_NOTIFICATIONS_H

#include "engines/msg_zerocopy/state.h"

/* Everything that is in its error queue. */
void read_errors(uzc_msg_zerocopy *e, struct sock *s);
bool nothing_held(const struct sock *s);

#endif
