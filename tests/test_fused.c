/* test_fused.c - attention over sealed pages by the formats' own score and mix, beside exact attention over what open
 * gives, in double: on tensors like those of models (outliers in keys and queries, a sink token, the key bias of
 * Qwen2.5 turned by RoPE) and on tensors that real models made.
 *
 * Bounds: a score within 2e-3 + 2^-14 * sum over channels of |q_j| r_j, where r_j is half of the channel's range in the
 * page by channel, its largest magnitude by token; a head's output within 1e-3 relative L2. */
#include "base/rng.h"
#include "support/capture.h"
#include "support/env.h"
#include "support/sealed.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

enum { PAGES = 8, ROWS = PAGES * PAGE_TOKENS, MOST_HEADS = 16, BLOCK = 4 };

typedef struct pair { /* formats of both sides */
    const char *k, *v;
    int group;      /* of K: channels of a token that share a scale, 0: all of them; -1: tokens of a channel */
    bool symmetric; /* K's codes */
} pair;

static const pair pairs[] = {
    {"int8:group=row", "int8:group=row", 0, true},
    {"int8", "int8", 32, true},
    {"int8:axis=channel", "int8", -1, true},
    {"int4:axis=channel,group=64", "int4:group=row", -1, false},
    {"int4", "int4", 32, false},
    {"kivi:bits=4", "kivi:bits=4", -1, false},
    {"kivi:bits=2", "kivi:bits=2", -1, false},
    {"kivi:bits=4,params=8", "kivi:bits=4,params=8", -1, false},
    {"kivi:bits=2,group=64", "kivi:bits=2,group=64", -1, false},
};
enum { N_PAIRS = sizeof(pairs) / sizeof(*pairs) };

typedef struct worst {    /* seen so far */
    double score, output; /* share of the score's bound; relative L2 of a head's output */
} worst;

typedef struct opened { /* both sides of a lane, sealed and read back */
    sealed s[2];
    float *x[2]; /* [ROWS][d] */
} opened;

static opened seal_lane(const pair *f, int d, const float *k, const float *v) {
    opened o;
    for (int side = 0; side < 2; side++) {
        o.s[side] = sealed_open(side ? f->v : f->k, (kv_side)side, d);
        sealed_rows(&o.s[side], side ? v : k, ROWS, false, 1);
        o.x[side] = malloc((size_t)(ROWS * d) * sizeof(float));
        assert_non_null(o.x[side]);
        sealed_open_rows(&o.s[side], o.x[side]);
    }
    return o;
}

static void free_lane(opened *o) {
    for (int side = 0; side < 2; side++) {
        sealed_close(&o->s[side]);
        free(o->x[side]);
    }
}

static double reach_of(const pair *f, const float *x, int n, int stride) {
    double low = (double)x[0], high = low;
    for (int i = 1; i < n; i++) {
        low = (double)x[i * stride] < low ? (double)x[i * stride] : low;
        high = (double)x[i * stride] > high ? (double)x[i * stride] : high;
    }
    return f->symmetric ? fmax(high, -low) : (high - low) / 2;
}

/* reach [d] of a page of K rows. */
static void page_reach(const pair *f, const float *rows, int d, double *reach) {
    int wide = f->group ? f->group : d;
    for (int j = 0; j < d; j++) {
        reach[j] = f->group < 0 ? reach_of(f, rows + j, PAGE_TOKENS, d) : 0;
        for (int t = 0; t < PAGE_TOKENS && f->group >= 0; t++)
            reach[j] = fmax(reach[j], reach_of(f, rows + t * d + j / wide * wide, wide, 1));
    }
}

static void check_scores(const opened *o, const pair *f, int page, const float *q, int n_heads, const float *s,
                         worst *w, const char *what) {
    int d = o->s[KV_K].d;
    const float *rows = o->x[KV_K] + page * PAGE_TOKENS * d;
    double reach[KV_MAX_HEAD_DIM];
    page_reach(f, rows, d, reach);
    for (int r = 0; r < n_heads; r++) {
        double bound = 2e-3;
        for (int j = 0; j < d; j++)
            bound += 0x1p-14 * fabs((double)q[r * d + j]) * reach[j];
        for (int t = 0; t < PAGE_TOKENS; t++) {
            double want = 0;
            for (int j = 0; j < d; j++)
                want += (double)q[r * d + j] * (double)rows[t * d + j];
            double off = fabs((double)s[r * PAGE_TOKENS + t] - want) / bound;
            w->score = off > w->score ? off : w->score;
            if (!(off <= 1))
                fail_msg("%s: a score is %g where open gives %g; %.3g apart are allowed", what,
                         (double)s[r * PAGE_TOKENS + t], want, bound);
        }
    }
}

/* Head r of all pages, exactly. */
static void exact_head(const opened *o, const float *q, double *out) {
    int d = o->s[KV_K].d;
    double s[ROWS], most = -INFINITY, sum = 0;
    for (int t = 0; t < ROWS; t++) {
        s[t] = 0;
        for (int j = 0; j < d; j++)
            s[t] += (double)q[j] * (double)o->x[KV_K][t * d + j];
        most = s[t] > most ? s[t] : most;
    }
    memset(out, 0, (size_t)d * sizeof(*out));
    for (int t = 0; t < ROWS; t++) {
        double p = exp(s[t] - most);
        sum += p;
        for (int j = 0; j < d; j++)
            out[j] += p * (double)o->x[KV_V][t * d + j];
    }
    for (int j = 0; j < d; j++)
        out[j] /= sum;
}

static void attend(const cpu_kernels *kernels, const opened *o, const pair *f, const float *q, int n_heads, float *out,
                   worst *w, const char *what) {
    int d = o->s[KV_K].d;
    float s[BLOCK * MOST_HEADS * PAGE_TOKENS], m[MOST_HEADS], l[MOST_HEADS] = {0}, c[MOST_HEADS];
    for (int r = 0; r < n_heads; r++)
        m[r] = -INFINITY;
    float of_run[MOST_HEADS * KV_OF_RUN_FLOATS];
    kv_query_rows rows = kv_query_rows_of(q, n_heads, of_run);
    memset(out, 0, (size_t)(n_heads * d) * sizeof(*out));
    for (int first = 0; first < PAGES; first += BLOCK) {
        for (int i = 0; i < BLOCK; i++) {
            float *to = s + i * n_heads * PAGE_TOKENS;
            o->s[KV_K].format->score(kernels, &o->s[KV_K].config, d, &o->s[KV_K].page[first + i], &rows, to, NULL);
            check_scores(o, f, first + i, q, n_heads, to, w, what);
        }
        kernels->softmax_pages(s, BLOCK, n_heads, m, l, c);
        for (int r = 0; r < n_heads; r++)
            kernels->scale(out + r * d, d, c[r]);
        for (int i = 0; i < BLOCK; i++)
            o->s[KV_V].format->mix(kernels, &o->s[KV_V].config, d, &o->s[KV_V].page[first + i],
                                   s + i * n_heads * PAGE_TOKENS, n_heads, out, NULL);
    }
    for (int r = 0; r < n_heads; r++)
        kernels->scale(out + r * d, d, 1 / l[r]);
}

static void check_lane(const cpu_kernels *kernels, const opened *o, const pair *f, const float *q, int n_heads,
                       worst *w, const char *what) {
    int d = o->s[KV_K].d;
    float out[MOST_HEADS * KV_MAX_HEAD_DIM];
    double want[KV_MAX_HEAD_DIM];
    attend(kernels, o, f, q, n_heads, out, w, what);
    for (int r = 0; r < n_heads; r++) {
        double off = 0, size = 0;
        exact_head(o, q + r * d, want);
        for (int j = 0; j < d; j++) {
            off += ((double)out[r * d + j] - want[j]) * ((double)out[r * d + j] - want[j]);
            size += want[j] * want[j];
        }
        double relative = sqrt(off / size);
        w->output = relative > w->output ? relative : w->output;
        if (!(relative <= 1e-3))
            fail_msg("%s: the output of head %d is %.3g from the exact one; 1e-3 is allowed", what, r, relative);
    }
}

/* ---- tensors like those of models ---- */

typedef enum kind { CALM, PEAKED, SINK, OUTLIERS, KEY_BIAS, KIND_COUNT } kind;
static const char *const kinds[] = {"calm", "peaked", "sink", "outliers", "key bias"};

static void rotate(float *row, int d, int position) {
    for (int i = 0; i < d / 2; i++) {
        double angle = position * pow(1e6, -2.0 * i / d), c = cos(angle), s = sin(angle);
        double a = (double)row[i], b = (double)row[i + d / 2];
        row[i] = (float)(a * c - b * s);
        row[i + d / 2] = (float)(a * s + b * c);
    }
}

/* Queries are scaled so that scores have a spread of 1, of 3 (peaked); outliers: every 16th channel large in q and K.
 */
static void draw(kind k, int d, int n_heads, float *keys, float *values, float *q) {
    rows_normal(1, ROWS, d, keys);
    rows_normal(2, ROWS, d, values);
    rows_normal(3, n_heads, d, q);
    float spread = (k == CALM || k == SINK ? 1.0f : 3.0f) / sqrtf((float)d) / (k == OUTLIERS ? 4 : 1);
    for (int t = 0; t < ROWS; t++)
        for (int j = 0; j < d; j++) {
            float *x = &keys[t * d + j];
            if (k == OUTLIERS && j % 16 == 5)
                *x *= 8;
            if (k == KEY_BIAS) /* Qwen2.5's greatest, and some of a tenth of it */
                *x += j == 7 ? 354 : j % 16 == 3 ? 30 : 0;
        }
    for (int t = 0; t < ROWS && k == KEY_BIAS; t++)
        rotate(keys + t * d, d, 5000 + t);
    for (int r = 0; r < n_heads; r++) {
        for (int j = 0; j < d; j++)
            q[r * d + j] *= spread * (k == OUTLIERS && j % 16 == 5 ? 2 : 1);
        if (k == KEY_BIAS)
            rotate(q + r * d, d, 5000 + ROWS);
        for (int j = 0; j < d && k == SINK; j++)
            keys[3 * d + j] += q[r * d + j] * 40 / (float)n_heads;
    }
    for (int j = 0; j < d && k == SINK; j++)
        values[3 * d + j] *= 0.05f;
}

static void drawn_tensors_agree(void **state) {
    (void)state;
    static const struct { int d, heads; } shapes[] = {{64, 3}, {64, 7}, {128, 6}, {256, 4}};
    static float keys[ROWS * KV_MAX_HEAD_DIM], values[ROWS * KV_MAX_HEAD_DIM], q[MOST_HEADS * KV_MAX_HEAD_DIM];
    for (int k = 0; k < KIND_COUNT; k++)
        for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
            draw((kind)k, shapes[i].d, shapes[i].heads, keys, values, q);
            for (int f = 0; f < N_PAIRS; f++) {
                opened o = seal_lane(&pairs[f], shapes[i].d, keys, values);
                for (int l = 0; cpu_level_names()[l]; l++) {
                    const cpu_kernels *kernels = cpu_kernels_level(cpu_level_names()[l]);
                    worst w = {0};
                    char what[160];
                    if (!kernels || strcmp(kernels->level, cpu_level_names()[l]))
                        continue;
                    snprintf(what, sizeof(what), "k=%s, v=%s, %s, %d/%d, %s", pairs[f].k, pairs[f].v, kinds[k],
                             shapes[i].d, shapes[i].heads, kernels->level);
                    check_lane(kernels, &o, &pairs[f], q, shapes[i].heads, &w, what);
                }
                free_lane(&o);
            }
        }
}

/* ---- tensors of real models ---- */

static void check_model(const char *name) {
    const char *path = env_model(name);
    const cpu_kernels *kernels;
    assert_int_equal(cpu_kernels_get(&kernels, NULL), PLEAT_OK);
    capture c = capture_run(path, ROWS, 1);
    int d = c.shape.head_dim, group = c.shape.n_head / c.shape.n_head_kv;
    for (int f = 0; f < N_PAIRS; f++) {
        worst all = {0};
        int worst_layer = 0;
        for (int il = 0; il < c.shape.n_layer; il++)
            for (int ih = 0; ih < c.shape.n_head_kv; ih++) {
                size_t lane = ((size_t)il * (size_t)c.shape.n_head_kv + (size_t)ih) * (size_t)(ROWS * d);
                const float *q = c.q + ((size_t)il * (size_t)c.shape.n_head + (size_t)(ih * group)) * (size_t)d;
                char what[160];
                bool empty = true; /* a layer with a window */
                for (int j = 0; j < d && empty; j++)
                    empty = c.rows[KV_K][lane + (size_t)j] == 0;
                if (empty)
                    continue;
                double before = all.output;
                snprintf(what, sizeof(what), "%s, k=%s, v=%s, layer %d, head %d", name, pairs[f].k, pairs[f].v, il, ih);
                opened o = seal_lane(&pairs[f], d, c.rows[KV_K] + lane, c.rows[KV_V] + lane);
                check_lane(kernels, &o, &pairs[f], q, group, &all, what);
                worst_layer = all.output > before ? il : worst_layer;
                free_lane(&o);
            }
        printf("%s, k=%s, v=%s: scores within %.2f of their bound, outputs within %.1e (layer %d)\n", name, pairs[f].k,
               pairs[f].v, all.score, all.output, worst_layer);
    }
    capture_free(&c);
}

static void smollm2_agrees(void **state) {
    (void)state;
    if (env_sanitized())
        env_skip("tensors of real models are not captured under sanitizers");
    check_model("smollm2-135m");
}

static void qwen_small_agrees(void **state) {
    (void)state;
    if (env_sanitized())
        env_skip("tensors of real models are not captured under sanitizers");
    check_model("qwen2.5-coder-0.5b");
}

static void qwen_large_agrees(void **state) {
    (void)state;
    if (env_sanitized() || !env_all())
        env_skip("qwen2.5-coder-1.5b is run by ./check --all");
    check_model("qwen2.5-coder-1.5b");
}

static void gemma_agrees(void **state) {
    (void)state;
    if (env_sanitized() || !env_all())
        env_skip("gemma3-270m is run by ./check --all");
    check_model("gemma3-270m");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drawn_tensors_agree), cmocka_unit_test(smollm2_agrees), cmocka_unit_test(qwen_small_agrees),
        cmocka_unit_test(qwen_large_agrees),   cmocka_unit_test(gemma_agrees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
