/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/socket.h"

#define FIRST_ARRIVAL 200000000 /* ns: how long the first request to a destination is waited for */

/* Whether the first request to a destination has reached the device, or was waited for long enough. */
bool first_arrived(const UdpBatcher *g, const struct destination *d, int outq);
/* Whether a request may be sent to the destination now: the first, and those after its arrival. If so, the
 * destination's state advances; `outq` is outq_bytes(). */
bool admit_to(UdpBatcher *g, struct destination *d, int outq);
/* How many trains of the batch may be submitted now: these are its first then. */
uint32_t admit_trains(UdpBatcher *g);
/* Whether the policy has a train sent zero-copy. */
bool wants_zero_copy(const UdpBatcher *g, const struct train *t);
