/* study.c - see study.h. The parts run in the order in which they cost least and say most: throughput, answers,
 * quality. */
#include "measure/study.h"
#include "base/status.h"
#include "base/hash.h"
#include "engine/engine.h"
#include "measure/assets.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char text_name[] = "shakespeare-40k";

/* One run in work. */
typedef struct work {
    pleat_engine *engine;
    store *db;
    study_done *done;
    measure_watch watch; /* tells the sum over all parts */
    const measure_watch *to;
    double before, part, total; /* cost of the parts that are over, of this one, of all (what is left to measure) */
} work;

/* ---- identity ---- */

static json_t *int_list(const int *value, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_integer(value[i]));
    return list;
}

static json_t *grid_options(const throughput_grid *grid) {
    json_t *methods = json_array();
    for (int i = 0; i < grid->methods->n; i++)
        json_array_append_new(methods, json_pack("{s:s,s:s}", "label", grid->methods->label[i], "spec",
                                                 pleat_method_spec(grid->methods->method[i])));
    return json_pack("{s:o,s:o,s:o,s:i,s:i}", "methods", methods, "batch", int_list(grid->batch, grid->n_batch),
                     "prompt", int_list(grid->prompt, grid->n_prompt), "repeats", grid->repeats, "fill",
                     grid->fill_tokens);
}

static uint64_t prompts_hash(const study_plan *plan) {
    uint64_t hash = 0;
    for (int i = 0; i < plan->n_prompts; i++) {
        hash = hash_bytes(plan->prompts->prompt[i].id, strlen(plan->prompts->prompt[i].id), hash);
        hash = hash_bytes(plan->prompts->prompt[i].text, strlen(plan->prompts->prompt[i].text), hash);
    }
    return hash;
}

static json_t *study_options(const study_plan *plan) {
    char hash[24];
    json_t *options = grid_options(&plan->grid);
    snprintf(hash, sizeof(hash), "%016" PRIx64, prompts_hash(plan));
    json_object_update_new(options,
                           json_pack("{s:s,s:s,s:i,s:i,s:i,s:i}", "prompt_set", plan->prompt_set, "prompts", hash,
                                     "n_prompts", plan->n_prompts, "max_tokens", plan->max_tokens, "quality_ctx",
                                     plan->quality_ctx, "quality_windows", plan->quality_windows));
    return options;
}

static pleat_status begin(work *w, const char *what, json_t *options, store_how how, pleat_error *error) {
    measure_identity identity;
    measure_options_add(options, engine_model(w->engine));
    char *dumped = json_dumps(options, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(options);
    if (!dumped)
        return err_set(error, PLEAT_EMEMORY, "no memory for the options of a run");
    store_run r = measure_run_of(what, engine_model(w->engine), w->engine, dumped, &identity);
    pleat_status status = store_run_begin(w->db, &r, how, &w->done->begun, error);
    free(dumped);
    return status;
}

/* ---- progress over all parts ---- */

static void tell(void *context, double done, double total, const char *detail) {
    const work *w = context;
    measure_tell(w->to, w->before + w->part * (total > 0 ? done / total : 1), w->total, detail);
}

static void begin_part(work *w, double cost) {
    w->before += w->part;
    w->part = cost;
    w->done->measured_any = w->done->measured_any || cost > 0;
}

/* ---- parts ---- */

static pleat_status put_points(void *context, const store_point *points, int n_points, pleat_error *error) {
    const work *w = context;
    return store_points_put(w->db, w->done->begun.id, points, n_points, error);
}

static pleat_status run_grid(work *w, const throughput_grid *grid, const store_points *known, pleat_error *error) {
    begin_part(w, throughput_cost(grid, known));
    return throughput_run(w->engine, grid, known, put_points, w, &w->watch, error);
}

static double answer_cost(const study_plan *plan) {
    return 200 + plan->max_tokens * measure_step_cost(plan->grid.methods->n, 256);
}

static double window_cost(const study_plan *plan) {
    return plan->quality_ctx / 2.0 * (1 + measure_step_cost(plan->grid.methods->n, plan->quality_ctx / 2));
}

/* Which of the plan's prompts the run holds no answers to: missing [n_prompts]; *n: how many. */
static pleat_status list_prompts(work *w, const study_plan *plan, bool *missing, int *n, pleat_error *error) {
    *n = 0;
    for (int i = 0; i < plan->n_prompts; i++) {
        bool has;
        pleat_status status =
            store_answers_has(w->db, w->done->begun.id, plan->prompt_set, plan->prompts->prompt[i].id, &has, error);
        if (status)
            return status;
        missing[i] = !has;
        *n += !has;
    }
    return PLEAT_OK;
}

static pleat_status answer(work *w, const study_plan *plan, const lengths_prompt *prompt, pleat_error *error) {
    store_answer answers[MEASURE_MOST_METHODS];
    const measure_methods *methods = plan->grid.methods;
    pleat_status status =
        lengths_measure(w->engine, methods, plan->prompt_set, prompt, plan->max_tokens, answers, error);
    if (status == PLEAT_EFULL) {
        w->done->n_skipped++;
        return PLEAT_OK;
    }
    if (status)
        return status;
    status = store_answers_put(w->db, w->done->begun.id, answers, methods->n, error);
    for (int k = 0; k < methods->n; k++)
        free((char *)answers[k].text);
    return status;
}

static pleat_status run_prompts(work *w, const study_plan *plan, const bool *missing, int n, pleat_error *error) {
    pleat_status status = PLEAT_OK;
    begin_part(w, n * answer_cost(plan));
    for (int i = 0, k = 0; i < plan->n_prompts && !status; i++) {
        char detail[80];
        if (!missing[i])
            continue;
        snprintf(detail, sizeof(detail), "answer %d of %d, all methods side by side", i + 1, plan->n_prompts);
        measure_tell(&w->watch, k++, n, detail);
        status = answer(w, plan, &plan->prompts->prompt[i], error);
    }
    return status;
}

static bool holds_window(const store_windows *known, const study_plan *plan, int window) {
    int n = 0;
    for (int i = 0; i < known->n; i++)
        n += known->window[i].window == window && known->window[i].ctx == plan->quality_ctx &&
             !strcmp(known->window[i].text_name, text_name);
    return n >= plan->grid.methods->n;
}

/* The windows of the text from the first that the run does not hold. */
static pleat_status run_windows(work *w, const study_plan *plan, const quality_text *t, int n_windows,
                                const store_windows *known, pleat_error *error) {
    store_window out[MEASURE_MOST_METHODS];
    const measure_methods *methods = plan->grid.methods;
    pleat_status status = PLEAT_OK;
    for (int i = 0; i < n_windows && !status; i++) {
        if (holds_window(known, plan, i))
            continue;
        begin_part(w, window_cost(plan));
        status = quality_window_measure(w->engine, methods, t, i, out, &w->watch, error);
        if (status)
            return status;
        for (int k = 0; k < methods->n; k++)
            out[k].text_name = text_name;
        status = store_windows_put(w->db, w->done->begun.id, out, methods->n, error);
        for (int k = 0; k < methods->n; k++)
            quality_window_free(&out[k]);
    }
    return status;
}

/* ---- the whole ---- */

static work work_of(pleat_engine *engine, store *db, study_done *done, const measure_watch *watch) {
    *done = (study_done){.n_skipped = 0};
    return (work){.engine = engine, .db = db, .done = done, .to = watch};
}

pleat_status study_bench(pleat_engine *engine, const throughput_grid *grid, store *db, store_how how, study_done *done,
                         const measure_watch *watch, pleat_error *error) {
    work w = work_of(engine, db, done, watch);
    store_points known = {0};
    w.watch = (measure_watch){tell, &w};
    pleat_status status = begin(&w, "bench", grid_options(grid), how, error);
    status = status ? status : store_points_read(db, done->begun.id, &known, error);
    w.total = throughput_cost(grid, &known);
    status = status ? status : run_grid(&w, grid, &known, error);
    store_points_free(&known);
    return status ? status : store_run_finish(db, done->begun.id, error);
}

/* What a study holds already and what is left of it. */
typedef struct rest {
    store_points points;
    store_windows windows;
    bool *missing; /* [n_prompts] */
    int n_missing;
    quality_text *text;
    int n_windows, n_windows_left;
} rest;

static pleat_status read_rest(work *w, const study_plan *plan, rest *r, pleat_error *error) {
    r->missing = calloc((size_t)plan->n_prompts + 1, sizeof(*r->missing));
    if (!r->missing)
        return err_set(error, PLEAT_EMEMORY, "no memory for %d prompts", plan->n_prompts);
    pleat_status status = store_points_read(w->db, w->done->begun.id, &r->points, error);
    status = status ? status : store_windows_read(w->db, w->done->begun.id, &r->windows, error);
    status = status ? status : list_prompts(w, plan, r->missing, &r->n_missing, error);
    for (int i = 0; i < r->n_windows && !status; i++)
        r->n_windows_left += !holds_window(&r->windows, plan, i);
    return status;
}

static void free_rest(rest *r) {
    store_points_free(&r->points);
    store_windows_free(&r->windows);
    quality_text_close(r->text);
    free(r->missing);
}

pleat_status study_run(pleat_engine *engine, const study_plan *plan, store *db, store_how how, study_done *done,
                       const measure_watch *watch, pleat_error *error) {
    work w = work_of(engine, db, done, watch);
    rest r = {.n_missing = 0};
    size_t n_bytes;
    const char *bytes = assets_text(&n_bytes);
    pleat_status status = PLEAT_OK;
    w.watch = (measure_watch){tell, &w};
    if (plan->quality_windows) /* first: a method that it refuses is told before hours of work */
        status = quality_text_open(engine_model(engine), plan->grid.methods, bytes, n_bytes, plan->quality_ctx, 0,
                                   plan->quality_windows, &r.text, &r.n_windows, error);
    status = status ? status : begin(&w, "study", study_options(plan), how, error);
    status = status ? status : read_rest(&w, plan, &r, error);
    if (!status) {
        w.total = throughput_cost(&plan->grid, &r.points) + r.n_missing * answer_cost(plan) +
                  r.n_windows_left * window_cost(plan);
        status = run_grid(&w, &plan->grid, &r.points, error);
    }
    status = status ? status : run_prompts(&w, plan, r.missing, r.n_missing, error);
    status = status ? status : run_windows(&w, plan, r.text, r.n_windows, &r.windows, error);
    if (!status && w.total > 0)
        measure_tell(watch, w.total, w.total, "done");
    free_rest(&r);
    return status ? status : store_run_finish(db, done->begun.id, error);
}
