/* SPDX-License-Identifier: MIT */
/* Results and settled requests, reported together where they are of one run of the request table. */
#include "engines/frames/results.h"

/* The key of place 0 of the same run. */
static uint64_t run_of_key(uint64_t key) {
    return key - (uint64_t)uzc_key_place(key) * UZC_KEY_STEP;
}

static uint32_t place_bit(uint64_t key) {
    return 1u << uzc_key_place(key);
}

void report_taken(uzc_frames *e, const struct entry *entries, uint32_t count) {
    for (uint32_t i = 0; i < count;) {
        const struct entry *first = &entries[i];
        uint32_t places = 0;
        while (i < count && run_of_key(entries[i].key) == run_of_key(first->key) &&
               entries[i].length == first->length)
            places |= place_bit(entries[i++].key);
        uzc_slots_results(e->slots, first->key, places, (int32_t)first->length, 0);
    }
    e->progress += count;
}

void report_end(uzc_frames *e, const struct entry *n, int32_t result, int copied) {
    uzc_slots_result(e->slots, n->key, result, 0);
    uzc_slots_settle(e->slots, n->key, copied, 0);
    e->progress++;
}

void frame_settled(uzc_frames *e, uint32_t frame) {
    const uint64_t key = e->keys[frame];
    const int copied = e->copied[frame] ? 1 : e->kernel_copies;
    if (e->settled.places && (run_of_key(e->settled.key) != run_of_key(key) || e->settled.copied != copied))
        report_settled(e);
    e->settled.key = key;
    e->settled.copied = copied;
    e->settled.places |= place_bit(key);
    e->keys[frame] = 0;
    release_copy(e, frame);
}

void report_settled(uzc_frames *e) {
    if (!e->settled.places)
        return;
    uzc_slots_settle_all(e->slots, e->settled.key, e->settled.places, e->settled.copied, 0);
    e->settled.places = 0;
    e->progress++;
}
