/* SPDX-License-Identifier: MIT */
/* PACKET_TX_RING (TPACKET_V2) as the kernel interface of frames.
 *
 * The kernel takes frames in ring order, and stops at the first that is not to be sent. So frames that are
 * not to be sent yet, since a train is being staged there, are skipped: each is posted as a hole, whose
 * offset is not valid; with PACKET_LOSS the kernel then makes it available, and goes on. */
#include <net/ethernet.h> /* first: musl's struct ethhdr, which Linux's headers then leave out */

#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "engines/frames/results.h"

#ifndef PACKET_TX_HAS_OFF
#define PACKET_TX_HAS_OFF 19
#endif
#ifndef PACKET_QDISC_BYPASS
#define PACKET_QDISC_BYPASS 20
#endif
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5 /* Linux 6.2 */
#endif

#define PAGE 4096u
#define STRIDE (17 * PAGE) /* bytes of a frame: the largest payload, and its headers */
#define BLOCK                                                                                                \
    (15 * STRIDE) /* bytes that the kernel allocates in one piece, less than a power of two of pages */
#define SNDBUF (256 << 20) /* the frames are the limit, not the socket's buffer */

_Static_assert(STRIDE >= UZC_FRAME_HEADROOM + 65507 && STRIDE % TPACKET_ALIGNMENT == 0, "a frame's size");

/* Frames are numbered in ring order. The `posted` ones from `tail` on are in flight, or were holes; the
 * `queued` ones from `head` on are queued, or will be holes. */
struct packet {
    uzc_frames frames;
    uint32_t tail, posted, head, queued;
};

static struct packet *packet_of(uzc_frames *e) {
    return (struct packet *)e;
}

static struct tpacket2_hdr *header_at(const uzc_frames *e, uint32_t frame) {
    return (struct tpacket2_hdr *)(e->base + (size_t)frame * e->stride);
}

/* The frame that is so many, less than all, behind this one. */
static uint32_t frame_behind(const uzc_frames *e, uint32_t frame, uint32_t distance) {
    const uint32_t at = frame + distance;
    return at < e->count ? at : at - e->count;
}

/* -- choosing frames */

/* Frames to skip, each of which costs the kernel as much as copying some cache lines. */
static bool is_near(uint32_t distance, uint32_t length) {
    return distance <= 4 + length / 256;
}

/* The next one in the ring; or, where nothing is in flight, the first of the ring after a quarter of it,
 * since frames that were used a moment ago are in the cache, and those skipped cost less than to fetch
 * others. */
static uint32_t next_frame(const uzc_frames *e) {
    const struct packet *p = (const struct packet *)e;
    return !p->posted && p->head >= e->count / 4 ? 0 : p->head;
}

/* Uses the frame that is `distance` behind the last one that was chosen. */
static bool use_frame(uzc_frames *e, struct entry *n, uint32_t frame, uint32_t distance, bool copied) {
    struct packet *p = packet_of(e);
    n->frame = frame;
    n->before = p->queued;
    e->copied[frame] = copied;
    p->queued += distance + 1;
    return true;
}

static bool none_in_use(const uzc_frames *e) {
    uint32_t references = 0;
    for (uint32_t i = 0; i < e->count; i++)
        references |= atomic_load_explicit(&e->refs[i], memory_order_relaxed);
    return !references;
}

/* A frame that comes after those that are queued, and was settled. */
static bool packet_choose(uzc_frames *e, struct entry *n) {
    struct packet *p = packet_of(e);
    const bool idle = !e->entry_count && !p->posted;
    if (!e->entry_count)
        p->queued = 0;
    const uint32_t staged = frame_at(e, n->data);
    if (staged == NO_FRAME && idle && next_frame(e) != p->head && none_in_use(e))
        p->queued = e->count - p->head;
    const uint32_t first = frame_behind(e, p->head, p->queued), room = e->count - p->posted - p->queued;
    if (staged != NO_FRAME) {
        const uint32_t distance = staged >= first ? staged - first : staged + e->count - first;
        if (distance < room && (idle || is_near(distance, n->length)))
            return use_frame(e, n, staged, distance, false);
    }
    for (uint32_t distance = 0; distance < room; distance++) {
        const uint32_t frame = frame_behind(e, first, distance);
        if (take_frame(e, frame))
            return use_frame(e, n, frame, distance, true);
    }
    return false;
}

static void packet_take_back(uzc_frames *e, const struct entry *n) {
    packet_of(e)->queued = n->before;
}

/* -- sending */

static void post(const uzc_frames *e, uint32_t frame, uint32_t offset, uint32_t length) {
    struct tpacket2_hdr *h = header_at(e, frame);
    h->tp_mac = (uint16_t)offset;
    h->tp_len = length;
    __atomic_store_n(&h->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
}

static uint32_t status_of(const uzc_frames *e, uint32_t frame) {
    return __atomic_load_n(&header_at(e, frame)->tp_status, __ATOMIC_ACQUIRE);
}

static void post_entry(const uzc_frames *e, const struct entry *n) {
    struct virtio_net_hdr how = {0};
    const uint32_t before = n->header + (uint32_t)sizeof how;
    if (n->ip_header) {
        how.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        how.csum_start = (uint16_t)(ETHER_HDR_LEN + n->ip_header);
        how.csum_offset = offsetof(struct udphdr, uh_sum);
        how.hdr_len = (uint16_t)n->header;
    }
    if (n->segment) {
        how.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
        how.gso_size = (uint16_t)n->segment;
    }
    memcpy(payload_of(e, n->frame) - before, &how, sizeof how);
    post(e, n->frame, UZC_FRAME_HEADROOM - before, before + n->length);
}

/* Posts the frames of the entries, and holes before each. Returns how many that were. */
static uint32_t post_all(uzc_frames *e, const struct entry *entries, uint32_t count) {
    uint32_t at = packet_of(e)->head, posted = 0;
    for (uint32_t i = 0; i < count; posted++) {
        if (at == entries[i].frame)
            post_entry(e, &entries[i++]);
        else
            post(e, at, 0, 0);
        at = frame_behind(e, at, 1);
    }
    return posted;
}

static uint32_t packet_transmit(uzc_frames *e, const struct entry *entries, uint32_t count, int *error) {
    struct packet *p = packet_of(e);
    const struct sockaddr_ll by = {.sll_family = AF_PACKET, .sll_ifindex = (int)entries->device};
    uint32_t left = post_all(e, entries, count), taken = 0;
    const ssize_t sent = sendto(e->fd, NULL, 0, MSG_DONTWAIT, (const struct sockaddr *)&by, sizeof by);
    *error = sent < 0 ? errno : EAGAIN;
    for (; left && !(status_of(e, p->head) & TP_STATUS_SEND_REQUEST); left--) {
        if (p->head == entries[taken].frame)
            e->keys[p->head] = entries[taken++].key;
        p->head = frame_behind(e, p->head, 1);
        p->posted++;
        p->queued--;
    }
    for (uint32_t at = p->head; left; left--) { /* the kernel looks at them in sendto() only */
        header_at(e, at)->tp_status = TP_STATUS_AVAILABLE;
        at = frame_behind(e, at, 1);
    }
    return taken;
}

static bool is_released(const uzc_frames *e, uint32_t frame) {
    return !e->keys[frame] || !(status_of(e, frame) & (TP_STATUS_SEND_REQUEST | TP_STATUS_SENDING));
}

/* In ring order: a frame cannot be posted again before those in front of it. */
static void packet_collect(uzc_frames *e) {
    struct packet *p = packet_of(e);
    for (; p->posted && is_released(e, p->tail); p->posted--) {
        if (e->keys[p->tail])
            frame_settled(e, p->tail);
        p->tail = frame_behind(e, p->tail, 1);
    }
    e->refs[e->count] = next_frame(e);
}

static bool packet_pending(const uzc_frames *e) {
    const struct packet *p = (const struct packet *)e;
    return p->posted && (e->fileno_used || is_released(e, p->tail));
}

/* -- setting up */

static void packet_close(uzc_frames *e) {
    if (e->fd >= 0)
        close(e->fd);
}

static const struct link packet_link = {.choose = packet_choose,
                                        .take_back = packet_take_back,
                                        .transmit = packet_transmit,
                                        .collect = packet_collect,
                                        .pending = packet_pending,
                                        .close = packet_close};

/* Whether the kernel makes datagrams of a train (Linux 6.2): tries it on the loopback device, with a frame
 * for another Ethernet address, which is dropped where it would be received. Where that device is down, the
 * kernel's version decides. */
static bool sends_trains(int loopback) {
    struct {
        struct virtio_net_hdr how;
        struct ether_header ethernet;
        struct {
            uint8_t version, tos;
            uint16_t length, id, fragment;
            uint8_t ttl, protocol;
            uint16_t sum;
            uint32_t from, to;
        } ip;
        struct udphdr udp;
        char payload[2];
    } __attribute__((packed))
    train = {.how = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                     .gso_type = VIRTIO_NET_HDR_GSO_UDP_L4,
                     .hdr_len = 42,
                     .gso_size = 1,
                     .csum_start = 34,
                     .csum_offset = 6},
             .ethernet = {.ether_dhost = {2}, .ether_shost = {2}, .ether_type = htons(ETHERTYPE_IP)},
             .ip = {.version = 0x45,
                    .length = htons(30),
                    .ttl = 1,
                    .protocol = IPPROTO_UDP,
                    .to = htonl(INADDR_LOOPBACK)},
             .udp = {.uh_dport = htons(9), .uh_ulen = htons(10)}};
    const struct sockaddr_ll by = {.sll_family = AF_PACKET, .sll_ifindex = loopback};
    const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    bool sent = fd >= 0 && setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &(int){1}, sizeof(int)) == 0 &&
                sendto(fd, &train, sizeof train, MSG_DONTWAIT, (const struct sockaddr *)&by, sizeof by) > 0;
    struct utsname kernel;
    int major, minor;
    if (!sent && errno == ENETDOWN && uname(&kernel) == 0 &&
        sscanf(kernel.release, "%d.%d", &major, &minor) == 2)
        sent = major > 6 || (major == 6 && minor >= 2);
    if (fd >= 0)
        close(fd);
    return sent;
}

static int set_options(int fd, int qdisc_bypass) {
    const struct {
        int name, value;
    } options[] = {{PACKET_VERSION, TPACKET_V2},
                   {PACKET_VNET_HDR, 1},
                   {PACKET_LOSS, 1},
                   {PACKET_TX_HAS_OFF, 1},
                   {PACKET_QDISC_BYPASS, qdisc_bypass}};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (setsockopt(fd, SOL_PACKET, options[i].name, &options[i].value, sizeof(int)) < 0)
            return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &(int){SNDBUF}, sizeof(int)) < 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){SNDBUF}, sizeof(int));
    return 0;
}

static int map_ring(uzc_frames *e) {
    const uint32_t blocks = e->count / (BLOCK / STRIDE), length = blocks * BLOCK;
    struct tpacket_req ring = {
        .tp_block_size = BLOCK, .tp_block_nr = blocks, .tp_frame_size = STRIDE, .tp_frame_nr = e->count};
    if (setsockopt(e->fd, SOL_PACKET, PACKET_TX_RING, &ring, sizeof ring) < 0)
        return -errno;
    return frames_map(e, length, MAP_SHARED, e->fd);
}

static int open_ring(uzc_frames *e, int qdisc_bypass) {
    const int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    e->fd = fd;
    int error = set_options(fd, qdisc_bypass);
    if (!error)
        error = map_ring(e);
    return error;
}

int uzc_packet_new(uzc_frames **out, uzc_slots *slots, uint32_t entries, uint32_t count, uint32_t *refs,
                   int qdisc_bypass) {
    struct packet *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    uzc_frames *e = *out = &p->frames;
    e->link = &packet_link;
    e->stride = STRIDE;
    int error = frames_init(e, slots, entries, count, refs);
    if (!error)
        error = open_ring(e, qdisc_bypass);
    if (!error)
        e->trains = sends_trains(1);
    return frames_made(out, error);
}
