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
 * group, whose other 31 channels are lost (docs/page_formats.md has the figures). axis=channel is the remedy: a bias is
 * constant along a channel and goes into the minimum. Bytes per token and KV head: d / 2 + 4 d / group a side. */
#include "kv/method.h"
#include "base/status.h"
#include "kv/page_affine.h"

enum { GROUP, AXIS, TAIL };
enum { AXIS_TOKEN, AXIS_CHANNEL };

static const kv_param params[] = {
    {"group", "elements that share a scale and a minimum", "32|64|row", 0, 0, 2, true},
    {"axis", "groups of K lie along", "token|channel", AXIS_TOKEN, 0, 1, true},
    {"tail", "newest tokens kept in fp16, a multiple of 64", NULL, 0, 0, 1 << 20, true},
    {0},
};

static affine affine_of(const kv_config *c, kv_side side, int d) {
    bool by_token = side == KV_V || c->value[AXIS] == AXIS_TOKEN;
    int row = by_token ? d : PAGE_TOKENS;
    return (affine){.bits = 4,
                    .by_token = by_token,
                    .group = c->value[GROUP] == 0   ? 32
                             : c->value[GROUP] == 1 ? 64
                                                    : row};
}

static pleat_status check(const kv_config *c, kv_side side, int d, pleat_error *error) {
    affine a = affine_of(c, side, d);
    if ((int)c->value[TAIL] % PAGE_TOKENS)
        return err_set(error, PLEAT_EINPUT, "int4: tail=%d is not a multiple of %d", (int)c->value[TAIL], PAGE_TOKENS);
    if (d && a.by_token && d % a.group)
        return err_set(error, PLEAT_EINPUT, "int4: heads of %d elements cannot be cut in groups of %d", d, a.group);
    return PLEAT_OK;
}

static void geometry(const kv_config *c, kv_side side, int d, kv_geometry *out) {
    affine a = affine_of(c, side, d);
    *out = (kv_geometry){.page_bytes = affine_page_bytes(&a, side, d),
                         .run_pages = 1,
                         .keep_tokens = (int)c->value[TAIL],
                         .step_tokens = PAGE_TOKENS,
                         .row_writable = a.by_token};
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

static void score(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, const float *q,
                  int n_rows, float *s, const void *prefetch) {
    affine a = affine_of(c, KV_K, d);
    affine_score(kernels, &a, d, page->bytes, q, n_rows, s, prefetch);
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
