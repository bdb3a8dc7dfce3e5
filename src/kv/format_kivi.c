/* format_kivi.c - KIVI (arXiv 2402.02750): asymmetric 4- or 2-bit codes, K per channel in groups of tokens (its
 * outliers live in fixed channels), V per token in groups of channels; the newest tokens stay fp16.
 *
 * Windows (section 3 of the paper, and its authors' code): K is sealed `residual` tokens at a time, so 0 to residual -
 * 1 stay fp16; of V the newest `residual` stay. The authors seal V one token a step (vseal=token); by default V is
 * sealed a page of 64 at a time, so residual to residual + 63 stay (vseal=page, a deviation). Attention inside a prompt
 * is exact; sealing follows at its end. Under prefill:bounded K and V are sealed up to each grid point (a deviation).
 *
 * Quantiser: s = (max - min) / (2^b - 1), s and min rounded to fp16 first, codes taken against the rounded ones, half
 * to even; a range whose scale is below fp16's normal numbers gives s = 0 (the authors divide by it).
 *
 * params=8 (a deviation) keeps scale and minimum of a group in a byte each, against ranges of the page in fp16: the
 * minimum is rounded down and the scale up, so that every value stays inside its group's range. Such a page is written
 * whole.
 *
 *   page     codes [64 x d] (page_codes.c), then
 *   params=16   scales fp16 [n], minima fp16 [n]                 n: K 64 / group x d, V d / group x 64
 *   params=8    scales u8 [n], minima u8 [n], fp16: least minimum, step of the minima, step of the scales, 0; padded to
 * 64 bytes
 *
 * Bytes per token and KV head, K and V: 2 * (d * bits / 8 + 4 d / group) with params=16. */
#include "kv/method.h"
#include "base/status.h"
#include "kv/page_codes.h"
#include "kv/quantise.h"
#include <math.h>
#include <string.h>

enum { BITS, GROUP, RESIDUAL, VSEAL, PARAMS };
enum { VSEAL_PAGE, VSEAL_TOKEN };
enum { MOST_MAPS = PAGE_CODES_MOST_MAPS };
#define F16_LEAST 0x1p-14f
#define F16_MOST  65504.0f

static const kv_param params[] = {
    {"bits", "of a code", "4|2", 0, 0, 1, true},
    {"group", "elements that share a scale and a minimum", "32|64", 0, 0, 1, true},
    {"residual", "newest tokens kept in fp16, a multiple of 64", NULL, 128, 64, 1 << 20, true},
    {"vseal", "V is sealed by", "page|token", VSEAL_PAGE, 0, 1, true},
    {"params", "bits of a scale and of a minimum", "16|8", 0, 0, 1, true},
    {0},
};

static int bits_of(const kv_config *c) {
    return c->value[BITS] == 0 ? 4 : 2;
}

static int group_of(const kv_config *c) {
    return c->value[GROUP] == 0 ? 32 : 64;
}

static bool packed_params(const kv_config *c) {
    return c->value[PARAMS] == 1;
}

static int n_groups(const kv_config *c, kv_side side, int d) {
    return (side == KV_K ? PAGE_TOKENS : d) / group_of(c);
}

static int n_maps(const kv_config *c, kv_side side, int d) {
    return n_groups(c, side, d) * (side == KV_K ? d : PAGE_TOKENS);
}

static pleat_status check(const kv_config *c, kv_side side, int d, pleat_error *error) {
    if ((int)c->value[RESIDUAL] % PAGE_TOKENS)
        return err_set(error, PLEAT_EINPUT, "kivi: residual=%d is not a multiple of %d", (int)c->value[RESIDUAL],
                       PAGE_TOKENS);
    if (c->value[VSEAL] == VSEAL_TOKEN && packed_params(c))
        return err_set(error, PLEAT_EINPUT,
                       "kivi: vseal=token writes single rows, which the page-wide ranges of params=8 do not allow");
    if (d && side == KV_V && d % group_of(c))
        return err_set(error, PLEAT_EINPUT, "kivi: heads of %d elements cannot be cut in groups of %d", d, group_of(c));
    return PLEAT_OK;
}

static void geometry(const kv_config *c, kv_side side, int d, kv_geometry *out) {
    size_t n = (size_t)n_maps(c, side, d);
    size_t bytes = page_codes_bytes(bits_of(c), d) + (packed_params(c) ? 2 * n + 4 * sizeof(f16) : 2 * n * sizeof(f16));
    int residual = (int)c->value[RESIDUAL];
    *out = (kv_geometry){.page_bytes = (bytes + 63) / 64 * 64, .run_pages = 1};
    out->keep_tokens = side == KV_K ? 0 : residual;
    out->step_tokens = side == KV_K ? residual : c->value[VSEAL] == VSEAL_TOKEN ? 1 : PAGE_TOKENS;
    out->row_writable = side == KV_V && !packed_params(c);
}

/* ---- sealing ---- */

typedef struct range {
    float low, high;
} range;

static f16 nearest(float x) {
    return f16_from_f32(x > F16_MOST ? F16_MOST : x < -F16_MOST ? -F16_MOST : x);
}

/* The least half that is at least x (x not negative), and the greatest that is at most x. */
static f16 at_least(float x) {
    f16 h = nearest(x);
    return f16_to_f32(h) < x && x <= F16_MOST ? (f16)(h + 1) : h;
}

static f16 at_most(float x) {
    f16 h = nearest(x);
    if (f16_to_f32(h) <= x)
        return h;
    return h == 0 ? 0x8001 : h & 0x8000 ? (f16)(h + 1) : (f16)(h - 1);
}

static quantise_levels levels_of(const kv_config *c) {
    return (quantise_levels){0, 0, (float)((1 << bits_of(c)) - 1)};
}

static f16 *maps16(uint8_t *page, int bits, int d) {
    return (f16 *)(page + page_codes_bytes(bits, d));
}

/* Rounds a range to fp16 scale and minimum and stores them as map i of n. */
static void store_map(uint8_t *page, int bits, int d, int n, int i, range r, float *scale, float *minimum) {
    f16 s = nearest((r.high - r.low) / (float)((1 << bits) - 1)), m = nearest(r.low);
    if (f16_to_f32(s) < F16_LEAST)
        s = 0;
    maps16(page, bits, d)[i] = s;
    maps16(page, bits, d)[n + i] = m;
    *scale = f16_to_f32(s);
    *minimum = f16_to_f32(m);
}

/* The ranges of all groups of a page as bytes; scale and minimum [n] are what they stand for. */
static void store_packed_maps(uint8_t *page, int bits, int d, int n, const range *r, float *scale, float *minimum) {
    uint8_t *scales = page + page_codes_bytes(bits, d), *minima = scales + n;
    float levels = (float)((1 << bits) - 1), low = r[0].low, high = r[0].low, widest = 0;
    for (int i = 0; i < n; i++) {
        low = r[i].low < low ? r[i].low : low;
        high = r[i].low > high ? r[i].low : high;
    }
    f16 head[4] = {at_most(low), 0, 0, 0};
    float least = f16_to_f32(head[0]);
    head[1] = at_least((high - least) / 255);
    float step = f16_to_f32(head[1]);
    for (int i = 0; i < n; i++) {
        float code = step > 0 ? floorf((r[i].low - least) / step) : 0;
        minima[i] = (uint8_t)(code < 0 ? 0 : code > 255 ? 255 : code);
        while (minima[i] > 0 && least + step * (float)minima[i] > r[i].low)
            minima[i]--; /* the division may have rounded up */
        minimum[i] = least + step * (float)minima[i];
        scale[i] = (r[i].high - minimum[i]) / levels;
        widest = scale[i] > widest ? scale[i] : widest;
    }
    head[2] = at_least(widest / 255);
    step = f16_to_f32(head[2]);
    for (int i = 0; i < n; i++) {
        float code = step > 0 ? ceilf(scale[i] / step) : 0;
        scales[i] = (uint8_t)(code > 255 ? 255 : code);
        scale[i] = step * (float)scales[i];
    }
    memcpy(minima + n, head, sizeof(head));
}

static void seal_k(const kv_config *c, int d, const float *x, uint8_t *page) {
    int bits = bits_of(c), tall = group_of(c), groups = PAGE_TOKENS / tall, n = groups * d;
    range r[MOST_MAPS];
    float scale[MOST_MAPS], minimum[MOST_MAPS], low[KV_MAX_HEAD_DIM], high[KV_MAX_HEAD_DIM];
    uint8_t code[PAGE_TOKENS * KV_MAX_HEAD_DIM];
    for (int g = 0; g < groups; g++) {
        quantise_ranges(x + g * tall * d, d, tall, low, high);
        for (int j = 0; j < d; j++) {
            r[g * d + j] = (range){low[j], high[j]};
            if (!packed_params(c))
                store_map(page, bits, d, n, g * d + j, r[g * d + j], &scale[g * d + j], &minimum[g * d + j]);
        }
    }
    if (packed_params(c))
        store_packed_maps(page, bits, d, n, r, scale, minimum);
    for (int g = 0; g < groups; g++)
        quantise_columns(x + g * tall * d, d, tall, minimum + g * d, scale + g * d, levels_of(c), code + g * tall * d);
    page_codes_put_rows(bits, d, KV_K, page, code, 0, PAGE_TOKENS);
}

/* Rows first..first+n-1 of a page; with packed maps all 64. */
static void seal_v(const kv_config *c, int d, const float *x, int first, int n, uint8_t *page) {
    int bits = bits_of(c), wide = group_of(c), groups = d / wide, all = groups * PAGE_TOKENS;
    range r[MOST_MAPS];
    float scale[MOST_MAPS], minimum[MOST_MAPS];
    uint8_t code[PAGE_TOKENS * KV_MAX_HEAD_DIM];
    for (int g = 0; g < groups; g++)
        for (int i = 0; i < n; i++) {
            int map = g * PAGE_TOKENS + first + i;
            quantise_range(x + i * d + g * wide, wide, &r[map].low, &r[map].high);
            if (!packed_params(c))
                store_map(page, bits, d, all, map, r[map], &scale[map], &minimum[map]);
        }
    if (packed_params(c))
        store_packed_maps(page, bits, d, all, r, scale, minimum);
    for (int i = 0; i < n; i++)
        for (int g = 0; g < groups; g++) {
            int map = g * PAGE_TOKENS + first + i, at = i * d + g * wide;
            quantise_row(x + at, wide, minimum[map], scale[map], levels_of(c), code + at);
        }
    page_codes_put_rows(bits, d, KV_V, page, code, first, n);
}

static void seal(const kv_config *c, kv_side side, int d, float *x, int first, int n, const kv_page *pages,
                 const kv_sealing *how) {
    (void)how;
    for (int i = 0, m; i < n; i += m) {
        int slot = (first + i) % PAGE_TOKENS;
        uint8_t *page = pages[(first + i) / PAGE_TOKENS].bytes;
        m = n - i < PAGE_TOKENS - slot ? n - i : PAGE_TOKENS - slot;
        if (side == KV_K)
            seal_k(c, d, x + (size_t)(i * d), page);
        else
            seal_v(c, d, x + (size_t)(i * d), slot, m, page);
    }
}

/* ---- reading ---- */

typedef struct opened_maps {
    float scale[MOST_MAPS], minimum[MOST_MAPS], middle[MOST_MAPS];
} opened_maps;

static void open_packed(const uint8_t *maps, int n, opened_maps *m) {
    f16 head[4];
    memcpy(head, maps + 2 * n, sizeof(head));
    float least = f16_to_f32(head[0]), minimum_step = f16_to_f32(head[1]), scale_step = f16_to_f32(head[2]);
    for (int i = 0; i < n; i++) {
        m->scale[i] = scale_step * (float)maps[i];
        m->minimum[i] = least + minimum_step * (float)maps[n + i];
    }
}

static page_maps open_maps(const kv_config *c, kv_side side, int d, const kv_page *page, const cpu_kernels *kernels,
                           opened_maps *m) {
    int n = n_maps(c, side, d);
    const f16 *stored = maps16(page->bytes, bits_of(c), d);
    if (packed_params(c)) {
        open_packed((const uint8_t *)stored, n, m);
    } else if (kernels) {
        kernels->open_maps(stored, stored + n, n, (float)(1 << (bits_of(c) - 1)), m->scale, m->middle);
    } else {
        for (int i = 0; i < n; i++) {
            m->scale[i] = f16_to_f32(stored[i]);
            m->minimum[i] = f16_to_f32(stored[n + i]);
        }
    }
    return (page_maps){.n_groups = n_groups(c, side, d),
                       .by_token = side == KV_V,
                       .scale = m->scale,
                       .minimum = m->minimum,
                       .middle = kernels && !packed_params(c) ? m->middle : NULL};
}

static void open(const kv_config *c, kv_side side, int d, const kv_page *page, float *x) {
    opened_maps m;
    page_maps maps = open_maps(c, side, d, page, NULL, &m);
    page_codes_open(bits_of(c), d, side, page->bytes, &maps, x);
}

static void fetch_maps(const kv_config *c, kv_side side, int d, const void *page) {
    kv_geometry g;
    geometry(c, side, d, &g);
    page_codes_fetch(page, page_codes_bytes(bits_of(c), d), g.page_bytes);
}

static void score(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, const float *q,
                  int n_rows, float *s, const void *prefetch) {
    opened_maps m;
    page_maps maps = open_maps(c, KV_K, d, page, kernels, &m);
    fetch_maps(c, KV_K, d, prefetch);
    page_codes_score(kernels, bits_of(c), d, page->bytes, &maps, q, n_rows, s, prefetch);
}

static void mix(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, const float *p, int n_rows,
                float *o, const void *prefetch) {
    opened_maps m;
    page_maps maps = open_maps(c, KV_V, d, page, kernels, &m);
    fetch_maps(c, KV_V, d, prefetch);
    page_codes_mix(kernels, bits_of(c), d, page->bytes, &maps, p, n_rows, o, prefetch);
}

const kv_format kv_format_kivi = {
    .name = "kivi",
    .paper = "arXiv 2402.02750",
    .summary = "4- or 2-bit codes, K per channel, V per token, an fp16 residual",
    .params = params,
    .check = check,
    .geometry = geometry,
    .seal = seal,
    .open = open,
    .score = score,
    .mix = mix,
};
