/* format_int4.c - 4-bit integers, asymmetric: a group's minimum and (max - min) / 15 are stored in fp16.
 *
 * axis=token (default): groups of 32 or 64 channels of one token, or the whole row (group=row). Any row of a sealed
 * page can be written anew, so freed slots are reused without loss. axis=channel: K in groups of 32 or 64 tokens of one
 * channel (row: the page's 64), V stays per token. tail=N keeps the newest N to N + 63 tokens in fp16.
 *
 *   page   codes [64 x d] nibbles (page_codes.c), scales fp16, minima fp16: by token [d / group][64], by channel
 *          [64 / group][d]
 *
 * Keys with a large bias (Qwen2.5: one channel of 200 and more): per token, such a channel takes the range of its whole
 * group, whose other 31 channels are lost (docs/quality.md has the figures). axis=channel is the remedy: a bias is
 * constant along a channel and goes into the minimum. Bytes per token and KV head: d / 2 + 4 d / group a side. */
#include "kv/integers.h"

static const kv_param params[] = {
    {"group", "elements that share a scale and a minimum", "32|64|row", 0, 0, 2, true},
    {"axis", "groups of K lie along", "token|channel", 0, 0, 1, true},
    {"tail", "newest tokens kept in fp16, a multiple of 64", NULL, 0, 0, 1 << 20, true},
    {0},
};

static affine affine_of(const kv_config *c, kv_side side, int d) {
    return integers_affine(c, side, d, 4, false);
}

static pleat_status check(const kv_config *c, kv_side side, int d, pleat_error *error) {
    affine a = affine_of(c, side, d);
    return integers_check("int4", c, &a, d, error);
}

static void geometry(const kv_config *c, kv_side side, int d, kv_geometry *out) {
    affine a = affine_of(c, side, d);
    *out = integers_geometry(c, &a, side, d);
}

static void seal(const kv_config *c, kv_side side, int d, float *x, int first, int n, const kv_page *pages,
                 const kv_sealing *how) {
    (void)how;
    affine a = affine_of(c, side, d);
    affine_seal(&a, side, d, x, first, n, pages->bytes);
}

static void open(const kv_config *c, kv_side side, int d, const kv_page *page, float *x) {
    affine a = affine_of(c, side, d);
    affine_open(&a, side, d, page->bytes, x);
}

static void score(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, kv_query_rows *q,
                  float *s, const void *prefetch) {
    affine a = affine_of(c, KV_K, d);
    affine_score(kernels, &a, d, page->bytes, q, s, prefetch);
}

static void mix(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, const float *p, int n_rows,
                float *o, const void *prefetch) {
    affine a = affine_of(c, KV_V, d);
    affine_mix(kernels, &a, d, page->bytes, p, n_rows, o, prefetch);
}

const kv_format kv_format_int4 = {
    .name = "int4",
    .paper = "",
    .summary = "4-bit integers, asymmetric, a scale and a minimum per group",
    .params = params,
    .check = check,
    .geometry = geometry,
    .seal = seal,
    .open = open,
    .score = score,
    .mix = mix,
};
