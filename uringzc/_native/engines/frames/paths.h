/* SPDX-License-Identifier: MIT */
#pragma once

#include "engines/frames/path.h"

/* The path of a request. NULL: it is not known, or not any more. */
struct path *path_of(uzc_frames *e, const uzc_send *send);
void free_paths(uzc_frames *e);
