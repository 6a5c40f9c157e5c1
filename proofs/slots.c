/* SPDX-License-Identifier: MIT */
/* Random use of slot accounting, without an engine: requests are attached, have results and settle in any
 * order, with stale keys among them; slots are flushed, updated, registered anew and closed. Ends with 1
 * unless every request completes and settles once, each is in one notification, and every reference comes
 * back once. Arguments: the first program, how many, steps of each. With CONTROL it does what memcheck has to
 * report. */
#include <stdio.h>

#include "slots/accounting.h"

#ifndef CONTROL
#define CONTROL 0
#endif
enum { DROP_TWICE = 1, DROP_NEVER, READ_UNWRITTEN };

#define MAX_INFLIGHT 64
#define SLOTS 8
#define OBJECTS 4
#define CHECK(what)                                                                                          \
    do {                                                                                                     \
        if (!(what)) {                                                                                       \
            fprintf(stderr, "program %u, line %d: not %s\n", program, __LINE__, #what);                      \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

/* What requests hold: freed with its last reference, so that memcheck sees one too many, or too few. */
struct object {
    unsigned references;
};

struct request {
    uint64_t key, user_data;
    bool awaiting, unsettled;
};

static unsigned program;
static uint64_t random_state;
static uzc_slots *slots;
static struct object *objects[OBJECTS];
static struct request requests[MAX_INFLIGHT];
static unsigned in_flight;
static uint32_t sender;              /* its slot; 0: there is none */
static uint8_t *completed, *settled; /* of each user_data: how often */
static uint64_t attached, notified;

static unsigned below(unsigned limit) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)(random_state >> 33) % limit;
}

static void drop(struct object *object) {
    if (--object->references == 0)
        free(object);
}

static void on_result(void *context, uint64_t user_data, int32_t result) {
    CHECK(context == &sender && user_data < attached && result >= -ECANCELED);
    completed[user_data]++;
}

static void on_settled(void *context, uint64_t user_data, int copied) {
    CHECK(context == &sender && completed[user_data] == 1 && copied <= 1);
}

static void renew_object(void) {
    struct object **object = &objects[below(OBJECTS)];
    if (*object)
        drop(*object);
    *object = malloc(sizeof **object);
    if (CONTROL != READ_UNWRITTEN)
        (*object)->references = 1;
}

static void attach(uint64_t limit) {
    struct object *socket = objects[below(OBJECTS)], *memory = objects[below(OBJECTS)];
    uint32_t count = 1 + below(5), references = 0;
    if (!socket || !memory || attached + count > limit)
        return;
    const uzc_send send = {.socket = socket,
                           .memory = memory,
                           .length = 100 + below(2),
                           .slot = sender && below(3) == 0 ? sender : below(SLOTS + 1),
                           .datagram = below(4) > 0};
    const int64_t key = uzc_slots_attach(slots, &send, attached, &count, &references);
    if (key < 0) {
        CHECK(!references);
        return;
    }
    CHECK(count >= 1 && in_flight + count <= MAX_INFLIGHT && references <= 1);
    socket->references += references;
    memory->references += references;
    for (uint32_t i = 0; i < count; i++)
        requests[in_flight++] =
            (struct request){(uint64_t)key + (uint64_t)i * UZC_KEY_STEP, attached + i, true, true};
    attached += count;
}

/* Of any request: its result, or that it settles, which may come first. Stray is what comes twice. */
static void report(void) {
    if (!in_flight)
        return;
    const unsigned index = below(in_flight);
    struct request *r = &requests[index];
    const uint64_t key = r->key, user_data = r->user_data;
    if (below(2)) {
        CHECK(uzc_slots_result(slots, key, below(4) ? 100 : -(int)EPERM, 2) == (r->awaiting ? 0 : -ENOENT));
        r->awaiting = false;
        return;
    }
    CHECK(uzc_slots_settle(slots, key, (int)below(3) - 1, 0) == 0);
    CHECK(!settled[user_data]++);
    *r = requests[--in_flight];
    CHECK(uzc_slots_settle(slots, key, 0, 0) == -ENOENT);
}

static void read_records(void) {
    uzc_completion completions[7];
    uzc_notification notifications[3];
    for (int64_t i = uzc_slots_completions(slots, completions, 7); i-- > 0;) {
        CHECK(completions[i].user_data < attached);
        completed[completions[i].user_data]++;
    }
    for (int64_t i = uzc_slots_notifications(slots, notifications, 3); i-- > 0;)
        notified += notifications[i].requests;
    while (sender && uzc_slots_read_internal(slots, sender, notifications, 1) > 0)
        notified += notifications[0].requests;
}

static void release(void) {
    void *socket, *memory;
    while (uzc_slots_release(slots, &socket, &memory)) {
        drop(socket);
        if (CONTROL == DROP_TWICE)
            drop(socket);
        if (CONTROL != DROP_NEVER)
            drop(memory);
    }
}

static void register_slots(void) {
    uint64_t tags[SLOTS];
    for (uint64_t i = 0; i < SLOTS; i++)
        tags[i] = i * i;
    uzc_slots_register(slots, tags, SLOTS - below(3));
}

static void open_or_close_sender(void) {
    const uzc_listener listener = {&sender, on_result, on_settled};
    if (!sender) {
        const int64_t slot = uzc_slots_open_internal(slots, &listener);
        sender = slot > 0 ? (uint32_t)slot : 0;
        return;
    }
    uzc_slots_flush_internal(slots, sender);
    read_records();
    if (uzc_slots_close_internal(slots, sender) == 0)
        sender = 0;
}

static void step(uint64_t limit) {
    const unsigned what = below(100);
    if (what < 45) {
        CHECK(uzc_slots_begin_any(slots) == 0);
        what < 20 ? attach(limit) : report();
        uzc_slots_end(slots);
    } else if (what < 60)
        uzc_slots_flush(slots, below(SLOTS + 2));
    else if (what < 76)
        read_records();
    else if (what < 86)
        release();
    else if (what < 92)
        renew_object();
    else if (what < 94)
        uzc_slots_update(slots, below(SLOTS), below(SLOTS), below(9), (int)below(2));
    else if (what < 96)
        open_or_close_sender();
    else if (what < 98)
        register_slots();
    else if (what < 99)
        uzc_slots_unregister(slots);
    else
        uzc_slots_clock(slots, below(3));
}

static void run(unsigned steps) {
    const uint64_t limit = 5 * (uint64_t)steps;
    attached = notified = in_flight = sender = 0;
    completed = calloc(limit, 1);
    settled = calloc(limit, 1);
    slots = uzc_slots_new(MAX_INFLIGHT, UZC_ALL);
    CHECK(slots && completed && settled && uzc_slots_claim(slots) == 0);
    register_slots();
    for (unsigned i = 0; i < steps; i++)
        step(limit);
    uzc_slots_close(slots);
    while (in_flight) {
        CHECK(uzc_slots_begin_any(slots) == 0);
        report();
        uzc_slots_end(slots);
        read_records();
    }
    uzc_stats stats;
    for (uzc_slots_stats(slots, &stats); stats.unread_completions || stats.unread_notifications;
         uzc_slots_stats(slots, &stats))
        read_records();
    read_records();
    release();
    uzc_slots_stats(slots, &stats);
    CHECK(!stats.in_flight && !stats.held && !stats.open && !stats.flushed && stats.requests == attached);
    CHECK(notified == attached);
    for (uint64_t i = 0; i < attached; i++)
        CHECK(completed[i] == 1 && settled[i] == 1);
    for (int i = 0; i < OBJECTS; i++)
        if (objects[i])
            drop(objects[i]);
    memset(objects, 0, sizeof objects);
    uzc_slots_free(slots);
    free(completed);
    free(settled);
}

int main(int count, char **arguments) {
    if (count != 4)
        return 2;
    const unsigned first = (unsigned)atoi(arguments[1]), end = first + (unsigned)atoi(arguments[2]);
    uint64_t total = 0;
    for (program = first; program < end; program++) {
        random_state = program * 0x9e3779b97f4a7c15u;
        run((unsigned)atoi(arguments[3]));
        total += attached;
    }
    printf("%llu\n", (unsigned long long)total);
    return 0;
}
