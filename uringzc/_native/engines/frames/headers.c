/* SPDX-License-Identifier: MIT */
/* Ethernet, IP and UDP headers, from the template of a path. Sums are of 16-bit words in network order as
 * they lie in memory: one's complement sums do not depend on the byte order. */
#include "engines/frames/headers.h"

#include <arpa/inet.h>
#include <net/ethernet.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/udp.h>
#include <stddef.h>

static uint64_t sum_words(const char *data, size_t length) {
    uint64_t sum = 0;
    for (; length >= 8; data += 8, length -= 8) {
        uint32_t words[2];
        memcpy(words, data, 8);
        sum += (uint64_t)words[0] + words[1];
    }
    for (; length >= 2; data += 2, length -= 2) {
        uint16_t word;
        memcpy(&word, data, 2);
        sum += word;
    }
    if (length) {
        uint16_t word = 0;
        memcpy(&word, data, 1);
        sum += word;
    }
    return sum;
}

static uint16_t fold(uint64_t sum) {
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

static bool is_ipv4(const struct path *p) {
    return p->info.header_length == sizeof(struct ether_header) + sizeof(struct ip) + sizeof(struct udphdr);
}

void sum_headers(struct path *p) {
    const char *ip = p->info.header + sizeof(struct ether_header);
    const size_t addresses = is_ipv4(p) ? offsetof(struct ip, ip_src) : offsetof(struct ip6_hdr, ip6_src);
    p->ip_sum = is_ipv4(p) ? fold(sum_words(ip, sizeof(struct ip))) : 0;
    p->pseudo_sum = fold(sum_words(ip + addresses, is_ipv4(p) ? 8 : 32) + htons(IPPROTO_UDP));
}

void write_headers(uzc_frames *e, const struct path *p, char *payload, uint32_t length, uint32_t segment,
                   bool whole) {
    char *at = payload - p->info.header_length, *ip = at + sizeof(struct ether_header);
    struct udphdr *udp = (struct udphdr *)(payload - sizeof *udp);
    const uint16_t udp_length = htons((uint16_t)(length + sizeof *udp));
    memcpy(at, p->info.header, p->info.header_length);
    if (is_ipv4(p)) {
        struct ip *four = (struct ip *)ip;
        four->ip_len = htons((uint16_t)(length + sizeof *udp + sizeof *four));
        four->ip_id = htons(e->next_id);
        four->ip_sum = (uint16_t)~fold((uint64_t)p->ip_sum + four->ip_len + four->ip_id);
        e->next_id = (uint16_t)(e->next_id + (segment ? (length + segment - 1) / segment : 1));
    } else {
        ((struct ip6_hdr *)ip)->ip6_plen = udp_length;
    }
    udp->uh_ulen = udp_length;
    uint16_t sum = fold((uint64_t)p->pseudo_sum + udp_length);
    if (whole) {
        sum = (uint16_t)~fold((uint64_t)sum + sum_words((char *)udp, sizeof *udp + length));
        sum = sum ? sum : 0xffff;
    }
    udp->uh_sum = sum;
}
