/* SPDX-License-Identifier: MIT
 *
 * The table of calls of an engine that has ended. `engine` and `slots` are NULL. */
#include "request/ended_engine.h"

static int64_t ended_queue(void *engine, const uzc_send *send) {
    (void)engine, (void)send;
    return UZC_E_CLOSED;
}

static int64_t ended_enter(void *engine, int submit, uint32_t wait, int64_t timeout_ns) {
    (void)engine, (void)submit, (void)wait, (void)timeout_ns;
    return UZC_E_CLOSED;
}

static void ended_revoke(void *engine, int fd) {
    (void)engine, (void)fd;
}

static uzc_slots *ended_slots(void *engine) {
    (void)engine;
    return NULL;
}

static int ended_is_owner(const uzc_slots *slots) {
    (void)slots;
    return 1;
}

static int ended_check(const uzc_slots *slots) {
    (void)slots;
    return UZC_E_CLOSED;
}

static int ended_release(uzc_slots *slots, void **socket, void **memory) {
    (void)slots, (void)socket, (void)memory;
    return 0;
}

static int64_t ended_open_slot(uzc_slots *slots, const uzc_listener *listener) {
    (void)slots, (void)listener;
    return UZC_E_CLOSED;
}

static int ended_close_slot(uzc_slots *slots, uint32_t slot) {
    (void)slots, (void)slot;
    return 0;
}

static int64_t ended_flush_slot(uzc_slots *slots, uint32_t slot) {
    (void)slots, (void)slot;
    return UZC_E_CLOSED;
}

static uint32_t ended_unsettled(const uzc_slots *slots, uint64_t notifier) {
    (void)slots, (void)notifier;
    return 0;
}

static int64_t ended_read_slot(uzc_slots *slots, uint32_t slot, uzc_notification *out, uint32_t max) {
    (void)slots, (void)slot, (void)out, (void)max;
    return UZC_E_CLOSED;
}

static int ended_take_socket_error(void *engine, int fd) {
    (void)engine, (void)fd;
    return 0;
}

const uzc_calls ended_engine_calls = {.queue = ended_queue,
                                      .enter = ended_enter,
                                      .revoke = ended_revoke,
                                      .slots = ended_slots,
                                      .is_owner = ended_is_owner,
                                      .check = ended_check,
                                      .release = ended_release,
                                      .open_slot = ended_open_slot,
                                      .close_slot = ended_close_slot,
                                      .flush_slot = ended_flush_slot,
                                      .unsettled = ended_unsettled,
                                      .read_slot = ended_read_slot,
                                      .take_socket_error = ended_take_socket_error};
