/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE /* process_vm_readv() */
#include "engines/read_memory.h"

int64_t uzc_read_memory(uint64_t address, void *out, uint64_t length) {
    return read_memory(out, (const void *)(uintptr_t)address, length);
}
