/* sweep.h - many runs: pools x rates x seeds x policies, and what they say together. */
#ifndef ROUTE_SWEEP_H
#define ROUTE_SWEEP_H
#include "route/workload.h"

enum { SIM_MOST_SEEDS = 1000 };

typedef struct sim_case { /* one pool under one load */
    const char *method;   /* the pool's label */
    const route_replica *replica;
    int n_replicas;
    sim_load_options load; /* its seed is the sweep's matter */
    double utilisation;    /* load.rate over the pool's capacity */
} sim_case;

typedef struct sim_sweep_options {
    const route_policy *policy; /* [n_policies] */
    int n_policies, n_seeds;
    uint64_t first_seed;                           /* seeds are first_seed, first_seed + 1, ... */
    sim_run_options run;                           /* policy and seed are not read */
    int n_threads;                                 /* 0: all cores; results do not depend on it */
    void (*tell)(void *context, int done, int of); /* called from the calling thread; may be NULL */
    void *tell_context;
} sim_sweep_options;

typedef struct sim_seed { /* one run: delays are from arrival to last token, of requests that were served */
    double mean_s, p50_s, p99_s;
    double first_s; /* mean to the first token */
    double tokens;  /* mean answer */
    double base;    /* share of requests that went to replicas of method 0 */
    int refused, cut, preempted;
} sim_seed;

typedef struct sim_result { /* a case under a policy: means over seeds */
    const sim_case *of;
    route_policy policy;
    int n_seeds;
    sim_seed mean;
    double ci95;    /* half width of the 95 % interval of mean_s, by Student's t over seeds */
    sim_seed *seed; /* [n_seeds] */
} sim_result;

/* results [n_cases][n_policies], the caller's; free each one's seed by sim_results_free. */
pleat_status sim_sweep(const sim_case *cases, int n_cases, const sim_sweep_options *options, sim_result *results,
                       pleat_error *error);
void sim_results_free(sim_result *results, int n);
/* mean and ci95 from the seeds. */
void sim_result_average(sim_result *result);

typedef struct sim_gain { /* how many times less delay: the geometric mean over seeds of b's over a's, and its interval
                           */
    double times, low, high;
} sim_gain;
/* The same requests under both, seed by seed. With one seed the interval is the figure itself. */
sim_gain sim_gain_mean(const sim_result *a, const sim_result *b);
sim_gain sim_gain_p99(const sim_result *a, const sim_result *b);

/* One of the policies that serving has without this project: round-robin to least-tokens. */
bool sim_is_usual(route_policy policy);
/* The best of the usual policies of a case by mean, or by p99; NULL: none was run. */
const sim_result *sim_best_usual(const sim_result *case_results, int n_policies, bool p99);

/* The study's Table 8: mean end-to-end seconds, 4 A6000, 10 requests/s; NAN where it has none. */
double sim_paper_mean_s(const char *method, route_policy policy);
/* The case is a pool of that table at its rate. */
bool sim_in_table_8(const sim_case *c);
#endif
