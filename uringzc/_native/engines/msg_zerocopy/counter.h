/* SPDX-License-Identifier: MIT */
#pragma once

#include "engines/msg_zerocopy/state.h"

/* To be called before the zero-copy send of `entry`: learns the id that it will get, if that is not known.
 * Where it cannot be learned, uzc_ids_next() says so. */
void learn_counter(uzc_msg_zerocopy *e, struct sock *s, const struct entry *entry);
