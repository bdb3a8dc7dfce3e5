/* page_affine.c - see page_affine.h. A group's map, asymmetric: its minimum and (max - min) / (2^b - 1); symmetric:
 * max|x| / (2^(b-1) - 1). Scores and sums are page_products.c's. */
#include "kv/page_affine.h"
#include "kv/quantise.h"

#define F16_LEAST 0x1p-14f /* the least normal number */

f16 affine_nearest(float x) {
    return f16_from_f32(x > F16_MOST ? F16_MOST : x < -F16_MOST ? -F16_MOST : x);
}

static f16 scale_of(float x) {
    f16 h = affine_nearest(x);
    return f16_to_f32(h) < F16_LEAST ? 0 : h;
}

static quantise_levels levels_of(const affine *a) {
    float most = (float)((1 << a->bits) - 1), zero = (float)(1 << (a->bits - 1));
    return a->symmetric ? (quantise_levels){zero, 1, most} : (quantise_levels){0, 0, most};
}

/* The map of a range as it is stored, and what codes are taken against: *low becomes what code zero stands for. */
static f16 store_map(const affine *a, float *low, float high, f16 *minimum) {
    quantise_levels l = levels_of(a);
    if (a->symmetric) {
        float reach = l.zero - 1;
        f16 scale = scale_of((high > -*low ? high : -*low) / reach);
        *low = 0;
        return scale;
    }
    f16 scale = scale_of((high - *low) / l.most);
    *minimum = affine_nearest(*low);
    *low = f16_to_f32(*minimum);
    return scale;
}

void affine_quantise(const affine *a, const float *x, int n, uint8_t *code, f16 *scale, f16 *minimum) {
    float low, high;
    quantise_range(x, n, &low, &high);
    *scale = store_map(a, &low, high, minimum);
    quantise_row(x, n, low, f16_to_f32(*scale), levels_of(a), code);
}

void affine_maps(const affine *a, int d, const float *x, int n, f16 *scale16, f16 *minimum16, float *low,
                 float *scale) {
    float high[KV_MAX_HEAD_DIM];
    quantise_ranges(x, d, n, low, high);
    for (int j = 0; j < d; j++) {
        scale16[j] = store_map(a, &low[j], high[j], &minimum16[j]);
        scale[j] = f16_to_f32(scale16[j]);
    }
}

void affine_codes(const affine *a, int d, const float *x, int n, const float *low, const float *scale, uint8_t *code) {
    quantise_columns(x, d, n, low, scale, levels_of(a), code);
}

static bool by_token(const affine *a, kv_side side) {
    return side == KV_V || a->by_token;
}

static int n_groups(const affine *a, kv_side side, int d) {
    return (by_token(a, side) ? d : PAGE_TOKENS) / a->group;
}

static int n_maps(const affine *a, kv_side side, int d) {
    return n_groups(a, side, d) * (by_token(a, side) ? PAGE_TOKENS : d);
}

size_t affine_page_bytes(const affine *a, kv_side side, int d) {
    size_t maps = (size_t)n_maps(a, side, d) * (a->symmetric ? 1 : 2);
    return (page_codes_bytes(a->bits, d) + maps * sizeof(f16) + 63) / 64 * 64;
}

static f16 *scales_of(const affine *a, int d, const uint8_t *page) {
    return (f16 *)(page + page_codes_bytes(a->bits, d));
}

static void seal_by_channel(const affine *a, int d, const float *x, uint8_t *page) {
    int groups = PAGE_TOKENS / a->group, n = groups * d;
    f16 *stored = scales_of(a, d, page);
    uint8_t code[PAGE_TOKENS * KV_MAX_HEAD_DIM];
    float low[KV_MAX_HEAD_DIM], scale[KV_MAX_HEAD_DIM];
    for (int g = 0; g < groups; g++) {
        int at = g * a->group * d;
        affine_maps(a, d, x + at, a->group, stored + g * d, stored + n + g * d, low, scale);
        affine_codes(a, d, x + at, a->group, low, scale, code + at);
    }
    page_codes_put_rows(a->bits, d, KV_K, page, code, 0, PAGE_TOKENS);
}

void affine_seal(const affine *a, kv_side side, int d, const float *x, int first, int n, uint8_t *page) {
    if (!by_token(a, side)) {
        seal_by_channel(a, d, x, page);
        return;
    }
    int groups = d / a->group, all = groups * PAGE_TOKENS;
    f16 *scale = scales_of(a, d, page);
    uint8_t code[PAGE_TOKENS * KV_MAX_HEAD_DIM];
    for (int i = 0; i < n; i++)
        for (int g = 0; g < groups; g++) {
            int map = g * PAGE_TOKENS + first + i, at = i * d + g * a->group;
            affine_quantise(a, x + at, a->group, code + at, scale + map, scale + all + map);
        }
    page_codes_put_rows(a->bits, d, side, page, code, first, n);
}

typedef struct opened {
    float scale[AFFINE_MOST_MAPS], minimum[AFFINE_MOST_MAPS]; /* of fused products, the middles instead of minima */
} opened;

/* With kernels for their fused products, without for `open`. */
static page_maps open_maps(const cpu_kernels *kernels, const affine *a, kv_side side, int d, const uint8_t *page,
                           opened *m) {
    int n = n_maps(a, side, d);
    const f16 *scale = scales_of(a, d, page);
    float zero = (float)(1 << (a->bits - 1));
    if (kernels)
        kernels->open_maps(scale, a->symmetric ? NULL : scale + n, n, zero, m->scale, m->minimum);
    for (int i = 0; i < n && !kernels; i++) {
        m->scale[i] = f16_to_f32(scale[i]);
        m->minimum[i] = a->symmetric ? -zero * m->scale[i] : f16_to_f32(scale[n + i]);
    }
    return (page_maps){.n_groups = n_groups(a, side, d),
                       .by_token = by_token(a, side),
                       .centred = a->symmetric,
                       .scale = m->scale,
                       .minimum = m->minimum,
                       .middle = kernels && !a->symmetric ? m->minimum : NULL};
}

static void fetch_maps(const affine *a, kv_side side, int d, const void *page) {
    page_codes_fetch(page, page_codes_bytes(a->bits, d), affine_page_bytes(a, side, d));
}

void affine_open(const affine *a, kv_side side, int d, const uint8_t *page, float *x) {
    opened m;
    page_maps maps = open_maps(NULL, a, side, d, page, &m);
    page_codes_open(a->bits, d, side, page, &maps, x);
}

void affine_score(const cpu_kernels *kernels, const affine *a, int d, const uint8_t *page, kv_query_rows *q, float *s,
                  const void *prefetch) {
    opened m;
    page_maps maps = open_maps(kernels, a, KV_K, d, page, &m);
    fetch_maps(a, KV_K, d, prefetch);
    page_codes_score(kernels, a->bits, d, page, &maps, q, s, prefetch);
}

void affine_mix(const cpu_kernels *kernels, const affine *a, int d, const uint8_t *page, const float *p, int n_rows,
                float *o, const void *prefetch) {
    opened m;
    page_maps maps = open_maps(kernels, a, KV_V, d, page, &m);
    fetch_maps(a, KV_V, d, prefetch);
    page_codes_mix(kernels, a->bits, d, page, &maps, p, n_rows, o, prefetch);
}
