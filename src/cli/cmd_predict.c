/* cmd_predict.c - `pleat predict throughput fit|eval|query`. */
#include "cli/commands.h"
#include "cli/print.h"
#include "base/status.h"
#include "predict/cases.h"
#include "report/report.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const command commands[] = {
    {.name = "predict throughput fit",
     .summary =
         "Fits the throughput predictor and keeps it in a study store: on a published profile (with its measured "
         "points, if given), or on what `pleat bench` measured.",
     .arguments = "",
     .example = "pleat predict throughput fit --profile DIR --method kivi --measured kivi.csv --calibrate fp16.csv\n"
                "pleat predict throughput fit --store study.db"},
    {.name = "predict throughput eval",
     .summary =
         "How well the predictor predicts: accuracy is the mean of 1 - |predicted - measured| / measured, of "
         "tokens per second.\n"
         "Published files: profile DIR/operators.csv and DIR/attention-METHOD.csv against a measured file. A store "
         "of `pleat bench`: each whole batch size and each whole length left out in turn.",
     .arguments = "",
     .example = "pleat predict throughput eval --profile DIR --measured kivi.csv --method kivi --calibrate fp16.csv\n"
                "pleat predict throughput eval --store study.db"},
    {.name = "predict throughput query",
     .summary = "The predicted time of a step and the rate, for a method, batch and prompt length.",
     .arguments = "",
     .example = "pleat predict throughput query --store study.db --method kivi-4 --batch 8 --prompt 4096"},
};
typedef enum action { FIT, EVAL, QUERY } action;

static const char *const stage_names[] = {"prefill", "decode"};

typedef struct settings {
    const command *self;
    predict_published from;
    const char *store, *model, *report, *stage;
    int run, batch, prompt;
    uint64_t fifth; /* UINT64_MAX: no correction */
    bool json;
} settings;

typedef struct cases {
    predict_case *list;
    int n;
    store *db;
    store_runs runs;
    const store_run *run;
} cases;

/* ---- loading ---- */

static void cases_free(cases *c) {
    for (int i = 0; i < c->n; i++)
        predict_case_free(&c->list[i]);
    free(c->list);
    store_runs_free(&c->runs);
    store_close(c->db);
}

static pleat_status add_published(const settings *s, cases *c, pleat_error *error) {
    c->list = calloc(1, sizeof(*c->list));
    if (!c->list)
        return err_set(error, PLEAT_EMEMORY, "no memory for a profile");
    c->n = 1;
    return predict_case_load(&s->from, &c->list[0], error);
}

/* The named method of the store's run, or all that have points enough. */
static pleat_status add_stored(const settings *s, cases *c, pleat_error *error) {
    char **names = NULL;
    int n = 0, n_skipped = 0;
    pleat_status status = predict_case_list(c->db, c->run, &names, &n, error);
    c->list = status ? NULL : calloc((size_t)n + 1, sizeof(*c->list));
    if (!status && !c->list)
        status = err_set(error, PLEAT_EMEMORY, "no memory for %d methods", n);
    if (!status && s->from.method)
        status = predict_case_get(c->db, c->run, s->from.method, &c->list[c->n++], error);
    for (int i = 0; i < n && !status && !s->from.method; i++) {
        status = predict_case_get(c->db, c->run, names[i], &c->list[c->n], error);
        if (status == PLEAT_EINPUT && ++n_skipped) {
            predict_case_free(&c->list[c->n]);
            status = n_skipped == n ? status : PLEAT_OK;
        } else {
            c->n++;
        }
    }
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
    return status;
}

static pleat_status load(const settings *s, bool write, cases *c, pleat_error *error) {
    if (s->from.directory)
        return add_published(s, c, error);
    pleat_status status = store_open(s->store, write, &c->db, error);
    status = status ? status : store_runs_read(c->db, &c->runs, error);
    status = status ? status : predict_run_find(&c->runs, c->db, s->run, &c->run, error);
    return status ? status : add_stored(s, c, error);
}

/* ---- fit ---- */

static pleat_status fit(const settings *s, cases *c, pleat_error *error) {
    int64_t run = 0;
    pleat_status status = load(s, true, c, error);
    if (!status && s->from.directory) {
        status = store_open(s->store, true, &c->db, error);
        status = status ? status : predict_run_publish(c->db, &c->list[0], s->model, s->from.directory, &run, error);
    } else if (!status) {
        run = c->run->id;
    }
    for (int i = 0; i < c->n && !status; i++)
        status = predict_case_put(c->db, run, &c->list[i], error);
    return status;
}

static json_t *terms_json(const predict_case *c) {
    predict_profile_options o = predict_profile_options_of(c->profile);
    json_t *terms = json_object();
    for (int stage = 0; stage < PREDICT_STAGES; stage++)
        json_object_set_new(
            terms, stage_names[stage],
            json_pack("{s:f,s:f}", "operators", o.terms[stage].operators, "attention", o.terms[stage].attention));
    return json_pack("{s:s,s:i,s:b,s:b,s:s,s:o}", "method", c->method, "budget", o.budget, "calibrated", c->calibrated,
                     "in_sample", c->in_sample, "from", c->from_grid ? "grid" : "profile", "terms", terms);
}

static int print_fit(const settings *s, const cases *c) {
    json_t *list = json_array();
    for (int i = 0; i < c->n; i++)
        json_array_append_new(list, terms_json(&c->list[i]));
    if (s->json)
        return print_json(s->self->name, json_pack("{s:s,s:o}", "store", s->store, "fitted", list));
    json_decref(list);
    for (int i = 0; i < c->n; i++) {
        predict_profile_options o = predict_profile_options_of(c->list[i].profile);
        printf("%-16s %d profiled rows, %d measured points, time x %.3f in prefill, x %.3f in decode\n",
               c->list[i].method, c->list[i].rows.n, c->list[i].points.n, o.terms[PREDICT_PREFILL].operators,
               o.terms[PREDICT_DECODE].operators);
    }
    printf("\nstored in %s\n", s->store);
    return EXIT_OK;
}

/* ---- eval ---- */

static pleat_status eval(const settings *s, cases *c, pleat_error *error) {
    int n_points = 0;
    pleat_status status = load(s, false, c, error);
    for (int i = 0; i < c->n && !status; i++)
        n_points += c->list[i].points.n;
    if (!status && !n_points)
        status = err_set(error, PLEAT_EINPUT, "run %lld of %.300s holds no measured points to score",
                         (long long)c->run->id, s->store);
    for (int i = 0; i < c->n && !status; i++) {
        if (s->fifth != UINT64_MAX)
            status = predict_case_correct(&c->list[i], s->fifth, error);
        if (!status)
            predict_case_score(&c->list[i]);
    }
    return !status && s->report ? report_predict_write(c->list, c->n, s->report, error) : status;
}

static double mean_accuracy(const cases *c) {
    double sum = 0;
    int n = 0;
    for (int i = 0; i < c->n; i++)
        for (int k = 0; k < c->list[i].n_cells; k++, n++)
            sum += c->list[i].cell[k].accuracy;
    return n ? sum / n : 0;
}

static json_t *cell_json(const predict_case *c, const predict_cell *cell) {
    json_t *o = json_pack("{s:s,s:s,s:i,s:f,s:i,s:b}", "method", c->method, "stage", stage_names[cell->stage], "n",
                          cell->n, "accuracy", cell->accuracy, "fitted_points", cell->n_fitted, "in_sample",
                          c->in_sample && !c->from_grid);
    if (cell->held_out_batch > 0)
        json_object_set_new(o, "held_out_batch", json_real(cell->held_out_batch));
    if (cell->held_out_length > 0)
        json_object_set_new(o, "held_out_length", json_real(cell->held_out_length));
    return o;
}

static int print_eval_json(const settings *s, const cases *c) {
    json_t *cells = json_array(), *points = json_array(), *fitted = json_array();
    for (int i = 0; i < c->n; i++) {
        const predict_case *one = &c->list[i];
        json_array_append_new(fitted, terms_json(one));
        for (int k = 0; k < one->n_cells; k++)
            json_array_append_new(cells, cell_json(one, &one->cell[k]));
        for (int k = 0; k < one->points.n; k++) {
            const predict_point *p = &one->points.point[k];
            json_array_append_new(points,
                                  json_pack("{s:s,s:s,s:i,s:i,s:i,s:f,s:f,s:b}", "method", one->method, "stage",
                                            stage_names[p->stage], "batch", p->batch, "prompt_tokens", p->prompt_tokens,
                                            "rows", p->n_rows, "measured", p->rate, "predicted",
                                            predict_rate(one->profile, p->stage, p->batch, p->prompt_tokens), "fitted",
                                            p->fitted));
        }
    }
    return print_json(s->self->name, json_pack("{s:o,s:f,s:o,s:o}", "cells", cells, "mean_accuracy", mean_accuracy(c),
                                               "fitted", fitted, "points", points));
}

static void print_cell(const predict_case *c, const predict_cell *cell) {
    printf("%-16s %-8s %4d %9.1f %%", c->method, stage_names[cell->stage], cell->n, 100 * cell->accuracy);
    if (cell->n_fitted)
        printf("  a fifth (%d) fitted on, not scored", cell->n_fitted);
    if (c->from_grid)
        printf("  batch left out %.1f %%, length left out %.1f %%", 100 * cell->held_out_batch,
               100 * cell->held_out_length);
    else if (c->in_sample)
        printf("  calibrated on these points: batch left out %.1f %%, length left out %.1f %%",
               100 * cell->held_out_batch, 100 * cell->held_out_length);
    printf("\n");
}

/* Signed errors in percent, one line a batch size. */
static void print_map(const predict_case *c, predict_stage stage) {
    int n_batch, n_prompt, batch[PREDICT_MOST_SIZES], prompt[PREDICT_MOST_SIZES];
    predict_points_sizes(&c->points, stage, batch, &n_batch, prompt, &n_prompt);
    printf("\n%s, %s: predicted over measured - 1, in %%\n  batch", c->method, stage_names[stage]);
    for (int k = 0; k < n_prompt; k++)
        printf("%8d", prompt[k]);
    for (int i = 0; i < n_batch; i++) {
        printf("\n%7d", batch[i]);
        for (int k = 0; k < n_prompt; k++) {
            const predict_point *p = predict_points_find(&c->points, stage, batch[i], prompt[k]);
            if (p)
                printf("%+7.1f%c", 100 * (predict_rate(c->profile, stage, batch[i], prompt[k]) / p->rate - 1),
                       p->fitted ? '*' : ' ');
            else
                printf("%7s ", "-");
        }
    }
    printf("\n");
}

static int print_eval(const settings *s, const cases *c) {
    printf("%-16s %-8s %4s %11s\n", "method", "stage", "n", "accuracy");
    for (int i = 0; i < c->n; i++)
        for (int k = 0; k < c->list[i].n_cells; k++)
            print_cell(&c->list[i], &c->list[i].cell[k]);
    if (c->n > 1)
        printf("%-16s %-8s %4s %9.1f %%\n", "mean", "", "", 100 * mean_accuracy(c));
    for (int i = 0; i < c->n; i++)
        for (int k = 0; k < c->list[i].n_cells; k++)
            print_map(&c->list[i], c->list[i].cell[k].stage);
    if (s->report)
        printf("\n%s\n", s->report);
    return EXIT_OK;
}

/* ---- query ---- */

static int print_query(const settings *s, const predict_case *c) {
    json_t *list = json_array();
    for (int i = 0; i < PREDICT_STAGES; i++) {
        predict_stage stage = (predict_stage)i;
        if (s->stage && strcmp(s->stage, stage_names[i]))
            continue;
        double rate = predict_rate(c->profile, stage, s->batch, s->prompt);
        double tokens = stage == PREDICT_PREFILL ? (double)s->batch * s->prompt : s->batch;
        if (!s->json)
            printf("%s, %s, batch %d, %d tokens: %.2f ms a step, %.1f tokens/s\n", c->method, stage_names[i], s->batch,
                   s->prompt, 1000 * tokens / rate, rate);
        json_array_append_new(list, json_pack("{s:s,s:f,s:f}", "stage", stage_names[i], "step_ms", 1000 * tokens / rate,
                                              "tokens_per_s", rate));
    }
    json_t *o = json_pack("{s:s,s:i,s:i,s:o}", "method", c->method, "batch", s->batch, "prompt_tokens", s->prompt,
                          "stages", list);
    if (s->json)
        return print_json(s->self->name, o);
    json_decref(o);
    return EXIT_OK;
}

/* ---- the command ---- */

static int usage(const settings *s, const char *sentence) {
    fprintf(stderr, "pleat %s: %s; see `pleat %s --help`\n", s->self->name, sentence, s->self->name);
    return EXIT_USAGE;
}

static int check(const settings *s, action a) {
    const predict_published *f = &s->from;
    if (f->directory && !f->method)
        return usage(s, "--profile needs --method");
    if (!f->directory && (f->measured || f->calibrate || f->budget >= 0))
        return usage(s, "--measured, --calibrate and --budget go with --profile");
    if (a == EVAL && f->directory && !f->measured)
        return usage(s, "--profile needs --measured, the points to score");
    if (a == QUERY && (!f->method || !s->batch || !s->prompt))
        return usage(s, "--method, --batch and --prompt are needed");
    if (s->stage && strcmp(s->stage, "prefill") && strcmp(s->stage, "decode"))
        return usage(s, "--stage is prefill or decode");
    return -1;
}

static int run(settings *s, action a) {
    cases c = {.n = 0};
    pleat_error error;
    pleat_status status = a == FIT ? fit(s, &c, &error) : a == EVAL ? eval(s, &c, &error) : load(s, false, &c, &error);
    int code = status       ? print_error(s->self->name, &error)
               : a == FIT   ? print_fit(s, &c)
               : a == QUERY ? print_query(s, &c.list[0])
               : s->json    ? print_eval_json(s, &c)
                            : print_eval(s, &c);
    cases_free(&c);
    return code;
}

static int throughput(int argc, char **argv, action a) {
    settings s = {.self = &commands[a],
                  .from = {.base = "fp16", .budget = -1},
                  .store = "study.db",
                  .model = "published",
                  .fifth = UINT64_MAX};
    int n_arguments;
    const option all[] = {
        {"profile", 0, OPTION_TEXT, &s.from.directory, "DIR", "published profile: operators.csv, attention-METHOD.csv",
         0, 0},
        {"method", 0, OPTION_TEXT, &s.from.method, "M", "the profile's, or a label of the store; there: all of them", 0,
         0},
        {"measured", 0, OPTION_TEXT, &s.from.measured, "FILE", "measured points: bsz, prompt_len, stage, thr", 0, 0},
        {"calibrate", 0, OPTION_TEXT, &s.from.calibrate, "FILE",
         "measured points of the uncompressed base: one factor a stage is fitted on them", 0, 0},
        {"base", 0, OPTION_TEXT, &s.from.base, "M", "the base's method in the profile", 0, 0},
        {"budget", 0, OPTION_INT, &s.from.budget, "N",
         "decode reads at most N tokens; 0: all; -1: as the study set it (512 for h2o and stream)", -1, 1 << 24},
        {"store", 0, OPTION_TEXT, &s.store, "FILE", "the study database", 0, 0},
        {"run", 0, OPTION_INT, &s.run, "ID", "a run of the store; 0: the newest with throughput", 0, 1 << 30},
        {"json", 0, OPTION_FLAG, &s.json, NULL, "print one JSON object", 0, 0},
        {0},
    };
    static const int n_all = sizeof(all) / sizeof(*all) - 1;
    const option own[][3] = {
        [FIT] = {{"model", 0, OPTION_TEXT, &s.model, "NAME", "what the published figures are of", 0, 0}, {0}},
        [EVAL] = {{"correct-fifth", 0, OPTION_SEED, &s.fifth, "SEED",
                   "fit both of a stage's terms on a seeded fifth of the points, score the rest", 0, 0},
                  {"report", 0, OPTION_TEXT, &s.report, "FILE", "write a page with plots", 0, 0},
                  {0}},
        [QUERY] = {{"batch", 0, OPTION_INT, &s.batch, "B", "sequences", 1, 1 << 16},
                   {"prompt", 0, OPTION_INT, &s.prompt, "P", "tokens of each prompt", 1, 1 << 22},
                   {"stage", 0, OPTION_TEXT, &s.stage, "STAGE", "prefill or decode; both", 0, 0}},
    };
    option options[sizeof(all) / sizeof(*all) + 3] = {{0}};
    int n = 0;
    for (int i = 0; i < n_all; i++)
        options[n++] = all[i];
    for (int i = 0; i < 3 && own[a][i].name; i++)
        options[n++] = own[a][i];
    int code = options_parse(s.self, options, argc, argv, &n_arguments);
    code = code >= 0 ? code : check(&s, a);
    return code >= 0 ? code : run(&s, a);
}

static void print_help(FILE *to) {
    fprintf(to, "Usage: pleat predict throughput fit|eval|query [options]\n\n"
                "  fit    fit the predictor and keep it in a study store\n"
                "  eval   how well it predicts what was measured\n"
                "  query  the time of a step and the rate\n\n"
                "`pleat predict throughput eval --help` says more.\n");
}

int cmd_predict(int argc, char **argv) {
    static const char *const actions[] = {"fit", "eval", "query"};
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        print_help(stdout);
        return EXIT_OK;
    }
    if (argc > 1 && !strcmp(argv[1], "length")) {
        fprintf(stderr, "pleat predict: the length predictor comes later; `throughput` is what there is\n");
        return EXIT_USAGE;
    }
    if (argc < 2 || strcmp(argv[1], "throughput")) {
        fprintf(stderr, "pleat predict: say what to predict: `pleat predict throughput ...`\n");
        return EXIT_USAGE;
    }
    if (argc > 2 && (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h"))) {
        print_help(stdout);
        return EXIT_OK;
    }
    for (int i = 0; i < 3; i++)
        if (argc > 2 && !strcmp(argv[2], actions[i]))
            return throughput(argc - 2, argv + 2, (action)i);
    fprintf(stderr, "pleat predict throughput: say fit, eval or query; see `pleat predict --help`\n");
    return EXIT_USAGE;
}
