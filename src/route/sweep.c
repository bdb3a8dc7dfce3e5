/* sweep.c - runs in parallel, sums in order: a task is one (case, seed, policy), its result has its own place, and what
 * is computed from them is computed afterwards, so that thread counts do not matter.
 *
 * Intervals are Student's t over seeds. Policies are compared in pairs, on the same requests: the interval of the mean
 * of the logarithms of their ratios. */
#include "route/sweep.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/threads.h"
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct scratch { /* of one worker */
    sim_answer *answer;  /* [most requests] */
    double *delay_s;
} scratch;

typedef struct sweep {
    const sim_case *cases;
    const sim_sweep_options *o;
    sim_result *results;
    scratch *scratch; /* [threads] */
    int n_tasks;
    atomic_int n_done, failed;
    pleat_status status; /* of the first that failed, written under `failed` */
    pleat_error error;
} sweep;

/* ---- one run ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nearest rank. */
static double quantile(const double *sorted, int n, double q) {
    int i = (int)ceil(q * n) - 1;
    return n ? sorted[i < 0 ? 0 : i] : 0;
}

static sim_seed sum_up(const sim_case *c, const sim_load *load, const sim_answer *answer, double *delay_s) {
    sim_seed s = {0};
    int n = 0;
    for (int i = 0; i < load->n; i++) {
        const sim_answer *a = &answer[i];
        if (a->replica < 0) {
            s.refused++;
            continue;
        }
        delay_s[n] = a->end_s - load->arrival_s[i];
        s.mean_s += delay_s[n++];
        s.first_s += a->first_s - load->arrival_s[i];
        s.tokens += a->tokens;
        s.base += c->replica[a->replica].method == 0;
        s.cut += a->cut;
        s.preempted += a->n_preempted;
    }
    double by = n ? n : 1;
    s.mean_s /= by, s.first_s /= by, s.tokens /= by, s.base /= by;
    qsort(delay_s, (size_t)n, sizeof(*delay_s), by_value);
    s.p50_s = quantile(delay_s, n, 0.5);
    s.p99_s = quantile(delay_s, n, 0.99);
    return s;
}

static void run_task(void *context, int task, int worker) {
    sweep *w = context;
    const sim_sweep_options *o = w->o;
    int policy = task % o->n_policies, seed = task / o->n_policies % o->n_seeds;
    int at = task / o->n_policies / o->n_seeds;
    const sim_case *c = &w->cases[at];
    sim_load_options drawn = c->load;
    sim_run_options run = o->run;
    sim_load load = {0};
    pleat_error error;
    if (atomic_load(&w->failed))
        return;
    drawn.seed = run.seed = o->first_seed + (uint64_t)seed;
    run.policy = o->policy[policy];
    pleat_status status = sim_load_make(&drawn, &load, &error);
    status = status ? status : sim_run(c->replica, c->n_replicas, &load, &run, w->scratch[worker].answer, &error);
    if (!status)
        w->results[at * o->n_policies + policy].seed[seed] =
            sum_up(c, &load, w->scratch[worker].answer, w->scratch[worker].delay_s);
    else if (!atomic_exchange(&w->failed, 1)) {
        w->status = status;
        w->error = error;
    }
    sim_load_free(&load);
    int done = atomic_fetch_add(&w->n_done, 1) + 1;
    if (worker == 0 && o->tell)
        o->tell(o->tell_context, done, w->n_tasks);
}

/* ---- all runs ---- */

/* The 97.5 % point of Student's t: exact for 1 and 2 degrees of freedom, then Hill's expansion (within 1e-3). */
static double t975(int df) {
    static const double z = 1.959963984540054, small[] = {0, 12.706205, 4.302653, 3.182446, 2.776445};
    if (df < 5)
        return small[df < 0 ? 0 : df];
    double g1 = (z * z * z + z) / 4, g2 = (5 * pow(z, 5) + 16 * z * z * z + 3 * z) / 96,
           g3 = (3 * pow(z, 7) + 19 * pow(z, 5) + 17 * z * z * z - 15 * z) / 384, n = df;
    return z + g1 / n + g2 / (n * n) + g3 / (n * n * n);
}

static double half_width(const double *x, int n, double *mean) {
    double sum = 0, square = 0;
    for (int i = 0; i < n; i++)
        sum += x[i];
    *mean = sum / n;
    for (int i = 0; i < n; i++)
        square += (x[i] - *mean) * (x[i] - *mean);
    return n > 1 ? t975(n - 1) * sqrt(square / (n - 1) / n) : 0;
}

void sim_result_average(sim_result *r) {
    double x[SIM_MOST_SEEDS], n = r->n_seeds, mean;
    r->mean = (sim_seed){0};
    for (int i = 0; i < r->n_seeds; i++) {
        const sim_seed *s = &r->seed[i];
        x[i] = s->mean_s;
        r->mean.mean_s += s->mean_s / n;
        r->mean.p50_s += s->p50_s / n;
        r->mean.p99_s += s->p99_s / n;
        r->mean.first_s += s->first_s / n;
        r->mean.tokens += s->tokens / n;
        r->mean.base += s->base / n;
        r->mean.refused += s->refused;
        r->mean.cut += s->cut;
        r->mean.preempted += s->preempted;
    }
    r->ci95 = half_width(x, r->n_seeds, &mean);
}

static bool open_sweep(sweep *w, int n_cases, int n_threads) {
    int n_results = n_cases * w->o->n_policies, most = 1;
    for (int i = 0; i < n_cases; i++)
        most = w->cases[i].load.n > most ? w->cases[i].load.n : most;
    for (int i = 0; i < n_results; i++) {
        w->results[i] = (sim_result){.of = &w->cases[i / w->o->n_policies],
                                     .policy = w->o->policy[i % w->o->n_policies],
                                     .n_seeds = w->o->n_seeds,
                                     .seed = calloc((size_t)w->o->n_seeds, sizeof(sim_seed))};
        if (!w->results[i].seed)
            return false;
    }
    w->scratch = calloc((size_t)n_threads, sizeof(*w->scratch));
    for (int i = 0; w->scratch && i < n_threads; i++) {
        w->scratch[i].answer = mem_alloc((size_t)most, sizeof(sim_answer));
        w->scratch[i].delay_s = mem_alloc((size_t)most, sizeof(double));
        if (!w->scratch[i].answer || !w->scratch[i].delay_s)
            return false;
    }
    return w->scratch != NULL;
}

static void close_sweep(sweep *w, int n_threads) {
    for (int i = 0; w->scratch && i < n_threads; i++) {
        mem_free(w->scratch[i].answer);
        mem_free(w->scratch[i].delay_s);
    }
    free(w->scratch);
}

pleat_status sim_sweep(const sim_case *cases, int n_cases, const sim_sweep_options *o, sim_result *results,
                       pleat_error *error) {
    sweep w = {.cases = cases, .o = o, .results = results};
    threads *pool;
    if (o->n_seeds < 1 || o->n_seeds > SIM_MOST_SEEDS || o->n_policies < 1)
        return err_set(error, PLEAT_EINPUT, "a sweep has 1 to %d seeds and a policy", SIM_MOST_SEEDS);
    memset(results, 0, (size_t)(n_cases * o->n_policies) * sizeof(*results));
    pleat_status status = threads_open(o->n_threads, &pool, error);
    if (status)
        return status;
    w.n_tasks = n_cases * o->n_seeds * o->n_policies;
    if (open_sweep(&w, n_cases, threads_count(pool)))
        threads_run(pool, w.n_tasks, run_task, &w);
    else
        w.status = err_set(&w.error, PLEAT_EMEMORY, "no memory for a sweep of %d runs", w.n_tasks);
    close_sweep(&w, threads_count(pool));
    threads_close(pool);
    if (w.status) {
        sim_results_free(results, n_cases * o->n_policies);
        return err_set(error, w.status, "%s", w.error.text);
    }
    for (int i = 0; i < n_cases * o->n_policies; i++)
        sim_result_average(&results[i]);
    return PLEAT_OK;
}

void sim_results_free(sim_result *results, int n) {
    for (int i = 0; i < n; i++) {
        free(results[i].seed);
        results[i].seed = NULL;
    }
}

/* ---- comparing ---- */

static sim_gain gain(const sim_result *a, const sim_result *b, bool p99) {
    double x[SIM_MOST_SEEDS], mean;
    for (int i = 0; i < a->n_seeds; i++)
        x[i] = p99 ? log(b->seed[i].p99_s / a->seed[i].p99_s) : log(b->seed[i].mean_s / a->seed[i].mean_s);
    double half = half_width(x, a->n_seeds, &mean);
    return (sim_gain){exp(mean), exp(mean - half), exp(mean + half)};
}

sim_gain sim_gain_mean(const sim_result *a, const sim_result *b) {
    return gain(a, b, false);
}

sim_gain sim_gain_p99(const sim_result *a, const sim_result *b) {
    return gain(a, b, true);
}

bool sim_is_usual(route_policy policy) {
    return policy >= ROUTE_ROUND_ROBIN && policy <= ROUTE_LEAST_TOKENS;
}

const sim_result *sim_best_usual(const sim_result *r, int n_policies, bool p99) {
    const sim_result *best = NULL;
    for (int i = 0; i < n_policies; i++)
        if (sim_is_usual(r[i].policy) &&
            (!best || (p99 ? r[i].mean.p99_s < best->mean.p99_s : r[i].mean.mean_s < best->mean.mean_s)))
            best = &r[i];
    return best;
}

double sim_paper_mean_s(const char *method, route_policy policy) {
    static const struct {
        const char *method;
        double of[4]; /* least-memory, throughput, length, both */
    } rows[] = {{"fp16", {11.4, NAN, NAN, NAN}},
                {"kivi", {9.1, 7.7, 10.9, 6.3}},
                {"gear", {13.4, 9.1, 13.0, 7.4}},
                {"h2o", {10.6, 8.3, 11.2, 6.9}},
                {"stream", {10.3, 8.2, 11.3, 6.6}}};
    for (size_t i = 0; policy <= ROUTE_BOTH && i < sizeof(rows) / sizeof(*rows); i++)
        if (!strcmp(rows[i].method, method))
            return rows[i].of[policy];
    return NAN;
}

bool sim_in_table_8(const sim_case *c) {
    return c->load.rate == 10 && !isnan(sim_paper_mean_s(c->method, ROUTE_LEAST_MEMORY));
}
