/* SPDX-License-Identifier: MIT */
#pragma once

#include "engines/frames/path.h"

/* Sums what is the same in all headers of a path. */
void sum_headers(struct path *p);
/* Writes the headers of a datagram or train in front of its payload, which lies in its frame. Its UDP
 * checksum is that of the pseudo header, for the device to complete, or complete with `whole`. */
void write_headers(uzc_frames *e, const struct path *p, char *payload, uint32_t length, uint32_t segment,
                   bool whole);
