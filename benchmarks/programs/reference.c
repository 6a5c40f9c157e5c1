// UDP sends over io_uring from one connected socket: a tuned C loop, which the library is compared with.
//
//     cc -O3 -march=native reference.c -luring -o reference
//     reference [options] MODE SIZE SECONDS    one run, one line of JSON
//     reference [options] --serve              a run for each line of stdin: MODE SIZE SECONDS
//
// MODE is copy (IORING_OP_SEND), zc (IORING_OP_SEND_ZC from a registered buffer) or zc-unregistered.
//
// A run queues up to `batch` requests, submits them and gets events by one system call (DEFER_TASKRUN posts
// notifications only then), reaps, and repeats, with at most `window` requests in flight. It ends, and its
// time with it, when none is in flight. ECONNREFUSED, which is about an earlier datagram, is counted; any
// other failure ends the run and is its "error".
//
// What was tried, on Linux 6.18, 2 vCPU AMD EPYC, ifb sink. Medians of 15 to 25 ratios to batch 32, window 64
// in the same round, rounds in random order; at zc 1400 B / zc 65000 B / copy 1400 B:
//
//     batch 8                           0.98 / 0.97 / 0.97    window 128                1.02 / - / -
//     batch 16                          1.00 / 1.00 / 1.00    window 256                - / 1.00 / 1.00
//     batch 64                          1.01 / 1.00 / 1.01    window 1024               1.01 / - / -
//     batch 128, window 128             1.01 / 1.00 / 1.01    with the SQ array         1.00 / 0.99 / 1.02
//     the prep helper, no templates     1.00 / 1.00 / 0.98    a buffer per payload      1.00 / 1.00 / 1.01
//     the bare system call              1.00 / 1.01 / 0.99    64 payloads only          1.00 / 0.99 / 1.02
//     get_events every 4th batch        1.00 / 0.99 / 0.99    payloads 1400 B apart     1.00 / - / -
//     waiting for the whole batch       1.00 / - / -          a CQ of 1024              1.01 / - / -
//     pinned to a CPU                   1.00 / 1.01 / 1.00    REPORT_USAGE, DONTWAIT    1.00 / - / -
//
// The middle two thirds of the ratios span 2 to 5 %, for copy and for the sizes of batch and window at 1400 B
// 5 to 20 %: only batch 8 differs, and only at 65000 B and in copies is that certain. The kernel's 1.6 to 1.7
// us for a send are nearly all of the time. So the batch is 32, and the rest is what does the least work.
//
// Waiting for the whole batch, on an Intel Xeon where a send takes 0.6 us, zc 1400 B, windows of two batches;
// median and quartiles of 31 ratios: batch 8 0.993 (0.986 to 0.996), 32 1.003 (0.998 to 1.016), 128 1.019
// (1.010 to 1.032). Otherwise the kernel runs 20 pieces of deferred work a call, and with more than 20
// requests a batch the notifications fall behind. So larger batches wait, and smaller ones do not.
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
    int batch, window;       // requests per submit; in flight at most
    int pool_mib;            // payload memory: 4 stays in the cache, 256 does not
    int report_usage, serve; // 0 or 1
    int fd, port, segment;   // a connected socket, or where to send; UDP_SEGMENT in bytes, or 0
    const char *host;
} o = {32, 64, 4, 0, 0, -1, 9000, 0, "10.0.0.2"};

struct counts {
    long inflight; // requests without their last CQE, which for a zero-copy send is its notification
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
    // io_uring would poll and retry a send that finds the buffer full: late and out of order.
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)) &&
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)))
        die("SO_SNDBUF", errno);
    if (o.segment && setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &o.segment, sizeof(o.segment)))
        die("UDP_SEGMENT", errno);
    return fd;
}

// io_uring_queue_init_params of liburing 2.3 to 2.5 overwrites the ring's head when there is no SQ array, so
// the ring is set up by the system call, and mapped by liburing.
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
    // A send from a huge page charges the socket from the start of that page: up to 2 MiB for 1400 B.
    if (pool == MAP_FAILED || madvise(pool, length, MADV_NOHUGEPAGE))
        die("payload memory", errno);
    memset(pool, 'x', length);
    struct iovec all = {pool, length};
    int ret = io_uring_register_buffers(&ring, &all, 1);
    if (ret < 0)
        die("io_uring_register_buffers", -ret);
}

// Flags decide, never the sign of res: NOTIF first, then MORE (a notification follows), then the result.
static inline void reap(struct counts *c, int size) {
    unsigned head = *ring.cq.khead, tail = io_uring_smp_load_acquire(ring.cq.ktail);
    const unsigned mask = *ring.cq.kring_mask;
    for (; head != tail; head++) {
        const struct io_uring_cqe *cqe = &ring.cq.cqes[head & mask];
        if (cqe->flags & IORING_CQE_F_NOTIF) {
            c->inflight--;
            c->notifications++;
            c->copied += ((unsigned)cqe->res & IORING_NOTIF_USAGE_ZC_COPIED) != 0;
            continue;
        }
        c->inflight -= !(cqe->flags & IORING_CQE_F_MORE);
        if (cqe->res == size) {
            c->requests++;
            continue;
        }
        c->failures++;
        if (cqe->res != -ECONNREFUSED && !c->error)
            c->error = cqe->res < 0 ? -cqe->res : EMSGSIZE;
    }
    io_uring_smp_store_release(ring.cq.khead, tail);
}

// Take everything that is due with the submit. It never waits: the results of all are there at once.
static int submit(long n) {
    return n > 20 ? io_uring_submit_and_wait(&ring, (unsigned)n) : io_uring_submit_and_get_events(&ring);
}

static void wait_for_one(struct counts *c, int size) {
    int ret = io_uring_submit_and_wait(&ring, 1);
    if (ret < 0 && ret != -EINTR)
        die("io_uring_submit_and_wait", -ret);
    reap(c, size);
}

// Prepare all SQEs of the ring once: a request then sets only its address and user_data.
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

// Send until that time. `window` is o.window, or less if the payload memory or the socket's buffer is small.
static void send_until(struct counts *c, int size, long window, double until) {
    const size_t stride = stride_of(size), payloads = ((size_t)o.pool_mib << 20) / stride;
    struct io_uring_sq *sq = &ring.sq;
    size_t payload = 0;
    for (long queued = 0, clock_at = 0; !c->error;) {
        if (queued >= clock_at) { // the clock is read every 2048 requests
            clock_at = queued + 2048;
            if (now() >= until)
                return;
        }
        long n = window - c->inflight;
        n = n < o.batch ? n : o.batch;
        if (!n) {
            wait_for_one(c, size);
            continue;
        }
        for (long i = 0; i < n; i++) {
            struct io_uring_sqe *sqe = &sq->sqes[sq->sqe_tail++ & sq->ring_mask];
            sqe->addr = (unsigned long)(pool + payload * stride);
            sqe->user_data = payload;
            payload = payload + 1 == payloads ? 0 : payload + 1;
        }
        queued += n;
        c->inflight += n;
        int ret = submit(n);
        if (ret != n)
            die("submit", ret < 0 ? -ret : EBUSY);
        reap(c, size);
    }
}

static void report(const struct counts *c, const char *mode, int size, long window, double took, double cpu) {
    const bool copy = !strcmp(mode, "copy");
    char share[32] = "null", error[80] = "null";
    if (copy || (o.report_usage && c->notifications))
        snprintf(share, sizeof(share), "%.6f", copy ? 1.0 : (double)c->copied / (double)c->notifications);
    if (c->error)
        snprintf(error, sizeof(error), "\"%s\"", strerror(c->error));
    printf("{\"mode\": \"%s\", \"size\": %d, \"requests\": %ld, \"seconds\": %.6f, \"requests_per_s\": %.1f, "
           "\"cpu_seconds\": %.6f, \"copied_share\": %s, \"failures\": %ld, \"notifications\": %ld, "
           "\"error\": %s, ",
           mode, size, c->requests, took, (double)c->requests / took, cpu, share, c->failures,
           c->notifications, error);
    printf(
        "\"batch\": %d, \"window\": %ld, \"flags\": [\"SINGLE_ISSUER\", \"DEFER_TASKRUN\", \"SUBMIT_ALL\", "
        "%s\"registered ring\", \"fixed file\"%s%s]}\n",
        o.batch, window, ring.flags & IORING_SETUP_NO_SQARRAY ? "\"NO_SQARRAY\", " : "",
        !strcmp(mode, "zc") ? ", \"fixed buffer\"" : "", o.report_usage && !copy ? ", \"REPORT_USAGE\"" : "");
    fflush(stdout);
}

static bool run(int fd, const char *mode, int size, double seconds) {
    if (size < 1 || size > 65507 || !(seconds > 0) || !fill_ring(mode, size)) {
        printf("{\"error\": \"not a mode, a size and a time\"}\n");
        fflush(stdout);
        return false;
    }
    int room = 0;
    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, &(socklen_t){sizeof(room)}))
        die("SO_SNDBUF", errno);
    // A send is charged its pages and its headers, which a page covers.
    const long payloads = (long)(((size_t)o.pool_mib << 20) / stride_of(size));
    const long fit = room / (long)(stride_of(size) + PAGE);
    long window = o.window < payloads ? o.window : payloads;
    window = window < fit ? window : fit > 0 ? fit : 1;

    struct counts c = {0};
    const double cpu = cpu_now(), start = now();
    send_until(&c, size, window, start + seconds);
    while (c.inflight)
        wait_for_one(&c, size);
    const double took = now() - start;
    report(&c, mode, size, window, took, cpu_now() - cpu);
    return !c.error;
}

static bool serve(int fd) {
    char line[128], mode[32];
    bool success = true;
    while (fgets(line, sizeof(line), stdin)) {
        int size = 0;
        double seconds = 0;
        const int fields = sscanf(line, "%31s %d %lf", mode, &size, &seconds);
        success &= run(fd, mode, fields == 3 ? size : 0, seconds);
    }
    return success;
}

static void parse(int argc, char **argv) {
    static const struct option names[] = {
        {"batch", 1, 0, 0}, {"window", 1, 0, 0},  {"pool", 1, 0, 0},         {"fd", 1, 0, 0},
        {"port", 1, 0, 0},  {"segment", 1, 0, 0}, {"report-usage", 0, 0, 0}, {"serve", 0, 0, 0},
        {"host", 1, 0, 0},  {0, 0, 0, 0}};
    int *const values[] = {&o.batch, &o.window,  &o.pool_mib,     &o.fd,
                           &o.port,  &o.segment, &o.report_usage, &o.serve},
               index, got;
    while ((got = getopt_long(argc, argv, "", names, &index)) == 0) {
        if (index == 8)
            o.host = optarg;
        else
            *values[index] = optarg ? atoi(optarg) : 1;
    }
    const bool bounds = o.batch >= 1 && o.batch <= 32768 && o.window >= 1 && o.window <= 32768 &&
                        o.pool_mib >= 1 && o.pool_mib <= 1024;
    if (got != -1 || !bounds || argc - optind != (o.serve ? 0 : 3)) {
        fprintf(stderr,
                "usage: reference [options] MODE SIZE SECONDS, or --serve; batch, window: 1 to 32768, "
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
    return run(fd, argv[optind], atoi(argv[optind + 1]), atof(argv[optind + 2])) ? 0 : 1;
}
