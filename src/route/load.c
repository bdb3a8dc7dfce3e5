/* load.c - draws the requests of one seed. Arrivals have rate 1 first and are then stretched, so that every rate sees
 * the same pattern. Gamma: Marsaglia and Tsang, ACM TOMS 26 (2000). */
#include "route/workload.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include <math.h>
#include <string.h>

enum { STREAM_ARRIVAL = 1, STREAM_SIZE, STREAM_START, STREAM_BOOST, STREAM_GROWTH = 1000, STREAM_NOISE = 2000 };
enum { MOST_TRIES = 64 };

static uint64_t stream_of(const char *method, int purpose) {
    return hash_bytes(method, strlen(method), 0) + (uint64_t)purpose;
}

/* Mean 1, coefficient of variation cv. */
static double gamma_gap(uint64_t seed, uint64_t i, double cv) {
    double shape = 1 / (cv * cv), small = shape < 1 ? 1 : 0, d = shape + small - 1.0 / 3, c = 1 / sqrt(9 * d), v = 1;
    for (uint64_t k = i * MOST_TRIES; k < (i + 1) * MOST_TRIES; k++) {
        double x = rng_normal(seed, STREAM_ARRIVAL, k), u = 1 - rng_uniform(seed, STREAM_BOOST, 2 * k);
        v = 1 + c * x;
        v = v * v * v;
        if (v > 0 && log(u) < x * x / 2 + d - d * v + d * log(v))
            break;
    }
    double gap = d * (v > 0 ? v : 1);
    if (small > 0)
        gap *= pow(1 - rng_uniform(seed, STREAM_BOOST, 2 * i + 1), 1 / shape);
    return gap / shape;
}

static void draw_arrivals(const sim_load_options *o, sim_load *l) {
    double at = 0;
    for (int i = 0; i < l->n; i++) {
        at += o->variation == 1 ? -log(1 - rng_uniform(o->seed, STREAM_ARRIVAL, (uint64_t)i))
                                : gamma_gap(o->seed, (uint64_t)i, o->variation);
        l->arrival_s[i] = o->rate > 0 ? at / o->rate : 0;
    }
}

static void take_arrivals(const sim_load_options *o, int from, sim_load *l) {
    const sim_trace_row *row = o->trace->row + from;
    double span = row[l->n - 1].at_s - row[0].at_s, stretch = 1;
    if (o->rate > 0 && span > 0)
        stretch = (l->n - 1) / o->rate / span;
    for (int i = 0; i < l->n; i++)
        l->arrival_s[i] = (row[i].at_s - row[0].at_s) * stretch;
}

static int32_t limited(double tokens, int most) {
    int32_t whole = tokens < 1 ? 1 : tokens > INT32_MAX ? INT32_MAX : (int32_t)lround(tokens);
    return most && whole > most ? most : whole;
}

static void draw_answers(const sim_load_options *o, int m, sim_load *l) {
    uint64_t growing = stream_of(o->method[m], STREAM_GROWTH), noisy = stream_of(o->method[m], STREAM_NOISE);
    double spread = o->noise * sqrt(M_PI / 2); /* of a normal variable with that mean absolute value */
    for (int i = 0; i < l->n; i++) {
        size_t at = (size_t)i * (size_t)l->n_methods + (size_t)m, base = (size_t)i * (size_t)l->n_methods;
        double growth = m ? sim_growth_at(o->growth[m], rng_uniform(o->seed, growing, (uint64_t)i)) : 1;
        l->answer[at] = limited(l->answer[base] * growth, o->most_answer);
        double told = l->answer[at] * exp(spread * rng_normal(o->seed, noisy, (uint64_t)i));
        l->predicted[at] = (float)(o->most_answer && told > o->most_answer ? o->most_answer : told);
    }
}

static void draw_sizes(const sim_load_options *o, sim_load *l, int from) {
    for (int i = 0; i < l->n; i++) {
        sim_size size = o->sizes ? o->sizes->size[(int)(rng_uniform(o->seed, STREAM_SIZE, (uint64_t)i) * o->sizes->n)]
                                 : o->trace->row[from + i].size;
        l->prompt[i] = size.prompt;
        l->answer[(size_t)i * (size_t)l->n_methods] = size.answer;
    }
}

static pleat_status open_load(const sim_load_options *o, sim_load *l, pleat_error *error) {
    size_t n = (size_t)l->n, cells = n * (size_t)o->n_methods;
    l->arrival_s = mem_alloc(n, sizeof(*l->arrival_s));
    l->prompt = mem_alloc(n, sizeof(*l->prompt));
    l->answer = mem_alloc(cells, sizeof(*l->answer));
    l->predicted = mem_alloc(cells, sizeof(*l->predicted));
    if (l->arrival_s && l->prompt && l->answer && l->predicted)
        return PLEAT_OK;
    sim_load_free(l);
    return err_set(error, PLEAT_EMEMORY, "no memory for a load of %zu requests", n);
}

pleat_status sim_load_make(const sim_load_options *o, sim_load *out, pleat_error *error) {
    sim_load l = {.n = o->n, .n_methods = o->n_methods, .most_answer = o->most_answer};
    int from = 0;
    if ((!o->sizes || !o->sizes->n) && (!o->trace || !o->trace->n))
        return err_set(error, PLEAT_EINPUT, "a load needs sizes or a trace");
    if (o->n < 1 || o->n_methods < 1 || o->n_methods > ROUTE_MOST_METHODS)
        return err_set(error, PLEAT_EINPUT, "a load has requests, and 1 to %d methods", ROUTE_MOST_METHODS);
    if (o->trace) {
        l.n = o->n < o->trace->n ? o->n : o->trace->n;
        from = (int)(rng_uniform(o->seed, STREAM_START, 0) * (o->trace->n - l.n + 1));
    }
    pleat_status status = open_load(o, &l, error);
    if (status)
        return status;
    if (o->trace)
        take_arrivals(o, from, &l);
    else
        draw_arrivals(o, &l);
    draw_sizes(o, &l, from);
    for (int m = 0; m < o->n_methods; m++)
        draw_answers(o, m, &l);
    *out = l;
    return PLEAT_OK;
}
