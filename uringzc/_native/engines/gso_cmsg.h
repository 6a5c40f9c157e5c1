/* SPDX-License-Identifier: MIT */
/* The control message of GSO (UDP_SEGMENT): the kernel cuts the request into datagrams of one size. */
#pragma once

#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include "native.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103 /* Linux 4.18; <netinet/udp.h> may have it */
#endif

/* Memory for struct msghdr's msg_control; its size is msg_controllen. */
typedef union {
    char bytes[CMSG_SPACE(sizeof(uint16_t))];
    struct cmsghdr header;
} uzc_gso_control;

/* segment: bytes of each datagram */
static inline void uzc_gso_cmsg(uzc_gso_control *control, uint32_t segment) {
    control->header = (struct cmsghdr){CMSG_LEN(sizeof(uint16_t)), IPPROTO_UDP, UDP_SEGMENT};
    memcpy(CMSG_DATA(&control->header), &(uint16_t){(uint16_t)segment}, sizeof(uint16_t));
}
