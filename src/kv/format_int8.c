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
 * was chosen; a range whose scale is below fp16's normal numbers becomes zeros. (methods.md A0; llama.cpp's q8_0 has
 * the same map.) */
#include "kv/method.h"
#include "base/status.h"
#include "kv/page_codes.h"
#include <math.h>

enum { GROUP, AXIS, TAIL };
enum { AXIS_TOKEN, AXIS_CHANNEL };
enum { BITS = 8, ZERO = 128, MOST_GROUPS = KV_MAX_HEAD_DIM / 32 };
#define F16_LEAST 0x1p-14f

static const kv_param params[] = {
    {"group", "elements that share a scale", "32|64|row", 0, 0, 2, true},
    {"axis", "groups of K lie along", "token|channel", AXIS_TOKEN, 0, 1, true},
    {"tail", "newest tokens kept in fp16, a multiple of 64", NULL, 0, 0, 1 << 20, true},
    {0},
};

static bool by_token(const kv_config *c, kv_side side) {
    return side == KV_V || c->value[AXIS] == AXIS_TOKEN;
}

static int group_elements(const kv_config *c, kv_side side, int d) {
    return c->value[GROUP] == 0 ? 32 : c->value[GROUP] == 1 ? 64 : by_token(c, side) ? d : PAGE_TOKENS;
}

static int n_groups(const kv_config *c, kv_side side, int d) {
    return (by_token(c, side) ? d : PAGE_TOKENS) / group_elements(c, side, d);
}

static int n_scales(const kv_config *c, kv_side side, int d) {
    return n_groups(c, side, d) * (by_token(c, side) ? PAGE_TOKENS : d);
}

static pleat_status check(const kv_config *c, kv_side side, int d, pleat_error *error) {
    if ((int)c->value[TAIL] % PAGE_TOKENS)
        return err_set(error, PLEAT_EINPUT, "int8: tail=%d is not a multiple of %d", (int)c->value[TAIL], PAGE_TOKENS);
    if (d && by_token(c, side) && d % group_elements(c, side, d))
        return err_set(error, PLEAT_EINPUT, "int8: heads of %d elements cannot be cut in groups of %d", d,
                       group_elements(c, side, d));
    return PLEAT_OK;
}

static void geometry(const kv_config *c, kv_side side, int d, kv_geometry *out) {
    size_t bytes = page_codes_bytes(BITS, d) + (size_t)n_scales(c, side, d) * sizeof(f16);
    *out = (kv_geometry){.page_bytes = (bytes + 63) / 64 * 64,
                         .run_pages = 1,
                         .keep_tokens = (int)c->value[TAIL],
                         .step_tokens = PAGE_TOKENS,
                         .row_writable = by_token(c, side)};
}

static f16 *scales_of(uint8_t *page, int d) {
    return (f16 *)(page + page_codes_bytes(BITS, d));
}

/* Codes of n elements, stride apart, and their scale. */
static f16 quantise(const float *x, int stride, int n, uint8_t *code) {
    float most = 0;
    for (int i = 0; i < n; i++)
        most = fabsf(x[i * stride]) > most ? fabsf(x[i * stride]) : most;
    f16 stored = f16_from_f32(most / 127);
    float scale = f16_to_f32(stored);
    if (!(scale >= F16_LEAST) || isinf(scale))
        stored = 0;
    for (int i = 0; i < n; i++) {
        float q = stored ? rintf(x[i * stride] / scale) : 0;
        code[i] = (uint8_t)(int)((q > 127 ? 127 : q < -127 ? -127 : q) + ZERO);
    }
    return stored;
}

static void seal_row(const kv_config *c, kv_side side, int d, const float *row, uint8_t *page, int t) {
    int wide = group_elements(c, side, d);
    uint8_t code[KV_MAX_HEAD_DIM];
    for (int g = 0; g < d / wide; g++)
        scales_of(page, d)[g * PAGE_TOKENS + t] = quantise(row + g * wide, 1, wide, code + g * wide);
    for (int j = 0; side == KV_V && j < d; j += TILE)
        page_codes_put(BITS, d, side, page, j / TILE, t, code + j);
    for (int j = 0; side == KV_K && j < d; j++)
        page_codes_put_one(BITS, d, side, page, t / TILE, j, t % TILE, code[j]);
}

static void seal_by_channel(const kv_config *c, int d, const float *x, uint8_t *page) {
    int tall = group_elements(c, KV_K, d);
    uint8_t code[PAGE_TOKENS];
    for (int j = 0; j < d; j++) {
        for (int g = 0; g < PAGE_TOKENS / tall; g++)
            scales_of(page, d)[g * d + j] = quantise(x + g * tall * d + j, d, tall, code + g * tall);
        for (int half = 0; half < PAGE_TOKENS / TILE; half++)
            page_codes_put(BITS, d, KV_K, page, half, j, code + half * TILE);
    }
}

static void seal(const kv_config *c, kv_side side, int d, float *x, int first, int n, const kv_page *pages,
                 const kv_sealing *how) {
    (void)how;
    if (!by_token(c, side)) {
        for (int p = 0; p < n / PAGE_TOKENS; p++)
            seal_by_channel(c, d, x + (size_t)(p * PAGE_TOKENS * d), pages[first / PAGE_TOKENS + p].bytes);
        return;
    }
    for (int i = 0; i < n; i++)
        seal_row(c, side, d, x + (size_t)(i * d), pages[(first + i) / PAGE_TOKENS].bytes, (first + i) % PAGE_TOKENS);
}

typedef struct opened_maps {
    float scale[MOST_GROUPS * KV_MAX_HEAD_DIM], minimum[MOST_GROUPS * KV_MAX_HEAD_DIM];
} opened_maps;

/* With kernels for their fused products, which need no minima of a centred format; without for `open`. */
static page_maps open_maps(const kv_config *c, kv_side side, int d, const kv_page *page, const cpu_kernels *kernels,
                           opened_maps *m) {
    int n = n_scales(c, side, d);
    const f16 *scales = scales_of(page->bytes, d);
    if (kernels)
        kernels->open_maps(scales, NULL, n, 0, m->scale, NULL);
    for (int i = 0; i < n && !kernels; i++) {
        m->scale[i] = f16_to_f32(scales[i]);
        m->minimum[i] = -ZERO * m->scale[i];
    }
    return (page_maps){.n_groups = n_groups(c, side, d),
                       .by_token = by_token(c, side),
                       .centred = true,
                       .scale = m->scale,
                       .minimum = m->minimum};
}

static void open(const kv_config *c, kv_side side, int d, const kv_page *page, float *x) {
    opened_maps m;
    page_maps maps = open_maps(c, side, d, page, NULL, &m);
    page_codes_open(BITS, d, side, page->bytes, &maps, x);
}

/* Brings the scales of the next page near; its codes come while this page's are worked on. */
static void fetch_scales(const kv_config *c, kv_side side, int d, const void *page) {
    size_t from = page_codes_bytes(BITS, d);
    page_codes_fetch(page, from, from + (size_t)n_scales(c, side, d) * sizeof(f16));
}

static void score(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, const float *q,
                  int n_rows, float *s, const void *prefetch) {
    opened_maps m;
    page_maps maps = open_maps(c, KV_K, d, page, kernels, &m);
    fetch_scales(c, KV_K, d, prefetch);
    page_codes_score(kernels, BITS, d, page->bytes, &maps, q, n_rows, s, prefetch);
}

static void mix(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, const float *p, int n_rows,
                float *o, const void *prefetch) {
    opened_maps m;
    page_maps maps = open_maps(c, KV_V, d, page, kernels, &m);
    fetch_scales(c, KV_V, d, prefetch);
    page_codes_mix(kernels, BITS, d, page->bytes, &maps, p, n_rows, o, prefetch);
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
