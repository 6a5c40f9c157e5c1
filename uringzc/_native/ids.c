/* SPDX-License-Identifier: MIT
 *
 * Whose a zero-copy number is. A table by the number's low bits, which grows when two outstanding ones would
 * share an entry; so it stays as small as what is in flight, and the wrap of the u32 is nothing special.
 */
#include "internal.h"

struct owner {
    uint64_t key; /* 0: none */
    uint32_t id;
};

struct uzc_ids {
    struct owner *owners;
    uint32_t size; /* a power of 2 */
    uint32_t next;
    uint32_t outstanding;
    bool known, failed;
};

uzc_ids *uzc_ids_new(void) {
    uzc_ids *ids = calloc(1, sizeof *ids);
    if (ids && !(ids->owners = calloc(64, sizeof *ids->owners))) {
        free(ids);
        return NULL;
    }
    if (ids)
        ids->size = 64;
    return ids;
}

void uzc_ids_free(uzc_ids *ids) {
    if (ids)
        free(ids->owners);
    free(ids);
}

int uzc_ids_next(const uzc_ids *ids, uint32_t *next) {
    *next = ids->next;
    return ids->known;
}

void uzc_ids_set(uzc_ids *ids, uint32_t next) {
    ids->next = next;
    ids->known = true;
}

static bool grow(uzc_ids *ids) {
    uint32_t size = 2 * ids->size;
    struct owner *owners = calloc(size, sizeof *owners);
    if (!owners)
        return false;
    for (uint32_t i = 0; i < ids->size; i++)
        if (ids->owners[i].key)
            owners[ids->owners[i].id & (size - 1)] = ids->owners[i];
    free(ids->owners);
    ids->owners = owners;
    ids->size = size;
    return true;
}

int uzc_ids_own(uzc_ids *ids, uint64_t key) {
    while (ids->owners[ids->next & (ids->size - 1)].key)
        if (!grow(ids))
            return -ENOMEM;
    ids->owners[ids->next & (ids->size - 1)] = (struct owner){key, ids->next};
    ids->next++;
    ids->outstanding++;
    return 0;
}

void uzc_ids_failed(uzc_ids *ids, int failed) {
    ids->failed = failed;
}

uint64_t uzc_ids_take(uzc_ids *ids, uint32_t id) {
    struct owner *owner = &ids->owners[id & (ids->size - 1)];
    if (owner->key && owner->id == id) {
        uint64_t key = owner->key;
        owner->key = 0;
        ids->outstanding--;
        return key;
    }
    if (ids->failed && id == ids->next) /* the failed one had it */
        ids->next++;
    return 0;
}

uint32_t uzc_ids_outstanding(const uzc_ids *ids) {
    return ids->outstanding;
}
