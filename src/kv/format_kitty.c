/* format_kitty.c - Kitty (arXiv 2511.18643): KIVI's axes at 2 bits with large groups, where the channels of K that are
 * largest in a page get 4 bits, and the first tokens stay fp16.
 *
 * K is sealed `page` = 128 tokens at a time, a group is one channel of them. The D = boost * d channels with the
 * largest mean |k| (ties: the smaller channel) get (max - min) / 15, the others (max - min) / 3. The lower two bits of
 * all codes lie in one dense plane, the upper two of boosted channels in a second one, so that both are read as 2-bit
 * codes: code = low + 4 * high. V is sealed 64 tokens at a time, a group is one token. The first `sinks` = 32 tokens
 * stay fp16 in a page of their own (half empty, and counted), K's newest 0 to page - 1 tokens and V's newest `window`
 * to window + 63 too. Attention inside a prompt is exact. Rounding is half to even (the authors' simulation; their
 * kernel rounds half up). The choice of channels belongs to a page and head and is never revised.
 *
 *   K page    low codes [64 x d] of 2 bits (page_codes.c), high codes [2 halves][D][32 tokens] of 2 bits
 *   K run     scales fp16 [d], minima fp16 [d], u8 [d]: row of the channel among the high codes, or D
 *   V page    codes [64 x d] of 2 bits, scales fp16 [64], minima fp16 [64]
 *
 * Differences: the authors' buffer of V waits for 128 tokens; in layers with a window there are no sinks (their slots
 * are positions). Under prefill:bounded events lie behind the sinks, at 64 + multiples of the grid, and K and V are
 * sealed at sinks + multiples of it: pages are not those of the prompt's tokens alone, so they are not shared.
 *
 * Keys with a large bias (Qwen2.5): a bias is constant along its channel and goes into the minimum, so it costs no
 * range. It does cost a place among the boosted channels, whose rank is by size and not by range (the paper's rule).
 * Bytes per token and KV head: K d / 4 + D / 4 + 5 d / page, V d / 4 + 4. */
#include "kv/method.h"
#include "base/status.h"
#include "kv/page_affine.h"
#include <math.h>
#include <string.h>

enum { BOOST, SINKS, PAGE, WINDOW };
enum { PAIRS = TILE / 4, HALVES = PAGE_TOKENS / TILE, BLOCK_ROWS = 32, RUN_TOKENS = 128 };

static const kv_param params[] = {
    {"boost", "share of K's channels that get 4 bits", NULL, .25, 0, .5, false},
    {"sinks", "first tokens kept in fp16", NULL, 32, 0, PAGE_TOKENS, true},
    {"page", "tokens of K sealed at once, a group of one channel", "64|128", 1, 0, 1, true},
    {"window", "newest tokens of V kept in fp16, a multiple of 64", NULL, 128, 64, 1 << 20, true},
    {0},
};

static int n_boosted(const kv_config *c, int d) {
    return (int)(c->value[BOOST] * d);
}

static affine values(int d) {
    return (affine){.bits = 2, .by_token = true, .group = d};
}

static pleat_status check(const kv_config *c, kv_side side, int d, pleat_error *error) {
    (void)side;
    (void)d;
    if ((int)c->value[WINDOW] % PAGE_TOKENS)
        return err_set(error, PLEAT_EINPUT, "kitty: window=%d is not a multiple of %d", (int)c->value[WINDOW],
                       PAGE_TOKENS);
    return PLEAT_OK;
}

static void geometry(const kv_config *c, kv_side side, int d, kv_geometry *out) {
    int page = c->value[PAGE] == 0 ? PAGE_TOKENS : RUN_TOKENS;
    *out = (kv_geometry){.run_pages = 1, .sink_tokens = (int)c->value[SINKS], .step_tokens = PAGE_TOKENS};
    if (side == KV_V) {
        affine a = values(d);
        out->page_bytes = affine_page_bytes(&a, side, d);
        out->keep_tokens = (int)c->value[WINDOW];
        return;
    }
    out->page_bytes = (page_codes_bytes(2, d) + (size_t)(HALVES * n_boosted(c, d) * PAIRS) + 63) / 64 * 64;
    out->run_pages = page / PAGE_TOKENS;
    out->step_tokens = page;
}

static size_t run_bytes(const kv_config *c, kv_side side, int d, int n_pages, bool decode) {
    (void)c;
    (void)n_pages;
    (void)decode;
    return side == KV_K ? ((size_t)d * (2 * sizeof(f16) + 1) + 63) / 64 * 64 : 0;
}

/* ---- sealing ---- */

typedef struct block { /* a run's */
    f16 *scale, *minimum;
    uint8_t *row;
} block;

static block block_of(const kv_page *page, int d) {
    f16 *scale = (f16 *)page->run;
    return (block){scale, scale + d, (uint8_t *)(scale + 2 * d)};
}

/* row[j] = the channel's place among the boosted ones, in the order of the channels, or how many there are. */
static void choose(const float *x, int n, int d, int boosted, uint8_t *row) {
    double size[KV_MAX_HEAD_DIM];
    for (int j = 0; j < d; j++) {
        size[j] = 0;
        for (int t = 0; t < n; t++)
            size[j] += (double)fabsf(x[t * d + j]);
    }
    for (int j = 0, next = 0; j < d; j++) {
        int larger = 0;
        for (int k = 0; k < d; k++)
            larger += size[k] > size[j] || (size[k] == size[j] && k < j);
        row[j] = (uint8_t)(larger < boosted ? next++ : boosted);
    }
}

static uint8_t *high_codes(uint8_t *page, int d, int boosted, int half, int row) {
    return page + page_codes_bytes(2, d) + (half * boosted + row) * PAIRS;
}

/* Tile rows of TILE_U2. */
static void put_pairs(uint8_t *to, const uint8_t code[TILE]) {
    for (int k = 0; k < PAIRS; k++)
        to[k] = (uint8_t)(code[k] | code[k + 8] << 2 | code[k + 16] << 4 | code[k + 24] << 6);
}

static uint8_t get_pair(const uint8_t *from, int k) {
    return from[k % PAIRS] >> (k / PAIRS * 2) & 3;
}

static void seal_k(const kv_config *c, int d, const float *x, int n, const kv_page *pages) {
    int boosted = n_boosted(c, d);
    block b = block_of(pages, d);
    choose(x, n, d, boosted, b.row);
    for (int j = 0; j < d; j++) {
        uint8_t code[RUN_TOKENS], low[TILE], high[TILE];
        float column[RUN_TOKENS];
        affine a = {.bits = b.row[j] < boosted ? 4 : 2};
        for (int t = 0; t < n; t++)
            column[t] = x[t * d + j];
        affine_quantise(&a, column, n, code, &b.scale[j], &b.minimum[j]);
        for (int t = 0; t < n; t += TILE) {
            uint8_t *page = pages[t / PAGE_TOKENS].bytes;
            int half = t / TILE % HALVES;
            for (int k = 0; k < TILE; k++) {
                low[k] = code[t + k] & 3;
                high[k] = code[t + k] >> 2;
            }
            page_codes_put(2, d, KV_K, page, half, j, low);
            if (b.row[j] < boosted)
                put_pairs(high_codes(page, d, boosted, half, b.row[j]), high);
        }
    }
}

static void seal(const kv_config *c, kv_side side, int d, float *x, int first, int n, const kv_page *pages,
                 const kv_sealing *how) {
    (void)how;
    affine a = values(d);
    if (side == KV_K)
        seal_k(c, d, x, n, pages);
    else
        affine_seal(&a, side, d, x, first, n, pages->bytes);
}

/* ---- reading ---- */

typedef struct opened {
    float scale[KV_MAX_HEAD_DIM], minimum[KV_MAX_HEAD_DIM];
} opened;

static page_maps open_maps(const cpu_kernels *kernels, const block *b, int d, opened *m) {
    if (kernels) {
        kernels->f16_to_f32(b->scale, d, m->scale);
        kernels->f16_to_f32(b->minimum, d, m->minimum);
    }
    for (int j = 0; j < d && !kernels; j++) {
        m->scale[j] = f16_to_f32(b->scale[j]);
        m->minimum[j] = f16_to_f32(b->minimum[j]);
    }
    return (page_maps){.n_groups = 1, .scale = m->scale, .minimum = m->minimum};
}

static void open(const kv_config *c, kv_side side, int d, const kv_page *page, float *x) {
    opened m;
    affine a = values(d);
    if (side == KV_V) {
        affine_open(&a, side, d, page->bytes, x);
        return;
    }
    int boosted = n_boosted(c, d);
    block b = block_of(page, d);
    page_maps maps = open_maps(NULL, &b, d, &m);
    page_codes_open(2, d, side, page->bytes, &maps, x);
    for (int j = 0; j < d; j++)
        for (int t = 0; t < PAGE_TOKENS && b.row[j] < boosted; t++) {
            const uint8_t *high = high_codes(page->bytes, d, boosted, t / TILE, b.row[j]);
            x[t * d + j] += m.scale[j] * (float)(4 * get_pair(high, t % TILE));
        }
}

/* Adds the high codes' part, for at most BLOCK_ROWS rows. */
static void add_high(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, const opened *m,
                     const float *q, int n_rows, float *s, const void *prefetch) {
    float a[BLOCK_ROWS * KV_MAX_HEAD_DIM / 2];
    int boosted = n_boosted(c, d), channel[KV_MAX_HEAD_DIM];
    block b = block_of(page, d);
    for (int j = 0; j < d; j++)
        channel[b.row[j]] = j;
    for (int r = 0; r < n_rows; r++)
        for (int k = 0; k < boosted; k++)
            a[r * boosted + k] = q[r * d + channel[k]] * (4 * m->scale[channel[k]]);
    for (int half = 0; half < HALVES; half++) {
        const uint8_t *high = high_codes(page->bytes, d, boosted, half, 0);
        const uint8_t *next = prefetch ? (const uint8_t *)prefetch + (high - page->bytes) : NULL;
        kernels->tile[TILE_U2](a, (size_t)boosted, n_rows, high, boosted, s + half * TILE, PAGE_TOKENS, next);
    }
}

/* Each row of the high codes belongs to one channel. */
static bool sound(const kv_config *c, kv_side side, int d, const kv_page *page) {
    int boosted = n_boosted(c, d), n_named = 0;
    bool named[KV_MAX_HEAD_DIM] = {false};
    for (int j = 0; side == KV_K && j < d; j++) {
        int row = page->run[(size_t)d * 2 * sizeof(f16) + (size_t)j];
        if (row > boosted || (row < boosted && named[row]))
            return false;
        named[row] = row < boosted;
        n_named += row < boosted;
    }
    return side == KV_V || n_named == boosted;
}

static void score(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, kv_query_rows *q,
                  float *s, const void *prefetch) {
    opened m;
    block b = block_of(page, d);
    page_maps maps = open_maps(kernels, &b, d, &m);
    page_codes_score(kernels, 2, d, page->bytes, &maps, q, s, prefetch);
    for (int r = 0; r < q->n && n_boosted(c, d); r += BLOCK_ROWS)
        add_high(kernels, c, d, page, &m, q->x + r * d, q->n - r < BLOCK_ROWS ? q->n - r : BLOCK_ROWS,
                 s + r * PAGE_TOKENS, r ? NULL : prefetch);
}

static void mix(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, const float *p, int n_rows,
                float *o, const void *prefetch) {
    (void)c;
    affine a = values(d);
    affine_mix(kernels, &a, d, page->bytes, p, n_rows, o, prefetch);
}

const kv_format kv_format_kitty = {
    .name = "kitty",
    .paper = "arXiv 2511.18643",
    .summary = "2-bit codes with some K channels at 4 bits, fp16 sinks and window",
    .params = params,
    .check = check,
    .geometry = geometry,
    .run_bytes = run_bytes,
    .seal = seal,
    .sound = sound,
    .open = open,
    .score = score,
    .mix = mix,
};
