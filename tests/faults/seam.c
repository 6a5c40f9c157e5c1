/* SPDX-License-Identifier: MIT */
/* The calls of the two compiled modules to the kernel, libc and CPython's allocators, made to fail: wrappers
 * that seam.py puts into the global offset tables of the loaded modules. A plan says which calls fail, and
 * how. seam_ring.h is about SQEs and CQEs, seam_queue.h about the error queues of sockets. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <limits.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <liburing.h>

/* -- calls. How each says that it failed: -1 and errno; NULL and errno; a negative or positive error number;
 * or as a function of CPython, by NULL or -1 and MemoryError */

#define MINUS(error) (errno = (error), -1)
#define NOTHING(error) (errno = (error), NULL)
#define UNMAPPED(error) (errno = (error), MAP_FAILED)
#define NEGATIVE(error) (-(error))
#define POSITIVE(error) (error)
#define PY_NULL(error) (PyErr_NoMemory(), NULL)
#define PY_MINUS(error) (PyErr_NoMemory(), -1)

#define NONE (-1)
typedef void Object; /* PyObject */
typedef ssize_t Size;
extern Object *PyErr_NoMemory(void);

/* X(failure, type, name, descriptor, parameters, arguments): those that only fail or not */
#define SIMPLE_CALLS(X)                                                                                      \
    X(MINUS, int, socket, NONE, (int a, int b, int c), (a, b, c))                                            \
    X(MINUS, int, socketpair, NONE, (int a, int b, int c, int *d), (a, b, c, d))                             \
    X(MINUS, int, bind, fd, (int fd, const void *b, socklen_t c), (fd, b, c))                                \
    X(MINUS, int, connect, fd, (int fd, const void *b, socklen_t c), (fd, b, c))                             \
    X(MINUS, int, shutdown, fd, (int fd, int b), (fd, b))                                                    \
    X(MINUS, int, getpeername, fd, (int fd, void *b, socklen_t *c), (fd, b, c))                              \
    X(MINUS, int, getsockopt, fd, (int fd, int b, int c, void *d, socklen_t *e), (fd, b, c, d, e))           \
    X(MINUS, int, setsockopt, fd, (int fd, int b, int c, const void *d, socklen_t e), (fd, b, c, d, e))      \
    X(MINUS, int, ioctl, fd, (int fd, unsigned long b, void *c), (fd, b, c))                                 \
    X(MINUS, int, fcntl, fd, (int fd, int b, void *c), (fd, b, c))                                           \
    X(MINUS, int, fstat, fd, (int fd, struct stat *b), (fd, b))                                              \
    X(MINUS, ssize_t, read, fd, (int fd, void *b, size_t c), (fd, b, c))                                     \
    X(MINUS, ssize_t, write, fd, (int fd, const void *b, size_t c), (fd, b, c))                              \
    X(MINUS, int, eventfd, NONE, (unsigned a, int b), (a, b))                                                \
    X(MINUS, int, epoll_create1, NONE, (int a), (a))                                                         \
    X(MINUS, int, timerfd_create, NONE, (int a, int b), (a, b))                                              \
    X(MINUS, int, timerfd_settime, fd, (int fd, int b, const void *c, void *d), (fd, b, c, d))               \
    X(MINUS, int, nanosleep, NONE, (const void *a, void *b), (a, b))                                         \
    X(POSITIVE, int, clock_nanosleep, NONE, (clockid_t a, int b, const void *c, void *d), (a, b, c, d))      \
    X(MINUS, int, madvise, NONE, (void *a, size_t b, int c), (a, b, c))                                      \
    X(MINUS, int, sched_getaffinity, NONE, (pid_t a, size_t b, void *c), (a, b, c))                          \
    X(MINUS, ssize_t, process_vm_readv, NONE,                                                                \
      (pid_t a, const void *b, unsigned long c, const void *d, unsigned long e, unsigned long f),            \
      (a, b, c, d, e, f))                                                                                    \
    X(NOTHING, void *, opendir, NONE, (const char *a), (a))                                                  \
    X(NOTHING, void *, PyThread_allocate_lock, NONE, (void), ())                                             \
    X(PY_NULL, Object *, PyType_GenericAlloc, NONE, (Object * a, Size b), (a, b))                            \
    X(PY_NULL, Object *, PyBytes_FromStringAndSize, NONE, (const char *a, Size b), (a, b))                   \
    X(PY_NULL, Object *, PyByteArray_FromStringAndSize, NONE, (const char *a, Size b), (a, b))               \
    X(PY_NULL, Object *, PyList_New, NONE, (Size a), (a))                                                    \
    X(PY_NULL, Object *, PyTuple_New, NONE, (Size a), (a))                                                   \
    X(PY_NULL, Object *, PyTuple_GetSlice, NONE, (Object * a, Size b, Size c), (a, b, c))                    \
    X(PY_NULL, Object *, PyDict_New, NONE, (void), ())                                                       \
    X(PY_NULL, Object *, PySequence_List, NONE, (Object * a), (a))                                           \
    X(PY_NULL, Object *, PyLong_FromLongLong, NONE, (long long a), (a))                                      \
    X(PY_NULL, Object *, PyLong_FromUnsignedLong, NONE, (unsigned long a), (a))                              \
    X(PY_NULL, Object *, PyLong_FromUnsignedLongLong, NONE, (unsigned long long a), (a))                     \
    X(PY_NULL, Object *, PyMemoryView_FromObject, NONE, (Object * a), (a))                                   \
    X(PY_NULL, Object *, PyWeakref_NewRef, NONE, (Object * a, Object * b), (a, b))                           \
    X(PY_NULL, Object *, PyCapsule_New, NONE, (void *a, const char *b, void *c), (a, b, c))                  \
    X(PY_MINUS, int, PyByteArray_Resize, NONE, (Object * a, Size b), (a, b))                                 \
    X(PY_MINUS, int, PyList_Append, NONE, (Object * a, Object * b), (a, b))                                  \
    X(PY_MINUS, int, PyDict_SetItem, NONE, (Object * a, Object * b, Object * c), (a, b, c))                  \
    X(NEGATIVE, int, io_uring_queue_init, NONE, (unsigned a, struct io_uring *b, unsigned c), (a, b, c))     \
    X(NEGATIVE, int, io_uring_ring_dontfork, NONE, (struct io_uring * a), (a))                               \
    X(NEGATIVE, int, io_uring_register_eventfd, NONE, (struct io_uring * a, int b), (a, b))                  \
    X(NOTHING, void *, io_uring_get_probe_ring, NONE, (struct io_uring * a), (a))                            \
    X(NEGATIVE, int, io_uring_submit, NONE, (struct io_uring * a), (a))                                      \
    X(NEGATIVE, int, __io_uring_get_cqe, NONE,                                                               \
      (struct io_uring * a, void *b, unsigned c, unsigned d, void *e), (a, b, c, d, e))

/* those below, which do more: the same without failure */
#define OTHER_CALLS(X)                                                                                       \
    X(void *, malloc, (size_t))                                                                              \
    X(void *, calloc, (size_t, size_t))                                                                      \
    X(void *, realloc, (void *, size_t))                                                                     \
    X(void, free, (void *))                                                                                  \
    X(void *, PyMem_Malloc, (size_t))                                                                        \
    X(void *, PyMem_Calloc, (size_t, size_t))                                                                \
    X(void *, PyMem_Realloc, (void *, size_t))                                                               \
    X(void, PyMem_Free, (void *))                                                                            \
    X(void *, mmap, (void *, size_t, int, int, int, off_t))                                                  \
    X(int, munmap, (void *, size_t))                                                                         \
    X(int, close, (int))                                                                                     \
    X(long, syscall, (long, long, long, long, long, long, long))                                             \
    X(ssize_t, send, (int, const void *, size_t, int))                                                       \
    X(ssize_t, sendto, (int, const void *, size_t, int, const void *, socklen_t))                            \
    X(ssize_t, sendmsg, (int, const struct msghdr *, int))                                                   \
    X(int, sendmmsg, (int, struct mmsghdr *, unsigned, int))                                                 \
    X(int, recvmmsg, (int, struct mmsghdr *, unsigned, int, struct timespec *))                              \
    X(int, poll, (struct pollfd *, nfds_t, int))                                                             \
    X(int, epoll_ctl, (int, int, int, struct epoll_event *))                                                 \
    X(int, epoll_wait, (int, struct epoll_event *, int, int))                                                \
    X(int, io_uring_queue_init_params, (unsigned, struct io_uring *, struct io_uring_params *))              \
    X(void, io_uring_queue_exit, (struct io_uring *))                                                        \
    X(int, io_uring_register_ring_fd, (struct io_uring *))                                                   \
    X(int, io_uring_submit_and_wait, (struct io_uring *, unsigned))                                          \
    X(int, io_uring_submit_and_wait_timeout,                                                                 \
      (struct io_uring *, struct io_uring_cqe **, unsigned, struct __kernel_timespec *, sigset_t *))         \
    X(int, io_uring_get_events, (struct io_uring *))                                                         \
    X(int, io_uring_enter2, (unsigned, unsigned, unsigned, unsigned, sigset_t *, size_t))

#define SIMPLE_NUMBER(failure, type, name, fd, parameters, arguments) N_##name,
#define OTHER_NUMBER(type, name, parameters) N_##name,
enum {
    SIMPLE_CALLS(SIMPLE_NUMBER) OTHER_CALLS(OTHER_NUMBER) N_io_uring_register, /* by syscall() */
    N_submission, /* by a call that has SQEs to submit */
    N_SQE,        /* each SQE that is submitted */
    CALLS
};

#define SIMPLE_REAL(failure, type, name, fd, parameters, arguments) type(*name) parameters;
#define OTHER_REAL(type, name, parameters) type(*name) parameters;
static struct {
    SIMPLE_CALLS(SIMPLE_REAL)
    OTHER_CALLS(OTHER_REAL)
} real; /* what the modules called before */

/* -- plans */

enum { FAIL, SHORTEN };

struct plan {
    bool calls[CALLS];
    bool any_socket;
    dev_t device; /* of the socket: descriptors are duplicated */
    ino_t inode;
    int kind, value, signal;
    bool alone; /* of an SQE: without a notification */
    int64_t after, times, injected;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct plan plans[256];
static int plan_count;
static int64_t calls_made[CALLS];
static int paused; /* a test looks at something by calls that are none of its schedule's */

static bool is_for(const struct plan *p, int call, int kind, int fd) {
    struct stat status;
    if (paused || !p->calls[call] || p->kind != kind || !p->times)
        return false;
    return p->any_socket ||
           (fd >= 0 && fstat(fd, &status) == 0 && status.st_dev == p->device && status.st_ino == p->inode);
}

/* The plan for this call, which is used by that; NULL: there is none. The call passes all plans that wait. */
static struct plan *take_plan(int call, int kind, int fd) {
    struct plan *taken = NULL;
    for (int i = 0; i < plan_count; i++) {
        struct plan *p = &plans[i];
        if (!is_for(p, call, kind, fd))
            continue;
        if (p->after)
            p->after--;
        else if (!taken)
            taken = p;
    }
    if (taken) {
        taken->times--;
        taken->injected++;
    }
    return taken;
}

/* The error with which this call fails; 0: it is made. */
static int refusal(int call, int fd) {
    const int saved = errno;
    pthread_mutex_lock(&lock);
    calls_made[call]++;
    const struct plan *p = take_plan(call, FAIL, fd);
    const int error = p ? p->value : 0, number = p ? p->signal : 0;
    pthread_mutex_unlock(&lock);
    if (number)
        pthread_kill(pthread_self(), number); /* as if it had interrupted the call */
    errno = saved;
    return error;
}

/* How much of it the call may do; `all` if no plan says less. */
static size_t amount(int call, int fd, size_t all) {
    const int saved = errno;
    pthread_mutex_lock(&lock);
    const struct plan *p = all > 1 ? take_plan(call, SHORTEN, fd) : NULL;
    const size_t some = p && (size_t)p->value < all ? (size_t)p->value : all;
    pthread_mutex_unlock(&lock);
    errno = saved;
    return some;
}

#define WRAP(failure, type, name, fd, parameters, arguments)                                                 \
    static type seam_##name parameters {                                                                     \
        const int error = refusal(N_##name, fd);                                                             \
        return error ? failure(error) : real.name arguments;                                                 \
    }
SIMPLE_CALLS(WRAP)

static long seam_syscall(long number, long a, long b, long c, long d, long e, long f) {
    const int error = refusal(number == __NR_io_uring_register ? N_io_uring_register : N_syscall, NONE);
    return error ? MINUS(error) : real.syscall(number, a, b, c, d, e, f);
}

/* -- memory: how much of it the modules have is counted */

static _Atomic int64_t allocated; /* blocks and mappings */

#define ALLOCATE(name, parameters, arguments, before)                                                        \
    static void *seam_##name parameters {                                                                    \
        const int error = refusal(N_##name, NONE);                                                           \
        if (error)                                                                                           \
            return NOTHING(error);                                                                           \
        void *block = real.name arguments;                                                                   \
        allocated += block && !(before);                                                                     \
        return block;                                                                                        \
    }
#define FREE(name)                                                                                           \
    static void seam_##name(void *block) {                                                                   \
        allocated -= block != NULL;                                                                          \
        real.name(block);                                                                                    \
    }
ALLOCATE(malloc, (size_t a), (a), NULL)
ALLOCATE(calloc, (size_t a, size_t b), (a, b), NULL)
ALLOCATE(realloc, (void *a, size_t b), (a, b), a)
FREE(free)
ALLOCATE(PyMem_Malloc, (size_t a), (a), NULL)
ALLOCATE(PyMem_Calloc, (size_t a, size_t b), (a, b), NULL)
ALLOCATE(PyMem_Realloc, (void *a, size_t b), (a, b), a)
FREE(PyMem_Free)

static void *seam_mmap(void *a, size_t b, int c, int d, int e, off_t f) {
    const int error = refusal(N_mmap, NONE);
    void *mapped = error ? UNMAPPED(error) : real.mmap(a, b, c, d, e, f);
    allocated += mapped != MAP_FAILED && !(d & (MAP_FIXED | MAP_FIXED_NOREPLACE));
    return mapped;
}

static int seam_munmap(void *mapped, size_t size) {
    const int result = real.munmap(mapped, size);
    allocated -= result == 0;
    return result;
}

/* -- sending */

static ssize_t seam_send(int fd, const void *data, size_t length, int flags) {
    const int error = refusal(N_send, fd);
    return error ? MINUS(error) : real.send(fd, data, amount(N_send, fd, length), flags);
}

static ssize_t seam_sendto(int fd, const void *data, size_t length, int flags, const void *to,
                           socklen_t to_length) {
    const int error = refusal(N_sendto, fd);
    return error ? MINUS(error) : real.sendto(fd, data, amount(N_sendto, fd, length), flags, to, to_length);
}

/* Makes the pieces `bytes` long together; returns what must be put back. */
static struct iovec shorten(struct msghdr *m, size_t bytes) {
    size_t i = 0;
    while (i < m->msg_iovlen && bytes > m->msg_iov[i].iov_len)
        bytes -= m->msg_iov[i++].iov_len;
    const struct iovec before = m->msg_iov[i];
    m->msg_iov[i].iov_len = bytes;
    m->msg_iovlen = i + 1;
    return before;
}

static size_t bytes_of(const struct msghdr *m) {
    size_t bytes = 0;
    for (size_t i = 0; i < m->msg_iovlen; i++)
        bytes += m->msg_iov[i].iov_len;
    return bytes;
}

static _Thread_local int probed_fd = -1; /* an invalid zero-copy send was made through it: see seam_queue.h */

static ssize_t seam_sendmsg(int fd, const struct msghdr *message, int flags) {
    const int error = refusal(N_sendmsg, fd);
    if (error)
        return MINUS(error);
    const size_t bytes = bytes_of(message), some = amount(N_sendmsg, fd, bytes);
    struct msghdr m = *message;
    struct iovec before;
    if (some < bytes)
        before = shorten(&m, some);
    const ssize_t sent = real.sendmsg(fd, &m, flags);
    if (some < bytes)
        m.msg_iov[m.msg_iovlen - 1] = before;
    if (sent < 0 && flags & MSG_ZEROCOPY)
        probed_fd = fd;
    return sent;
}

static int seam_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) {
    const int error = refusal(N_sendmmsg, fd);
    if (error)
        return MINUS(error);
    const unsigned some = (unsigned)amount(N_sendmmsg, fd, count);
    return some ? real.sendmmsg(fd, messages, some, flags) : MINUS(EAGAIN);
}

#include "seam_queue.h"
#include "seam_ring.h"

static int seam_close(int fd) {
    forget_fd(fd);
    return real.close(fd);
}

/* -- the table, and the modules' global offset tables */

#define SIMPLE_ROW(failure, type, name, fd, parameters, arguments)                                           \
    {#name, (void *)seam_##name, (void **)&real.name},
#define OTHER_ROW(type, name, parameters) {#name, (void *)seam_##name, (void **)&real.name},
static const struct {
    const char *name;
    void *wrapper, **real;
} table[CALLS] = {SIMPLE_CALLS(SIMPLE_ROW) OTHER_CALLS(OTHER_ROW){"io_uring_register", NULL, NULL},
                  {"submission", NULL, NULL},
                  {"sqe", NULL, NULL}};

#define MAX_REPLACED 512
static struct replaced { void **entry, *before; } replaced[MAX_REPLACED];
static int replaced_count;

#if defined __x86_64__
#define IS_FUNCTION(type) ((type) == R_X86_64_JUMP_SLOT || (type) == R_X86_64_GLOB_DAT)
#elif defined __aarch64__
#define IS_FUNCTION(type) ((type) == R_AARCH64_JUMP_SLOT || (type) == R_AARCH64_GLOB_DAT)
#endif

static int find_call(const char *name) {
    for (int i = 0; i < CALLS; i++)
        if (!strcmp(table[i].name, name))
            return i;
    return -1;
}

/* RELRO: the loader has made the page read-only, or it is not one of those, and stays writable. */
static void set_entry(void **entry, void *value) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)entry & ~(page - 1);
    mprotect((void *)at, page, PROT_READ | PROT_WRITE);
    __atomic_store_n(entry, value, __ATOMIC_RELEASE);
}

static void replace(const struct dl_phdr_info *module, const Elf64_Rela *relocations, size_t bytes,
                    const Elf64_Sym *symbols, const char *strings) {
    for (size_t i = 0; i < bytes / sizeof *relocations; i++) {
        const Elf64_Rela *r = &relocations[i];
        const int call = IS_FUNCTION(ELF64_R_TYPE(r->r_info))
                             ? find_call(strings + symbols[ELF64_R_SYM(r->r_info)].st_name)
                             : -1;
        void **entry = (void **)(module->dlpi_addr + r->r_offset);
        if (call < 0 || replaced_count == MAX_REPLACED || *entry == table[call].wrapper)
            continue;
        *table[call].real = *entry;
        replaced[replaced_count++] = (struct replaced){entry, *entry};
        set_entry(entry, table[call].wrapper);
    }
}

/* glibc has relocated the addresses in the dynamic section. */
static int replace_in(struct dl_phdr_info *module, size_t size, void *path) {
    (void)size;
    if (!module->dlpi_name || strcmp(module->dlpi_name, path))
        return 0;
    const Elf64_Dyn *dynamic = NULL;
    for (int i = 0; i < module->dlpi_phnum; i++)
        if (module->dlpi_phdr[i].p_type == PT_DYNAMIC)
            dynamic = (const Elf64_Dyn *)(module->dlpi_addr + module->dlpi_phdr[i].p_vaddr);
    uint64_t found[DT_JMPREL + 1] = {0};
    for (; dynamic && dynamic->d_tag != DT_NULL; dynamic++)
        if (dynamic->d_tag > 0 && dynamic->d_tag <= DT_JMPREL)
            found[dynamic->d_tag] = dynamic->d_un.d_val;
    const Elf64_Sym *symbols = (const Elf64_Sym *)found[DT_SYMTAB];
    const char *strings = (const char *)found[DT_STRTAB];
    replace(module, (const Elf64_Rela *)found[DT_JMPREL], found[DT_PLTRELSZ], symbols, strings);
    replace(module, (const Elf64_Rela *)found[DT_RELA], found[DT_RELASZ], symbols, strings);
    return 1;
}

/* -- the Python face: see seam.py */

/* Returns how many entries were replaced so far; -1: the module is not loaded. */
int seam_install(const char *path) {
    return dl_iterate_phdr(replace_in, (void *)path) ? replaced_count : -1;
}

void seam_uninstall(void) {
    while (replaced_count) {
        const struct replaced *r = &replaced[--replaced_count];
        set_entry(r->entry, r->before);
    }
}

void seam_reset(void) {
    pthread_mutex_lock(&lock);
    plan_count = 0;
    paused = 0;
    memset(calls_made, 0, sizeof calls_made);
    hold.results = hold.notifications = false;
    pthread_mutex_unlock(&lock);
}

/* Whether a module calls it. */
int seam_has(const char *name) {
    const int call = find_call(name);
    if (call == N_io_uring_register || call == N_submission || call == N_SQE)
        return real.syscall != NULL;
    return call >= 0 && *table[call].real;
}

int64_t seam_calls(const char *name) {
    const int call = find_call(name);
    return call < 0 ? -1 : __atomic_load_n(&calls_made[call], __ATOMIC_RELAXED);
}

/* `names`: separated by spaces. Returns the number of the plan; -1: too many, or no such socket; -2: no such
 * call. */
int seam_plan(const char *names, int kind, int value, int64_t after, int64_t times, int fd, int number,
              int alone) {
    struct plan p = {.kind = kind,
                     .value = value,
                     .after = after,
                     .times = times,
                     .any_socket = fd < 0,
                     .signal = number,
                     .alone = alone};
    struct stat status;
    char copy[4096], *rest = copy;
    strncpy(copy, names, sizeof copy - 1);
    copy[sizeof copy - 1] = 0;
    for (char *name; (name = strsep(&rest, " "));) {
        const int call = find_call(name);
        if (call < 0)
            return -2;
        p.calls[call] = true;
    }
    if (fd >= 0) {
        if (fstat(fd, &status) < 0)
            return -1;
        p.device = status.st_dev;
        p.inode = status.st_ino;
    }
    pthread_mutex_lock(&lock);
    const int made = plan_count < (int)(sizeof plans / sizeof *plans) ? plan_count++ : -1;
    if (made >= 0)
        plans[made] = p;
    pthread_mutex_unlock(&lock);
    return made;
}

int64_t seam_allocated(void) {
    return allocated;
}

int64_t seam_injected(int plan) {
    pthread_mutex_lock(&lock);
    const int64_t injected = plan >= 0 && plan < plan_count ? plans[plan].injected : -1;
    pthread_mutex_unlock(&lock);
    return injected;
}

void seam_pause(int pause) {
    pthread_mutex_lock(&lock);
    paused += pause ? 1 : -1;
    pthread_mutex_unlock(&lock);
}

void seam_end_plan(int plan) {
    pthread_mutex_lock(&lock);
    if (plan >= 0 && plan < plan_count)
        plans[plan].times = 0;
    pthread_mutex_unlock(&lock);
}

void seam_hold(int results, int notifications, int most, int split, uint64_t seed) {
    pthread_mutex_lock(&lock);
    hold.results = results;
    hold.notifications = notifications;
    hold.most = most;
    hold.split = split;
    hold.random = seed;
    pthread_mutex_unlock(&lock);
}

/* What is held: for each a ticket; of a CQE its user_data, res and flags, of a message the first id, the
 * last, and IORING_CQE_F_NOTIF. Returns how many there are. */
int seam_held(int64_t *tickets_out, uint64_t *user_data, int64_t *results, uint32_t *flags, int max) {
    int count = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 64; i++)
        for (int j = 0; rings[i] && j < rings[i]->held_count; j++, count++) {
            const struct held_cqe *h = &rings[i]->held[j];
            if (count < max)
                tickets_out[count] = h->ticket.number, user_data[count] = h->cqe.user_data,
                results[count] = h->cqe.res, flags[count] = h->cqe.flags;
        }
    for (int i = 0; i < message_count; i++, count++) {
        struct msghdr m = {.msg_control = messages[i].control, .msg_controllen = messages[i].length};
        const struct sock_extended_err *n = notification_of(&m);
        if (count < max)
            tickets_out[count] = messages[i].ticket.number, user_data[count] = n->ee_info,
            results[count] = n->ee_data, flags[count] = IORING_CQE_F_NOTIF;
    }
    pthread_mutex_unlock(&lock);
    return count;
}

/* Gives one. 0; -1: it is not held, or its ring is full. */
int seam_give(int64_t ticket) {
    int result = -1;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 64; i++)
        for (int j = 0; rings[i] && j < rings[i]->held_count; j++)
            if (rings[i]->held[j].ticket.number == ticket && room_to_put_back(rings[i])) {
                give_cqe(rings[i], j);
                result = 0;
                break;
            }
    for (int i = 0; i < message_count; i++)
        if (messages[i].ticket.number == ticket && messages[i].ticket.left) {
            struct message m = messages[i]; /* those that are due are given in the order of the list */
            m.ticket.left = 0;
            remove_message(i);
            messages[message_count++] = m;
            result = 0;
            break;
        }
    pthread_mutex_unlock(&lock);
    return result;
}

/* How many were ever held. */
int64_t seam_held_ever(void) {
    return __atomic_load_n(&held_ever, __ATOMIC_RELAXED);
}
