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
 * With params=16 the pages are page_affine's. params=8 (a deviation) keeps scale and minimum of a group in a byte each,
 * against ranges of the page in fp16: the minimum is rounded down and the scale up, so that every value stays inside
 * its group's range. Such a page is written whole.
 *
 * A page is codes [64 x d] (page_codes.c), and behind them, n being 64 / group x d for K and d / group x 64 for V:
 *
 *   params=16   scales fp16 [n], minima fp16 [n]
 *   params=8    scales u8 [n], minima u8 [n], fp16 [4]: least minimum, step of the minima, step of the scales, 0;
 *               padded to 64 bytes
 *
 * Keys with a large bias (Qwen2.5): groups lie along a channel, so a bias goes into the minimum and costs no range.
 *
 * Bytes per token and KV head, K and V: 2 * (d * bits / 8 + 4 d / group) with params=16. */
#include "kv/method.h"
#include "base/status.h"
#include "kv/page_affine.h"
#include "kv/quantise.h"
#include <math.h>
#include <string.h>

enum { BITS, GROUP, RESIDUAL, VSEAL, PARAMS };
enum { VSEAL_PAGE, VSEAL_TOKEN };
enum { MOST_MAPS = PAGE_CODES_MOST_MAPS };

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

static affine affine_of(const kv_config *c) {
    return (affine){.bits = bits_of(c), .group = group_of(c)};
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

static size_t packed_bytes(const kv_config *c, kv_side side, int d) {
    return (page_codes_bytes(bits_of(c), d) + 2 * (size_t)n_maps(c, side, d) + 4 * sizeof(f16) + 63) / 64 * 64;
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
    affine a = affine_of(c);
    int residual = (int)c->value[RESIDUAL];
    *out = (kv_geometry){.page_bytes = packed_params(c) ? packed_bytes(c, side, d) : affine_page_bytes(&a, side, d),
                         .run_pages = 1};
    out->keep_tokens = side == KV_K ? 0 : residual;
    out->step_tokens = side == KV_K ? residual : c->value[VSEAL] == VSEAL_TOKEN ? 1 : PAGE_TOKENS;
    out->row_writable = side == KV_V && !packed_params(c);
}

/* ---- sealing ---- */

typedef struct range {
    float low, high;
} range;

/* The least half that is at least x (x not negative), and the greatest that is at most x. */
static f16 at_least(float x) {
    f16 h = affine_nearest(x);
    return f16_to_f32(h) < x && x <= F16_MOST ? (f16)(h + 1) : h;
}

static f16 at_most(float x) {
    f16 h = affine_nearest(x);
    if (f16_to_f32(h) <= x)
        return h;
    return h == 0 ? 0x8001 : h & 0x8000 ? (f16)(h + 1) : (f16)(h - 1);
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

/* The ranges of a page's groups: [groups][d] of K, [groups][64] of V. */
static void find_ranges(const kv_config *c, kv_side side, int d, const float *x, range *r) {
    int group = group_of(c);
    float low[KV_MAX_HEAD_DIM], high[KV_MAX_HEAD_DIM];
    for (int g = 0; side == KV_K && g < n_groups(c, side, d); g++) {
        quantise_ranges(x + g * group * d, d, group, low, high);
        for (int j = 0; j < d; j++)
            r[g * d + j] = (range){low[j], high[j]};
    }
    for (int g = 0; side == KV_V && g < n_groups(c, side, d); g++)
        for (int t = 0; t < PAGE_TOKENS; t++) {
            range *to = &r[g * PAGE_TOKENS + t];
            quantise_range(x + t * d + g * group, group, &to->low, &to->high);
        }
}

/* All 64 rows of a page. */
static void seal_packed(const kv_config *c, kv_side side, int d, const float *x, uint8_t *page) {
    int bits = bits_of(c), group = group_of(c);
    quantise_levels levels = {0, 0, (float)((1 << bits) - 1)};
    range r[MOST_MAPS];
    float scale[MOST_MAPS], minimum[MOST_MAPS];
    uint8_t code[PAGE_TOKENS * KV_MAX_HEAD_DIM];
    find_ranges(c, side, d, x, r);
    store_packed_maps(page, bits, d, n_maps(c, side, d), r, scale, minimum);
    for (int g = 0; side == KV_K && g < n_groups(c, side, d); g++)
        quantise_columns(x + g * group * d, d, group, minimum + g * d, scale + g * d, levels, code + g * group * d);
    for (int g = 0; side == KV_V && g < n_groups(c, side, d); g++)
        for (int t = 0; t < PAGE_TOKENS; t++) {
            int map = g * PAGE_TOKENS + t, at = t * d + g * group;
            quantise_row(x + at, group, minimum[map], scale[map], levels, code + at);
        }
    page_codes_put_rows(bits, d, side, page, code, 0, PAGE_TOKENS);
}

static void seal(const kv_config *c, kv_side side, int d, float *x, int first, int n, const kv_page *pages,
                 const kv_sealing *how) {
    affine a = affine_of(c);
    (void)how;
    for (int i = 0, m; i < n; i += m) {
        int slot = (first + i) % PAGE_TOKENS;
        uint8_t *page = pages[(first + i) / PAGE_TOKENS].bytes;
        m = n - i < PAGE_TOKENS - slot ? n - i : PAGE_TOKENS - slot;
        if (packed_params(c))
            seal_packed(c, side, d, x + (size_t)(i * d), page);
        else
            affine_seal(&a, side, d, x + (size_t)(i * d), slot, m, page);
    }
}

/* ---- reading ---- */

typedef struct opened_maps {
    float scale[MOST_MAPS], minimum[MOST_MAPS];
} opened_maps;

static page_maps open_packed(const kv_config *c, kv_side side, int d, const kv_page *page, opened_maps *m) {
    int n = n_maps(c, side, d);
    const uint8_t *maps = page->bytes + page_codes_bytes(bits_of(c), d);
    f16 head[4];
    memcpy(head, maps + 2 * n, sizeof(head));
    float least = f16_to_f32(head[0]), minimum_step = f16_to_f32(head[1]), scale_step = f16_to_f32(head[2]);
    for (int i = 0; i < n; i++) {
        m->scale[i] = scale_step * (float)maps[i];
        m->minimum[i] = least + minimum_step * (float)maps[n + i];
    }
    return (page_maps){
        .n_groups = n_groups(c, side, d), .by_token = side == KV_V, .scale = m->scale, .minimum = m->minimum};
}

static void fetch_packed(const kv_config *c, kv_side side, int d, const void *page) {
    page_codes_fetch(page, page_codes_bytes(bits_of(c), d), packed_bytes(c, side, d));
}

static void open(const kv_config *c, kv_side side, int d, const kv_page *page, float *x) {
    affine a = affine_of(c);
    opened_maps m;
    if (!packed_params(c)) {
        affine_open(&a, side, d, page->bytes, x);
        return;
    }
    page_maps maps = open_packed(c, side, d, page, &m);
    page_codes_open(a.bits, d, side, page->bytes, &maps, x);
}

static void score(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, kv_query_rows *q,
                  float *s, const void *prefetch) {
    affine a = affine_of(c);
    opened_maps m;
    if (!packed_params(c)) {
        affine_score(kernels, &a, d, page->bytes, q, s, prefetch);
        return;
    }
    page_maps maps = open_packed(c, KV_K, d, page, &m);
    fetch_packed(c, KV_K, d, prefetch);
    page_codes_score(kernels, a.bits, d, page->bytes, &maps, q, s, prefetch);
}

static void mix(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, const float *p, int n_rows,
                float *o, const void *prefetch) {
    affine a = affine_of(c);
    opened_maps m;
    if (!packed_params(c)) {
        affine_mix(kernels, &a, d, page->bytes, p, n_rows, o, prefetch);
        return;
    }
    page_maps maps = open_packed(c, KV_V, d, page, &m);
    fetch_packed(c, KV_V, d, prefetch);
    page_codes_mix(kernels, a.bits, d, page->bytes, &maps, p, n_rows, o, prefetch);
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
