/* drive.c - see drive.h. Rows are pure functions of (seed, kind, layer, head, position), so that any cut or batch sees
 * the same ones. Keys carry an offset in a few channels, as real ones do; queries lean on a few old positions so that
 * attention is peaked. */
#include "support/drive.h"
#include "base/rng.h"
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

void drive_wo(const void *owner, int il, int h, float *wo) {
    int d = ((const drive *)owner)->model.head_dim;
    for (int i = 0; i < DRIVE_EMBD * d; i++)
        wo[i] = (float)rng_normal(5, (uint64_t)(il * 64 + h), (uint64_t)i);
}

static void use_rows(drive *d, const drive_shape *shape) {
    const kv_model *real = &shape->real->shape;
    assert_int_equal(real->head_dim, shape->d);
    assert_true(shape->n_head_kv <= real->n_head_kv);
    assert_true(shape->n_head / shape->n_head_kv <= real->n_head / real->n_head_kv);
    d->real = shape->real;
    d->model.n_rot = real->n_rot;
    d->model.rope_neox = real->rope_neox;
    d->model.rope_magnitude = real->rope_magnitude;
    d->model.score_scale = real->score_scale;
    memcpy(d->rope_inv, shape->real->rope_inv, sizeof(d->rope_inv));
    memcpy(d->real_layer, shape->real_layer, sizeof(d->real_layer));
}

void drive_open(drive *d, drive_shape shape, size_t pool_bytes) {
    memset(d, 0, sizeof(*d));
    for (int i = 0; i < shape.d / 2; i++)
        d->rope_inv[i] = (float)pow(10000, -2.0 * i / shape.d);
    for (int il = 0; il < DRIVE_LAYERS; il++)
        d->layer[il] = (kv_layer_shape){.window_tokens = il == 1 ? shape.window : 0, .rope_inv = d->rope_inv};
    d->model = (kv_model){.name = "drive",
                          .n_layer = DRIVE_LAYERS,
                          .n_head = shape.n_head,
                          .n_head_kv = shape.n_head_kv,
                          .head_dim = shape.d,
                          .n_rot = shape.d,
                          .rope_neox = true,
                          .score_scale = 1 / sqrtf((float)shape.d),
                          .context_tokens = shape.context_tokens ? shape.context_tokens : 8192,
                          .layer = d->layer,
                          .rope_magnitude = 1,
                          .n_embd = DRIVE_EMBD,
                          .open_wo = drive_wo,
                          .owner = d};
    if (shape.real)
        use_rows(d, &shape);
    d->n_workers = 1;
    assert_int_equal(cpu_kernels_get(&d->kernels, NULL), PLEAT_OK);
    assert_int_equal(kv_pool_open(pool_bytes, &d->pool, NULL), PLEAT_OK);
    assert_int_equal(kv_attend_open(&d->model, 16, 1024, 4, &d->attend, NULL), PLEAT_OK);
    for (int i = 0; i < 4; i++)
        assert_int_equal(kv_scratch_open(&d->model, &d->scratch[i], NULL), PLEAT_OK);
}

void drive_close(drive *d) {
    kv_attend_close(d->attend);
    for (int i = 0; i < 4; i++)
        kv_scratch_close(d->scratch[i]);
    assert_int_equal(kv_pool_used_bytes(d->pool), 0);
    kv_pool_close(d->pool);
}

kv_method drive_method(const drive *d, const char *spec) {
    kv_method method;
    pleat_error error = {""};
    if (kv_method_parse(spec, &d->model, &method, &error))
        fail_msg("%s: %s", spec, error.text);
    return method;
}

kv_cache *drive_cache(drive *d, const char *spec) {
    kv_method method = drive_method(d, spec);
    kv_cache *cache;
    assert_int_equal(kv_cache_open(&d->model, &method, d->pool, &cache, NULL), PLEAT_OK);
    return cache;
}

static void rotate(const drive *d, float *row, int position) {
    int half = d->model.n_rot / 2;
    for (int i = 0; i < half; i++) {
        double angle = (double)position * (double)d->rope_inv[i], c = cos(angle), s = sin(angle);
        double a = (double)row[i], b = (double)row[i + half];
        row[i] = (float)(a * c - b * s);
        row[i + half] = (float)(a * s + b * c);
    }
}

static void draw_row(const drive *d, uint64_t seed, int which, int il, int ih, int position, float *row) {
    uint64_t stream = ((uint64_t)which * DRIVE_LAYERS + (uint64_t)il) * 64 + (uint64_t)ih;
    for (int j = 0; j < d->model.head_dim; j++) {
        row[j] = (float)rng_normal(seed, stream, (uint64_t)position * KV_MAX_HEAD_DIM + (uint64_t)j);
        if (which == 1 && j % 16 == 3)
            row[j] += 4;
        if (which == 0)
            row[j] *= 2;
    }
    if (which < 2)
        rotate(d, row, position);
}

static void real_row(const drive *d, int which, int il, int ih, int position, float *row) {
    const capture *c = d->real;
    int group = c->shape.n_head / c->shape.n_head_kv, mine = d->model.n_head / d->model.n_head_kv;
    size_t layer = (size_t)d->real_layer[il], dim = (size_t)d->model.head_dim;
    assert_true(position < c->n_tokens);
    if (which) {
        size_t lane = layer * (size_t)c->shape.n_head_kv + (size_t)ih;
        memcpy(row, c->rows[which - 1] + (lane * (size_t)c->n_tokens + (size_t)position) * dim, dim * sizeof(*row));
        return;
    }
    int query = position - (c->n_tokens - c->n_queries);
    assert_true(query >= 0);
    size_t at = layer * (size_t)c->n_queries + (size_t)query, head = (size_t)(ih / mine * group + ih % mine);
    for (size_t j = 0; j < dim; j++)
        row[j] = c->q[(at * (size_t)c->shape.n_head + head) * dim + j] / c->shape.score_scale;
}

/* Rows are asked for again and again, by every cache, fork and reference: a small table remembers them. */
void drive_row(const drive *d, uint64_t seed, int which, int il, int ih, int position, float *row) {
    enum { N_KEPT = 1 << 15 };
    static struct {
        uint64_t key;
        float row[KV_MAX_HEAD_DIM];
    } * kept;
    int dim = d->model.head_dim;
    if (d->real) {
        real_row(d, which, il, ih, position, row);
        return;
    }
    uint64_t key = seed << 48 ^ (uint64_t)which << 44 ^ (uint64_t)il << 40 ^ (uint64_t)ih << 32 ^
                   (uint64_t)position << 9 ^ (uint64_t)dim;
    size_t at = (key * 0x9e3779b97f4a7c15u) >> 49;
    kept = kept ? kept : calloc(N_KEPT, sizeof(*kept));
    assert_non_null(kept);
    if (kept[at].key != key) {
        draw_row(d, seed, which, il, ih, position, kept[at].row);
        kept[at].key = key;
    }
    memcpy(row, kept[at].row, (size_t)dim * sizeof(*row));
}

size_t drive_out_floats(const drive *d, int n_tokens) {
    return (size_t)DRIVE_LAYERS * (size_t)n_tokens * (size_t)d->model.n_head * (size_t)d->model.head_dim;
}

size_t drive_queries_bytes(const drive *d, const kv_cache *cache) {
    kv_wants wants = kv_method_wants(kv_cache_method(cache));
    return kv_queries_bytes(&d->model, &wants);
}

static void append(drive *d, const drive_item *item, int il) {
    int dim = d->model.head_dim, first = kv_cache_tokens(item->cache);
    float *k = malloc((size_t)(item->n_tokens * dim) * sizeof(*k)),
          *v = malloc((size_t)(item->n_tokens * dim) * sizeof(*v));
    for (int ih = 0; ih < d->model.n_head_kv; ih++) {
        for (int t = 0; t < item->n_tokens; t++) {
            drive_row(d, item->seed, 1, il, ih, first + t, k + t * dim);
            drive_row(d, item->seed, 2, il, ih, first + t, v + t * dim);
        }
        kv_cache_append(item->cache, il, ih, k, v, (size_t)dim, d->kernels);
    }
    free(k);
    free(v);
}

static void note_queries(drive *d, const drive_item *item, const float *q, int il) {
    int dim = d->model.head_dim, n_rot = d->model.n_rot, group = d->model.n_head / d->model.n_head_kv;
    float *cos_sin = malloc((size_t)(item->n_tokens * n_rot) * sizeof(*cos_sin));
    for (int t = 0; t < item->n_tokens; t++)
        for (int i = 0; i < n_rot / 2; i++) {
            double angle = (double)(kv_cache_tokens(item->cache) + t) * (double)d->rope_inv[i];
            cos_sin[t * n_rot + 2 * i] = (float)cos(angle);
            cos_sin[t * n_rot + 2 * i + 1] = (float)sin(angle);
        }
    for (int ih = 0; ih < d->model.n_head_kv; ih++)
        kv_cache_note_queries(item->cache, il, ih, q + ih * group * dim, (size_t)(d->model.n_head * dim), cos_sin,
                              d->kernels);
    free(cos_sin);
}

static void note_dealt(drive *d) {
    int n = kv_attend_tasks(d->attend);
    for (int w = 0; w < 4; w++) {
        d->dealt_pages[w] = 0;
        for (int task = n * w / 4; task < n * (w + 1) / 4; task++)
            d->dealt_pages[w] += kv_attend_task_pages(d->attend, task);
    }
}

static void layer(drive *d, const drive_item *items, int n_items, kv_attend_item *attend, int il) {
    int dim = d->model.head_dim, width = d->model.n_head * dim;
    for (int i = 0; i < n_items; i++) {
        append(d, &items[i], il);
        for (int t = 0; t < items[i].n_tokens; t++)
            for (int ih = 0; ih < d->model.n_head; ih++)
                drive_row(d, items[i].seed, 0, il, ih, kv_cache_tokens(items[i].cache) + t,
                          (float *)attend[i].q + t * width + ih * dim);
        note_queries(d, &items[i], attend[i].q, il);
    }
    kv_attend_layer(d->attend, attend, n_items, il);
    note_dealt(d);
    int n_picks = kv_attend_picks(d->attend), n_tasks = kv_attend_tasks(d->attend);
    for (int i = 0; i < n_picks; i++)
        kv_attend_pick(d->attend, d->backwards ? n_picks - 1 - i : i, d->scratch[i % d->n_workers], d->kernels);
    for (int i = 0; i < n_tasks; i++) {
        int task = d->backwards ? n_tasks - 1 - i : i, worker = i % d->n_workers;
        kv_attend_task(d->attend, task, worker, d->scratch[worker], d->kernels);
    }
    for (int i = 0; i < n_items; i++)
        if (items[i].out)
            memcpy(items[i].out + (size_t)(il * items[i].n_tokens * width), attend[i].out,
                   (size_t)(items[i].n_tokens * width) * sizeof(float));
}

void drive_step(drive *d, const drive_item *items, int n_items) {
    size_t width = (size_t)(d->model.n_head * d->model.head_dim), promised[16];
    kv_attend_item attend[16];
    pleat_seq_stats before[16];
    assert_true(n_items <= 16);
    for (int i = 0; i < n_items; i++) {
        size_t n = (size_t)items[i].n_tokens * width;
        attend[i] = (kv_attend_item){.cache = items[i].cache,
                                     .q = malloc(n * sizeof(float)),
                                     .out = malloc(n * sizeof(float)),
                                     .n_tokens = items[i].n_tokens,
                                     .q_stride = width,
                                     .out_stride = width};
        before[i] = kv_cache_stats(items[i].cache);
        promised[i] = kv_cache_step_bytes(items[i].cache, items[i].n_tokens, items[i].phase, 1);
        assert_true(promised[i] != SIZE_MAX);
        assert_true(kv_pool_reserve(d->pool, promised[i]));
        for (int w = 0; w < d->n_workers; w++)
            assert_true(kv_scratch_grow(d->scratch[w], items[i].cache, items[i].n_tokens));
    }
    assert_int_equal(kv_attend_plan(d->attend, attend, n_items, NULL), PLEAT_OK);
    for (int i = 0; i < n_items; i++)
        kv_cache_begin(items[i].cache, items[i].n_tokens, items[i].phase);
    for (int il = 0; il < DRIVE_LAYERS; il++)
        layer(d, items, n_items, attend, il);
    for (int i = 0; i < n_items; i++) {
        for (int il = 0; il < DRIVE_LAYERS; il++)
            kv_cache_finish_layer(items[i].cache, d->backwards ? DRIVE_LAYERS - 1 - il : il, d->scratch[0], d->kernels);
        kv_cache_end(items[i].cache);
        pleat_seq_stats after = kv_cache_stats(items[i].cache);
        size_t most = before[i].kv_bytes + promised[i];
        if (after.kv_peak_bytes > before[i].kv_peak_bytes)
            assert_true(after.kv_peak_bytes <= most);
        free((float *)attend[i].q);
        free(attend[i].out);
    }
}

void drive_prompt(drive *d, kv_cache *cache, uint64_t seed, int n, int cut, bool end, float *out) {
    size_t width = (size_t)(d->model.n_head * d->model.head_dim);
    for (int from = 0, m; from < n; from += m) {
        m = n - from < cut ? n - from : cut;
        m = kv_cache_cut(cache, m);
        drive_item item = {.cache = cache,
                           .seed = seed,
                           .n_tokens = m,
                           .phase = end && from + m == n ? PLEAT_PROMPT_END : PLEAT_PROMPT,
                           .out = malloc(drive_out_floats(d, m) * sizeof(float))};
        drive_step(d, &item, 1);
        for (int il = 0; out && il < DRIVE_LAYERS; il++)
            memcpy(out + ((size_t)il * (size_t)n + (size_t)from) * width, item.out + (size_t)il * (size_t)m * width,
                   (size_t)m * width * sizeof(float));
        free(item.out);
    }
}

void drive_decode(drive *d, kv_cache *cache, uint64_t seed, int n_steps, float *out) {
    for (int i = 0; i < n_steps; i++) {
        drive_item item = {
            .cache = cache, .seed = seed, .n_tokens = 1, .phase = PLEAT_DECODE, .out = i + 1 == n_steps ? out : NULL};
        drive_step(d, &item, 1);
    }
}

/* ---- the reference ---- */

typedef struct rows {
    float *k, *v; /* [n][d] */
    int32_t *pos;
    int n;
} rows;

static rows rows_before(const drive *d, const kv_cache *cache, uint64_t seed, int il, int ih) {
    int dim = d->model.head_dim, n = kv_cache_slots(cache, il, ih), position = kv_cache_tokens(cache);
    size_t floats = (size_t)((n + 1) * dim);
    rows r = {.k = calloc(floats, sizeof(float)),
              .v = calloc(floats, sizeof(float)),
              .pos = malloc((size_t)(n + 1) * sizeof(int32_t)),
              .n = n + 1};
    kv_cache_open_rows(cache, il, ih, KV_K, r.k);
    kv_cache_open_rows(cache, il, ih, KV_V, r.v);
    if (n)
        memcpy(r.pos, kv_cache_positions(cache, il, ih), (size_t)n * sizeof(int32_t));
    r.pos[n] = position;
    drive_row(d, seed, 1, il, ih, position, r.k + n * dim);
    drive_row(d, seed, 2, il, ih, position, r.v + n * dim);
    for (int j = 0; j < dim; j++) {
        r.k[n * dim + j] = f16_to_f32(f16_from_f32(r.k[n * dim + j]));
        r.v[n * dim + j] = f16_to_f32(f16_from_f32(r.v[n * dim + j]));
    }
    return r;
}

static bool visible(const drive *d, int il, int32_t pos, int position) {
    int window = d->layer[il].window_tokens;
    return pos != KV_DEAD && pos <= position && (!window || pos > position - window);
}

/* Softmax of one query over the rows, in double; p [n], 0 where nothing is seen. */
static void probabilities(const drive *d, const rows *r, int il, const double *q, const double *q_cached,
                          int segment_end, int position, double *p) {
    int dim = d->model.head_dim;
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < r->n; i++) {
        const double *from = r->pos[i] < segment_end ? q_cached : q;
        p[i] = -INFINITY;
        if (!visible(d, il, r->pos[i], position))
            continue;
        p[i] = 0;
        for (int j = 0; j < dim; j++)
            p[i] += from[j] * (double)r->k[i * dim + j];
        p[i] *= (double)d->model.score_scale;
        max = p[i] > max ? p[i] : max;
    }
    for (int i = 0; i < r->n; i++)
        sum += p[i] = exp(p[i] - max);
    for (int i = 0; i < r->n; i++)
        p[i] /= sum;
}

/* The drawn query, rotated on by `shift` positions. */
static void query(const drive *d, uint64_t seed, int il, int ih, int position, int shift, double *q) {
    float row[KV_MAX_HEAD_DIM];
    int half = d->model.n_rot / 2;
    drive_row(d, seed, 0, il, ih, position, row);
    for (int i = 0; i < half; i++) {
        double angle = (double)shift * (double)d->rope_inv[i], c = cos(angle), s = sin(angle);
        q[i] = (double)row[i] * c - (double)row[i + half] * s;
        q[i + half] = (double)row[i] * s + (double)row[i + half] * c;
    }
}

void drive_expect(const drive *d, const kv_cache *cache, uint64_t seed, int il, double *out, double *mass[]) {
    int dim = d->model.head_dim, group = d->model.n_head / d->model.n_head_kv, position = kv_cache_tokens(cache);
    const kv_method *method = kv_cache_method(cache);
    int segment_end = 0;
    if (method->policy->cache_positions && !d->layer[il].window_tokens)
        segment_end = method->policy->cache_positions(&method->policy_config);
    for (int kvh = 0; kvh < d->model.n_head_kv; kvh++) {
        rows r = rows_before(d, cache, seed, il, kvh);
        int n_live = 0;
        for (int i = 0; i + 1 < r.n; i++)
            n_live += r.pos[i] != KV_DEAD;
        double *p = malloc((size_t)r.n * sizeof(*p));
        for (int i = 0; mass && i < r.n; i++)
            mass[kvh][i] = 0;
        for (int g = 0; g < group; g++) {
            double q[KV_MAX_HEAD_DIM], q_cached[KV_MAX_HEAD_DIM];
            int ih = kvh * group + g;
            query(d, seed, il, ih, position, 0, q);
            query(d, seed, il, ih, position, n_live - position, q_cached); /* to the position inside the cache */
            probabilities(d, &r, il, q, q_cached, segment_end, position, p);
            for (int j = 0; j < dim; j++) {
                out[ih * dim + j] = 0;
                for (int i = 0; i < r.n; i++)
                    out[ih * dim + j] += p[i] * (double)r.v[i * dim + j];
            }
            for (int i = 0; mass && i < r.n; i++)
                mass[kvh][i] += p[i];
        }
        free(p);
        free(r.k);
        free(r.v);
        free(r.pos);
    }
}
