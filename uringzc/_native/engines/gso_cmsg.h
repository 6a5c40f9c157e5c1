/* SPDX-License-Identifier: MIT
 *
 * The control message that has a request cut into datagrams. */
#ifndef UZC_CONTROL_H
#define UZC_CONTROL_H

#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include "native.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* Linux 4.18; <netinet/udp.h> may have it */
#endif

/* A block for one: struct msghdr's msg_control, and its size. */
typedef union {
    char bytes[CMSG_SPACE(sizeof(uint16_t))];
    struct cmsghdr header;
} uzc_gso_control;

/* Datagrams of so many bytes. */
static inline void uzc_gso_cmsg(uzc_gso_control *control, uint32_t segment) {
    control->header = (struct cmsghdr){CMSG_LEN(sizeof(uint16_t)), IPPROTO_UDP, UDP_SEGMENT};
    memcpy(CMSG_DATA(&control->header), &(uint16_t){(uint16_t)segment}, sizeof(uint16_t));
}

#endif
