/* SPDX-License-Identifier: MIT */
#pragma once

typedef struct udp_batcher UdpBatcher;

/* Submits the batch. 0; 1: not all of it, and the sender does not block; -1. */
int submit_batch(UdpBatcher *g);
