/* test_fused.c - attention over sealed pages by the formats' own score and mix, at every level, beside exact attention
 * over what open gives, in double: on tensors like those of models (outliers in keys and queries, a sink token, the key
 * bias of Qwen2.5 turned by RoPE) and on tensors that real models made.
 *
 * Bounds where queries and probabilities become whole numbers of 15 bits: a score within 2e-3 + 2^-14 * sum over
 * channels of |q_j| r_j, where r_j is half of the channel's range in the pages that share its scale by channel, its
 * group's largest magnitude or half range by token, both in the basis that the format keeps; a head's output within
 * 1e-3 relative L2.
 * Where they stay floats (fp8): a score within 2^-20 * sum over channels of |q_j| r_j, r_j the channel's largest
 * magnitude in the page, which is sixteen roundings of the whole sum; an output within 2e-4. */
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
    int group;      /* of K: channels of a token that share a scale, 0: all of them; -n: tokens of a channel, n pages */
    bool symmetric; /* K's codes */
    bool centered;  /* K's codes are of what lies off the page's mean */
    bool floats;    /* queries and probabilities stay floats */
} pair;

static const pair pairs[] = {
    {"int8:group=row", "int8:group=row", 0, true, false, false},
    {"int8", "int8", 32, true, false, false},
    {"int8:axis=channel", "int8", -1, true, false, false},
    {"int4:axis=channel,group=64", "int4:group=row", -1, false, false, false},
    {"int4", "int4", 32, false, false, false},
    {"kivi:bits=4", "kivi:bits=4", -1, false, false, false},
    {"kivi:bits=2", "kivi:bits=2", -1, false, false, false},
    {"kivi:bits=4,params=8", "kivi:bits=4,params=8", -1, false, false, false},
    {"kivi:bits=2,group=64", "kivi:bits=2,group=64", -1, false, false, false},
    {"gear", "gear", -8, false, false, false},
    {"kitty", "kitty", -2, false, false, false},
    {"rot8", "rot8", 32, true, false, false},
    {"rot4", "rot4", 32, false, false, false},
    {"rot4-center", "rot4-center", 32, false, true, false},
    {"lm4", "lm4", 0, true, false, false},
    {"lm3", "lm3", 0, true, false, false},
    {"lm4-lm3-center", "lm4-lm3-center", 0, true, true, false},
    {"lm:bits=2", "lm:bits=2", 0, true, false, false},
    {"fp8", "fp8", -1, true, false, true},
};
enum { N_PAIRS = sizeof(pairs) / sizeof(*pairs) };

typedef struct worst { /* seen so far */
    double share;      /* of a score's bound */
    double score;      /* distance of a head's scores, over their spread, both L2 */
    double output;     /* relative L2 of a head's output */
} worst;

typedef struct lane { /* both sides, sealed and read back, and what attention over that gives exactly */
    const pair *f;
    sealed s[2];
    float *x[2]; /* [ROWS][d] as open gives them */
    int n_heads;
    float *q;                                /* [n_heads][d] as pages are scored with them */
    double score[MOST_HEADS][ROWS];          /* exact */
    double bound[MOST_HEADS][PAGES];         /* of a score's distance from that */
    double spread[MOST_HEADS];               /* of a head's scores: L2 of what lies off their mean */
    double out[MOST_HEADS][KV_MAX_HEAD_DIM]; /* exact */
} lane;

static float *floats(int n) {
    float *x = malloc((size_t)n * sizeof(*x));
    assert_non_null(x);
    return x;
}

static void turn(const sealed *s, bool back, float *x, int n) {
    if (s->format->turn)
        s->format->turn(&s->config, s->d, back, x, n);
}

/* Without the mean of each page. */
static void center(float *x, int d) {
    for (int i = 0; i < PAGES * d; i++) {
        float *column = x + i / d * PAGE_TOKENS * d + i % d, mean = 0;
        for (int t = 0; t < PAGE_TOKENS; t++)
            mean += column[t * d] / PAGE_TOKENS;
        for (int t = 0; t < PAGE_TOKENS; t++)
            column[t * d] -= mean;
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

/* reach [d] of a page of K; x: all rows. */
static void page_reach(const pair *f, const float *x, int d, int page, double *reach) {
    int wide = f->group ? f->group : d, pages = f->group < 0 ? -f->group : 1;
    const float *rows = x + page / pages * pages * PAGE_TOKENS * d;
    for (int j = 0; j < d; j++) {
        reach[j] = f->group < 0 ? reach_of(f, rows + j, pages * PAGE_TOKENS, d) : 0;
        for (int t = 0; t < PAGE_TOKENS && f->group >= 0; t++)
            reach[j] = fmax(reach[j], reach_of(f, rows + t * d + j / wide * wide, wide, 1));
    }
}

static void bound_scores(lane *l) {
    int d = l->s[KV_K].d;
    float *x = floats(ROWS * d);
    double reach[KV_MAX_HEAD_DIM];
    memcpy(x, l->x[KV_K], (size_t)(ROWS * d) * sizeof(*x));
    turn(&l->s[KV_K], false, x, ROWS);
    if (l->f->centered)
        center(x, d);
    for (int page = 0; page < PAGES; page++) {
        page_reach(l->f, x, d, page, reach);
        for (int r = 0; r < l->n_heads; r++) {
            double sum = 0;
            for (int j = 0; j < d; j++)
                sum += fabs((double)l->q[r * d + j]) * reach[j];
            l->bound[r][page] = l->f->floats ? 0x1p-20 * sum : 2e-3 + 0x1p-14 * sum;
        }
    }
    free(x);
}

/* Head r over all pages, exactly. */
static void exact_head(lane *l, const float *q, int r) {
    int d = l->s[KV_K].d;
    double *s = l->score[r], *out = l->out[r], most = -INFINITY, mean = 0, square = 0, sum = 0;
    for (int t = 0; t < ROWS; t++) {
        s[t] = 0;
        for (int j = 0; j < d; j++)
            s[t] += (double)q[j] * (double)l->x[KV_K][t * d + j];
        most = s[t] > most ? s[t] : most;
        mean += s[t] / ROWS;
    }
    memset(out, 0, (size_t)d * sizeof(*out));
    for (int t = 0; t < ROWS; t++) {
        double p = exp(s[t] - most);
        sum += p;
        square += (s[t] - mean) * (s[t] - mean);
        for (int j = 0; j < d; j++)
            out[j] += p * (double)l->x[KV_V][t * d + j];
    }
    for (int j = 0; j < d; j++)
        out[j] /= sum;
    l->spread[r] = sqrt(square);
}

static lane *seal_lane(const pair *f, int d, const float *k, const float *v, const float *q, int n_heads) {
    lane *l = calloc(1, sizeof(*l));
    assert_non_null(l);
    l->f = f;
    l->n_heads = n_heads;
    for (int side = 0; side < 2; side++) {
        l->s[side] = sealed_open(side ? f->v : f->k, (kv_side)side, d);
        sealed_rows(&l->s[side], side ? v : k, ROWS, false, 1);
        l->x[side] = floats(ROWS * d);
        sealed_open_rows(&l->s[side], l->x[side]);
    }
    l->q = floats(n_heads * d);
    memcpy(l->q, q, (size_t)(n_heads * d) * sizeof(*q));
    turn(&l->s[KV_K], false, l->q, n_heads);
    bound_scores(l);
    for (int r = 0; r < n_heads; r++)
        exact_head(l, q + r * d, r);
    return l;
}

static void free_lane(lane *l) {
    for (int side = 0; side < 2; side++) {
        sealed_close(&l->s[side]);
        free(l->x[side]);
    }
    free(l->q);
    free(l);
}

/* off [n_heads] += the squared distances of a page's scores. */
static void check_scores(const lane *l, int page, const float *s, double *off, worst *w, const char *what) {
    for (int i = 0; i < l->n_heads * PAGE_TOKENS; i++) {
        int r = i / PAGE_TOKENS;
        double want = l->score[r][page * PAGE_TOKENS + i % PAGE_TOKENS], apart = fabs((double)s[i] - want);
        off[r] += apart * apart;
        w->share = fmax(w->share, apart / l->bound[r][page]);
        if (!(apart <= l->bound[r][page]))
            fail_msg("%s: a score is %g where open gives %g; %.3g apart are allowed", what, (double)s[i], want,
                     l->bound[r][page]);
    }
}

static void attend(const cpu_kernels *kernels, const lane *l, float *out, worst *w, const char *what) {
    const sealed *k = &l->s[KV_K], *v = &l->s[KV_V];
    int d = k->d, n_heads = l->n_heads;
    float s[BLOCK * MOST_HEADS * PAGE_TOKENS], m[MOST_HEADS], sum[MOST_HEADS] = {0}, c[MOST_HEADS];
    double off[MOST_HEADS] = {0};
    for (int r = 0; r < n_heads; r++)
        m[r] = -INFINITY;
    float of_run[MOST_HEADS * KV_OF_RUN_FLOATS];
    dot_row folded[KV_FOLDED_ROWS * KV_MAX_HEAD_DIM / TILE];
    kv_query_rows rows = kv_query_rows_of(l->q, n_heads, of_run, folded);
    memset(out, 0, (size_t)(n_heads * d) * sizeof(*out));
    for (int first = 0; first < PAGES; first += BLOCK) {
        for (int i = 0; i < BLOCK; i++) {
            float *to = s + i * n_heads * PAGE_TOKENS;
            k->format->score(kernels, &k->config, d, &k->page[first + i], &rows, to, NULL);
            check_scores(l, first + i, to, off, w, what);
        }
        kernels->softmax_pages(s, BLOCK, n_heads, m, sum, c);
        for (int r = 0; r < n_heads; r++)
            kernels->scale(out + r * d, d, c[r]);
        for (int i = 0; i < BLOCK; i++)
            v->format->mix(kernels, &v->config, d, &v->page[first + i], s + i * n_heads * PAGE_TOKENS, n_heads, out,
                           NULL);
    }
    turn(v, true, out, n_heads);
    for (int r = 0; r < n_heads; r++) {
        kernels->scale(out + r * d, d, 1 / sum[r]);
        w->score = fmax(w->score, sqrt(off[r]) / l->spread[r]);
    }
}

static void check_lane(const cpu_kernels *kernels, const lane *l, worst *w, const char *what) {
    int d = l->s[KV_K].d;
    float out[MOST_HEADS * KV_MAX_HEAD_DIM];
    double most = l->f->floats ? 2e-4 : 1e-3;
    attend(kernels, l, out, w, what);
    for (int r = 0; r < l->n_heads; r++) {
        double off = 0, size = 0;
        for (int j = 0; j < d; j++) {
            double want = l->out[r][j], apart = (double)out[r * d + j] - want;
            off += apart * apart;
            size += want * want;
        }
        double relative = sqrt(off / size);
        w->output = fmax(w->output, relative);
        if (!(relative <= most))
            fail_msg("%s: the output of head %d is %.3g from the exact one; %g is allowed", what, r, relative, most);
    }
}

/* At every level of this machine. */
static void check_levels(const lane *l, worst *w, const char *what) {
    for (int i = 0; cpu_level_names()[i]; i++) {
        const cpu_kernels *kernels = cpu_kernels_level(cpu_level_names()[i]);
        char which[200];
        if (!kernels || strcmp(kernels->level, cpu_level_names()[i]))
            continue;
        snprintf(which, sizeof(which), "k=%s, v=%s, %s, %s", l->f->k, l->f->v, what, kernels->level);
        check_lane(kernels, l, w, which);
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
                lane *l = seal_lane(&pairs[f], shapes[i].d, keys, values, q, shapes[i].heads);
                worst w = {0};
                char what[100];
                snprintf(what, sizeof(what), "%s, %d/%d", kinds[k], shapes[i].d, shapes[i].heads);
                check_levels(l, &w, what);
                free_lane(l);
            }
        }
}

/* ---- tensors of real models ---- */

static bool all_zero(const float *x, int n) {
    for (int i = 0; i < n; i++)
        if (x[i] != 0)
            return false;
    return true;
}

/* Every lane of a layer; nothing is captured of layers with a window. */
static worst check_layer(const capture *c, const pair *f, int il, const char *name) {
    int d = c->shape.head_dim, group = c->shape.n_head / c->shape.n_head_kv;
    worst w = {0};
    for (int ih = 0; ih < c->shape.n_head_kv; ih++) {
        size_t at = ((size_t)il * (size_t)c->shape.n_head_kv + (size_t)ih) * (size_t)(ROWS * d);
        const float *q = c->q + ((size_t)il * (size_t)c->shape.n_head + (size_t)(ih * group)) * (size_t)d;
        char what[100];
        if (all_zero(c->rows[KV_K] + at, d))
            continue;
        snprintf(what, sizeof(what), "%s, layer %d, head %d", name, il, ih);
        lane *l = seal_lane(f, d, c->rows[KV_K] + at, c->rows[KV_V] + at, q, group);
        check_levels(l, &w, what);
        free_lane(l);
    }
    return w;
}

static void check_model(const char *name) {
    capture c = capture_run(env_model(name), ROWS, 1);
    for (int f = 0; f < N_PAIRS; f++) {
        worst all = {0};
        int score_layer = 0, output_layer = 0;
        for (int il = 0; il < c.shape.n_layer; il++) {
            worst w = check_layer(&c, &pairs[f], il, name);
            score_layer = w.score > all.score ? il : score_layer;
            output_layer = w.output > all.output ? il : output_layer;
            all.share = fmax(all.share, w.share);
            all.score = fmax(all.score, w.score);
            all.output = fmax(all.output, w.output);
        }
        printf(
            "%s, k=%s, v=%s: scores within %.2f of their bound and %.1e (layer %d), outputs within %.1e (layer %d)\n",
            name, pairs[f].k, pairs[f].v, all.share, all.score, score_layer, all.output, output_layer);
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
