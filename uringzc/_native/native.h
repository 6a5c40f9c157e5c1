/* SPDX-License-Identifier: MIT */
/* Included by every C file: standard headers, and the boundary to Python. */
#pragma once

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "uringzc.h"

/* udp_bulk.py takes a long for 8 bytes, error_queue.py the length of a struct cmsghdr, and pointers pass as
 * u64 */
_Static_assert(sizeof(void *) == 8 && sizeof(long) == 8 && sizeof(size_t) == 8,
               "uringzc is for 64-bit machines");
