/* format_rot.c - rotated integers: rows are turned by an orthonormal Hadamard matrix (hadamard.c) before they are
 * quantised per token, which spreads a channel's outliers over the row (QuaRot, arXiv 2404.00456; llama.cpp and
 * ik_llama.cpp do it to K and V).
 *
 * K is turned after RoPE (the two do not commute), and so is q: once per tile of queries, by attention (`turn`); q . k
 * is unchanged. What mix adds up is in the turned basis too and is turned back once per chunk. Symmetric codes: max|y|
 * / m, m = 127 or 7; else minimum and (max - min) / (2^bits - 1). signs=1 flips fixed random signs first, so that no
 * common row becomes a spike; signs=0 is llama.cpp's way (its q4_0 and q8_0 have other codes: not the same numbers).
 *
 *   page   codes [64 x d] (page_codes.c), scales fp16 [d / group][64], and, unless sym, minima fp16 [d / group][64];
 *          center: mean fp16 [d] of K's turned rows
 *
 * Keys with a large bias (Qwen2.5): the turn spreads the bias over the whole row, where every group pays a part of it,
 * so 4 bits of K fail there (and warn). center=1 keeps the mean of a page's 64 keys apart and codes the differences,
 * which takes most of the bias out for 2 d / 64 bytes a token (SageAttention, arXiv 2410.02367, does that over all
 * tokens; not in the paper above). Without it any row can be written anew. Bytes per token and KV head: 2 * (d * bits /
 * 8 + (sym ? 2 : 4) * d / group). */
#include "kv/method.h"
#include "base/status.h"
#include "kv/hadamard.h"
#include "kv/page_affine.h"
#include "kv/page_mean.h"

enum { BITS, GROUP, SYM, SIGNS, CENTER };

static const kv_param params[] = {
    {"bits", "of a code", "4|8", 0, 0, 1, true},
    {"group", "elements that share a scale", "32|64|row", 0, 0, 2, true},
    {"sym", "1: no minimum, codes around 0", NULL, 0, 0, 1, true},
    {"signs", "1: random signs before the turn", NULL, 1, 0, 1, true},
    {"center", "1: K's mean of each page is kept apart", NULL, 0, 0, 1, true},
    {0},
};

static affine affine_of(const kv_config *c, int d) {
    return (affine){.bits = c->value[BITS] == 0 ? 4 : 8,
                    .symmetric = c->value[SYM] != 0,
                    .by_token = true,
                    .group = c->value[GROUP] == 0   ? 32
                             : c->value[GROUP] == 1 ? 64
                                                    : d};
}

static pleat_status check(const kv_config *c, kv_side side, int d, pleat_error *error) {
    (void)side;
    affine a = affine_of(c, d);
    if (d && d % a.group)
        return err_set(error, PLEAT_EINPUT, "rot: heads of %d elements cannot be cut in groups of %d", d, a.group);
    return PLEAT_OK;
}

static bool centers(const kv_config *c, kv_side side) {
    return side == KV_K && c->value[CENTER] != 0;
}

static f16 *mean_of(const kv_config *c, int d, const kv_page *page) {
    affine a = affine_of(c, d);
    return (f16 *)(page->bytes + affine_page_bytes(&a, KV_K, d));
}

static void geometry(const kv_config *c, kv_side side, int d, kv_geometry *out) {
    affine a = affine_of(c, d);
    size_t mean_bytes = centers(c, side) ? ((size_t)d * sizeof(f16) + 63) / 64 * 64 : 0;
    *out = (kv_geometry){.page_bytes = affine_page_bytes(&a, side, d) + mean_bytes,
                         .run_pages = 1,
                         .step_tokens = PAGE_TOKENS,
                         .row_writable = !centers(c, side)};
}

static void turn(const kv_config *c, int d, bool back, float *x, int n_rows) {
    hadamard_turn(d, c->value[SIGNS] != 0, back, x, n_rows);
}

static const char *warning(const kv_config *c, kv_side side, const kv_model *model) {
    if (side == KV_V || c->value[BITS] != 0 || centers(c, side) || !model || !model->has_key_bias)
        return NULL;
    return "rot: 4 bits are too few for the keys of models with a key bias; center=1 takes it out";
}

static void seal(const kv_config *c, kv_side side, int d, float *x, int first, int n, const kv_page *pages,
                 const kv_sealing *how) {
    (void)how;
    affine a = affine_of(c, d);
    turn(c, d, false, x, n);
    if (centers(c, side))
        page_mean_take(d, x, mean_of(c, d, pages));
    affine_seal(&a, side, d, x, first, n, pages->bytes);
}

static void open(const kv_config *c, kv_side side, int d, const kv_page *page, float *x) {
    affine a = affine_of(c, d);
    affine_open(&a, side, d, page->bytes, x);
    if (centers(c, side))
        page_mean_give(d, x, mean_of(c, d, page));
    turn(c, d, true, x, PAGE_TOKENS);
}

static void score(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, kv_query_rows *q,
                  float *s, const void *prefetch) {
    affine a = affine_of(c, d);
    affine_score(kernels, &a, d, page->bytes, q, s, prefetch);
    if (centers(c, KV_K))
        page_mean_score(kernels, d, mean_of(c, d, page), q->x, q->n, s);
}

static void mix(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, const float *p, int n_rows,
                float *o, const void *prefetch) {
    affine a = affine_of(c, d);
    affine_mix(kernels, &a, d, page->bytes, p, n_rows, o, prefetch);
}

const kv_format kv_format_rot = {
    .name = "rot",
    .paper = "arXiv 2404.00456",
    .summary = "8- or 4-bit integers of rows turned by a Hadamard matrix",
    .params = params,
    .check = check,
    .geometry = geometry,
    .warning = warning,
    .seal = seal,
    .open = open,
    .turn = turn,
    .score = score,
    .mix = mix,
};
