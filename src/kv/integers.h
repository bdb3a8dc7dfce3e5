/* integers.h - what int8 and int4 share: parameters in one order, and pages of page_affine with groups along the
 * channels of a token or, for K, along the tokens of a channel. */
#ifndef KV_INTEGERS_H
#define KV_INTEGERS_H
#include "kv/page_affine.h"

enum { INTEGERS_GROUP, INTEGERS_AXIS, INTEGERS_TAIL }; /* 32|64|row, token|channel, tokens: the order of their params */

affine integers_affine(const kv_config *c, kv_side side, int d, int bits, bool symmetric);
/* PLEAT_EINPUT, naming the format: groups that do not divide heads of d (0: not known), a tail of part of a page. */
pleat_status integers_check(const char *format, const kv_config *c, const affine *a, int d, pleat_error *error);
kv_geometry integers_geometry(const kv_config *c, const affine *a, kv_side side, int d);
#endif
