/* format_f16.c - the uncompressed cache: rows rounded once to fp16, nearest even, before attention reads them. The base
 * of every ratio.
 *
 * It never seals: its pages are the fp16 pages that every lane's tail has (page_f16.c), so a compressed method whose
 * tail covers the whole lane gives its bits. 4 d bytes per token and KV head. */
#include "kv/method.h"
#include <assert.h>
#include <stddef.h>

static void geometry(const kv_config *c, kv_side side, int d, kv_geometry *out) {
    (void)c;
    (void)side;
    (void)d;
    *out = (kv_geometry){.run_pages = 1};
}

const kv_format kv_format_f16 = {
    .name = "f16",
    .paper = "",
    .summary = "IEEE half precision, nothing lost",
    .geometry = geometry,
};
