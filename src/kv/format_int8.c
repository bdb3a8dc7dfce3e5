/* format_int8.c - 8-bit integers, symmetric: s = max|x| / 127 of a group, stored fp16; codes -127..127, stored plus 128
 * as bytes.
 *
 * axis=token (default): groups of 32 or 64 channels of one token, or the whole row (group=row). Any row of a sealed
 * page can be written anew, so freed slots are reused without loss. axis=channel: K in groups of 32 or 64 tokens of one
 * channel (row: the page's 64), V stays per token. tail=N keeps the newest N to N + 63 tokens in fp16.
 *
 *   page   codes [64 x d] bytes (page_codes.c), then scales fp16: by token [d / group][64], by channel [64 / group][d]
 *
 * The scale is rounded to fp16 first and codes are taken against the rounded one, half to even, so that `open` is what
 * was chosen; a range whose scale is below fp16's normal numbers becomes zeros. (llama.cpp's q8_0 has the same map.)
 *
 * Keys with a large bias (Qwen2.5: one channel of 200 and more): per token, it makes the step of its group 200 / 127,
 * coarse for the group's other channels and still small beside their effect on the scores (docs/quality.md: KL 0.003),
 * so nothing is done about it. */
#include "kv/integers.h"

static const kv_param params[] = {
    {"group", "elements that share a scale", "32|64|row", 0, 0, 2, true},
    {"axis", "groups of K lie along", "token|channel", 0, 0, 1, true},
    {"tail", "newest tokens kept in fp16, a multiple of 64", NULL, 0, 0, 1 << 20, true},
    {0},
};

static affine affine_of(const kv_config *c, kv_side side, int d) {
    return integers_affine(c, side, d, 8, true);
}

static pleat_status check(const kv_config *c, kv_side side, int d, pleat_error *error) {
    affine a = affine_of(c, side, d);
    return integers_check("int8", c, &a, d, error);
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

const kv_format kv_format_int8 = {
    .name = "int8",
    .paper = "",
    .summary = "8-bit integers, symmetric, a scale per group",
    .params = params,
    .check = check,
    .geometry = geometry,
    .seal = seal,
    .open = open,
    .score = score,
    .mix = mix,
};
