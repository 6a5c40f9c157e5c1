/* SPDX-License-Identifier: MIT */
/* Zero-copy ids: which request a MSG_ZEROCOPY id belongs to. The kernel counts the zero-copy sends of a
 * socket from 0, in a u32 that wraps and is never reset. So one engine of the process at a time sends
 * zero-copy through a socket, and the counter's last known value is kept for the next, as a guess.
 *
 * The table is indexed by the low bits of the id, and doubles when two outstanding ids would share an entry:
 * it stays as small as what is in flight, and the wrap needs no special case. */
#include <pthread.h>

#include "engines/msg_zerocopy/sock_table.h"

#define MAX_REMEMBERED 4096        /* counters of sockets that no engine uses */
#define MAX_ASSIGNMENTS (1u << 24) /* of one socket */

struct assignment {
    uint64_t key; /* of the request; 0: the entry is free */
    uint32_t id;
};

/* One for each socket that an engine uses or used, in the table of the process. */
struct counter {
    struct sock_link link;
    uint32_t next;
    bool taken; /* an engine uses it; it stays so where the value is lost, and nobody sends zero-copy */
};

struct uzc_ids {
    struct assignment *assignments;
    uint32_t size; /* of assignments: a power of 2 */
    uint32_t next;
    uint32_t oldest;                /* id outstanding; `next` if there is none */
    uint32_t outstanding;           /* how many */
    uint32_t first;                 /* id assigned after the guess */
    uint32_t highest;               /* id reported since the guess */
    uint32_t forks;                 /* when it was opened */
    struct counter *counter;        /* NULL: of uzc_ids_new() */
    bool known;                     /* `next` */
    bool guessed, confirmed, wrong; /* `next`; confirmed when `first` was reported before any other id */
    bool foreign; /* an id was reported that this engine was not assigned: others send zero-copy too */
};

/* -- the counters of the process: any thread, with the lock */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sock_table counters;
static uint32_t remembered; /* of those, how many are not taken */
static uint32_t forks;      /* between the first process and this one */
static bool fork_handlers_registered;

static void before_fork(void) {
    pthread_mutex_lock(&lock);
}

static void in_parent(void) {
    pthread_mutex_unlock(&lock);
}

/* The parent goes on sending, so the child cannot know any counter. */
static void in_child(void) {
    for (uint32_t i = 0; i < counters.size; i++)
        for (struct sock_link *link = counters.chains[i]; link; link = link->next)
            ((struct counter *)link)->taken = true;
    remembered = 0;
    forks++;
    pthread_mutex_init(&lock, NULL);
}

static void register_fork_handlers(void) {
    fork_handlers_registered = pthread_atfork(before_fork, in_parent, in_child) == 0;
}

static struct counter *new_counter(uint64_t cookie, uint64_t inode) {
    struct counter *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->link.cookie = cookie;
    c->link.inode = inode;
    if (!sock_table_insert(&counters, &c->link)) {
        free(c);
        return NULL;
    }
    remembered++;
    return c;
}

static void free_counter(struct counter *c) {
    sock_table_remove(&counters, &c->link);
    remembered--;
    free(c);
}

/* Frees a counter that is not taken; there is one. */
static void free_any_counter(void) {
    static uint32_t chain;
    for (;; chain++)
        for (struct sock_link *link = counters.chains[chain & (counters.size - 1)]; link; link = link->next)
            if (!((struct counter *)link)->taken) {
                free_counter((struct counter *)link);
                return;
            }
}

uzc_ids *uzc_ids_open(uint64_t cookie, uint64_t inode) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_fork_handlers);
    uzc_ids *ids = fork_handlers_registered ? uzc_ids_new() : NULL;
    if (!ids)
        return NULL;
    pthread_mutex_lock(&lock);
    struct counter *c = (struct counter *)sock_table_find(&counters, cookie, inode);
    if (!c)
        c = new_counter(cookie, inode);
    if (c && !c->taken) {
        c->taken = true;
        remembered--;
        ids->counter = c;
        ids->forks = forks;
        ids->next = ids->oldest = c->next;
    }
    pthread_mutex_unlock(&lock);
    if (ids->counter)
        return ids;
    uzc_ids_free(ids);
    return NULL;
}

int uzc_ids_taken(uint64_t cookie, uint64_t inode) {
    pthread_mutex_lock(&lock);
    struct counter *c = (struct counter *)sock_table_find(&counters, cookie, inode);
    int taken = c && c->taken;
    pthread_mutex_unlock(&lock);
    return taken;
}

/* Keeps the counter's value, if it is known, for the next engine, as a guess: others may send before. */
static void return_counter(const uzc_ids *ids) {
    struct counter *c = ids->counter;
    c->next = ids->next;
    c->taken = false;
    remembered++;
    if (!ids->known)
        free_counter(c);
    else if (remembered > MAX_REMEMBERED)
        free_any_counter();
}

void uzc_ids_free(uzc_ids *ids) {
    if (!ids)
        return;
    if (ids->counter && ids->forks == forks && !ids->foreign && !ids->outstanding) {
        pthread_mutex_lock(&lock);
        return_counter(ids);
        pthread_mutex_unlock(&lock);
    }
    free(ids->assignments);
    free(ids);
}

uzc_ids *uzc_ids_new(void) {
    uzc_ids *ids = calloc(1, sizeof *ids);
    if (ids && !(ids->assignments = calloc(64, sizeof *ids->assignments))) {
        free(ids);
        return NULL;
    }
    if (ids)
        ids->size = 64;
    return ids;
}

int uzc_ids_next(const uzc_ids *ids, uint32_t *next) {
    *next = ids->next;
    return ids->known && !ids->wrong && !ids->foreign;
}

void uzc_ids_set(uzc_ids *ids, uint32_t next) {
    if (!ids->outstanding)
        ids->oldest = next;
    else if ((int32_t)(next - ids->next) < 0)
        return;
    ids->next = next;
    ids->known = true;
}

void uzc_ids_guess(uzc_ids *ids) {
    if (ids->outstanding)
        return;
    ids->first = ids->oldest = ids->next;
    ids->known = ids->guessed = true;
    ids->confirmed = ids->wrong = false;
}

void uzc_ids_invalidate(uzc_ids *ids) {
    ids->known = false;
}

static bool grow_assignments(uzc_ids *ids) {
    uint32_t size = 2 * ids->size;
    if (size > MAX_ASSIGNMENTS)
        return false;
    struct assignment *assignments = calloc(size, sizeof *assignments);
    if (!assignments)
        return false;
    for (uint32_t i = 0; i < ids->size; i++)
        if (ids->assignments[i].key)
            assignments[ids->assignments[i].id & (size - 1)] = ids->assignments[i];
    free(ids->assignments);
    ids->assignments = assignments;
    ids->size = size;
    return true;
}

int uzc_ids_reserve(uzc_ids *ids, uint32_t count) {
    for (uint32_t i = 0; i < count;)
        if (!ids->assignments[(ids->next + i) & (ids->size - 1)].key && i < ids->size)
            i++;
        else if (!grow_assignments(ids))
            return -ENOMEM;
        else
            i = 0;
    return 0;
}

void uzc_ids_assign(uzc_ids *ids, uint64_t key) {
    ids->assignments[ids->next & (ids->size - 1)] = (struct assignment){key, ids->next};
    ids->next++;
    ids->outstanding++;
}

/* Whether the guess is known to be right. Nothing of the socket was outstanding when it was made, so the
 * first report after it begins with the guessed id, or the guess was wrong. */
static bool is_confirmed(uzc_ids *ids, uint32_t first, uint32_t last) {
    if (!ids->outstanding) { /* a send of others */
        ids->next = ids->oldest = last + 1;
        return false;
    }
    if (!ids->confirmed && !ids->wrong) {
        ids->highest = last;
        ids->wrong = first != ids->first;
        ids->confirmed = !ids->wrong;
    }
    if ((int32_t)(last - ids->highest) > 0)
        ids->highest = last;
    return ids->confirmed;
}

int uzc_ids_clip(uzc_ids *ids, uint32_t *first, uint32_t *last) {
    if (ids->guessed && !is_confirmed(ids, *first, *last))
        return 0;
    if ((int32_t)(*last - ids->next) >= 0) {
        ids->foreign |= ids->known;
        *last = ids->next - 1;
    }
    if (ids->foreign)
        return 0;
    if ((int32_t)(*first - ids->oldest) < 0)
        *first = ids->oldest;
    return (int32_t)(*last - *first) >= 0;
}

uint64_t uzc_ids_take(uzc_ids *ids, uint32_t id) {
    struct assignment *assignment = &ids->assignments[id & (ids->size - 1)];
    if (!assignment->key || assignment->id != id)
        return 0;
    uint64_t key = assignment->key;
    assignment->key = 0;
    ids->outstanding--;
    while (ids->oldest != ids->next) {
        assignment = &ids->assignments[ids->oldest & (ids->size - 1)];
        if (assignment->key && assignment->id == ids->oldest)
            break;
        ids->oldest++;
    }
    return key;
}

uint32_t uzc_ids_outstanding(const uzc_ids *ids) {
    return ids->outstanding;
}

int uzc_ids_untrusted(const uzc_ids *ids) {
    return ids->outstanding && (ids->wrong || ids->foreign);
}

uint64_t uzc_ids_take_any(uzc_ids *ids) {
    uint64_t key = ids->outstanding ? uzc_ids_take(ids, ids->oldest) : 0;
    if (!ids->outstanding && ids->wrong) {
        ids->next = ids->oldest = ids->highest + 1;
        ids->wrong = false;
    }
    return key;
}
