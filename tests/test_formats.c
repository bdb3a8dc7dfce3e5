/* test_formats.c - every format of methods.def, with its parameters' corners: score and mix beside open at every level,
 * finite whatever the rows, the same bits in any company; then each family beside a plain double reading of its
 * definition, and the worked figures of the papers' formulas. */
#include "base/rng.h"
#include "engine/engine.h"
#include "kv/hadamard.h"
#include "kv/lowrank.h"
#include "kv/outliers.h"
#include "kv/page_affine.h"
#include "support/env.h"
#include "support/sealed.h"
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

static const int dims[] = {64, 96, 128, 256};
enum { N_DIMS = sizeof(dims) / sizeof(*dims), MOST_ROWS = 40 };

typedef void corner_test(sealed *s, const char *name);

static void each_corner(corner_test *test) {
    const kv_format *format;
    kv_config config;
    const char *name;
    for (int i = 0; sealed_corner(i, &format, &config, &name); i++)
        for (int k = 0; k < N_DIMS; k++)
            for (int side = 0; side < 2; side++) {
                sealed s;
                if (!sealed_of(format, &config, (kv_side)side, dims[k], &s))
                    continue;
                test(&s, name);
                sealed_close(&s);
            }
}

static int run_rows(const sealed *s) {
    return PAGE_TOKENS * (s->geometry.run_pages < 3 ? s->geometry.run_pages : 3);
}

/* ---- score and mix beside open ---- */

static void turned(const sealed *s, bool back, float *x, int n) {
    if (s->format->turn && (s->side == KV_K ? (void *)s->format->score : (void *)s->format->mix))
        s->format->turn(&s->config, s->d, back, x, n);
}

static void check_score(const sealed *s, const cpu_kernels *kernels, int p, const float *rows, const char *name) {
    int d = s->d;
    float q[MOST_ROWS * KV_MAX_HEAD_DIM], plain[MOST_ROWS * KV_MAX_HEAD_DIM];
    float got[MOST_ROWS * PAGE_TOKENS], one[PAGE_TOKENS];
    rows_normal(99, MOST_ROWS, d, q);
    for (int i = 0; i < MOST_ROWS * d; i++)
        q[i] *= 2 / sqrtf((float)d);
    memcpy(plain, q, sizeof(q));
    turned(s, false, q, MOST_ROWS);
    sealed_score(s, kernels, p, q, MOST_ROWS, got, s->page[p].bytes);
    for (int r = 0; r < MOST_ROWS; r++) {
        sealed_score(s, kernels, p, q + r * d, 1, one, NULL);
        assert_memory_equal(one, got + r * PAGE_TOKENS, sizeof(one));
        for (int t = 0; t < PAGE_TOKENS; t++) {
            double want = 0, reach = 0;
            for (int j = 0; j < d; j++) {
                want += (double)plain[r * d + j] * (double)rows[t * d + j];
                reach += fabs((double)plain[r * d + j]) * fabs((double)rows[t * d + j]);
            }
            if (!(fabs((double)one[t] - want) <= 2e-3 + 0x1p-14 * reach))
                fail_msg("%s, d %d, %s: score %g, %g by open", name, d, kernels->level, (double)one[t], want);
        }
    }
}

static void check_mix(const sealed *s, const cpu_kernels *kernels, int p, const float *rows, const char *name) {
    int d = s->d;
    float weight[MOST_ROWS * PAGE_TOKENS], got[MOST_ROWS * KV_MAX_HEAD_DIM] = {0}, one[KV_MAX_HEAD_DIM];
    for (int i = 0; i < MOST_ROWS * PAGE_TOKENS; i++)
        weight[i] = expf((float)(i * 37 % 101) / 20) / 1000;
    s->format->mix(kernels, &s->config, d, &s->page[p], weight, MOST_ROWS, got, s->page[p].bytes);
    for (int r = 0; r < MOST_ROWS; r++) {
        memset(one, 0, sizeof(one));
        s->format->mix(kernels, &s->config, d, &s->page[p], weight + r * PAGE_TOKENS, 1, one, NULL);
        assert_memory_equal(one, got + r * d, (size_t)d * sizeof(*one));
        turned(s, true, one, 1);
        double error = 0, size = 0;
        for (int j = 0; j < d; j++) {
            double want = 0;
            for (int t = 0; t < PAGE_TOKENS; t++)
                want += (double)weight[r * PAGE_TOKENS + t] * (double)rows[t * d + j];
            error += ((double)one[j] - want) * ((double)one[j] - want);
            size += want * want;
        }
        if (!(error <= 1e-6 * size))
            fail_msg("%s, d %d, %s: mix off by %g", name, d, kernels->level, sqrt(error / size));
    }
}

static void fused_equal_open(sealed *s, const char *name) {
    int n = run_rows(s), d = s->d;
    float *x = malloc((size_t)(n * d) * sizeof(*x)), rows[PAGE_TOKENS * KV_MAX_HEAD_DIM];
    rows_like_keys(5, n, d, x);
    sealed_rows(s, x, n, n == PAGE_TOKENS, 7);
    for (int i = 0; cpu_level_names()[i]; i++) {
        const cpu_kernels *kernels = cpu_kernels_level(cpu_level_names()[i]);
        if (!kernels || strcmp(kernels->level, cpu_level_names()[i]))
            continue;
        for (int p = 0; p < s->n_pages; p++) {
            s->format->open(&s->config, s->side, d, &s->page[p], rows);
            if (s->side == KV_K && s->format->score)
                check_score(s, kernels, p, rows, name);
            if (s->side == KV_V && s->format->mix)
                check_mix(s, kernels, p, rows, name);
        }
    }
    free(x);
}

static void score_and_mix_are_those_of_open(void **state) {
    (void)state;
    each_corner(fused_equal_open);
}

/* ---- any rows ---- */

static void rows_of_kind(int kind, int n, int d, float *x) {
    rows_like_keys(3, n, d, x);
    for (int i = 0; i < n * d; i++) {
        int t = i / d, j = i % d;
        if (kind == 0)
            x[i] = 0;
        else if (kind == 1)
            x[i] = 3.25f;
        else if (kind == 2)
            x[i] = (i * 7 / 3) % 2 ? 65504 : -65504;
        else if (kind == 3)
            x[i] = (float)(i % 5) * 0x1p-24f;
        else if (kind == 4 && (t + j) % 11 == 0)
            x[i] = t % 2 ? 65504 : -65504;
        else if (kind == 5)
            x[i] = j == t % d ? 1 : 0;
        else if (kind == 6)
            x[i] = 65504;
    }
}

static void finite_and_near(sealed *s, const char *name) {
    int n = run_rows(s), d = s->d;
    float *x = malloc((size_t)(n * d) * sizeof(*x)), *y = malloc((size_t)(n * d) * sizeof(*y));
    for (int kind = 0; kind < 7; kind++) {
        rows_of_kind(kind, n, d, x);
        sealed_rows(s, x, n, false, 7);
        sealed_open_rows(s, y);
        double most = 0;
        for (int i = 0; i < n * d; i++) {
            if (!isfinite(y[i]))
                fail_msg("%s, d %d: rows of kind %d open to %g", name, d, kind, (double)y[i]);
            most = fmax(most, fabs((double)x[i] - (double)y[i]));
        }
        if (kind == 0 && most > 0)
            fail_msg("%s, d %d: zeros open to something", name, d);
        if (kind == 3 && most > 5e-5)
            fail_msg("%s, d %d: subnormal rows are off by %g", name, d, most);
    }
    free(x);
    free(y);
}

static void any_rows_stay_finite(void **state) {
    (void)state;
    each_corner(finite_and_near);
}

/* Sealing twice gives the same bytes; so does sealing row by row where rows can be written singly. */
static void the_same_bytes(sealed *s, const char *name) {
    int n = run_rows(s), d = s->d;
    float *x = malloc((size_t)(n * d) * sizeof(*x));
    rows_like_keys(3, n, d, x);
    sealed a = *s;
    sealed_rows(&a, x, n, false, 7);
    sealed_rows(s, x, n, false, 7);
    if (s->geometry.row_writable) {
        kv_sealing how = {.seed = 1};
        uint8_t *page = s->page[0].bytes;
        rows_of_kind(4, n, d, x);
        s->format->seal(&s->config, s->side, d, x, 0, PAGE_TOKENS, s->page, &how);
        rows_like_keys(3, n, d, x);
        for (int i = 0, m; i < PAGE_TOKENS; i += m) {
            m = i == 0 ? 33 : i == 33 ? 7 : 1;
            s->format->seal(&s->config, s->side, d, x + i * d, i, m, s->page, &how); /* may spoil only its rows */
        }
        assert_ptr_equal(page, s->page[0].bytes);
    }
    for (int p = 0; p < s->n_pages; p++)
        if (memcmp(a.page[p].bytes, s->page[p].bytes, s->geometry.page_bytes))
            fail_msg("%s, d %d: page %d differs", name, d, p);
    if (s->run_bytes)
        assert_memory_equal(a.page[0].run, s->page[0].run, s->run_bytes);
    sealed_close(&a);
    free(x);
}

static void sealing_is_a_function_of_its_rows(void **state) {
    (void)state;
    each_corner(the_same_bytes);
}

/* ---- affine formats beside their definition ---- */

/* Elements of one group: x as sealed, y as opened. The map that the definition gives, in float as it says. */
static void check_group(const double *x, const double *y, int n, int bits, bool symmetric, double slack,
                        const char *what) {
    float low = (float)x[0], high = (float)x[0];
    for (int i = 1; i < n; i++) {
        low = (float)x[i] < low ? (float)x[i] : low;
        high = (float)x[i] > high ? (float)x[i] : high;
    }
    int top = (1 << bits) - 1, reach = (1 << (bits - 1)) - 1;
    float step = symmetric ? fmaxf(high, -low) / (float)reach : (high - low) / (float)top;
    double s = (double)f16_to_f32(f16_from_f32(step)), mn = symmetric ? 0 : (double)f16_to_f32(f16_from_f32(low));
    s = s < 0x1p-14 ? 0 : s;
    for (int i = 0; i < n; i++) {
        double code = s > 0 ? (y[i] - mn) / s : 0, bound = s / 2 + 0x1p-11 * (fabs(mn) + (top + 1) * s) + slack;
        if (s == 0 && (double)step > 0)
            bound += 0x1p-14 * top;
        if (!(fabs(x[i] - y[i]) <= bound))
            fail_msg("%s: %g opens to %g, further than %g", what, x[i], y[i], bound);
        if (!(fabs(code - rint(code)) <= 1e-3 + 2 * slack / (s > 0 ? s : 1)))
            fail_msg("%s: %g is no code of step %g from %g", what, y[i], s, mn);
        if (rint(code) < (symmetric ? -reach : 0) || rint(code) > (symmetric ? reach : top))
            fail_msg("%s: code %g", what, code);
    }
}

/* All groups of rows x [n][d] and their opened y: `tall` tokens by `wide` channels. */
static void check_groups(const float *x, const float *y, int n, int d, int tall, int wide, int bits, bool symmetric,
                         double slack, const char *what) {
    double from[1024], to[1024];
    for (int t = 0; t < n; t += tall)
        for (int j = 0; j < d; j += wide) {
            int m = 0;
            for (int i = 0; i < tall; i++)
                for (int k = 0; k < wide; k++, m++) {
                    from[m] = (double)x[(t + i) * d + j + k];
                    to[m] = (double)y[(t + i) * d + j + k];
                }
            check_group(from, to, m, bits, symmetric, slack, what);
        }
}

typedef struct affine_case {
    const char *spec;
    int bits, tall[2], wide[2]; /* of K, V; wide 0: the row */
    bool symmetric;
} affine_case;

static const affine_case affine_cases[] = {
    {"int8", 8, {1, 1}, {32, 32}, true},
    {"int8:group=64", 8, {1, 1}, {64, 64}, true},
    {"int8:group=row", 8, {1, 1}, {0, 0}, true},
    {"int8:axis=channel", 8, {32, 1}, {1, 32}, true},
    {"int8:axis=channel,group=64", 8, {64, 1}, {1, 64}, true},
    {"int4", 4, {1, 1}, {32, 32}, false},
    {"int4:group=64", 4, {1, 1}, {64, 64}, false},
    {"int4:group=row", 4, {1, 1}, {0, 0}, false},
    {"int4:axis=channel", 4, {32, 1}, {1, 32}, false},
    {"int4:axis=channel,group=row", 4, {64, 1}, {1, 0}, false},
    {"kivi:bits=4", 4, {32, 1}, {1, 32}, false},
    {"kivi:bits=2", 2, {32, 1}, {1, 32}, false},
    {"kivi:bits=2,group=64", 2, {64, 1}, {1, 64}, false},
    {"kivi:bits=4,vseal=token", 4, {32, 1}, {1, 32}, false},
    {"rot:bits=4", 4, {1, 1}, {32, 32}, false},
    {"rot:bits=4,sym=1", 4, {1, 1}, {32, 32}, true},
    {"rot:bits=4,group=row,signs=0", 4, {1, 1}, {0, 0}, false},
    {"rot:bits=8,sym=1", 8, {1, 1}, {32, 32}, true},
    {"rot:bits=8,sym=0,group=64", 8, {1, 1}, {64, 64}, false},
    {"rot:bits=4,center=1", 4, {1, 1}, {32, 32}, false},
};

/* center=1: what is coded is the difference from the page's mean, in fp16. */
static void subtract_mean(bool yes, int d, float *x, float *y) {
    for (int j = 0; yes && j < d; j++) {
        double sum = 0;
        for (int t = 0; t < PAGE_TOKENS; t++)
            sum += (double)x[t * d + j] / PAGE_TOKENS;
        float mean = f16_to_f32(f16_from_f32((float)sum));
        for (int t = 0; t < PAGE_TOKENS; t++) {
            x[t * d + j] -= mean;
            y[t * d + j] -= mean;
        }
    }
}

static void affine_formats_are_their_definition(void **state) {
    (void)state;
    enum { N = PAGE_TOKENS };
    float x[N * KV_MAX_HEAD_DIM], y[N * KV_MAX_HEAD_DIM];
    for (size_t i = 0; i < sizeof(affine_cases) / sizeof(*affine_cases); i++)
        for (int k = 0; k < N_DIMS; k++)
            for (int side = 0; side < 2; side++) {
                const affine_case *c = &affine_cases[i];
                int d = dims[k], wide = c->wide[side] ? c->wide[side] : d;
                if (d % wide)
                    continue;
                sealed s = sealed_open(c->spec, (kv_side)side, d);
                rows_like_keys(11, N, d, x);
                sealed_rows(&s, x, N, false, 0);
                sealed_open_rows(&s, y);
                double slack = 1e-6;
                if (s.format->turn) { /* rows of up to 30 go twice through float butterflies */
                    s.format->turn(&s.config, d, false, x, N);
                    s.format->turn(&s.config, d, false, y, N);
                    slack = 1e-4;
                    subtract_mean(side == KV_K && strstr(c->spec, "center=1"), d, x, y);
                }
                check_groups(x, y, N, d, c->tall[side], wide, c->bits, c->symmetric, slack, c->spec);
                sealed_close(&s);
            }
}

/* params=8: no value leaves its group's range by more than half a code, whose step is the range's, widened by one step
 * of the page's own ranges of minima and of scales. */
static void packed_kivi_parameters_cover_their_groups(void **state) {
    (void)state;
    static const char *const specs[] = {"kivi:bits=4,params=8", "kivi:bits=2,params=8,group=64"};
    float x[PAGE_TOKENS * KV_MAX_HEAD_DIM], y[PAGE_TOKENS * KV_MAX_HEAD_DIM];
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 2; k++)
            for (int side = 0; side < 2; side++) {
                int d = k ? 128 : 64, group = i ? 64 : 32, levels = i ? 3 : 15, tall = side ? 1 : group;
                int wide = group / tall, n = PAGE_TOKENS * d / group;
                double *low = malloc((size_t)n * sizeof(*low)), *high = malloc((size_t)n * sizeof(*high));
                double least = INFINITY, most = -INFINITY, widest = 0;
                sealed s = sealed_open(specs[i], (kv_side)side, d);
                rows_like_keys(11, PAGE_TOKENS, d, x);
                sealed_rows(&s, x, PAGE_TOKENS, false, 0);
                sealed_open_rows(&s, y);
                for (int g = 0; g < n; g++) {
                    int t = g / (d / wide) * tall, j = g % (d / wide) * wide;
                    low[g] = INFINITY;
                    high[g] = -INFINITY;
                    for (int e = 0; e < group; e++) {
                        double v = (double)x[(t + e % tall) * d + j + e / tall];
                        low[g] = fmin(low[g], v);
                        high[g] = fmax(high[g], v);
                    }
                    least = fmin(least, low[g]);
                    most = fmax(most, low[g]);
                    widest = fmax(widest, high[g] - low[g]);
                }
                for (int g = 0; g < n; g++) {
                    int t = g / (d / wide) * tall, j = g % (d / wide) * wide;
                    double minimum_step = (most - least) / 255 * 1.002, span = high[g] - low[g] + minimum_step;
                    double step = span / levels + (widest + minimum_step) / levels / 255 * 1.004;
                    for (int e = 0; e < group; e++) {
                        int at = (t + e % tall) * d + j + e / tall;
                        if (!(fabs((double)x[at] - (double)y[at]) <= step / 2 + 1e-5))
                            fail_msg("%s: %g opens to %g with a step of %g", specs[i], (double)x[at], (double)y[at],
                                     step);
                    }
                }
                sealed_close(&s);
                free(low);
                free(high);
            }
}

/* Worked by hand: eight numbers at 4 and at 2 bits. */
static void worked_quantiser(void **state) {
    (void)state;
    static const float x[8] = {-1, -.35f, .1f, .62f, .9f, 1.4f, 2, 2.5f};
    static const uint8_t code[2][8] = {{0, 3, 5, 7, 8, 10, 13, 15}, {0, 1, 1, 1, 2, 2, 3, 3}};
    static const float step[2] = {.233276f, 1.166992f};
    for (int i = 0; i < 2; i++) {
        affine a = {.bits = i ? 2 : 4};
        uint8_t got[8];
        f16 scale, minimum;
        affine_quantise(&a, x, 8, got, &scale, &minimum);
        assert_memory_equal(got, code[i], 8);
        assert_float_equal(f16_to_f32(scale), step[i], 1e-6);
        assert_float_equal(f16_to_f32(minimum), -1, 0);
    }
}

/* ---- rotation ---- */

static void worked_hadamard(void **state) {
    (void)state;
    float x[32] = {8, 0, 0, 0, 1, -1, 2, 0}, y[32];
    static const float want[8] = {3.535534f, 4.242641f, 2.12132f, 2.828427f, 2.12132f, 1.414214f, 3.535534f, 2.828427f};
    memcpy(y, x, sizeof(x));
    hadamard_turn(32, false, false, y, 1); /* 32 elements, 24 of them 0: half of the scale, four times */
    for (int i = 0; i < 32; i++)
        assert_float_equal(y[i] * 2, want[i % 8], 1e-5);
    hadamard_turn(32, false, true, y, 1);
    for (int i = 0; i < 32; i++)
        assert_float_equal(y[i], x[i], 1e-6);
}

/* y = H D x against the matrix in double; blocks; turning back. */
static void turn_is_hadamard_times_signs(void **state) {
    (void)state;
    for (int k = 0; k < N_DIMS; k++) {
        int d = dims[k], block = d & -d, n_minus = 0;
        float x[3 * KV_MAX_HEAD_DIM], y[3 * KV_MAX_HEAD_DIM], unit[KV_MAX_HEAD_DIM], sign[KV_MAX_HEAD_DIM];
        for (int j = 0; j < d; j++) {
            memset(unit, 0, sizeof(unit));
            unit[j] = 1;
            hadamard_turn(d, true, false, unit, 1);
            sign[j] = unit[j / block * block] > 0 ? 1 : -1; /* the first row of H is positive */
            n_minus += sign[j] < 0;
        }
        assert_true(n_minus > d / 4 && n_minus < d * 3 / 4);
        rows_like_keys(2, 3, d, x);
        memcpy(y, x, sizeof(x));
        hadamard_turn(d, true, false, y, 3);
        for (int r = 0; r < 3; r++)
            for (int i = 0; i < d; i++) {
                double want = 0;
                for (int j = i / block * block; j < i / block * block + block; j++)
                    want += (__builtin_popcount((unsigned)(i & j & (block - 1))) % 2 ? -1 : 1) * (double)sign[j] *
                            (double)x[r * d + j];
                assert_float_equal(y[r * d + i], want / sqrt(block), 1e-4);
            }
        hadamard_turn(d, true, true, y, 3);
        for (int i = 0; i < 3 * d; i++)
            assert_float_equal(y[i], x[i], 1e-4);
    }
}

static double relative_error(const char *spec, kv_side side, int d, int n_pages, const float *x) {
    sealed s = sealed_open(spec, side, d);
    float *y = malloc((size_t)(n_pages * PAGE_TOKENS * d) * sizeof(*y));
    for (int p = 0; p < n_pages; p++) {
        sealed_rows(&s, x + p * PAGE_TOKENS * d, PAGE_TOKENS, false, 0);
        sealed_open_rows(&s, y + p * PAGE_TOKENS * d);
    }
    double error = rows_error(x, y, n_pages * PAGE_TOKENS * d);
    sealed_close(&s);
    free(y);
    return error;
}

/* Known tables: relative squared error on N(0, 1), and with one channel x20 and one x12. */
static void errors_are_the_known_ones(void **state) {
    (void)state;
    enum { D = 128, PAGES = 100 };
    float *x = malloc((size_t)PAGES * PAGE_TOKENS * D * sizeof(*x));
    static const struct {
        const char *spec;
        double error;
    } list[] = {
        {"int4:group=32", .00611},
        {"int4:group=64", .00802},
        {"int4:group=row", .00994},
        {"kivi:bits=2,group=32", .154},
        {"kivi:bits=2,group=64", .202},
        {"rot:bits=4,group=32", .00611},
        {"rot:bits=4,group=row", .00994},
        {"rot:bits=8,group=32", 2.1e-5},
        {"rot:bits=8,group=row", 3.4e-5},
        {"rot:bits=4,sym=1,group=32", .00938},
        {"rot:bits=4,sym=1,group=64", .0116},
        {"lm:bits=4,normcorr=0", .009501},
        {"lm:bits=3,normcorr=0", .034548},
        {"lm:bits=2,normcorr=0", .117482},
        {"lm4", .009501}, /* with the corrected norm, as the presets have it */
        {"lm3", .034548},
        {"lm:bits=2", .117482},
    };
    rows_normal(1, PAGES * PAGE_TOKENS, D, x);
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++)
        for (int side = 0; side < 2; side++) {
            double error = relative_error(list[i].spec, (kv_side)side, D, PAGES, x);
            if (!(fabs(error - list[i].error) <= .05 * list[i].error))
                fail_msg("%s: error %g, known as %g", list[i].spec, error, list[i].error);
        }
    for (int t = 0; t < PAGES * PAGE_TOKENS; t++) {
        x[t * D + 17] *= 20;
        x[t * D + 90] *= 12;
    }
    double plain = relative_error("int4", KV_K, D, PAGES, x), turned_error = relative_error("rot", KV_K, D, PAGES, x);
    assert_float_equal(plain, .0119, .0006);
    assert_float_equal(turned_error, .0042, .0003);
    free(x);
}

/* A bias that all keys share costs nothing with center=1, and nearly everything without. */
static void center_takes_a_key_bias_out(void **state) {
    (void)state;
    static const char *const specs[][2] = {{"rot", "rot:center=1"}, {"lm", "lm:center=1"}};
    float x[PAGE_TOKENS * 64], y[PAGE_TOKENS * 64];
    for (int i = 0; i < 2; i++) {
        double error[2][2] = {{0}};
        for (int bias = 0; bias < 2; bias++)
            for (int k = 0; k < 2; k++) {
                sealed s = sealed_open(specs[i][k], KV_K, 64);
                rows_normal(61, PAGE_TOKENS, 64, x);
                for (int t = 0; t < PAGE_TOKENS; t++)
                    x[t * 64 + 40] += bias ? 256 : 0;
                sealed_rows(&s, x, PAGE_TOKENS, false, 0);
                sealed_open_rows(&s, y);
                for (int e = 0; e < PAGE_TOKENS * 64; e++)
                    error[bias][k] += ((double)x[e] - (double)y[e]) * ((double)x[e] - (double)y[e]);
                sealed_close(&s);
            }
        assert_true(error[1][0] > 100 * error[0][0]);
        assert_true(error[1][1] < 1.1 * error[0][1]);
    }
}

/* ---- codebook ---- */

static double cdf(double x) {
    return erfc(-x / sqrt(2)) / 2;
}

static double density(double x) {
    return exp(-x * x / 2) / sqrt(2 * 3.14159265358979323846);
}

/* Lloyd's iteration for N(0, 1), in double. */
static void lloyd_max(int n, double *value) {
    for (int i = 0; i < n; i++)
        value[i] = -2 + 4 * (i + .5) / n;
    for (int round = 0; round < 20000; round++)
        for (int i = 0; i < n; i++) {
            double a = i ? (value[i - 1] + value[i]) / 2 : -INFINITY,
                   b = i + 1 < n ? (value[i] + value[i + 1]) / 2 : INFINITY;
            value[i] = (density(a) - density(b)) / (cdf(b) - cdf(a));
        }
}

/* Each turned row is a gain times the nearest values of the best codebook; the gain is the definition's. */
static void lm_is_its_definition(void **state) {
    (void)state;
    static const char *const specs[] = {"lm:bits=4", "lm:bits=3", "lm:bits=2", "lm:bits=4,normcorr=0",
                                        "lm:bits=3,signs=0"};
    static const int bits[] = {4, 3, 2, 4, 3};
    float x[PAGE_TOKENS * KV_MAX_HEAD_DIM], y[PAGE_TOKENS * KV_MAX_HEAD_DIM];
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < N_DIMS; k++)
            for (int side = 0; side < 2; side++) {
                int d = dims[k], n = 1 << bits[i];
                double value[16];
                lloyd_max(n, value);
                sealed s = sealed_open(specs[i], (kv_side)side, d);
                rows_like_keys(21, PAGE_TOKENS, d, x);
                sealed_rows(&s, x, PAGE_TOKENS, false, 0);
                sealed_open_rows(&s, y);
                s.format->turn(&s.config, d, false, x, PAGE_TOKENS);
                s.format->turn(&s.config, d, false, y, PAGE_TOKENS);
                for (int t = 0; t < PAGE_TOKENS; t++) {
                    double norm = 0, chosen = 0, nearest[KV_MAX_HEAD_DIM];
                    for (int j = 0; j < d; j++)
                        norm += (double)x[t * d + j] * (double)x[t * d + j];
                    for (int j = 0; j < d; j++) {
                        double u = (double)x[t * d + j] * sqrt(d / norm), best = value[0];
                        for (int v = 1; v < n; v++)
                            best = fabs(u - value[v]) < fabs(u - best) ? value[v] : best;
                        nearest[j] = best;
                        chosen += best * best;
                    }
                    double gain = sqrt(norm / (strstr(specs[i], "normcorr=0") ? d : chosen));
                    for (int j = 0; j < d; j++) {
                        double u = (double)x[t * d + j] * sqrt(d / norm), got = (double)y[t * d + j] / gain;
                        bool tie = fabs(fabs(u - nearest[j]) - fabs(u - got)) < 1e-2 && fabs(u - nearest[j]) > .1;
                        if (!(fabs(got - nearest[j]) < 2e-3 || tie))
                            fail_msg("%s, d %d: %g became %g, nearest is %g", specs[i], d, u, got, nearest[j]);
                    }
                }
                sealed_close(&s);
            }
}

static void three_bits_warn(void **state) {
    (void)state;
    static const char *const specs[] = {"lm4", "lm3", "lm4-lm3", "k=lm(bits=2),v=lm4"};
    static const bool warns[] = {false, true, false, true};
    for (int i = 0; i < 4; i++) {
        sealed s = sealed_open(specs[i], KV_K, 64);
        assert_int_equal(s.format->warning(&s.config, KV_K, NULL) != NULL, warns[i]);
        assert_null(s.format->warning(&s.config, KV_V, NULL));
    }
}

/* ---- gear ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One vector of a run without its low-rank term: the c least and the c greatest are exact, the others are a group whose
 * input has the mean in the outliers' places. */
static void check_outliers(const double *x, const double *y, int n, int c, int bits, const char *what) {
    double sorted[512], input[512], output[512], mean = 0;
    int n_exact = 0, rest = 0;
    memcpy(sorted, x, (size_t)n * sizeof(*x));
    qsort(sorted, (size_t)n, sizeof(*sorted), by_value);
    for (int i = 0; i < n; i++)
        mean += x[i] / n;
    for (int i = 0; i < n; i++) {
        bool out = c && (x[i] <= sorted[c - 1] || x[i] >= sorted[n - c]);
        n_exact += out;
        if (out && x[i] != y[i])
            fail_msg("%s: the outlier %g opens to %g", what, x[i], y[i]);
        if (out)
            continue;
        input[rest] = x[i];
        output[rest++] = y[i];
    }
    assert_int_equal(n_exact, 2 * c);
    if (c) { /* stands for all outliers in the backbone's range */
        input[rest] = mean;
        float low = INFINITY, high = -INFINITY;
        for (int i = 0; i <= rest; i++) {
            low = fminf(low, (float)input[i]);
            high = fmaxf(high, (float)input[i]);
        }
        double step = (double)f16_to_f32(f16_from_f32((high - low) / (float)((1 << bits) - 1)));
        double minimum = (double)f16_to_f32(f16_from_f32(low));
        output[rest] = minimum + step * rint((mean - minimum) / step);
        rest++;
    }
    check_group(input, output, rest, bits, false, 1e-6, what);
}

static void gear_keeps_outliers_and_quantises_the_rest(void **state) {
    (void)state;
    static const struct {
        const char *spec;
        int n, bits, c[2]; /* of K at n, of V at 64 */
    } list[] = {
        {"gear:rank=0,rank_decode=0", 512, 4, {5, 1}}, {"gear:rank=0,rank_decode=0", 448, 4, {4, 1}},
        {"gear:rank=0,rank_decode=0", 64, 4, {1, 1}},  {"gear:rank=0,rank_decode=0,buffer=20", 20, 4, {1, 1}},
        {"gear:rank=0,s=0", 128, 4, {0, 0}},           {"gear:rank=0,s=0.1,bits=2", 128, 2, {6, 3}},
    };
    enum { D = 64 };
    float *x = malloc((size_t)512 * D * sizeof(*x)), *y = malloc((size_t)512 * D * sizeof(*y));
    double from[512], to[512];
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++)
        for (int side = 0; side < 2; side++) {
            sealed s = sealed_open(list[i].spec, (kv_side)side, D);
            int n = list[i].n, length = side == KV_K ? n : D, c = list[i].c[side];
            for (int e = 0; e < n * D; e++) /* no two of a vector alike, so that outliers are plain to see */
                x[e] = f16_to_f32(f16_from_f32((float)((e * 7919 + 13) % 2039) / 16 - 64 + (e % D == 9 ? 64 : 0)));
            sealed_rows(&s, x, n, n == 20, 0);
            sealed_open_rows(&s, y);
            for (int v = 0; v < n * D / length; v++) {
                for (int e = 0; e < length; e++) {
                    int at = side == KV_K ? e * D + v : v * D + e;
                    from[e] = (double)x[at];
                    to[e] = (double)y[at];
                }
                check_outliers(from, to, length, c, list[i].bits, list[i].spec);
            }
            sealed_close(&s);
        }
    free(x);
    free(y);
}

/* Without outliers and low rank it is its backbone, bit for bit. */
static void gear_without_its_terms_is_its_backbone(void **state) {
    (void)state;
    static const char *const backbone[2][2] = {{"int4:axis=channel,group=row", "int4:group=row"},
                                               {"int4:axis=channel,group=row", "int4:group=64"}};
    float x[PAGE_TOKENS * KV_MAX_HEAD_DIM], y[2][PAGE_TOKENS * KV_MAX_HEAD_DIM];
    for (int kivi = 0; kivi < 2; kivi++)
        for (int side = 0; side < 2; side++)
            for (int d = 64; d <= 128; d += 64) {
                sealed a = sealed_open(kivi ? "gear:s=0,rank=0,backbone=kivi" : "gear:s=0,rank=0", (kv_side)side, d);
                sealed b = sealed_open(backbone[kivi][side], (kv_side)side, d);
                rows_like_keys(43, PAGE_TOKENS, d, x);
                sealed_rows(&a, x, PAGE_TOKENS, false, 0);
                sealed_rows(&b, x, PAGE_TOKENS, false, 0);
                sealed_open_rows(&a, y[0]);
                sealed_open_rows(&b, y[1]);
                assert_memory_equal(y[0], y[1], (size_t)(PAGE_TOKENS * d) * sizeof(float));
                sealed_close(&a);
                sealed_close(&b);
            }
}

static const float *values_of_column;

static int by_value_and_row(const void *a, const void *b) {
    int i = *(const int *)a, j = *(const int *)b;
    float x = values_of_column[i], y = values_of_column[j];
    return x < y ? -1 : x > y ? 1 : i - j;
}

/* Marked are the first and the last of a column in the order of values, then rows, however many are equal. */
static void outliers_are_the_ends_of_their_columns(void **state) {
    (void)state;
    enum { N = 2 * ENDS_MOST, COLUMNS = 24 };
    static const int rows[] = {2, 20, 33, 64, 200, N};
    const cpu_kernels *kernels;
    assert_int_equal(cpu_kernels_get(&kernels, NULL), PLEAT_OK);
    static float x[N * COLUMNS], column[N], mean[COLUMNS];
    uint32_t mark[(N / OUTLIERS_WORD + 1) * COLUMNS];
    int order[N];
    for (int kinds = 1; kinds <= 1000; kinds *= 10) /* different values */
        for (size_t k = 0; k < sizeof(rows) / sizeof(*rows); k++)
            for (int n = rows[k], c = 1, next; c <= n / 2; c = next) {
                next = c < 3 ? c + 1 : c < n / 2 && 2 * c > n / 2 ? n / 2 : 2 * c;
                for (int i = 0; i < n * COLUMNS; i++)
                    x[i] = (float)(rng_u64(71, (uint64_t)kinds, (uint64_t)i) % (uint64_t)kinds) - 3;
                outliers_mark(kernels, x, n, COLUMNS, c, mark, mean);
                for (int j = 0; j < COLUMNS; j++) {
                    double sum = 0;
                    for (int i = 0; i < n; i++) {
                        column[i] = x[i * COLUMNS + j];
                        sum += (double)column[i];
                        order[i] = i;
                    }
                    values_of_column = column;
                    qsort(order, (size_t)n, sizeof(*order), by_value_and_row);
                    assert_float_equal(mean[j], sum / n, 0);
                    for (int i = 0; i < n; i++) {
                        int row = order[i];
                        bool marked = mark[row / OUTLIERS_WORD * COLUMNS + j] >> row % OUTLIERS_WORD & 1;
                        if (marked != (i < c || i >= n - c))
                            fail_msg("%d kinds, %d rows, %d on each end: row %d of column %d", kinds, n, c, row, j);
                    }
                }
            }
}

static double gear_error(const char *spec, kv_side side, int d, int n, bool decode, const float *x) {
    sealed s = sealed_open(spec, side, d);
    float *y = malloc((size_t)(n * d) * sizeof(*y));
    sealed_rows(&s, x, n, decode, 5);
    sealed_open_rows(&s, y);
    double error = sqrt(rows_error(x, y, n * d));
    free(y);
    sealed_close(&s);
    return error;
}

/* Each term lowers the Frobenius error; so do ranks; decoding has its own rank; a ratio is a rank. */
static void gear_is_better_than_its_backbone(void **state) {
    (void)state;
    enum { N = 512 };
    float *x = malloc((size_t)N * 128 * sizeof(*x));
    for (int d = 64; d <= 128; d += 64)
        for (int side = 0; side < 2; side++)
            for (int bits = 2; bits <= 4; bits += 2) {
                char spec[4][80];
                double error[4];
                rows_like_keys(47, N, d, x);
                for (int i = 0; i < N * d; i++) /* rows that have something in common, as real ones do */
                    x[i] += 3 * sinf((float)(i / d) * .05f) * cosf((float)(i % d) * .4f);
                snprintf(spec[0], 80, "gear:bits=%d,s=0,rank=0", bits);
                snprintf(spec[1], 80, "gear:bits=%d,s=0.02,rank=0", bits);
                snprintf(spec[2], 80, "gear:bits=%d,s=0.02,rank=4", bits);
                snprintf(spec[3], 80, "gear:bits=%d,s=0.02,rank=12", bits);
                for (int i = 0; i < 4; i++)
                    error[i] = gear_error(spec[i], (kv_side)side, d, N, false, x);
                for (int i = 1; i < 4; i++)
                    if (!(error[i] < error[i - 1]))
                        fail_msg("%s: %g, %s: %g", spec[i], error[i], spec[i - 1], error[i - 1]);
                assert_float_equal(gear_error("gear:rank=7,rank_decode=3", (kv_side)side, d, 64, true, x),
                                   gear_error("gear:rank=3", (kv_side)side, d, 64, false, x), 0);
                assert_float_equal(gear_error("gear:rank=0.02", (kv_side)side, d, N, false, x),
                                   gear_error(d == 64 ? "gear:rank=1" : "gear:rank=3", (kv_side)side, d, N, false, x),
                                   0);
            }
    free(x);
}

/* An exact low rank is found exactly, and a falling spectrum as well as it can be. */
static void low_rank_terms_are_the_best(void **state) {
    (void)state;
    enum { N = 200, D = 64, RANK = 4 };
    const cpu_kernels *kernels;
    float *work = aligned_alloc(64, lowrank_work(N, D) * sizeof(*work));
    assert_int_equal(cpu_kernels_get(&kernels, NULL), PLEAT_OK);
    static const double spectrum[8] = {8, 5, 3, .5, .4, .3, .2, .1};
    static float u[N * 8], v[D * 8], e[N * D], a[RANK * N], b[RANK * D];
    for (int kind = 0; kind < 2; kind++) {
        int terms = kind ? 8 : 2, rank = kind ? 4 : 2;
        double best = 0, left = 0, most = 0;
        rows_normal(51, N, 8, u);
        rows_normal(52, D, 8, v);
        for (int side = 0; side < 2; side++) { /* orthonormal columns */
            float *x = side ? v : u;
            int n = side ? D : N;
            for (int k = 0; k < 8; k++) {
                for (int m = 0; m <= k; m++) {
                    double dot = 0;
                    for (int i = 0; i < n; i++)
                        dot += (double)x[i * 8 + k] * (double)x[i * 8 + m];
                    for (int i = 0; i < n; i++)
                        x[i * 8 + k] = (float)(m < k ? (double)x[i * 8 + k] - dot * (double)x[i * 8 + m]
                                                     : (double)x[i * 8 + k] / sqrt(dot));
                }
            }
        }
        for (int i = 0; i < N; i++)
            for (int j = 0; j < D; j++) {
                double sum = 0;
                for (int k = 0; k < terms; k++)
                    sum += spectrum[k] * (double)u[i * 8 + k] * (double)v[j * 8 + k];
                e[i * D + j] = (float)sum;
            }
        lowrank_fit(kernels, e, N, D, rank, kind ? 3 : 1, 9, work, a, b);
        for (int i = 0; i < N; i++)
            for (int j = 0; j < D; j++) {
                double l = 0;
                for (int k = 0; k < rank; k++)
                    l += (double)a[k * N + i] * (double)b[k * D + j];
                left += ((double)e[i * D + j] - l) * ((double)e[i * D + j] - l);
                most = fmax(most, fabs((double)e[i * D + j] - l));
            }
        for (int k = rank; k < terms; k++)
            best += spectrum[k] * spectrum[k];
        if (kind == 0)
            assert_true(most < 1e-5);
        else
            assert_true(sqrt(left / best) <= 1.02);
    }
    memset(e, 0, sizeof(e));
    lowrank_fit(kernels, e, N, D, RANK, 3, 9, work, a, b);
    for (int i = 0; i < N * RANK; i++)
        assert_true(a[i] == 0);
    free(work);
}

static void gear_bytes_are_the_formulas(void **state) {
    (void)state;
    static const struct {
        const char *spec;
        int d, n;
        bool decode;
        double k, v; /* a token */
    } list[] = {
        {"gear-4", 128, 512, false, 64 + 1 + 10 + 10, 64 + 4 + 10 + 6},
        {"gear-4", 64, 512, false, 32 + .5 + 9 + 5, 32 + 4 + 9 + 6},
        {"gear-4", 128, 64, true, 64 + 8 + 12 + 16, 64 + 4 + 12 + 6},
    };
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++)
        for (int side = 0; side < 2; side++) {
            float *x = malloc((size_t)(list[i].n * list[i].d) * sizeof(*x));
            sealed s = sealed_open(list[i].spec, (kv_side)side, list[i].d);
            rows_normal(1, list[i].n, list[i].d, x);
            sealed_rows(&s, x, list[i].n, list[i].decode, 0);
            double bytes = (double)sealed_bytes(&s) / list[i].n, want = side ? list[i].v : list[i].k;
            if (!(bytes >= want && bytes <= want + 2)) /* rounded up to 64, a table of pages */
                fail_msg("%s, d %d, n %d: %g bytes a token, %g by the formula", list[i].spec, list[i].d, list[i].n,
                         bytes, want);
            sealed_close(&s);
            free(x);
        }
}

static void impossible_parameters_are_refused(void **state) {
    (void)state;
    static const char *const list[][2] = {
        {"gear:buffer=65", "buffer=65"},
        {"gear:rank=2.5", "rank=2.5"},
        {"gear:rank_decode=1.5", "rank_decode"},
        {"gear:s=0.2", "s=0.2"},
        {"kitty:window=100", "window"},
        {"kitty:boost=0.6", "boost"},
        {"int4:tail=65", "tail=65"},
        {"fp8:tail=1", "tail=1"},
        {"kivi:residual=100", "residual=100"},
        {"lm:bits=5", "bits=5"},
        {"kivi:vseal=token,params=8", "params=8"},
    };
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        kv_method method;
        pleat_error error;
        assert_int_equal(kv_method_parse(list[i][0], NULL, &method, &error), PLEAT_EINPUT);
        if (!strstr(error.text, list[i][1]))
            fail_msg("%s: %s", list[i][0], error.text);
    }
    for (size_t i = 0; i < 4; i++) { /* against the head's size */
        static const char *const names[] = {"int4", "rot", "kivi", "int8"};
        for (int f = 0; kv_formats[f]; f++) {
            kv_config config = {{0}};
            pleat_error error;
            if (strcmp(kv_formats[f]->name, names[i]))
                continue;
            for (int k = 0; kv_formats[f]->params[k].name; k++) {
                config.value[k] = kv_formats[f]->params[k].fallback;
                if (!strcmp(kv_formats[f]->params[k].name, "group"))
                    config.value[k] = 1;
            }
            assert_int_equal(kv_formats[f]->check(&config, KV_V, 96, &error), PLEAT_EINPUT);
            assert_non_null(strstr(error.text, "96"));
        }
    }
}

/* ---- kitty ---- */

/* The channels with the largest mean |k| of the run have 4 bits, the others 2; V has 2 per token. */
static void kitty_boosts_the_largest_channels(void **state) {
    (void)state;
    enum { N = 2 * PAGE_TOKENS };
    float *x = malloc(N * KV_MAX_HEAD_DIM * sizeof(*x)), *y = malloc(N * KV_MAX_HEAD_DIM * sizeof(*y));
    for (int k = 0; k < N_DIMS; k++)
        for (int n = PAGE_TOKENS; n <= N; n += PAGE_TOKENS) {
            int d = dims[k], boosted = d / 4;
            double size[KV_MAX_HEAD_DIM] = {0}, from[N], to[N];
            sealed s = sealed_open("kitty", KV_K, d);
            assert_int_equal(s.geometry.run_pages, 2);
            rows_like_keys(11, n, d, x);
            sealed_rows(&s, x, n, false, 0);
            sealed_open_rows(&s, y);
            for (int i = 0; i < n * d; i++)
                size[i % d] += fabs((double)x[i]);
            for (int j = 0; j < d; j++) {
                int larger = 0;
                for (int other = 0; other < d; other++)
                    larger += size[other] > size[j];
                for (int t = 0; t < n; t++) {
                    from[t] = (double)x[t * d + j];
                    to[t] = (double)y[t * d + j];
                }
                check_group(from, to, n, larger < boosted ? 4 : 2, false, 1e-6, "kitty's K");
            }
            assert_int_equal(sealed_bytes(&s), n * d / 4 + n * boosted / 4 + (5 * d + 63) / 64 * 64);
            sealed_close(&s);
        }
    for (int k = 0; k < N_DIMS; k++) {
        sealed s = sealed_open("kitty", KV_V, dims[k]);
        rows_like_keys(11, PAGE_TOKENS, dims[k], x);
        sealed_rows(&s, x, PAGE_TOKENS, false, 0);
        sealed_open_rows(&s, y);
        check_groups(x, y, PAGE_TOKENS, dims[k], 1, dims[k], 2, false, 1e-6, "kitty's V");
        sealed_close(&s);
    }
    free(x);
    free(y);
}

/* ---- fp8 ---- */

static void fp8_is_nearest_even(void **state) {
    (void)state;
    enum { D = 64 };
    double values[127];
    for (int code = 0; code < 127; code++) /* below 2^-6: subnormals in steps of 2^-9 */
        values[code] = code < 8 ? code * 0x1p-9 : ldexp(8 + code % 8, code / 8 - 10);
    assert_float_equal(values[126], 448, 0);
    float x[PAGE_TOKENS * D], y[PAGE_TOKENS * D];
    rows_like_keys(31, PAGE_TOKENS, D, x);
    for (int j = 0; j < D; j++) { /* ties and exact values under a scale of 1 */
        x[j] = j == 0 ? -448 : (float)((values[j] + values[j + 1]) / 2);
        x[D + j] = j == 0 ? 448 : (float)-values[126 - j];
        x[2 * D + j] *= 1e-4f;
        x[3 * D + j] = x[3 * D + j] > 0 ? 2e-5f : 1e-6f;
    }
    for (int side = 0; side < 2; side++) {
        sealed s = sealed_open("fp8", (kv_side)side, D);
        sealed_rows(&s, x, PAGE_TOKENS, false, 0);
        sealed_open_rows(&s, y);
        for (int t = 0; t < PAGE_TOKENS; t++) {
            float most = 0;
            for (int j = 0; j < D; j++)
                most = fmaxf(most, fabsf(x[t * D + j]));
            double scale = (double)f16_to_f32(f16_from_f32(most / 448));
            for (int j = 0; j < D && scale > 0x1p-14; j++) {
                double u = fabs((double)x[t * D + j] / scale), got = fabs((double)y[t * D + j] / scale);
                int low = 0;
                while (low < 126 && values[low + 1] <= u)
                    low++;
                int code = low;
                if (low < 126 &&
                    (u - values[low] > values[low + 1] - u || (u - values[low] == values[low + 1] - u && low % 2)))
                    code++;
                assert_float_equal(got, values[code], 1e-4 * values[code]);
                assert_true(got == 0 || signbit(x[t * D + j]) == signbit(y[t * D + j]));
            }
            for (int j = 0; j < D && scale > 0; j++)
                assert_true(fabs((double)x[t * D + j] - (double)y[t * D + j]) <=
                            fabs((double)x[t * D + j]) / 15 + (double)most / 4096);
        }
        sealed_close(&s);
    }
}

/* ---- real keys ---- */

/* Relative squared errors of all keys of a prompt, over the layers without a window. */
static void errors_on_keys(const char *name, const char *const *specs, int n_specs, double *error) {
    enum { N = 256 };
    pleat_model *model;
    pleat_engine *engine;
    pleat_method *method;
    pleat_seq *seq;
    pleat_error e = {""};
    size_t n_bytes;
    int32_t *ids;
    int n_ids;
    char *text = env_data("shakespeare-40k.txt", &n_bytes);
    if (pleat_model_open(env_model(name), 0, &model, &e) || pleat_engine_open(model, NULL, &engine, &e) ||
        pleat_method_parse("f16", model, &method, &e) || pleat_seq_open(engine, method, &seq, &e) ||
        pleat_tokenize(model, text, 4000, false, &ids, &n_ids, &e) ||
        pleat_prefill(engine, seq, ids, N, false, PLEAT_LOGITS_NONE, NULL, &e))
        fail_msg("%s: %s", name, e.text);
    const kv_model *m = &model->kv;
    int d = m->head_dim;
    float *x = malloc((size_t)(N * d) * sizeof(*x));
    memset(error, 0, (size_t)n_specs * sizeof(*error));
    for (int il = 0; il < m->n_layer; il++)
        for (int ih = 0; ih < m->n_head_kv; ih++) {
            kv_cache_open_rows(engine_seq_cache(seq), il, ih, KV_K, x);
            for (int i = 0; i < n_specs; i++)
                error[i] += relative_error(specs[i], KV_K, d, N / PAGE_TOKENS, x) / (m->n_layer * m->n_head_kv);
        }
    free(x);
    free(text);
    free(ids);
    pleat_seq_close(seq);
    pleat_method_free(method);
    pleat_engine_close(engine);
    pleat_model_close(model);
}

/* Turned keys beat plain ones, a mean kept apart beats both; GEAR's terms each beat what is without them. */
static void check_keys(const char *name) {
    static const char *const specs[] = {"int4", "rot:bits=4",         "rot:bits=4,center=1", "int8", "rot:bits=8,sym=1",
                                        "gear", "gear:s=0.02,rank=0", "gear:s=0,rank=0"};
    double error[8];
    errors_on_keys(name, specs, 8, error);
    if (!(error[1] < .8 * error[0] && error[2] < .6 * error[1] && error[4] < .8 * error[3]))
        fail_msg("%s: int4 %g, rot4 %g, centred %g; int8 %g, rot8 %g", name, error[0], error[1], error[2], error[3],
                 error[4]);
    if (!(error[5] < error[6] && error[6] < error[7]))
        fail_msg("%s: gear %g, without its low rank %g, its backbone %g", name, error[5], error[6], error[7]);
}

static void errors_on_real_keys_are_in_order(void **state) {
    (void)state;
    check_keys("smollm2-135m");
}

static void errors_on_biased_keys_are_in_order(void **state) {
    (void)state;
    if (!env_all())
        env_skip("keys of qwen2.5-coder-0.5b are looked at with PLEAT_ALL=1");
    check_keys("qwen2.5-coder-0.5b");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(score_and_mix_are_those_of_open),
        cmocka_unit_test(any_rows_stay_finite),
        cmocka_unit_test(sealing_is_a_function_of_its_rows),
        cmocka_unit_test(affine_formats_are_their_definition),
        cmocka_unit_test(packed_kivi_parameters_cover_their_groups),
        cmocka_unit_test(worked_quantiser),
        cmocka_unit_test(worked_hadamard),
        cmocka_unit_test(turn_is_hadamard_times_signs),
        cmocka_unit_test(errors_are_the_known_ones),
        cmocka_unit_test(center_takes_a_key_bias_out),
        cmocka_unit_test(lm_is_its_definition),
        cmocka_unit_test(three_bits_warn),
        cmocka_unit_test(outliers_are_the_ends_of_their_columns),
        cmocka_unit_test(gear_keeps_outliers_and_quantises_the_rest),
        cmocka_unit_test(gear_without_its_terms_is_its_backbone),
        cmocka_unit_test(gear_is_better_than_its_backbone),
        cmocka_unit_test(low_rank_terms_are_the_best),
        cmocka_unit_test(gear_bytes_are_the_formulas),
        cmocka_unit_test(impossible_parameters_are_refused),
        cmocka_unit_test(kitty_boosts_the_largest_channels),
        cmocka_unit_test(fp8_is_nearest_even),
        cmocka_unit_test(errors_on_real_keys_are_in_order),
        cmocka_unit_test(errors_on_biased_keys_are_in_order),
    };
    return cmocka_run_group_tests_name("formats", tests, NULL, NULL);
}
