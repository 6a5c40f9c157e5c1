// UDP sends over io_uring from one connected socket, as good a C loop as can be written: the library's
// measure.
//
//     cc -O3 -march=native reference.c -luring -o reference
//     reference [options] MODE SIZE SECONDS          one run, one line of JSON
//     reference [options] --datagrams MODE SIZE N    the same, for N datagrams
//     reference [options] --serve                    the same by lines of stdin: run or count MODE SIZE LIMIT
//
// MODE is copy (IORING_OP_SEND), zc (IORING_OP_SEND_ZC from a registered buffer) or zc-unregistered.
//
// A run queues up to `batch` requests, enters the kernel once for all of them and for the notifications due
// (DEFER_TASKRUN posts those only when asked), reads what came, and goes on; `owed` never passes `window`. It
// ends when everything owed has been settled, and the time to there counts. ECONNREFUSED, which tells of an
// earlier datagram, is counted; any other failure stops the run and is its "error".
//
// What was tried, on Linux 6.18, 2 vCPU AMD EPYC, ifb sink. Medians of 15 to 25 ratios to batch 32, window 64
// in the same round, rounds in random order; at zc 1400 B / zc 65000 B / copy 1400 B:
//
//     batch 8                           0.98 / 0.97 / 0.97    window 128                1.02 / - / -
//     batch 16                          1.00 / 1.00 / 1.00    window 256                - / 1.00 / 1.00
//     batch 64                          1.01 / 1.00 / 1.01    window 1024               1.01 / - / -
//     batch 128, window 128             1.01 / 1.00 / 1.01    with the SQ array         1.00 / 0.99 / 1.02
//     the prep helper, no templates     1.00 / 1.00 / 0.98    a buffer index per slot   1.00 / 1.00 / 1.01
//     the bare system call              1.00 / 1.01 / 0.99    64 slots only             1.00 / 0.99 / 1.02
//     get_events every 4th batch        1.00 / 0.99 / 0.99    slots 1400 B apart        1.00 / - / -
//     waiting for the whole batch       1.00 / - / -          a CQ of 1024              1.01 / - / -
//     pinned to a CPU                   1.00 / 1.01 / 1.00    REPORT_USAGE, DONTWAIT    1.00 / - / -
//
// The middle two thirds of the ratios span 2 to 5 %, for copy and for the sizes of batch and window at 1400 B
// 5 to 20 %: only batch 8 differs, and only at 65000 B and in copies is that certain. The kernel's 1.6 to 1.7
// us for a send are nearly all of it. So batch 32 is past the knee, and the rest is what does the least work.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <liburing.h>
#include <netinet/udp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// Newer than liburing 2.3.
#ifndef IORING_SEND_ZC_REPORT_USAGE
#define IORING_SEND_ZC_REPORT_USAGE (1U << 3)
#endif
#ifndef IORING_NOTIF_USAGE_ZC_COPIED
#define IORING_NOTIF_USAGE_ZC_COPIED (1U << 31)
#endif
#ifndef IORING_SETUP_NO_SQARRAY
#define IORING_SETUP_NO_SQARRAY (1U << 16)
#endif

#define PAGE 4096UL

static struct {
    int batch, window;              // requests per entry of the kernel; sends not settled at most
    int pool_mib;                   // payload memory: 4 stays in the cache, 256 does not
    int report_usage, serve, count; // 0 or 1
    int fd, port, segment;          // a connected socket, or where to; UDP_SEGMENT
    const char *host;
} o = {32, 64, 4, 0, 0, 0, -1, 9000, 0, "10.0.0.2"};

struct tally {
    long queued, owed; // owed: no final CQE yet, which for a zero-copy send is its notification
    long requests, failures, notifications, copied;
    int error; // the first unexpected errno, 0 for none
};

static struct io_uring ring;
static char *pool;

static void __attribute__((noreturn)) die(const char *what, int error) {
    fprintf(stderr, "reference: %s: %s\n", what, strerror(error));
    exit(1);
}

static double seconds_of(struct timeval time) {
    return (double)time.tv_sec + (double)time.tv_usec * 1e-6;
}

static double cpu_now(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static int open_socket(void) {
    int fd = o.fd, room = 1 << 29;
    if (fd < 0) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)o.port)};
        if (inet_pton(AF_INET, o.host, &to.sin_addr) != 1)
            die(o.host, EINVAL);
        fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)))
            die("connect", errno);
    }
    // A send that finds the buffer full would be poll-armed: late and out of order. Each may be charged its
    // pages.
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)) &&
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)))
        die("SO_SNDBUF", errno);
    if (o.segment && setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &o.segment, sizeof(o.segment)))
        die("UDP_SEGMENT", errno);
    return fd;
}

// liburing 2.3 to 2.5 overwrite the ring's head in io_uring_queue_init_params when there is no SQ array, so
// this calls the kernel itself and leaves liburing to map.
static void open_ring(void) {
    struct io_uring_params p = {0};
    p.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL |
              IORING_SETUP_CQSIZE | IORING_SETUP_NO_SQARRAY;
    p.cq_entries = 2 * (unsigned)o.window;
    int fd = (int)syscall(__NR_io_uring_setup, o.batch, &p), ret;
    if (fd >= 0) {
        ret = io_uring_queue_mmap(fd, &p, &ring);
        ring.features = p.features;
    } else { // before Linux 6.6
        p.flags &= ~IORING_SETUP_NO_SQARRAY;
        ret = io_uring_queue_init_params(o.batch, &ring, &p);
    }
    if (ret < 0)
        die("io_uring_setup", -ret);
    if ((ret = io_uring_register_ring_fd(&ring)) < 0)
        die("io_uring_register_ring_fd", -ret);
}

static void open_pool(size_t length) {
    pool = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    // Inside a huge page the socket would be charged from the page's start on, up to 2 MiB for 1400 B.
    if (pool == MAP_FAILED || madvise(pool, length, MADV_NOHUGEPAGE))
        die("payload memory", errno);
    memset(pool, 'x', length);
    struct iovec all = {pool, length};
    int ret = io_uring_register_buffers(&ring, &all, 1);
    if (ret < 0)
        die("io_uring_register_buffers", -ret);
}

// By flags, never by the sign of res: a notification, then whether one will follow, then the result.
static inline void reap(struct tally *t, int size) {
    unsigned head = *ring.cq.khead, tail = io_uring_smp_load_acquire(ring.cq.ktail);
    const unsigned mask = *ring.cq.kring_mask;
    for (; head != tail; head++) {
        const struct io_uring_cqe *cqe = &ring.cq.cqes[head & mask];
        if (cqe->flags & IORING_CQE_F_NOTIF) {
            t->owed--;
            t->notifications++;
            t->copied += ((unsigned)cqe->res & IORING_NOTIF_USAGE_ZC_COPIED) != 0;
            continue;
        }
        t->owed -= !(cqe->flags & IORING_CQE_F_MORE);
        if (cqe->res == size) {
            t->requests++;
            continue;
        }
        t->failures++;
        if (cqe->res != -ECONNREFUSED && !t->error)
            t->error = cqe->res < 0 ? -cqe->res : EMSGSIZE;
    }
    io_uring_smp_store_release(ring.cq.khead, tail);
}

static void wait_for_one(struct tally *t, int size) {
    int ret = io_uring_submit_and_wait(&ring, 1);
    if (ret < 0 && ret != -EINTR)
        die("io_uring_submit_and_wait", -ret);
    reap(t, size);
}

// Every SQE of the ring is made once; a request then only takes its address and its slot.
static bool fill_ring(const char *mode, int size) {
    struct io_uring_sqe sqe;
    const unsigned flags = o.report_usage ? IORING_SEND_ZC_REPORT_USAGE : 0;
    memset(&sqe, 0, sizeof(sqe));
    if (!strcmp(mode, "copy"))
        io_uring_prep_send(&sqe, 0, pool, (size_t)size, 0);
    else if (!strcmp(mode, "zc"))
        io_uring_prep_send_zc_fixed(&sqe, 0, pool, (size_t)size, 0, flags, 0);
    else if (!strcmp(mode, "zc-unregistered"))
        io_uring_prep_send_zc(&sqe, 0, pool, (size_t)size, 0, flags);
    else
        return false;
    sqe.flags |= IOSQE_FIXED_FILE;
    for (unsigned i = 0; i < ring.sq.ring_entries; i++)
        ring.sq.sqes[i] = sqe;
    return true;
}

static size_t stride_of(int size) {
    return ((size_t)size + PAGE - 1) & ~(PAGE - 1);
}

// `window` is o.window, or less where slots or the socket's buffer do not reach.
static void send_all(struct tally *t, int size, long window, double until, long count) {
    const size_t stride = stride_of(size), slots = ((size_t)o.pool_mib << 20) / stride;
    struct io_uring_sq *sq = &ring.sq;
    size_t slot = 0;
    for (long look = 0; t->queued < count && !t->error;) {
        if (t->queued >= look) {
            look = t->queued + 2048;
            if (now() >= until)
                return;
        }
        long n = window - t->owed;
        n = n < o.batch ? n : o.batch;
        n = n < count - t->queued ? n : count - t->queued;
        if (!n) {
            wait_for_one(t, size);
            continue;
        }
        for (long i = 0; i < n; i++) {
            struct io_uring_sqe *sqe = &sq->sqes[sq->sqe_tail++ & sq->ring_mask];
            sqe->addr = (unsigned long)(pool + slot * stride);
            sqe->user_data = slot;
            slot = slot + 1 == slots ? 0 : slot + 1;
        }
        t->queued += n;
        t->owed += n;
        int ret = io_uring_submit_and_get_events(&ring);
        if (ret != n)
            die("io_uring_submit_and_get_events", ret < 0 ? -ret : EBUSY);
        reap(t, size);
    }
}

static void report(const struct tally *t, const char *mode, int size, long window, double took, double cpu) {
    const bool copy = !strcmp(mode, "copy");
    char share[32] = "null", error[80] = "null";
    if (copy || (o.report_usage && t->notifications))
        snprintf(share, sizeof(share), "%.6f", copy ? 1.0 : (double)t->copied / (double)t->notifications);
    if (t->error)
        snprintf(error, sizeof(error), "\"%s\"", strerror(t->error));
    printf("{\"mode\": \"%s\", \"size\": %d, \"requests\": %ld, \"seconds\": %.6f, \"requests_per_s\": %.1f, "
           "\"cpu_seconds\": %.6f, \"copied_share\": %s, \"failures\": %ld, \"notifications\": %ld, "
           "\"error\": %s, ",
           mode, size, t->requests, took, (double)t->requests / took, cpu, share, t->failures,
           t->notifications, error);
    printf(
        "\"batch\": %d, \"window\": %ld, \"flags\": [\"SINGLE_ISSUER\", \"DEFER_TASKRUN\", \"SUBMIT_ALL\", "
        "%s\"registered ring\", \"fixed file\"%s%s]}\n",
        o.batch, window, ring.flags & IORING_SETUP_NO_SQARRAY ? "\"NO_SQARRAY\", " : "",
        !strcmp(mode, "zc") ? ", \"fixed buffer\"" : "", o.report_usage && !copy ? ", \"REPORT_USAGE\"" : "");
    fflush(stdout);
}

static bool run(int fd, const char *mode, int size, double limit, bool count) {
    if (size < 1 || size > 65507 || !(limit > 0) || !fill_ring(mode, size)) {
        printf("{\"error\": \"not a mode, a size and a limit\"}\n");
        fflush(stdout);
        return false;
    }
    int room = 0;
    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, &(socklen_t){sizeof(room)}))
        die("SO_SNDBUF", errno);
    // A send is charged its pages and its headers, which a page covers.
    const long slots = (long)(((size_t)o.pool_mib << 20) / stride_of(size));
    const long fit = room / (long)(stride_of(size) + PAGE);
    long window = o.window < slots ? o.window : slots;
    window = window < fit ? window : fit > 0 ? fit : 1;

    struct tally t = {0};
    const double cpu = cpu_now(), start = now();
    send_all(&t, size, window, count ? start + 1e9 : start + limit, count ? (long)limit : 1L << 62);
    while (t.owed)
        wait_for_one(&t, size);
    const double took = now() - start;
    report(&t, mode, size, window, took, cpu_now() - cpu);
    return !t.error;
}

static bool serve(int fd) {
    char line[128], verb[8], mode[32];
    bool well = true;
    while (fgets(line, sizeof(line), stdin)) {
        int size = 0;
        double limit = 0;
        const int fields = sscanf(line, "%7s %31s %d %lf", verb, mode, &size, &limit);
        well &= run(fd, mode, fields == 4 ? size : 0, limit, fields == 4 && !strcmp(verb, "count"));
    }
    return well;
}

static void parse(int argc, char **argv) {
    static const struct option names[] = {
        {"batch", 1, 0, 0},        {"window", 1, 0, 0}, {"pool", 1, 0, 0},
        {"fd", 1, 0, 0},           {"port", 1, 0, 0},   {"segment", 1, 0, 0},
        {"report-usage", 0, 0, 0}, {"serve", 0, 0, 0},  {"datagrams", 0, 0, 0},
        {"host", 1, 0, 0},         {0, 0, 0, 0}};
    int *const values[] = {&o.batch,   &o.window,       &o.pool_mib, &o.fd,   &o.port,
                           &o.segment, &o.report_usage, &o.serve,    &o.count},
               index, got;
    while ((got = getopt_long(argc, argv, "", names, &index)) == 0) {
        if (index == 9)
            o.host = optarg;
        else
            *values[index] = optarg ? atoi(optarg) : 1;
    }
    const bool bounds = o.batch >= 1 && o.batch <= 32768 && o.window >= 1 && o.window <= 32768 &&
                        o.pool_mib >= 1 && o.pool_mib <= 1024;
    if (got != -1 || !bounds || argc - optind != (o.serve ? 0 : 3)) {
        fprintf(stderr, "usage: reference [options] MODE SIZE LIMIT, or --serve; batch, window: 1 to 32768, "
                        "pool: 1 to 1024\n");
        exit(2);
    }
    o.batch = o.batch < o.window ? o.batch : o.window;
}

int main(int argc, char **argv) {
    parse(argc, argv);
    int fd = open_socket(), ret;
    open_ring();
    if ((ret = io_uring_register_files(&ring, &fd, 1)) < 0)
        die("io_uring_register_files", -ret);
    open_pool((size_t)o.pool_mib << 20);
    if (o.serve)
        return serve(fd) ? 0 : 1;
    return run(fd, argv[optind], atoi(argv[optind + 1]), atof(argv[optind + 2]), o.count) ? 0 : 1;
}
