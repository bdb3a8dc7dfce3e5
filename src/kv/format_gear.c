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
 * Score adds (q B) A^T, mix adds (p A) B^T.
 *
 * Runs: slots [512 i, 512 (i + 1)) of a prompt, its last run takes the whole pages left, so cuts change no bits
 * (run=prompt: one run, up to what a block of 256 KB holds); in decode the fp16 buffer of `buffer` tokens, K and V
 * together. Attention inside a prompt is exact. A buffer below 64 fills a page in part, and the rest of the page is
 * lost: 20, the study's, takes three times the bytes of 64.
 *
 *   K page   codes [64 x d] (page_codes.c); kivi: scales fp16 [d], minima fp16 [d]
 *   K run    kcvt: scales fp16 [d], minima fp16 [d]; B fp16 [r][d]; A fp16 [pages][r][64]; u32 [pages + 1]: where a
 *            page's outliers begin; outliers, in the order of pages, then channels: u16 [d * 2 c] token * 256 +
 * channel, fp16 [d * 2 c] value V page   codes [64 x d], scales fp16 [groups][64], minima fp16 [groups][64], outliers
 * of a token: fp16 [64][2 c] value, u8 [64][2 c] channel V run    B fp16 [r][d]; A fp16 [pages][r][64]
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
#include "kv/page_affine.h"
#include "kv/pool.h"
#include <assert.h>
#include <math.h>
#include <string.h>

enum { BITS, OUTLIERS, RANK, RANK_DECODE, BUFFER, RUN, LOOP, BACKBONE };
enum { RUN_512, RUN_PROMPT, KCVT = 0 };
enum { HALVES = PAGE_TOKENS / TILE, LANES = 16, MOST_BUFFER = 512, MOST_RUN_PAGES = 256 };
enum { MOST_OUTLIERS = MOST_RUN_PAGES * PAGE_TOKENS / 20 + 1 }; /* s is at most 0.1 */

static const kv_param params[] = {
    {"bits", "of a code of the backbone", "4|2|8", 0, 0, 2, true},
    {"s", "share of elements kept as outliers", NULL, .02, 0, .1, false},
    {"rank", "of a prompt's runs; below 1 a ratio", NULL, 4, 0, LOWRANK_MOST, false},
    {"rank_decode", "of runs sealed while decoding; below 1 a ratio", NULL, 2, 0, LOWRANK_MOST, false},
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
    rank = rank < LOWRANK_MOST ? rank : LOWRANK_MOST;
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

static void geometry(const kv_config *c, kv_side side, int d, kv_geometry *out) {
    affine a = backbone(c, side, d);
    size_t outliers = side == KV_V ? (size_t)(2 * n_outliers(c, d)) * PAGE_TOKENS * (sizeof(f16) + 1) : 0;
    *out = (kv_geometry){.page_bytes = (dense_bytes(&a, c, side, d) + outliers + 63) / 64 * 64,
                         .run_pages = 512 / PAGE_TOKENS,
                         .step_tokens = (int)c->value[BUFFER]};
    while (c->value[RUN] == RUN_PROMPT && out->run_pages < MOST_RUN_PAGES &&
           run_bytes(c, side, d, out->run_pages + 1, false) <= KV_POOL_PAGE_BYTES)
        out->run_pages++;
}

/* ---- sealing ---- */

/* Elements in the order of their values, equal ones in the order of their places: the first c and the last c are
 * outliers. */
typedef struct ends {
    float low, high, mean;
    int low_at, high_at;
} ends;

static bool before(float x, int i, float y, int j) {
    return x < y || (x == y && i < j);
}

static bool is_outlier(const ends *e, float x, int i) {
    return !before(e->low, e->low_at, x, i) || !before(x, i, e->high, e->high_at);
}

/* Keeps the c first elements in rising order; with sign -1 the c last ones. best holds n of them. */
static int insert(const float *x, int stride, int i, float sign, int *best, int n, int c) {
    float v = x[i * stride];
    int at = n;
    for (; at > 0; at--) {
        float w = x[best[at - 1] * stride];
        if (sign > 0 ? before(w, best[at - 1], v, i) : before(v, i, w, best[at - 1]))
            break;
        if (at < c)
            best[at] = best[at - 1];
    }
    if (at < c)
        best[at] = i;
    return n < c ? n + 1 : c;
}

static ends find_ends(const float *x, int stride, int n, int c) {
    int low[MOST_OUTLIERS], high[MOST_OUTLIERS], n_low = 0, n_high = 0;
    double sum = 0;
    for (int i = 0; i < n; i++) {
        sum += (double)x[i * stride];
        n_low = insert(x, stride, i, 1, low, n_low, c);
        n_high = insert(x, stride, i, -1, high, n_high, c);
    }
    ends e = {.mean = (float)(sum / n), .low_at = low[c - 1], .high_at = high[c - 1]};
    e.low = x[e.low_at * stride];
    e.high = x[e.high_at * stride];
    return e;
}

/* Lists K's outliers in the run's block and leaves NaN in their places. */
static void take_outliers_k(const kv_config *c, int d, float *x, int n, const kv_page *pages, const layout *l,
                            ends *end) {
    uint32_t *begin = (uint32_t *)(pages->run + l->begin), count = 0;
    uint16_t *place = (uint16_t *)(pages->run + l->place);
    f16 *value = (f16 *)(pages->run + l->value);
    int most = n_outliers(c, n);
    if (!most)
        return;
    for (int j = 0; j < d; j++)
        end[j] = find_ends(x + j, d, n, most);
    for (int p = 0; p < pages->n_run_pages; p++) {
        begin[p] = count;
        for (int j = 0; j < d; j++)
            for (int i = 0, t = p * PAGE_TOKENS; i < PAGE_TOKENS && t < n; i++, t++) {
                if (!is_outlier(&end[j], x[t * d + j], t))
                    continue;
                place[count] = (uint16_t)(i << 8 | j);
                value[count++] = affine_nearest(x[t * d + j]);
                x[t * d + j] = NAN;
            }
    }
    begin[pages->n_run_pages] = count;
    assert(count == (uint32_t)(2 * most * d));
}

/* Codes of column j, a group of `tall` tokens after the other; leaves the error in x. */
static void quantise_column(const affine *a, int d, float *x, int n, int j, int tall, float mean, uint8_t *code,
                            const kv_page *pages, const kv_config *c, const layout *l) {
    float column[MOST_RUN_PAGES * PAGE_TOKENS];
    for (int t = 0; t < n; t++)
        column[t] = isnan(x[t * d + j]) ? mean : x[t * d + j];
    for (int t = 0; t < n; t += tall) {
        int m = n - t < tall ? n - t : tall;
        f16 *scale = (f16 *)pages->run + j, *minimum = (f16 *)(pages->run + l->minima) + j;
        if (page_has_maps(c, KV_K)) {
            scale = (f16 *)(pages[t / PAGE_TOKENS].bytes + page_codes_bytes(a->bits, d)) + j;
            minimum = scale + d;
        }
        affine_quantise(a, column + t, m, code + t, scale, minimum);
        for (int i = t; i < t + m; i++) {
            float *at = x + i * d + j;
            if (isnan(*at))
                code[i] = 0;
            *at = isnan(*at) ? 0 : *at - (f16_to_f32(*scale) * (float)code[i] + f16_to_f32(*minimum));
        }
    }
}

static void seal_k(const kv_config *c, int d, float *x, int n, const kv_page *pages, const layout *l) {
    affine a = backbone(c, KV_K, d);
    ends end[KV_MAX_HEAD_DIM] = {{0}};
    uint8_t code[MOST_RUN_PAGES * PAGE_TOKENS];
    int tall = page_has_maps(c, KV_K) ? a.group : n;
    take_outliers_k(c, d, x, n, pages, l, end);
    memset(code + n, 0, (size_t)(pages->n_run_pages * PAGE_TOKENS - n));
    for (int j = 0; j < d; j++) {
        quantise_column(&a, d, x, n, j, tall, end[j].mean, code, pages, c, l);
        for (int t = 0; t < pages->n_run_pages * PAGE_TOKENS; t += TILE)
            page_codes_put(a.bits, d, KV_K, pages[t / PAGE_TOKENS].bytes, t / TILE % HALVES, j, code + t);
    }
}

static void seal_v_row(const kv_config *c, int d, float *x, int t, const kv_page *page) {
    affine a = backbone(c, KV_V, d);
    sparse o = sparse_of(c, d, page);
    f16 *scale = (f16 *)(page->bytes + page_codes_bytes(a.bits, d)) + t;
    uint8_t code[KV_MAX_HEAD_DIM];
    bool out[KV_MAX_HEAD_DIM] = {false};
    ends end = o.per_token ? find_ends(x, 1, d, o.per_token / 2) : (ends){0};
    for (int j = 0, k = t * o.per_token; o.per_token && j < d; j++) {
        out[j] = is_outlier(&end, x[j], j);
        if (!out[j])
            continue;
        o.value[k] = affine_nearest(x[j]);
        o.channel[k++] = (uint8_t)j;
        x[j] = end.mean;
    }
    for (int g = 0; g < d / a.group; g++) {
        f16 *s = scale + g * PAGE_TOKENS, *m = s + d / a.group * PAGE_TOKENS;
        affine_quantise(&a, x + g * a.group, a.group, code + g * a.group, s, m);
        for (int j = g * a.group; j < (g + 1) * a.group; j++) {
            code[j] = out[j] ? 0 : code[j];
            x[j] = out[j] ? 0 : x[j] - (f16_to_f32(*s) * (float)code[j] + f16_to_f32(*m));
        }
    }
    page_codes_put_rows(a.bits, d, KV_V, page->bytes, code, t, 1);
}

/* Rows x, by now the error, become A B^T. */
static void seal_error(const kv_config *c, int d, const float *x, int n, const kv_page *pages, const layout *l,
                       const kv_sealing *how) {
    float b[LOWRANK_MOST * KV_MAX_HEAD_DIM];
    int stride = lowrank_stride(l->rank);
    f16 *to_a = (f16 *)(pages->run + l->a), *to_b = (f16 *)(pages->run + l->b);
    lowrank_fit(x, n, d, l->rank, (int)c->value[LOOP], how->seed, how->work, b);
    for (int k = 0; k < l->rank; k++) {
        for (int j = 0; j < d; j++)
            to_b[k * d + j] = affine_nearest(b[j * stride + k]);
        for (int t = 0; t < n; t++)
            to_a[(t / PAGE_TOKENS * l->rank + k) * PAGE_TOKENS + t % PAGE_TOKENS] =
                affine_nearest(how->work[t * stride + k]);
    }
}

static void seal(const kv_config *c, kv_side side, int d, float *x, int first, int n, const kv_page *pages,
                 const kv_sealing *how) {
    layout l = layout_of(c, side, d, pages->n_run_pages, pages->decode);
    assert(first == 0 && n <= MOST_RUN_PAGES * PAGE_TOKENS);
    if (side == KV_K)
        seal_k(c, d, x, n, pages, &l);
    for (int t = 0; side == KV_V && t < n; t++)
        seal_v_row(c, d, x + t * d, t % PAGE_TOKENS, &pages[t / PAGE_TOKENS]);
    if (l.rank)
        seal_error(c, d, x, n, pages, &l, how);
}

/* ---- reading ---- */

typedef struct opened {
    float scale[KV_MAX_HEAD_DIM], minimum[KV_MAX_HEAD_DIM]; /* K's of the run */
    float a[LOWRANK_MOST * PAGE_TOKENS], b[LOWRANK_MOST * KV_MAX_HEAD_DIM];
} opened;

static void to_floats(const cpu_kernels *kernels, const void *from, int n, float *to) {
    if (kernels)
        kernels->f16_to_f32(from, n, to);
    for (int i = 0; i < n && !kernels; i++)
        to[i] = f16_to_f32(((const f16 *)from)[i]);
}

/* The page's part of the run. Minima of K's channels are there whoever holds them. */
static layout open_run(const cpu_kernels *kernels, const kv_config *c, kv_side side, int d, const kv_page *page,
                       opened *m) {
    layout l = layout_of(c, side, d, page->n_run_pages, page->decode);
    affine a = backbone(c, side, d);
    to_floats(kernels, page->run + l.b, l.rank * d, m->b);
    to_floats(kernels, (f16 *)(page->run + l.a) + page->page_in_run * l.rank * PAGE_TOKENS, l.rank * PAGE_TOKENS, m->a);
    if (side == KV_K) {
        const f16 *scale =
            (const f16 *)(page_has_maps(c, side) ? page->bytes + page_codes_bytes(a.bits, d) : page->run);
        to_floats(kernels, scale, d, m->scale);
        to_floats(kernels, scale + d, d, m->minimum);
    }
    return l;
}

static page_maps maps_of(const opened *m) {
    return (page_maps){.n_groups = 1, .scale = m->scale, .minimum = m->minimum};
}

typedef struct outliers { /* K's of a page */
    const uint16_t *place;
    const f16 *value;
    int n;
} outliers;

static outliers outliers_of(const kv_config *c, const kv_page *page, const layout *l) {
    if (!n_outliers(c, page->n_run_pages * PAGE_TOKENS))
        return (outliers){.n = 0};
    const uint32_t *begin = (const uint32_t *)(page->run + l->begin) + page->page_in_run;
    return (outliers){.place = (const uint16_t *)(page->run + l->place) + begin[0],
                      .value = (const f16 *)(page->run + l->value) + begin[0],
                      .n = (int)(begin[1] - begin[0])};
}

static void open(const kv_config *c, kv_side side, int d, const kv_page *page, float *x) {
    opened m;
    affine a = backbone(c, side, d);
    layout l = open_run(NULL, c, side, d, page, &m);
    page_maps maps = maps_of(&m);
    if (side == KV_K) {
        outliers o = outliers_of(c, page, &l);
        page_codes_open(a.bits, d, side, page->bytes, &maps, x);
        for (int i = 0; i < o.n; i++)
            x[(o.place[i] >> 8) * d + (o.place[i] & 255)] = f16_to_f32(o.value[i]);
    } else {
        sparse o = sparse_of(c, d, page);
        affine_open(&a, side, d, page->bytes, x);
        for (int i = 0; i < PAGE_TOKENS * o.per_token; i++)
            x[i / o.per_token * d + o.channel[i]] = f16_to_f32(o.value[i]);
    }
    for (int t = 0; t < PAGE_TOKENS; t++)
        for (int k = 0; k < l.rank; k++)
            for (int j = 0; j < d; j++)
                x[t * d + j] += m.a[k * PAGE_TOKENS + t] * m.b[k * d + j];
}

/* In LANES chains, added up in order; n is a multiple of 16. */
static float dot(const float *x, const float *y, int n) {
    float lane[LANES] = {0}, sum = 0;
    for (int i = 0; i < n; i += LANES)
        for (int k = 0; k < LANES; k++)
            lane[k] += x[i + k] * y[i + k];
    for (int k = 0; k < LANES; k++)
        sum += lane[k];
    return sum;
}

static void score(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, const float *q,
                  int n_rows, float *s, const void *prefetch) {
    opened m;
    affine a = backbone(c, KV_K, d);
    layout l = open_run(kernels, c, KV_K, d, page, &m);
    outliers o = outliers_of(c, page, &l);
    page_maps maps = maps_of(&m);
    page_codes_score(kernels, a.bits, d, page->bytes, &maps, q, n_rows, s, prefetch);
    for (int i = 0; i < o.n; i++) {
        int t = o.place[i] >> 8, j = o.place[i] & 255;
        float more = f16_to_f32(o.value[i]) - m.minimum[j];
        for (int r = 0; r < n_rows; r++)
            s[r * PAGE_TOKENS + t] += q[r * d + j] * more;
    }
    for (int r = 0; r < n_rows; r++)
        for (int k = 0; k < l.rank; k++)
            kernels->add_scaled(s + r * PAGE_TOKENS, m.a + k * PAGE_TOKENS, PAGE_TOKENS,
                                dot(q + r * d, m.b + k * d, d));
}

static void mix(const cpu_kernels *kernels, const kv_config *c, int d, const kv_page *page, const float *p, int n_rows,
                float *o, const void *prefetch) {
    opened m;
    affine a = backbone(c, KV_V, d);
    layout l = open_run(kernels, c, KV_V, d, page, &m);
    sparse out = sparse_of(c, d, page);
    affine_mix(kernels, &a, d, page->bytes, p, n_rows, o, prefetch);
    const f16 *minima = (const f16 *)(page->bytes + page_codes_bytes(a.bits, d)) + d / a.group * PAGE_TOKENS;
    for (int i = 0; i < PAGE_TOKENS * out.per_token; i++) {
        int t = i / out.per_token, j = out.channel[i];
        float more = f16_to_f32(out.value[i]) - f16_to_f32(minima[j / a.group * PAGE_TOKENS + t]);
        for (int r = 0; r < n_rows; r++)
            o[r * d + j] += p[r * PAGE_TOKENS + t] * more;
    }
    for (int r = 0; r < n_rows; r++)
        for (int k = 0; k < l.rank; k++)
            kernels->add_scaled(o + r * d, m.b + k * d, d,
                                dot(p + r * PAGE_TOKENS, m.a + k * PAGE_TOKENS, PAGE_TOKENS));
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
    .open = open,
    .score = score,
    .mix = mix,
};
