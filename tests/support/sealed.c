/* sealed.c - see sealed.h. */
#include "support/sealed.h"
#include "base/rng.h"
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <setjmp.h>
#include <cmocka.h>

bool sealed_of(const kv_format *format, const kv_config *config, kv_side side, int d, sealed *out) {
    *out = (sealed){.format = format, .config = *config, .side = side, .d = d};
    if (format->check && format->check(config, side, d, NULL))
        return false;
    format->geometry(config, side, d, &out->geometry);
    return out->geometry.page_bytes > 0;
}

sealed sealed_open(const char *spec, kv_side side, int d) {
    kv_method method;
    pleat_error error;
    sealed s;
    if (kv_method_parse(spec, NULL, &method, &error))
        fail_msg("%s: %s", spec, error.text);
    if (!sealed_of(method.coding[side].format, &method.coding[side].config, side, d, &s))
        fail_msg("%s cannot be sealed with heads of %d", spec, d);
    return s;
}

static void *zeroed(size_t bytes) {
    assert_int_equal(bytes % 64, 0);
    void *p = aligned_alloc(64, bytes);
    assert_non_null(p);
    memset(p, 0, bytes);
    return p;
}

/* Rows x [n][d], which it spoils, as one run from first_page on. */
static void seal_run(sealed *s, float *x, int n, int first_page, bool decode, const kv_sealing *how) {
    int n_pages = (n + PAGE_TOKENS - 1) / PAGE_TOKENS;
    size_t run_bytes = s->format->run_bytes ? s->format->run_bytes(&s->config, s->side, s->d, n_pages, decode) : 0;
    uint8_t *run = run_bytes ? zeroed(run_bytes) : NULL;
    kv_page *page = s->page + first_page;
    for (int p = 0; p < n_pages; p++)
        page[p] = (kv_page){.bytes = zeroed(s->geometry.page_bytes),
                            .run = run,
                            .page_in_run = p,
                            .n_run_pages = n_pages,
                            .decode = decode};
    s->run_bytes += run_bytes;
    s->format->seal(&s->config, s->side, s->d, x, 0, n, page, how);
}

void sealed_rows(sealed *s, const float *x, int n, bool decode, uint64_t seed) {
    kv_sealing how = {.seed = seed, .il = 1, .n_layer = 4};
    float *work = zeroed(kv_seal_work_floats(n, s->d) * sizeof(*work));
    float *copy = malloc((size_t)(n * s->d) * sizeof(*copy));
    memcpy(copy, x, (size_t)(n * s->d) * sizeof(*copy));
    how.work = work;
    assert_int_equal(cpu_kernels_get(&how.kernels, NULL), PLEAT_OK);
    sealed_close(s);
    s->n_rows = n;
    s->n_pages = (n + PAGE_TOKENS - 1) / PAGE_TOKENS;
    for (int first = 0, m, most = s->geometry.run_pages * PAGE_TOKENS; first < n; first += m) {
        m = n - first < most ? n - first : most;
        seal_run(s, copy + first * s->d, m, first / PAGE_TOKENS, decode, &how);
    }
    free(copy);
    free(work);
}

void sealed_open_rows(const sealed *s, float *x) {
    float page[PAGE_TOKENS * KV_MAX_HEAD_DIM];
    for (int p = 0; p < s->n_pages; p++) {
        int n = s->n_rows - p * PAGE_TOKENS;
        s->format->open(&s->config, s->side, s->d, &s->page[p], page);
        memcpy(x + p * PAGE_TOKENS * s->d, page, (size_t)((n < PAGE_TOKENS ? n : PAGE_TOKENS) * s->d) * sizeof(*x));
    }
}

void sealed_score(const sealed *s, const cpu_kernels *kernels, int page, const float *q, int n_rows, float *out,
                  const void *prefetch) {
    float of_run[SEALED_QUERIES * KV_OF_RUN_FLOATS];
    assert_true(n_rows <= SEALED_QUERIES);
    dot_row folded[KV_FOLDED_ROWS * KV_MAX_HEAD_DIM / TILE];
    kv_query_rows rows = kv_query_rows_of(q, n_rows, of_run, folded);
    s->format->score(kernels, &s->config, s->d, &s->page[page], &rows, out, prefetch);
}

size_t sealed_bytes(const sealed *s) {
    return (size_t)s->n_pages * s->geometry.page_bytes + s->run_bytes;
}

void sealed_close(sealed *s) {
    for (int p = 0; p < s->n_pages; p++) {
        if (s->page[p].page_in_run == 0)
            free(s->page[p].run);
        free(s->page[p].bytes);
    }
    memset(s->page, 0, sizeof(s->page));
    s->n_pages = 0;
    s->run_bytes = 0;
}

/* ---- corners ---- */

static int n_values(const kv_param *p) {
    int n = 1;
    for (const char *at = p->choices; at && *at; at++)
        n += *at == '|';
    return p->choices ? n : 3;
}

static double value_of(const kv_param *p, int i) {
    if (p->choices)
        return i;
    return i == 0 ? p->fallback : i == 1 ? p->low : p->high;
}

bool sealed_corner(int i, const kv_format **format, kv_config *config, const char **name) {
    static char text[100];
    for (int f = 0; kv_formats[f]; f++)
        for (int k = -1; k < 0 || (kv_formats[f]->params && kv_formats[f]->params[k].name); k++) {
            const kv_param *param = kv_formats[f]->params;
            int n = k < 0 ? 1 : n_values(&param[k]);
            if (i >= n) {
                i -= n;
                continue;
            }
            *format = kv_formats[f];
            *config = (kv_config){{0}};
            for (int j = 0; param && param[j].name; j++)
                config->value[j] = param[j].fallback;
            snprintf(text, sizeof(text), "%s", kv_formats[f]->name);
            if (k >= 0) {
                config->value[k] = value_of(&param[k], i);
                snprintf(text, sizeof(text), "%s, %s %g", kv_formats[f]->name, param[k].name, config->value[k]);
            }
            *name = text;
            return true;
        }
    return false;
}

/* ---- rows ---- */

void rows_normal(uint64_t seed, int n, int d, float *x) {
    for (int i = 0; i < n * d; i++)
        x[i] = (float)rng_normal(seed, 1, (uint64_t)i);
}

void rows_like_keys(uint64_t seed, int n, int d, float *x) {
    rows_normal(seed, n, d, x);
    for (int t = 0; t < n; t++)
        for (int j = 0; j < d; j++) {
            x[t * d + j] = x[t * d + j] * (j % 16 == 5 ? 3 : 1) + (j == 3 ? 20 : j % 16 == 7 ? 4 : 0);
            x[t * d + j] = f16_to_f32(f16_from_f32(x[t * d + j]));
        }
}

double rows_error(const float *x, const float *y, int n) {
    double error = 0, size = 0;
    for (int i = 0; i < n; i++) {
        error += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        size += (double)x[i] * (double)x[i];
    }
    return error / size;
}
