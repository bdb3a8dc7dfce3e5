/* format_gear.c - GEAR (arXiv 2403.05527): X = D + S + L, a quantised backbone D, sparse outliers S that are kept
 * exactly, and a low-rank approximation L of the error that is left.
 *
 * Of a run of n tokens of one KV head:
 *   1. Outliers: of each channel of K (over the run's tokens), of each token of V (over its channels) the c smallest
 * and the c largest, c = max(1, round(s * length / 2)). Their value is kept, and where they stand the backbone sees the
 *      mean of the channel or token (taken with them).
 *   2. Backbone: minimum and (max - min) / (2^bits - 1) of a group. kcvt: a channel of K over the whole run, a token of
 *      V over the whole row; kivi: 64 tokens of a channel, 64 channels of a token (32 where d is no multiple of 64).
 *   3. E = X - D, 0 at outliers; L = A B^T by power iteration (lowrank.c), A [n][r], B [d][r], in fp16; r = `rank` for
 *      runs of a prompt, `rank_decode` for those of decoding. Below 1 it is a ratio of min(n, d).
 * Score adds (q B) A^T, with q B made once per run and tile; mix adds (p A) B^T for each page.
 *
 * Runs: slots [512 i, 512 (i + 1)) of a prompt, its last run takes the whole pages left, so cuts change no bits
 * (run=prompt: one run, up to what a block of 256 KB holds); in decode the fp16 buffer of `buffer` tokens, K and V
 * together. Attention inside a prompt is exact. A buffer below 64 fills a page in part, and the rest of the page is
 * lost: 20, the study's, takes three times the bytes of 64.
 *
 *   K page   codes [64 x d] (page_codes.c); kivi: scales fp16 [d], minima fp16 [d]
 *   K run    kcvt: scales fp16 [d], minima fp16 [d]; B fp16 [r][d]; A fp16 [pages][r][64]; u32 [pages + 1]: where a
 *            page's outliers begin; outliers, in the order of pages, then channels: u16 [d * 2 c] 256 * token +
 *            channel, fp16 [d * 2 c] value
 *   V page   codes [64 x d], scales fp16 [groups][64], minima fp16 [groups][64], outliers of a token: fp16 [64][2 c]
 *            value, u8 [64][2 c] channel
 *   V run    B fp16 [r][d]; A fp16 [pages][r][64]
 *
 * At outliers the stored code is 0, so that S - D is the value minus the minimum. Differences: the authors' counts of
 * outliers round down (none for 64 of 2 %); they draw the start from [0, 1) and orthonormalise in the last round only;
 * the study's script compresses the whole cache again every 20 tokens: here nothing is compressed twice.
 *
 * Keys with a large bias (Qwen2.5): the backbone is per channel, the bias goes into its minimum and costs no range.
 * Bytes per token and KV head, kcvt: K d bits / 8 + 4 d / n + 2 r (n + d) / n + 8 c d / n; V d bits / 8 + 4 + 2 r (n +
 * d) / n + 6 c. */
#include "kv/method.h"
#include "base/status.h"
#include "kv/lowrank.h"
#include "kv/outliers.h"
#include "kv/page_affine.h"
#include "kv/pool.h"
#include <assert.h>
#include <math.h>
#include <string.h>

enum { BITS, OUTLIERS, RANK, RANK_DECODE, BUFFER, RUN, LOOP, BACKBONE };
enum { RUN_512, RUN_PROMPT, KCVT = 0 };
enum { HALVES = PAGE_TOKENS / TILE, MOST_BUFFER = 512, MOST_RUN_PAGES = 256 };
enum { MOST_PER_TOKEN = 2 * (KV_MAX_HEAD_DIM / 20 + 1), MOST_RUN_TOKENS = MOST_RUN_PAGES * PAGE_TOKENS };
enum { PAGE_MARKS = PAGE_TOKENS * KV_MAX_HEAD_DIM / OUTLIERS_WORD }; /* words for those of a page of V */
enum { BLOCK_ROWS = 8 }; /* whose products with one factor are kept at a time */
_Static_assert((int)LOW_RANK_MOST <= (int)KV_OF_RUN_FLOATS, "q B has a place");
_Static_assert((int)MOST_RUN_TOKENS / 20 + 1 <= (int)ENDS_MOST, "s is at most 0.1");

static const kv_param params[] = {
    {"bits", "of a code of the backbone", "4|2|8", 0, 0, 2, true},
    {"s", "share of elements kept as outliers", NULL, .02, 0, .1, false},
    {"rank", "of a prompt's runs; below 1 a ratio", NULL, 4, 0, LOW_RANK_MOST, false},
    {"rank_decode", "of runs sealed while decoding; below 1 a ratio", NULL, 2, 0, LOW_RANK_MOST, false},
    {"buffer", "newest tokens in fp16, sealed when full: 2 to 64, or a multiple of 64", NULL, 64, 2, MOST_BUFFER, true},
    {"run", "most tokens of a prompt that share a low-rank term", "512|prompt", 0, 0, 1, true},
    {"loop", "rounds of power iteration", NULL, 3, 1, 16, true},
    {"backbone", "groups: channels of a run and tokens, or 64 of them", "kcvt|kivi", KCVT, 0, 1, true},
    {0},
};

static affine backbone(const kv_config *c, kv_side side, int d) {
    static const int bits[] = {4, 2, 8};
    bool kcvt = c->value[BACKBONE] == KCVT;
    return (affine){.bits = bits[(int)c->value[BITS]],
                    .by_token = side == KV_V,
                    .group = side == KV_K ? PAGE_TOKENS
                             : kcvt       ? d
                             : d % 64     ? 32
                                          : 64};
}

/* On each end of n elements. */
static int n_outliers(const kv_config *c, int n) {
    if (c->value[OUTLIERS] <= 0)
        return 0;
    int count = (int)lrint(c->value[OUTLIERS] * n / 2);
    count = count < 1 ? 1 : count;
    return 2 * count < n ? count : n / 2;
}

static int rank_of(const kv_config *c, int n, int d, bool decode) {
    double rank = c->value[decode ? RANK_DECODE : RANK];
    int least = n < d ? n : d;
    if (rank > 0 && rank < 1)
        rank = rint(rank * least) < 1 ? 1 : rint(rank * least);
    rank = rank < LOW_RANK_MOST ? rank : LOW_RANK_MOST;
    return rank < least ? (int)rank : least;
}

static pleat_status check(const kv_config *c, kv_side side, int d, pleat_error *error) {
    (void)side;
    (void)d;
    int buffer = (int)c->value[BUFFER];
    if (buffer > PAGE_TOKENS && buffer % PAGE_TOKENS)
        return err_set(error, PLEAT_EINPUT, "gear: buffer=%d is neither at most %d nor a multiple of it", buffer,
                       PAGE_TOKENS);
    for (int i = RANK; i <= RANK_DECODE; i++)
        if (c->value[i] > 1 && c->value[i] != floor(c->value[i]))
            return err_set(error, PLEAT_EINPUT, "gear: %s=%g is neither a whole number nor a ratio below 1",
                           params[i].name, c->value[i]);
    return PLEAT_OK;
}

/* ---- the bytes ---- */

typedef struct layout { /* where the parts of a run's block begin; scales at 0 */
    int rank;
    size_t minima, b, a, begin, place, value, bytes;
} layout;

static layout layout_of(const kv_config *c, kv_side side, int d, int n_pages, bool decode) {
    int n = n_pages * PAGE_TOKENS;
    size_t maps = side == KV_K && c->value[BACKBONE] == KCVT ? (size_t)d * sizeof(f16) : 0;
    size_t n_sparse = side == KV_K ? (size_t)(2 * n_outliers(c, n)) * (size_t)d : 0;
    layout l = {.rank = rank_of(c, n, d, decode), .minima = maps, .b = 2 * maps};
    l.a = l.b + (size_t)(l.rank * d) * sizeof(f16);
    l.begin = l.a + (size_t)(l.rank * n) * sizeof(f16);
    l.place = l.begin + (n_sparse ? (size_t)(n_pages + 1) * sizeof(uint32_t) : 0);
    l.value = l.place + n_sparse * sizeof(uint16_t);
    l.bytes = (l.value + n_sparse * sizeof(f16) + 63) / 64 * 64;
    return l;
}

static size_t run_bytes(const kv_config *c, kv_side side, int d, int n_pages, bool decode) {
    return layout_of(c, side, d, n_pages, decode).bytes;
}

/* Scales and minima lie in the page, but for K's groups that are as long as the run. */
static bool page_has_maps(const kv_config *c, kv_side side) {
    return side == KV_V || c->value[BACKBONE] != KCVT;
}

/* Bytes of codes and maps, where V's outliers begin. */
static size_t dense_bytes(const affine *a, const kv_config *c, kv_side side, int d) {
    return page_has_maps(c, side) ? affine_page_bytes(a, side, d) : page_codes_bytes(a->bits, d);
}

typedef struct sparse { /* of a page of V */
    int per_token;
    f16 *value;       /* [64][per_token] */
    uint8_t *channel; /* [64][per_token] */
} sparse;

static sparse sparse_of(const kv_config *c, int d, const kv_page *page) {
    affine a = backbone(c, KV_V, d);
    sparse o = {.per_token = 2 * n_outliers(c, d)};
    o.value = (f16 *)(page->bytes + dense_bytes(&a, c, KV_V, d));
    o.channel = (uint8_t *)(o.value + PAGE_TOKENS * o.per_token);
    return o;
}

static size_t page_bytes(const kv_config *c, kv_side side, int d) {
    affine a = backbone(c, side, d);
    size_t outliers = side == KV_V ? (size_t)(2 * n_outliers(c, d)) * PAGE_TOKENS * (sizeof(f16) + 1) : 0;
    return (dense_bytes(&a, c, side, d) + outliers + 63) / 64 * 64;
}

static void geometry(const kv_config *c, kv_side side, int d, kv_geometry *out) {
    *out = (kv_geometry){
        .page_bytes = page_bytes(c, side, d), .run_pages = 512 / PAGE_TOKENS, .step_tokens = (int)c->value[BUFFER]};
    while (c->value[RUN] == RUN_PROMPT && out->run_pages < MOST_RUN_PAGES &&
           run_bytes(c, side, d, out->run_pages + 1, false) <= KV_POOL_PAGE_BYTES)
        out->run_pages++;
}

/* ---- sealing ---- */

/* What is left to visit of a word of marks (outliers.h), in order; its lowest bit is element `first`. */
typedef struct marks {
    uint32_t word;
    int first;
} marks;

static bool next_marked(marks *m, int *i) {
    if (!m->word)
        return false;
    *i = m->first + __builtin_ctz(m->word);
    m->word &= m->word - 1;
    return true;
}

/* Lists K's outliers in the run's block and leaves the mean of their channel in their places. mark: of the run. */
static void take_outliers_k(const cpu_kernels *kernels, const kv_config *c, int d, float *x, int n,
                            const kv_page *pages, const layout *l, uint32_t *mark) {
    uint32_t *begin = (uint32_t *)(pages->run + l->begin), count = 0;
    uint16_t *place = (uint16_t *)(pages->run + l->place);
    f16 *value = (f16 *)(pages->run + l->value);
    float mean[KV_MAX_HEAD_DIM];
    int most = n_outliers(c, n), n_words = outliers_words(n);
    if (!most)
        return;
    outliers_mark(kernels, x, n, d, most, mark, mean);
    for (int p = 0; p < pages->n_run_pages; p++) {
        begin[p] = count;
        for (int j = 0; j < d; j++)
            for (int w = p * HALVES; w < (p + 1) * HALVES && w < n_words; w++) {
                marks m = {mark[w * d + j], w * OUTLIERS_WORD};
                for (int t; next_marked(&m, &t); count++) {
                    place[count] = (uint16_t)(t % PAGE_TOKENS << 8 | j);
                    value[count] = affine_nearest(x[t * d + j]);
                    x[t * d + j] = mean[j];
                }
            }
    }
    begin[pages->n_run_pages] = count;
    assert(count == (uint32_t)(2 * most * d));
}

typedef struct outliers { /* K's of a page */
    const uint16_t *place;
    const f16 *value;
    int n;
} outliers;

static outliers outliers_of(const kv_config *c, const kv_page *page, const layout *l, int n) {
    if (!n_outliers(c, n))
        return (outliers){.n = 0};
    const uint32_t *begin = (const uint32_t *)(page->run + l->begin) + page->page_in_run;
    return (outliers){.place = (const uint16_t *)(page->run + l->place) + begin[0],
                      .value = (const f16 *)(page->run + l->value) + begin[0],
                      .n = (int)(begin[1] - begin[0])};
}

/* x [n][d] -= scale * code + minimum */
static void subtract_codes(float *restrict x, int d, int n, const uint8_t *restrict code, const float *restrict scale,
                           const float *restrict minimum) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < d; j++)
            x[i * d + j] -= scale[j] * (float)code[i * d + j] + minimum[j];
}

static void seal_k(const cpu_kernels *kernels, const kv_config *c, int d, float *x, int n, const kv_page *pages,
                   const layout *l, uint32_t *mark) {
    affine a = backbone(c, KV_K, d);
    float minimum[KV_MAX_HEAD_DIM], scale[KV_MAX_HEAD_DIM];
    uint8_t code[PAGE_TOKENS * KV_MAX_HEAD_DIM];
    take_outliers_k(kernels, c, d, x, n, pages, l, mark);
    if (!page_has_maps(c, KV_K))
        affine_maps(&a, d, x, n, (f16 *)pages->run, (f16 *)(pages->run + l->minima), minimum, scale);
    for (int p = 0; p < pages->n_run_pages; p++, x += PAGE_TOKENS * d) {
        int m = n - p * PAGE_TOKENS < PAGE_TOKENS ? n - p * PAGE_TOKENS : PAGE_TOKENS;
        outliers o = outliers_of(c, &pages[p], l, n);
        if (page_has_maps(c, KV_K)) {
            f16 *maps = (f16 *)(pages[p].bytes + page_codes_bytes(a.bits, d));
            affine_maps(&a, d, x, m, maps, maps + d, minimum, scale);
        }
        affine_codes(&a, d, x, m, minimum, scale, code);
        memset(code + m * d, 0, (size_t)((PAGE_TOKENS - m) * d));
        subtract_codes(x, d, m, code, scale, minimum);
        for (int i = 0; i < o.n; i++) {
            int at = (o.place[i] >> 8) * d + (o.place[i] & 255);
            code[at] = 0;
            x[at] = 0;
        }
        page_codes_put_rows(a.bits, d, KV_K, pages[p].bytes, code, 0, PAGE_TOKENS);
    }
}

/* Lists the outliers of a page of V, x [d][64], of which n tokens count, and leaves the mean of their token in their
 * places. mark [outliers_words(d)][64] */
static void take_outliers_v(const cpu_kernels *kernels, int d, float *x, int n, const sparse *o, uint32_t *mark) {
    float mean[PAGE_TOKENS];
    outliers_mark(kernels, x, d, PAGE_TOKENS, o->per_token / 2, mark, mean);
    for (int t = 0; t < n; t++)
        for (int w = 0, k = t * o->per_token; w < outliers_words(d); w++) {
            marks m = {mark[w * PAGE_TOKENS + t], w * OUTLIERS_WORD};
            for (int j; next_marked(&m, &j); k++) {
                o->value[k] = affine_nearest(x[j * PAGE_TOKENS + t]);
                o->channel[k] = (uint8_t)j;
                x[j * PAGE_TOKENS + t] = mean[t];
            }
        }
    memset(o->channel + n * o->per_token, 0, (size_t)((PAGE_TOKENS - n) * o->per_token));
}

/* n rows of one page. Turned, tokens stand side by side, as K's channels do. */
static void seal_v(const cpu_kernels *kernels, const kv_config *c, int d, float *x, int n, const kv_page *page,
                   float *turned, uint32_t *mark) {
    affine a = backbone(c, KV_V, d);
    sparse o = sparse_of(c, d, page);
    f16 *scale16 = (f16 *)(page->bytes + page_codes_bytes(a.bits, d)), *minimum16 = scale16 + d / a.group * PAGE_TOKENS;
    float minimum[PAGE_TOKENS], scale[PAGE_TOKENS];
    uint8_t code[PAGE_TOKENS * KV_MAX_HEAD_DIM];
    if (n < PAGE_TOKENS)
        memset(turned, 0, (size_t)(PAGE_TOKENS * d) * sizeof(*turned));
    kernels->transpose(x, (size_t)d, n, d, turned, PAGE_TOKENS);
    if (o.per_token)
        take_outliers_v(kernels, d, turned, n, &o, mark);
    for (int g = 0; g < d / a.group; g++) {
        int at = g * a.group * PAGE_TOKENS, map = g * PAGE_TOKENS;
        affine_maps(&a, PAGE_TOKENS, turned + at, a.group, scale16 + map, minimum16 + map, minimum, scale);
        affine_codes(&a, PAGE_TOKENS, turned + at, a.group, minimum, scale, code + at);
        subtract_codes(turned + at, PAGE_TOKENS, a.group, code + at, scale, minimum);
    }
    for (int i = 0; i < n * o.per_token; i++) {
        int at = o.channel[i] * PAGE_TOKENS + i / o.per_token;
        code[at] = 0;
        turned[at] = 0;
    }
    page_codes_put_channels(a.bits, d, page->bytes, code);
    kernels->transpose(turned, PAGE_TOKENS, d, n, x, (size_t)d);
}

/* Halves of x [n], cut to their range. */
static void put_halves(const cpu_kernels *kernels, float *restrict x, int n, f16 *to) {
    for (int i = 0; i < n; i++) {
        x[i] = x[i] > F16_MOST ? F16_MOST : x[i];
        x[i] = x[i] < -F16_MOST ? -F16_MOST : x[i];
    }
    kernels->f32_to_f16(x, n, to);
}

/* Rows x, by now the error, become A B^T. */
static void seal_error(const kv_config *c, int d, const float *x, int n, const kv_page *pages, const layout *l,
                       const kv_sealing *how) {
    float b[LOW_RANK_MOST * KV_MAX_HEAD_DIM], *fit_a = how->work + lowrank_work(n, d);
    f16 *to_a = (f16 *)(pages->run + l->a);
    lowrank_fit(how->kernels, x, n, d, l->rank, (int)c->value[LOOP], how->seed, how->work, fit_a, b);
    put_halves(how->kernels, b, l->rank * d, (f16 *)(pages->run + l->b));
    for (int k = 0; k < l->rank; k++)
        for (int t = 0; t < n; t += PAGE_TOKENS)
            put_halves(how->kernels, fit_a + (size_t)k * (size_t)n + t, n - t < PAGE_TOKENS ? n - t : PAGE_TOKENS,
                       to_a + (t / PAGE_TOKENS * l->rank + k) * PAGE_TOKENS);
}

static void seal(const kv_config *c, kv_side side, int d, float *x, int first, int n, const kv_page *pages,
                 const kv_sealing *how) {
    layout l = layout_of(c, side, d, pages->n_run_pages, pages->decode);
    uint32_t *mark = (uint32_t *)(void *)how->work;
    assert(first == 0 && n <= MOST_RUN_TOKENS);
    if (side == KV_K)
        seal_k(how->kernels, c, d, x, n, pages, &l, mark);
    for (int t = 0; side == KV_V && t < n; t += PAGE_TOKENS)
        seal_v(how->kernels, c, d, x + t * d, n - t < PAGE_TOKENS ? n - t : PAGE_TOKENS, &pages[t / PAGE_TOKENS],
               how->work + PAGE_MARKS, mark);
    if (l.rank)
        seal_error(c, d, x, n, pages, &l, how);
}

/* ---- reading ---- */

/* The page's outliers of K lie in the run's list, and each in the page. */
static bool sound_k(const kv_config *c, int d, const kv_page *page) {
    layout l = layout_of(c, KV_K, d, page->n_run_pages, page->decode);
    uint32_t begin[2], most = (uint32_t)(2 * n_outliers(c, page->n_run_pages * PAGE_TOKENS) * d);
    if (!most)
        return true;
    memcpy(begin, page->run + l.begin + (size_t)page->page_in_run * sizeof(*begin), sizeof(begin));
    bool ok = begin[0] <= begin[1] && begin[1] <= most;
    for (size_t i = begin[0]; ok && i < begin[1]; i++) {
        uint16_t place;
        memcpy(&place, page->run + l.place + i * sizeof(place), sizeof(place));
        ok = place >> 8 < PAGE_TOKENS && (place & 255) < d;
    }
    return ok;
}

static bool sound(const kv_config *c, kv_side side, int d, const kv_page *page) {
    if (side == KV_K)
        return sound_k(c, d, page);
    affine a = backbone(c, KV_V, d);
    size_t n = (size_t)(2 * n_outliers(c, d)) * PAGE_TOKENS;
    const uint8_t *channel = page->bytes + dense_bytes(&a, c, KV_V, d) + n * sizeof(f16);
    for (size_t i = 0; i < n; i++)
        if (channel[i] >= d)
            return false;
    return true;
}

static const f16 *scales_k(const kv_config *c, int d, const kv_page *page) {
    affine a = backbone(c, KV_K, d);
    return (const f16 *)(page_has_maps(c, KV_K) ? page->bytes + page_codes_bytes(a.bits, d) : page->run);
}

static const f16 *minima_v(const affine *a, int d, const kv_page *page) {
    return (const f16 *)(page->bytes + page_codes_bytes(a->bits, d)) + d / a->group * PAGE_TOKENS;
}

/* The page's rows of A, and the run's B: the page's part of L is A B^T. */
static low_rank_factor factor_a(const kv_page *page, const layout *l) {
    const f16 *a = (const f16 *)(page->run + l->a) + page->page_in_run * l->rank * PAGE_TOKENS;
    return (low_rank_factor){.n = PAGE_TOKENS, .rank = l->rank, .x = a};
}

static low_rank_factor factor_b(int d, const kv_page *page, const layout *l) {
    return (low_rank_factor){.n = d, .rank = l->rank, .x = (const f16 *)(page->run + l->b)};
}

static void open_k(const kv_config *c, int d, const kv_page *page, const layout *l, float *x) {
    float scale[KV_MAX_HEAD_DIM], minimum[KV_MAX_HEAD_DIM];
    affine a = backbone(c, KV_K, d);
    outliers o = outliers_of(c, page, l, page->n_run_pages * PAGE_TOKENS);
    const f16 *scale16 = scales_k(c, d, page);
    for (int j = 0; j < d; j++) {
        scale[j] = f16_to_f32(scale16[j]);
        minimum[j] = f16_to_f32(scale16[d + j]);
    }
    page_maps maps = {.n_groups = 1, .scale = scale, .minimum = minimum};
    page_codes_open(a.bits, d, KV_K, page->bytes, &maps, x);
    for (int i = 0; i < o.n; i++)
        x[(o.place[i] >> 8) * d + (o.place[i] & 255)] = f16_to_f32(o.value[i]);
}

static void open_v(const kv_config *c, int d, const kv_page *page, float *x) {
    affine a = backbone(c, KV_V, d);
    sparse o = sparse_of(c, d, page);
    affine_open(&a, KV_V, d, page->bytes, x);
    for (int i = 0; i < PAGE_TOKENS * o.per_token; i++)
        x[i / o.per_token * d + o.channel[i]] = f16_to_f32(o.value[i]);
}

static void open(const kv_config *c, kv_side side, int d, const kv_page *page, float *x) {
    layout l = layout_of(c, side, d, page->n_run_pages, page->decode);
    low_rank_factor a = factor_a(page, &l), b = factor_b(d, page, &l);
    if (side == KV_K)
        open_k(c, d, page, &l, x);
    else
        open_v(c, d, page, x);
    for (int t = 0; t < PAGE_TOKENS; t++)
        for (int k = 0; k < l.rank; k++)
            for (int j = 0; j < d; j++)
                x[t * d + j] += f16_to_f32(a.x[k * PAGE_TOKENS + t]) * f16_to_f32(b.x[k * d + j]);
}

/* Asks for what the run's first page will read of it, about: where its outliers end is not yet known. */
static void fetch_first(const kv_page *page, const layout *l) {
    size_t of_page = (l->value - l->place) / (size_t)page->n_run_pages;
    page_codes_fetch(page->run, l->b, l->a + (size_t)(l->rank * PAGE_TOKENS) * sizeof(f16));
    page_codes_fetch(page->run, l->begin, l->place + of_page);
    page_codes_fetch(page->run, l->value, l->value + of_page);
}

static void fetch_next(const kv_page *page, const layout *l) {
    size_t next = (size_t)page->page_in_run + 1, bytes = (size_t)(l->rank * PAGE_TOKENS) * sizeof(f16);
    page_codes_fetch(page->run, l->a + next * bytes, l->a + (next + 1) * bytes);
    if (l->place == l->begin)
        return;
    const uint32_t *begin = (const uint32_t *)(page->run + l->begin) + next;
    page_codes_fetch(page->run, l->place + begin[0] * sizeof(uint16_t), l->place + begin[1] * sizeof(uint16_t));
    page_codes_fetch(page->run, l->value + begin[0] * sizeof(f16), l->value + begin[1] * sizeof(f16));
}

/* The run's parts, which nobody else asks for. prefetch: NULL when no page follows. */
static void fetch_run(const kv_page *page, const layout *l, const void *prefetch) {
    if (page->page_in_run == 0)
        fetch_first(page, l);
    if (prefetch && page->page_in_run + 1 < page->n_run_pages)
        fetch_next(page, l);
}

static void score_backbone(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, kv_query_rows *q,
                           float *s, const void *prefetch) {
    float scale[KV_MAX_HEAD_DIM], middle[KV_MAX_HEAD_DIM];
    affine a = backbone(c, KV_K, d);
    const f16 *scale16 = scales_k(c, d, page);
    kernels->open_maps(scale16, scale16 + d, d, (float)(1 << (a.bits - 1)), scale, middle);
    page_maps maps = {.n_groups = 1, .scale = scale, .middle = middle};
    page_codes_score(kernels, a.bits, d, page->bytes, &maps, q, s, prefetch);
}

/* out += (x left) right^T */
static void add_product(const cpu_kernels *kernels, low_rank_factor left, low_rank_factor right, const float *x,
                        int n_rows, float *out) {
    float c[BLOCK_ROWS * LOW_RANK_MOST];
    for (int r = 0; r < n_rows; r += BLOCK_ROWS) {
        int n = n_rows - r < BLOCK_ROWS ? n_rows - r : BLOCK_ROWS;
        kernels->low_rank_dots(&left, x + r * left.n, n, c);
        kernels->low_rank_add(&right, c, n, out + r * right.n);
    }
}

/* s += (q B) A^T; q B is the same for all pages of the run. */
static void score_error(const cpu_kernels *kernels, int d, const kv_page *page, const layout *l, kv_query_rows *q,
                        float *s) {
    low_rank_factor a = factor_a(page, l), b = factor_b(d, page, l);
    if (q->run != page->run)
        kernels->low_rank_dots(&b, q->x, q->n, q->of_run);
    q->run = page->run;
    kernels->low_rank_add(&a, q->of_run, q->n, s);
}

/* Where outliers stand, the codes are 0 and have added the minimum. */
static void score(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, kv_query_rows *q,
                  float *s, const void *prefetch) {
    layout l = layout_of(c, KV_K, d, page->n_run_pages, page->decode);
    outliers o = outliers_of(c, page, &l, page->n_run_pages * PAGE_TOKENS);
    fetch_run(page, &l, prefetch);
    score_backbone(kernels, c, d, page, q, s, prefetch);
    if (o.n) {
        float minimum[KV_MAX_HEAD_DIM];
        kernels->f16_to_f32(scales_k(c, d, page) + d, d, minimum);
        sparse_matrix exact = {.n = d,
                               .m = PAGE_TOKENS,
                               .n_terms = o.n,
                               .value = o.value,
                               .place = o.place,
                               .less = minimum,
                               .group_bits = 8};
        kernels->sparse(&exact, q->x, q->n, s);
    }
    if (l.rank)
        score_error(kernels, d, page, &l, q, s);
}

static void mix(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, const float *p, int n_rows,
                float *o, const void *prefetch) {
    affine a = backbone(c, KV_V, d);
    layout l = layout_of(c, KV_V, d, page->n_run_pages, page->decode);
    sparse out = sparse_of(c, d, page);
    const uint8_t *end = out.channel + PAGE_TOKENS * out.per_token;
    fetch_run(page, &l, prefetch);
    page_codes_fetch(prefetch, (size_t)((uint8_t *)out.value - page->bytes), (size_t)(end - page->bytes));
    affine_mix(kernels, &a, d, page->bytes, p, n_rows, o, prefetch);
    if (out.per_token) {
        float minimum[KV_MAX_HEAD_DIM / TILE * PAGE_TOKENS];
        kernels->f16_to_f32(minima_v(&a, d, page), d / a.group * PAGE_TOKENS, minimum);
        sparse_matrix exact = {.n = PAGE_TOKENS,
                               .m = d,
                               .n_terms = PAGE_TOKENS * out.per_token,
                               .value = out.value,
                               .each = out.per_token,
                               .to = out.channel,
                               .less = minimum,
                               .group_bits = a.group == d ? 8 : __builtin_ctz((unsigned)a.group)};
        kernels->sparse(&exact, p, n_rows, o);
    }
    if (l.rank)
        add_product(kernels, factor_a(page, &l), factor_b(d, page, &l), p, n_rows, o);
}

const kv_format kv_format_gear = {
    .name = "gear",
    .paper = "arXiv 2403.05527",
    .summary = "a quantised backbone, its error at low rank, sparse outliers",
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
