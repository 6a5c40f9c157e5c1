// Requests to a server over loopback that answers each datagram by one of the same size: a client that needs
// less time for each than the server does.
//
//     cc -O3 -march=native requests.c -o requests
//     requests PORT SOCKETS WINDOW SIZE TRAINS SECONDS
//
// Each socket keeps WINDOW requests of SIZE bytes under way: what has come is replaced at once, by sendmmsg,
// or with TRAINS = 1 as one train (GSO batch; UDP_GRO is on then, too). It never sleeps while answers come.
// What is lost would be missing for the rest of the run: after 50 ms without any answer all windows are
// filled anew. Prints a line of JSON.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MESSAGES 32 // of one recvmmsg or sendmmsg
#define MAX_SOCKETS 64
#define MAX_TRAIN 65507
#define PATIENCE 2000 // ms without any answer

static char out[MAX_TRAIN], in[MESSAGES][65536];
static int size, trains;

static void check(int result, const char *what) {
    if (result < 0) {
        perror(what);
        exit(1);
    }
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static int open_socket(int port) {
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(port)};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), large = 16 << 20;
    check(sock, "socket");
    check(connect(sock, (struct sockaddr *)&server, sizeof server), "connect");
    check(setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &large, sizeof large), "SO_RCVBUFFORCE");
    check(setsockopt(sock, SOL_SOCKET, SO_SNDBUFFORCE, &large, sizeof large), "SO_SNDBUFFORCE");
    if (trains) {
        check(setsockopt(sock, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size), "UDP_SEGMENT");
        check(setsockopt(sock, IPPROTO_UDP, UDP_GRO, &trains, sizeof trains), "UDP_GRO");
    }
    return sock;
}

static void send_train(int sock, int count) {
    int longest = MAX_TRAIN / size < 64 ? MAX_TRAIN / size : 64;
    while (count > 0) {
        int some = count < longest ? count : longest;
        check(send(sock, out, (size_t)some * size, 0), "send");
        count -= some;
    }
}

static void send_single(int sock, int count) {
    struct iovec iov = {out, size};
    struct mmsghdr messages[MESSAGES];
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < MESSAGES; i++) {
        messages[i].msg_hdr.msg_iov = &iov;
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    while (count > 0) {
        int sent = sendmmsg(sock, messages, count < MESSAGES ? count : MESSAGES, 0);
        check(sent, "sendmmsg");
        count -= sent;
    }
}

static void send_requests(int sock, int count) {
    if (trains)
        send_train(sock, count);
    else
        send_single(sock, count);
}

// Returns how many answers there are; of a train, each counts.
static int receive(int sock) {
    static struct mmsghdr messages[MESSAGES];
    static struct iovec iov[MESSAGES];
    for (int i = 0; i < MESSAGES; i++) {
        iov[i] = (struct iovec){in[i], sizeof in[i]};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
    }
    int received = recvmmsg(sock, messages, MESSAGES, MSG_DONTWAIT, NULL), answers = 0;
    if (received < 0 && errno != EAGAIN)
        check(received, "recvmmsg");
    for (int i = 0; i < received; i++)
        answers += (messages[i].msg_len + size - 1) / size;
    return answers;
}

int main(int argc, char **argv) {
    if (argc != 7)
        return 2;
    int port = atoi(argv[1]), sockets = atoi(argv[2]), window = atoi(argv[3]);
    size = atoi(argv[4]), trains = atoi(argv[5]);
    double start, end, seconds = atof(argv[6]);
    if (sockets < 1 || sockets > MAX_SOCKETS || window < 1 || size < 1)
        return 2;
    struct pollfd polled[MAX_SOCKETS];
    for (int i = 0; i < sockets; i++)
        polled[i] = (struct pollfd){open_socket(port), POLLIN, 0};
    long answers = 0, under_way = (long)sockets * window;
    start = end = now();
    for (int i = 0; i < sockets; i++)
        send_requests(polled[i].fd, window);
    while (end < start + seconds && poll(polled, sockets, PATIENCE) > 0) {
        for (int i = 0; i < sockets; i++) {
            int some = receive(polled[i].fd);
            send_requests(polled[i].fd, some);
            answers += some;
        }
        end = now();
    }
    while (under_way > 0 && poll(polled, sockets, PATIENCE) > 0)
        for (int i = 0; i < sockets; i++)
            under_way -= receive(polled[i].fd);
    printf("{\"answers\": %ld, \"seconds\": %.9f, \"lost\": %ld}\n", answers, end - start, under_way);
    return 0;
}
