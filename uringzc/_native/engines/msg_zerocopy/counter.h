/* SPDX-License-Identifier: MIT */
#ifndef UZC_MSG_ZEROCOPY_COUNTER_H
#define UZC_MSG_ZEROCOPY_COUNTER_H

#include "engines/msg_zerocopy/state.h"

/* Where the socket's counter stands, before a send. */
void find_number(uzc_msg_zerocopy *e, struct sock *s, const struct entry *entry);

#endif
