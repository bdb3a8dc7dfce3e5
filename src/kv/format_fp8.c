/* format_fp8.c - 8-bit floats, e4m3 (OCP 8-bit floating point, 2023: bias 7, no infinities, at most 448), nearest even,
 * with one scale a row: max|x| / 448 in fp16.
 *
 *   page   codes [64 x d] (page_book.c), scales fp16 [64]
 *
 * A scale among fp16's subnormals is taken up by one step where it would cut the row's largest element by more than
 * rounding does; rows below 2^-25 * 448 become zeros. The exponent keeps small channels beside a large one: with a key
 * bias (Qwen2.5) every channel keeps 3 bits of mantissa down to 2^-15 of the largest, so nothing is done about it. Any
 * row can be written anew. Bytes per token and KV head: 2 * (d + 2). */
#include "kv/method.h"
#include "base/status.h"
#include "kv/page_book.h"
#include <math.h>

enum { TAIL };
#define MOST 448.0f

static const kv_param params[] = {
    {"tail", "newest tokens kept in fp16, a multiple of 64", NULL, 0, 0, 1 << 20, true},
    {0},
};

static const book e4m3 = {.type = BOOK_E4M3};

static pleat_status check(const kv_config *c, kv_side side, int d, pleat_error *error) {
    (void)side;
    (void)d;
    if ((int)c->value[TAIL] % PAGE_TOKENS)
        return err_set(error, PLEAT_EINPUT, "fp8: tail=%d is not a multiple of %d", (int)c->value[TAIL], PAGE_TOKENS);
    return PLEAT_OK;
}

static void geometry(const kv_config *c, kv_side side, int d, kv_geometry *out) {
    (void)side;
    *out = (kv_geometry){.page_bytes = book_page_bytes(BOOK_E4M3, d),
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
    uint8_t code[PAGE_TOKENS * KV_MAX_HEAD_DIM];
    f16 stored[PAGE_TOKENS];
    for (int i = 0; i < n; i++) {
        stored[i] = scale_of(x + i * d, d);
        float scale = f16_to_f32(stored[i]);
        for (int j = 0; j < d; j++)
            code[i * d + j] = scale > 0 ? encode(x[i * d + j] / scale) : 0;
    }
    book_put(BOOK_E4M3, side, d, pages->bytes, code, stored, first, n);
}

static void open(const kv_config *c, kv_side side, int d, const kv_page *page, float *x) {
    (void)c;
    book_open(&e4m3, side, d, page->bytes, x);
}

static void score(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, kv_query_rows *q,
                  float *s, const void *prefetch) {
    (void)c;
    book_score(kernels, &e4m3, d, page->bytes, q->x, q->n, s, prefetch);
}

static void mix(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, const float *p, int n_rows,
                float *o, const void *prefetch) {
    (void)c;
    book_mix(kernels, &e4m3, d, page->bytes, p, n_rows, o, prefetch);
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
