/* format_lm.c - rotated rows in a Lloyd-Max codebook: TurboQuant's variant for mean squared error (arXiv 2504.19874,
 * section 3.1), without its 1-bit residual sketch.
 *
 * y = H D x as in rot, N = |x|, u = y * sqrt(d) / N is close to N(0, 1) whatever x was; each u becomes the nearest of
 * 2^bits values that are best for N(0, 1) (Lloyd-Max; symmetric), and the row one fp16 gain: N / |chosen values|, so
 * that the row's length is kept (normcorr=1), or N / sqrt(d). Score and sum are gain times table values, in the turned
 * basis. The table has whole numbers, so products are integer ones (page_products.c).
 *
 *   page   codes [64 x d] of 4, 3 or 2 bits (page_codes.c), gains fp16 [64]
 *
 * Differences: the paper turns by a random orthogonal matrix and has the exact codebook of a sphere's coordinates (for
 * d = 64 within 3.2 % of this one); implementations use Walsh-Hadamard and N(0, 1), and so does this. The residual
 * sketch (QJL) is left out: it raises the variance of scores, and several ports measured it as harmful. Keys lose more
 * than values: k=lm4,v=lm3 is the mix to take; 3 bits for keys warn.
 *
 * Keys with a large bias (Qwen2.5): N is the bias's, so what tells tokens apart is lost in its step (and it warns).
 * center=1 keeps the mean of a page's 64 turned keys apart (fp16 [d] behind the gains) and codes the differences, which
 * takes most of the bias out for 2 d / 64 bytes a token (SageAttention, arXiv 2410.02367, does that over all tokens;
 * not in the paper above). Without it any row can be written anew. Bytes per token and KV head: 2 * (d * bits / 8 + 2).
 */
#include "kv/method.h"
#include "kv/dots.h"
#include "kv/hadamard.h"
#include "kv/page_affine.h"
#include "kv/page_codes.h"
#include "kv/page_mean.h"
#include <math.h>

enum { BITS, NORMCORR, SIGNS, CENTER };

static const kv_param params[] = {
    {"bits", "of a code", "4|3|2", 0, 0, 2, true},
    {"normcorr", "1: gains keep the length of rows", NULL, 1, 0, 1, true},
    {"signs", "1: random signs before the turn", NULL, 1, 0, 1, true},
    {"center", "1: K's mean of each page is kept apart", NULL, 0, 0, 1, true},
    {0},
};

/* The best values for N(0, 1) as whole numbers times a step, chosen so that none is further from its own than 5e-4,
 * 8e-5 or 2e-6 (4, 3, 2 bits); and the upper halves of the boundaries between them. */
typedef struct codebook {
    int bits, n_bounds;
    float step;
    int16_t number[16];
    float bound[7];
} codebook;

static const codebook books[3] = {
    {.bits = 4,
     .step = 3.203556e-3f,
     .number = {-853, -646, -505, -392, -294, -205, -121, -40, 40, 121, 205, 294, 392, 505, 646, 853},
     .n_bounds = 7,
     .bound = {0.258222f, 0.522404f, 0.799550f, 1.099286f, 1.437139f, 1.843532f, 2.400803f}},
    {.bits = 3,
     .step = 2.270068e-3f,
     .number = {-948, -592, -333, -108, 108, 333, 592, 948},
     .n_bounds = 3,
     .bound = {0.500550f, 1.049957f, 1.747927f}},
    {.bits = 2, .step = 1.728165e-3f, .number = {-874, -262, 262, 874}, .n_bounds = 1, .bound = {0.981599f}},
};

static const codebook *book_of(const kv_config *c) {
    return &books[(int)c->value[BITS]];
}

static bool centers(const kv_config *c, kv_side side) {
    return side == KV_K && c->value[CENTER] != 0;
}

static f16 *gains_of(const kv_config *c, int d, const kv_page *page) {
    return (f16 *)(page->bytes + page_codes_bytes(book_of(c)->bits, d));
}

static f16 *mean_of(const kv_config *c, int d, const kv_page *page) {
    return gains_of(c, d, page) + PAGE_TOKENS;
}

static void geometry(const kv_config *c, kv_side side, int d, kv_geometry *out) {
    size_t halves = PAGE_TOKENS + (centers(c, side) ? (size_t)d : 0);
    *out = (kv_geometry){.page_bytes = (page_codes_bytes(book_of(c)->bits, d) + halves * sizeof(f16) + 63) / 64 * 64,
                         .run_pages = 1,
                         .step_tokens = PAGE_TOKENS,
                         .row_writable = !centers(c, side)};
}

static const char *warning(const kv_config *c, kv_side side, const kv_model *model) {
    if (side == KV_V)
        return NULL;
    if (model && model->has_key_bias && !centers(c, side))
        return "lm: keys of models with a key bias are lost in it; center=1 takes it out";
    if (book_of(c)->bits == 4)
        return NULL;
    return book_of(c)->bits == 3
               ? "lm: 3 bits for keys cost answers on most models; k=lm4,v=lm3 keeps them nearer to f16"
               : "lm: 2 bits for keys break most answers; k=lm4,v=lm3 keeps them nearer to f16";
}

static void turn(const kv_config *c, int d, bool back, float *x, int n_rows) {
    hadamard_turn(d, c->value[SIGNS] != 0, back, x, n_rows);
}

/* Codes of a turned row; returns its gain. */
static f16 encode(const kv_config *c, int d, const float *y, uint8_t *code) {
    const codebook *book = book_of(c);
    int n = book->n_bounds;
    double norm = sqrt(dot_double(y, y, d));
    float chosen[KV_MAX_HEAD_DIM];
    float to_unit = norm > 0 ? (float)(sqrt((double)d) / norm) : 0;
    uint8_t above[KV_MAX_HEAD_DIM] = {0};
    for (int i = 0; i < n; i++)
        for (int j = 0; j < d; j++)
            above[j] += fabsf(y[j] * to_unit) > book->bound[i];
    for (int j = 0; j < d; j++)
        code[j] = (uint8_t)(y[j] * to_unit > 0 ? n + 1 + above[j] : n - above[j]);
    for (int j = 0; j < d; j++)
        chosen[j] = (float)book->number[code[j]] * book->step;
    double length = c->value[NORMCORR] != 0 ? sqrt(dot_double(chosen, chosen, d)) : sqrt((double)d);
    return affine_nearest((float)(norm / length));
}

static void seal(const kv_config *c, kv_side side, int d, float *x, int first, int n, const kv_page *pages,
                 const kv_sealing *how) {
    (void)how;
    uint8_t code[PAGE_TOKENS * KV_MAX_HEAD_DIM];
    turn(c, d, false, x, n);
    if (centers(c, side))
        page_mean_take(d, x, mean_of(c, d, pages));
    for (int i = 0; i < n; i++)
        gains_of(c, d, pages)[first + i] = encode(c, d, x + i * d, code + i * d);
    page_codes_put_rows(book_of(c)->bits, d, side, pages->bytes, code, first, n);
}

static page_maps maps_of(const kv_config *c, const float *scale) {
    return (page_maps){.n_groups = 1, .by_token = true, .centred = true, .scale = scale, .book = book_of(c)->number};
}

static void open(const kv_config *c, kv_side side, int d, const kv_page *page, float *x) {
    float scale[PAGE_TOKENS];
    page_maps maps = maps_of(c, scale);
    for (int t = 0; t < PAGE_TOKENS; t++)
        scale[t] = f16_to_f32(gains_of(c, d, page)[t]) * book_of(c)->step;
    page_codes_open(book_of(c)->bits, d, side, page->bytes, &maps, x);
    if (centers(c, side))
        page_mean_give(d, x, mean_of(c, d, page));
    turn(c, d, true, x, PAGE_TOKENS);
}

/* scale [64]. Asks for what follows the next page's codes; the kernels ask for these. */
static page_maps open_maps(const cpu_kernels *kernels, const kv_config *c, kv_side side, int d, const kv_page *page,
                           const void *prefetch, float *scale) {
    kv_geometry g;
    geometry(c, side, d, &g);
    page_codes_fetch(prefetch, page_codes_bytes(book_of(c)->bits, d), g.page_bytes);
    kernels->f16_to_f32(gains_of(c, d, page), PAGE_TOKENS, scale);
    kernels->scale(scale, PAGE_TOKENS, book_of(c)->step);
    return maps_of(c, scale);
}

static void score(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, kv_query_rows *q,
                  float *s, const void *prefetch) {
    float scale[PAGE_TOKENS];
    page_maps maps = open_maps(kernels, c, KV_K, d, page, prefetch, scale);
    page_codes_score(kernels, book_of(c)->bits, d, page->bytes, &maps, q, s, prefetch);
    if (centers(c, KV_K))
        page_mean_score(kernels, d, mean_of(c, d, page), q->x, q->n, s);
}

static void mix(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, const float *p, int n_rows,
                float *o, const void *prefetch) {
    float scale[PAGE_TOKENS];
    page_maps maps = open_maps(kernels, c, KV_V, d, page, prefetch, scale);
    page_codes_mix(kernels, book_of(c)->bits, d, page->bytes, &maps, p, n_rows, o, prefetch);
}

const kv_format kv_format_lm = {
    .name = "lm",
    .paper = "arXiv 2504.19874",
    .summary = "Hadamard-turned rows in a Lloyd-Max codebook of 4, 3 or 2 bits",
    .params = params,
    .geometry = geometry,
    .warning = warning,
    .seal = seal,
    .open = open,
    .turn = turn,
    .score = score,
    .mix = mix,
};
