/* SPDX-License-Identifier: MIT */
#ifndef UZC_MSG_ZEROCOPY_COUNTER_H
#define UZC_MSG_ZEROCOPY_COUNTER_H

#include "engines/msg_zerocopy/state.h"

/* To be called before the zero-copy send of `entry`: learns the id that it will get, if that is not known.
 * Where it can not be learned, uzc_ids_next() says so. */
void learn_counter(uzc_msg_zerocopy *e, struct sock *s, const struct entry *entry);

#endif
