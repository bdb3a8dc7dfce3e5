/* stored.c - cases in a study store. Published files keep their rows as they are: operators once under the label "",
 * attention under the method's, measured rows as the repeats of a point. So a stored case gives the same figures as
 * its files. A run of `pleat bench` has points and no profile: its cases are fitted anew whenever they are read, as the
 * grid may have grown; what `fit` writes of them is for other readers.
 *
 * A fitted predictor, as JSON: n_layer, budget, terms {prefill, decode: {operators, attention}}, calibrated, in_sample,
 * from ("profile" or "grid"). */
#include "predict/cases.h"
#include "predict/grid.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/text.h"
#include "kv/method.h"
#include "measure/measure.h"
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const part_names[] = {"once", "layer", "attention"};
static const char *const stage_names[] = {"prefill", "decode"};
#define PUBLISHED "published"

/* ---- writing ---- */

pleat_status predict_run_publish(store *s, const predict_case *c, const char *model, const char *directory,
                                 int64_t *run, pleat_error *error) {
    uint64_t hash = 0;
    char digits[24];
    for (int i = 0; i < c->rows.n; i++) { /* field by field: a struct has holes */
        const predict_row *r = &c->rows.row[i];
        double own[] = {(double)r->part, r->tokens, r->ms};
        if (r->part != PREDICT_ATTENTION)
            hash = hash_bytes(own, sizeof(own), hash);
    }
    snprintf(digits, sizeof(digits), "%016" PRIx64, hash);
    store_begun begun = {.id = 0};
    store_run r = {.what = PUBLISHED,
                   .model_name = model,
                   .model_path = directory,
                   .model_hash = digits,
                   .machine = PUBLISHED,
                   .level = "",
                   .version = PLEAT_VERSION,
                   .options = "{}"};
    pleat_status status = store_run_begin(s, &r, STORE_GO_ON, &begun, error);
    *run = begun.id;
    return status ? status : store_run_finish(s, *run, error);
}

/* The case's rows of one kind: attention, or what every method shares. */
static pleat_status put_rows(store *s, int64_t run, const char *label, const predict_case *c, bool shared, bool own,
                             pleat_error *error) {
    store_operator *list = mem_alloc((size_t)c->rows.n + 1, sizeof(*list));
    int n = 0;
    if (!list)
        return err_set(error, PLEAT_EMEMORY, "no memory for a profile of %d rows", c->rows.n);
    for (int i = 0; i < c->rows.n; i++) {
        const predict_row *r = &c->rows.row[i];
        bool attention = r->part == PREDICT_ATTENTION;
        if (attention ? own : shared)
            list[n++] = (store_operator){.name = part_names[r->part],
                                         .stage = attention ? stage_names[r->stage] : NULL,
                                         .batch = r->batch,
                                         .tokens = r->tokens,
                                         .context = r->context,
                                         .ms = r->ms};
    }
    pleat_status status = store_profile_put(s, run, label, list, n, error);
    mem_free(list);
    return status;
}

static store_point point_of(const predict_point *p, const char *label) {
    store_point row = {.label = label,
                       .spec = label,
                       .batch = p->batch,
                       .prompt_tokens = p->prompt_tokens,
                       .stage = stage_names[p->stage],
                       .median = p->rate};
    double low = p->rate, high = p->rate;
    for (; row.n_repeats < p->n_rows && row.n_repeats < STORE_MOST_REPEATS; row.n_repeats++) {
        row.rate[row.n_repeats] = p->row[row.n_repeats];
        low = fmin(low, p->row[row.n_repeats]);
        high = fmax(high, p->row[row.n_repeats]);
    }
    row.spread = (high - low) / p->rate;
    return row;
}

static pleat_status put_points(store *s, int64_t run, const predict_case *c, pleat_error *error) {
    store_point *list = mem_alloc((size_t)c->points.n + 1, sizeof(*list));
    if (!list)
        return err_set(error, PLEAT_EMEMORY, "no memory for %d measured points", c->points.n);
    for (int i = 0; i < c->points.n; i++)
        list[i] = point_of(&c->points.point[i], c->method);
    pleat_status status = c->points.n ? store_points_put(s, run, list, c->points.n, error) : PLEAT_OK;
    mem_free(list);
    return status;
}

static pleat_status put_model(store *s, int64_t run, const predict_case *c, pleat_error *error) {
    predict_profile_options o = predict_profile_options_of(c->profile);
    json_t *terms = json_object();
    for (int stage = 0; stage < PREDICT_STAGES; stage++)
        json_object_set_new(
            terms, stage_names[stage],
            json_pack("{s:f,s:f}", "operators", o.terms[stage].operators, "attention", o.terms[stage].attention));
    json_t *model =
        json_pack("{s:i,s:i,s:o,s:b,s:b,s:s}", "n_layer", o.n_layer, "budget", o.budget, "terms", terms, "calibrated",
                  c->calibrated, "in_sample", c->in_sample, "from", c->from_grid ? "grid" : "profile");
    char *dumped = model ? json_dumps(model, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    json_decref(model);
    if (!dumped)
        return err_set(error, PLEAT_EMEMORY, "no memory for a fitted predictor");
    pleat_status status = store_model_put(s, run, "throughput", c->method, dumped, error);
    free(dumped);
    return status;
}

pleat_status predict_case_put(store *s, int64_t run, const predict_case *c, pleat_error *error) {
    pleat_status status = put_rows(s, run, c->method, c, c->from_grid, true, error);
    if (!c->from_grid) {
        status = status ? status : put_rows(s, run, "", c, true, false, error);
        status = status ? status : put_points(s, run, c, error);
    }
    return status ? status : put_model(s, run, c, error);
}

/* ---- reading ---- */

static int stage_named(const char *name) {
    for (int stage = 0; name && stage < PREDICT_STAGES; stage++)
        if (!strcmp(name, stage_names[stage]))
            return stage;
    return -1;
}

pleat_status predict_run_find(const store_runs *runs, store *s, int64_t run, const store_run **out,
                              pleat_error *error) {
    const store_run *mapped = NULL;
    *out = NULL;
    for (int i = runs->n - 1; i >= 0 && !*out; i--) {
        store_points points = {0};
        const store_run *r = &runs->run[i];
        if (run && r->id != run)
            continue;
        pleat_status status = store_points_read(s, r->id, &points, error);
        if (status)
            return status;
        bool holds = points.n || run || !strcmp(r->what, PUBLISHED);
        store_points_free(&points);
        if (holds && (run || measure_options_repacked(r->options)))
            *out = r;
        else if (holds && !mapped)
            mapped = r;
    }
    *out = *out ? *out : mapped;
    if (*out)
        return PLEAT_OK;
    return run ? err_set(error, PLEAT_EINPUT, "the store holds no run %lld", (long long)run)
               : err_set(error, PLEAT_EINPUT, "the store holds no measured throughput");
}

static bool is_usable(const store_point *p) {
    return !p->error && p->median > 0 && p->batch > 0 && p->prompt_tokens > 0 && stage_named(p->stage) >= 0;
}

/* A decode over a synthetic fill that was also measured over a real prompt. */
static bool is_spare(const store_points *points, const store_point *p) {
    for (int i = 0; i < points->n && p->filled; i++) {
        const store_point *q = &points->point[i];
        if (!q->filled && is_usable(q) && q->batch == p->batch && q->prompt_tokens == p->prompt_tokens &&
            !strcmp(q->label, p->label) && !strcmp(q->stage, p->stage))
            return true;
    }
    return false;
}

static bool has_stage(const store_points *points, const char *label, const char *stage) {
    for (int i = 0; i < points->n; i++) {
        const store_point *p = &points->point[i];
        if (is_usable(p) && !strcmp(p->label, label) && !strcmp(p->stage, stage))
            return true;
    }
    return false;
}

pleat_status predict_case_list(store *s, const store_run *run, char ***list, int *n, pleat_error *error) {
    store_points points = {0};
    pleat_status status = store_points_read(s, run->id, &points, error);
    *list = NULL;
    *n = 0;
    for (int i = 0, cap = 0; i < points.n && !status; i++) {
        const char *label = points.point[i].label;
        bool have = !has_stage(&points, label, "prefill") && !has_stage(&points, label, "decode");
        for (int k = 0; k < *n && !have; k++)
            have = !strcmp((*list)[k], label);
        if (!have && mem_grow(list, &cap, *n + 1, sizeof(**list)) && ((*list)[*n] = strdup(label)))
            ++*n;
        else if (!have)
            status = err_set(error, PLEAT_EMEMORY, "no memory for the methods of a run");
    }
    store_points_free(&points);
    return status;
}

static pleat_status refuse_method(store *s, const store_run *run, const char *method, pleat_error *error) {
    char **list;
    int n;
    text names = {0};
    pleat_status status = predict_case_list(s, run, &list, &n, error);
    for (int i = 0; i < n; i++) {
        text_printf(&names, "%s%s", i ? ", " : "", list[i]);
        free(list[i]);
    }
    free(list);
    if (!status)
        status = err_set(error, PLEAT_EINPUT, "run %lld holds no %.60s%s%.300s", (long long)run->id, method,
                         names.n ? "; it holds " : ", nor any measured method", names.n ? names.bytes : "");
    text_free(&names);
    return status;
}

/* The tokens that a method's lanes hold at most, from its spec; 0: they grow. */
static int spec_budget(const char *spec) {
    kv_method m;
    if (!spec || kv_method_parse(spec, NULL, &m, NULL) || !m.policy->bound_tokens)
        return 0;
    int bound = m.policy->bound_tokens(&m.policy_config);
    return bound == INT_MAX ? 0 : bound;
}

static pleat_status read_points(store *s, const store_run *run, predict_case *c, int *budget, pleat_error *error) {
    store_points list = {0};
    bool by_rows = !strcmp(run->what, PUBLISHED);
    pleat_status status = store_points_read(s, run->id, &list, error);
    for (int i = 0; i < list.n && !status; i++) {
        const store_point *p = &list.point[i];
        if (strcmp(p->label, c->method) || !is_usable(p) || is_spare(&list, p))
            continue;
        predict_point row = {.stage = (predict_stage)stage_named(p->stage),
                             .batch = p->batch,
                             .prompt_tokens = p->prompt_tokens,
                             .rate = p->median};
        for (int r = 0; by_rows && r < p->n_repeats && !status; r++) {
            row.rate = p->rate[r];
            status = predict_points_add(&c->points, &row, error);
        }
        if (!by_rows) {
            status = predict_points_add(&c->points, &row, error);
            *budget = spec_budget(p->spec);
        }
    }
    store_points_free(&list);
    return status;
}

static pleat_status read_rows(store *s, int64_t run, const char *label, predict_rows *rows, pleat_error *error) {
    store_operators list;
    pleat_status status = store_profile_read(s, run, label, &list, error);
    for (int i = 0; i < list.n && !status; i++) {
        const store_operator *o = &list.row[i];
        int part = 0, stage = stage_named(o->stage);
        while (part < 3 && strcmp(o->name ? o->name : "", part_names[part]))
            part++;
        if (part == 3 || (part == PREDICT_ATTENTION && stage < 0))
            status = err_set(error, PLEAT_EINPUT, "the store's profile has an operator \"%.40s\" of stage \"%.40s\"",
                             o->name ? o->name : "", o->stage ? o->stage : "");
        else
            status = predict_rows_add(rows,
                                      &(predict_row){.part = (predict_part)part,
                                                     .stage = (predict_stage)(stage < 0 ? 0 : stage),
                                                     .batch = o->batch,
                                                     .tokens = o->tokens,
                                                     .context = o->context,
                                                     .ms = o->ms},
                                      error);
    }
    store_profile_free(&list);
    return status;
}

static pleat_status read_model(store *s, int64_t run, predict_case *c, predict_profile_options *o, pleat_error *error) {
    char *dumped;
    pleat_status status = store_model_read(s, run, "throughput", c->method, &dumped, error);
    if (status || !dumped)
        return status;
    json_t *model = json_loads(dumped, 0, NULL);
    int calibrated = 0, in_sample = 0;
    predict_terms *p = &o->terms[PREDICT_PREFILL], *d = &o->terms[PREDICT_DECODE];
    bool ok = json_unpack(model, "{s:i,s:i,s:b,s:b,s:{s:{s:F,s:F},s:{s:F,s:F}}}", "n_layer", &o->n_layer, "budget",
                          &o->budget, "calibrated", &calibrated, "in_sample", &in_sample, "terms", "prefill",
                          "operators", &p->operators, "attention", &p->attention, "decode", "operators", &d->operators,
                          "attention", &d->attention) == 0 &&
              o->n_layer > 0 && o->budget >= 0 && p->operators > 0 && p->attention > 0 && d->operators > 0 &&
              d->attention > 0;
    json_decref(model);
    free(dumped);
    c->calibrated = calibrated;
    c->in_sample = in_sample;
    return ok ? PLEAT_OK
              : err_set(error, PLEAT_EINPUT, "the store's fitted predictor of %.60s is damaged; fit it again",
                        c->method);
}

static pleat_status fit_grid(predict_case *c, predict_profile_options *o, pleat_error *error) {
    pleat_error why;
    for (int i = 0; i < c->points.n; i++)
        c->points.point[i].fitted = true;
    pleat_status status = predict_grid_fit(&c->points, o->budget, &c->rows, &why);
    for (int i = 0; i < c->points.n; i++)
        c->points.point[i].fitted = false;
    o->n_layer = 1;
    c->from_grid = c->in_sample = true;
    return status ? err_set(error, status, "%.60s: %.300s", c->method, why.text) : PLEAT_OK;
}

pleat_status predict_case_get(store *s, const store_run *run, const char *method, predict_case *out,
                              pleat_error *error) {
    predict_profile_options options = {.budget = 0};
    bool published = !strcmp(run->what, PUBLISHED);
    *out = (predict_case){.n_cells = 0};
    snprintf(out->method, sizeof(out->method), "%s", method);
    pleat_status status = read_points(s, run, out, &options.budget, error);
    if (!status && published) {
        status = read_model(s, run->id, out, &options, error);
        status = status ? status : read_rows(s, run->id, method, &out->rows, error);
    }
    if (!status && (published ? !out->rows.n : !out->points.n))
        return refuse_method(s, run, method, error);
    if (published)
        status = status ? status : read_rows(s, run->id, "", &out->rows, error);
    if (!status && !published)
        status = fit_grid(out, &options, error);
    return status ? status : predict_profile_make(&out->rows, &options, &out->profile, error);
}
