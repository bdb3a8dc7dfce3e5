/* format_fp8.c - 8-bit floats, e4m3 (OCP 8-bit floating point, 2023: bias 7, no infinities, at most 448), nearest even,
 * with one scale a row: max|x| / 448 in fp16.
 *
 *   page   codes [64 x d], laid out like fp16's, scales fp16 [64]
 *
 *   K   [2 halves][d channels][32 tokens]    V   [d/32 groups][64 tokens][32 channels]
 *
 * A scale among fp16's subnormals is taken up by one step where it would cut the row's largest element by more than
 * rounding does; rows below 2^-25 * 448 become zeros. The exponent keeps small channels beside a large one: with a key
 * bias (Qwen2.5) every channel keeps 3 bits of mantissa down to 2^-15 of the largest, so nothing is done about it. Any
 * row can be written anew. K's scale multiplies a token's sum, V's goes into p. Bytes per token and KV head: 2 * (d +
 * 2). */
#include "kv/method.h"
#include "base/status.h"
#include "kv/page_codes.h"
#include <math.h>
#include <string.h>

enum { TAIL };
enum { BLOCK_ROWS = 32, HALVES = PAGE_TOKENS / TILE };
#define MOST 448.0f

static const kv_param params[] = {
    {"tail", "newest tokens kept in fp16, a multiple of 64", NULL, 0, 0, 1 << 20, true},
    {0},
};

static pleat_status check(const kv_config *c, kv_side side, int d, pleat_error *error) {
    (void)side;
    (void)d;
    if ((int)c->value[TAIL] % PAGE_TOKENS)
        return err_set(error, PLEAT_EINPUT, "fp8: tail=%d is not a multiple of %d", (int)c->value[TAIL], PAGE_TOKENS);
    return PLEAT_OK;
}

static size_t codes_bytes(int d) {
    return (size_t)PAGE_TOKENS * (size_t)d;
}

static f16 *scales_of(int d, const kv_page *page) {
    return (f16 *)(page->bytes + codes_bytes(d));
}

/* Where element i of a tile row's 32 begins. */
static uint8_t *row_at(kv_side side, int d, const kv_page *page, int tile, int i) {
    return page->bytes + ((size_t)tile * (size_t)(side == KV_K ? d : PAGE_TOKENS) + (size_t)i) * TILE;
}

static uint8_t *element_at(kv_side side, int d, const kv_page *page, int t, int j) {
    return side == KV_K ? row_at(side, d, page, t / TILE, j) + t % TILE : row_at(side, d, page, j / TILE, t) + j % TILE;
}

static void geometry(const kv_config *c, kv_side side, int d, kv_geometry *out) {
    (void)side;
    *out = (kv_geometry){.page_bytes = codes_bytes(d) + PAGE_TOKENS * sizeof(f16),
                         .run_pages = 1,
                         .keep_tokens = (int)c->value[TAIL],
                         .step_tokens = PAGE_TOKENS,
                         .row_writable = true};
}

/* Steps of 2^-9 below 2^-6 (subnormal), of 2^(exponent - 3) above; the code's bits count up evenly through both. */
static uint8_t encode(float x) {
    float size = fabsf(x);
    uint8_t sign = signbit(x) ? 128 : 0;
    if (size < 0x1p-6f)
        return (uint8_t)(sign | (int)rintf(size * 0x1p9f));
    int exponent;
    float eighths = rintf(ldexpf(frexpf(size, &exponent), 4)); /* 8..16 */
    int code = ((exponent + 6) << 3) + (int)eighths - 8;
    return (uint8_t)(sign | (code > 0x7E ? 0x7E : code));
}

static f16 scale_of(const float *x, int d) {
    float most = 0;
    for (int j = 0; j < d; j++)
        most = fabsf(x[j]) > most ? fabsf(x[j]) : most;
    f16 stored = f16_from_f32(most / MOST);
    return stored && most > f16_to_f32(stored) * (MOST + 16) ? (f16)(stored + 1) : stored;
}

static void seal(const kv_config *c, kv_side side, int d, float *x, int first, int n, const kv_page *pages,
                 const kv_sealing *how) {
    (void)c;
    (void)how;
    f16 *stored = scales_of(d, pages) + first;
    for (int i = 0; i < n; i++) {
        stored[i] = scale_of(x + i * d, d);
        float scale = f16_to_f32(stored[i]);
        for (int j = 0; j < d; j++)
            *element_at(side, d, pages, first + i, j) = scale > 0 ? encode(x[i * d + j] / scale) : 0;
    }
}

static void open(const kv_config *c, kv_side side, int d, const kv_page *page, float *x) {
    (void)c;
    for (int t = 0; t < PAGE_TOKENS; t++) {
        float scale = f16_to_f32(scales_of(d, page)[t]);
        for (int j = 0; j < d; j++)
            x[t * d + j] = scale * e4m3_to_f32(*element_at(side, d, page, t, j));
    }
}

static const uint8_t *ahead(const void *prefetch, const kv_page *page, const uint8_t *at) {
    return prefetch ? (const uint8_t *)prefetch + (at - page->bytes) : NULL;
}

/* The kernels ask for the codes. */
static void open_scales(const cpu_kernels *kernels, int d, const kv_page *page, const void *prefetch, float *scale) {
    page_codes_fetch(prefetch, codes_bytes(d), codes_bytes(d) + PAGE_TOKENS * sizeof(f16));
    kernels->f16_to_f32(scales_of(d, page), PAGE_TOKENS, scale);
}

static void score(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, kv_query_rows *q,
                  float *s, const void *prefetch) {
    (void)c;
    float scale[PAGE_TOKENS];
    open_scales(kernels, d, page, prefetch, scale);
    memset(s, 0, (size_t)q->n * PAGE_TOKENS * sizeof(*s));
    for (int half = 0; half < HALVES; half++) {
        const uint8_t *at = row_at(KV_K, d, page, half, 0);
        kernels->tile[TILE_E4M3](q->x, (size_t)d, q->n, at, d, s + half * TILE, PAGE_TOKENS, ahead(prefetch, page, at));
    }
    for (int r = 0; r < q->n; r++)
        for (int t = 0; t < PAGE_TOKENS; t++)
            s[r * PAGE_TOKENS + t] *= scale[t];
}

static void mix_block(const cpu_kernels *kernels, int d, const kv_page *page, const float *scale, const float *p,
                      int n_rows, float *o, const void *prefetch) {
    float a[BLOCK_ROWS * PAGE_TOKENS];
    for (int r = 0; r < n_rows; r++)
        for (int t = 0; t < PAGE_TOKENS; t++)
            a[r * PAGE_TOKENS + t] = p[r * PAGE_TOKENS + t] * scale[t];
    for (int tile = 0; tile < d / TILE; tile++) {
        const uint8_t *at = row_at(KV_V, d, page, tile, 0);
        kernels->tile[TILE_E4M3](a, PAGE_TOKENS, n_rows, at, PAGE_TOKENS, o + tile * TILE, (size_t)d,
                                 ahead(prefetch, page, at));
    }
}

static void mix(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, const float *p, int n_rows,
                float *o, const void *prefetch) {
    (void)c;
    float scale[PAGE_TOKENS];
    open_scales(kernels, d, page, prefetch, scale);
    for (int r = 0; r < n_rows; r += BLOCK_ROWS) {
        int n = n_rows - r < BLOCK_ROWS ? n_rows - r : BLOCK_ROWS;
        mix_block(kernels, d, page, scale, p + r * PAGE_TOKENS, n, o + r * d, r ? NULL : prefetch);
    }
}

const kv_format kv_format_fp8 = {
    .name = "fp8",
    .paper = "arXiv 2209.05433",
    .summary = "8-bit floats (e4m3), a scale per row",
    .params = params,
    .check = check,
    .geometry = geometry,
    .seal = seal,
    .open = open,
    .score = score,
    .mix = mix,
};
