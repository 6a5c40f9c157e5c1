/* SPDX-License-Identifier: MIT */
#pragma once

#include "udp/batcher.h"

/* Submits the batch. 0; 1: not all of it, and the sender does not block; -1. */
int submit_batch(UdpBatcher *g);
