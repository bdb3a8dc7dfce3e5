/* fleet.c - pools from specs and profile files.
 *
 * The bytes of methods are the computed ones at long contexts, 128-wide heads: KIVI-4 0.32, GEAR-4 0.35 of fp16; H2O
 * and StreamingLLM keep 64 + 448 tokens uncompressed (the study's settings). */
#include "route/fleet.h"
#include "base/status.h"
#include "predict/points.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    double share;
} shares[] = {{"kivi", 0.32}, {"gear", 0.35}};

sim_engine sim_engine_default(void) {
    return (sim_engine){.base = "fp16",
                        .kv_bytes = 27.6e9,
                        .token_bytes = 524288,
                        .most_batch = 128,
                        .step_tokens = 640,
                        .most_context = 4096};
}

static sim_method method_of(const sim_engine *e, const char *name) {
    for (int i = 0; i < e->n_own; i++)
        if (!strcmp(e->own[i].name, name))
            return e->own[i];
    sim_method m = {.share = 1, .budget = predict_study_budget(name)};
    snprintf(m.name, sizeof(m.name), "%s", name);
    for (size_t i = 0; i < sizeof(shares) / sizeof(*shares); i++)
        m.share = strcmp(shares[i].name, name) ? m.share : shares[i].share;
    return m;
}

/* The entry of a method among the person's own, made from what is known of it. */
static sim_method *own_method(sim_engine *e, const char *name) {
    for (int i = 0; i < e->n_own; i++)
        if (!strcmp(e->own[i].name, name))
            return &e->own[i];
    if (e->n_own == SIM_MOST_OWN)
        return NULL;
    e->own[e->n_own] = method_of(e, name);
    return &e->own[e->n_own++];
}

pleat_status sim_engine_set(sim_engine *e, const char *option, const char *list, bool budgets, pleat_error *error) {
    double low = budgets ? 1 : 1e-3, high = budgets ? 1 << 24 : 10;
    while (*list) {
        char name[SIM_METHOD_CAP], *end;
        size_t n = strcspn(list, "=,");
        errno = 0;
        double value = list[n] == '=' ? strtod(list + n + 1, &end) : NAN;
        if (!n || n >= sizeof(name) || list[n] != '=' || end == list + n + 1 || (*end && *end != ','))
            return err_set(error, PLEAT_EINPUT, "--%s: \"%.60s\" is not NAME=NUMBER, separated by commas", option,
                           list);
        snprintf(name, sizeof(name), "%.*s", (int)n, list);
        if (errno || !(value >= low && value <= high) || (budgets && value != floor(value)))
            return err_set(error, PLEAT_EINPUT, "--%s: %s is %g; it must be %s between %g and %g", option, name, value,
                           budgets ? "whole and" : "", low, high);
        sim_method *m = own_method(e, name);
        if (!m)
            return err_set(error, PLEAT_EINPUT, "--%s names more than %d methods", option, SIM_MOST_OWN);
        if (budgets)
            m->budget = (int)value;
        else
            m->share = value;
        list = *end ? end + 1 : end;
    }
    return PLEAT_OK;
}

/* ---- methods ---- */

/* The terms that the base's measured points give. */
static pleat_status calibrate(const sim_engine *e, predict_profile *base, pleat_error *error) {
    predict_points points = {0};
    pleat_status status = predict_points_load(e->calibrate, &points, error);
    if (!status)
        predict_calibrate(base, &points);
    predict_points_free(&points);
    return status;
}

static pleat_status add_method(sim_fleet *f, const sim_engine *e, const char *name, int *index, pleat_error *error) {
    predict_profile_options options = {0};
    for (*index = 0; *index < f->n_methods; ++*index)
        if (!strcmp(f->method[*index], name))
            return PLEAT_OK;
    if (f->n_methods == ROUTE_MOST_METHODS)
        return err_set(error, PLEAT_EINPUT, "a pool has at most %d methods", ROUTE_MOST_METHODS);
    if (f->n_methods)
        options = predict_profile_options_of(f->profile[0]);
    options.budget = method_of(e, name).budget;
    pleat_status status = predict_profile_load(e->directory, name, &options, &f->profile[f->n_methods], error);
    if (!status && !f->n_methods && e->calibrate)
        status = calibrate(e, f->profile[0], error);
    if (f->profile[f->n_methods])
        snprintf(f->method[f->n_methods++], SIM_METHOD_CAP, "%s", name);
    return status;
}

static pleat_status add_replicas(sim_fleet *f, const sim_engine *e, const char *name, int n, pleat_error *error) {
    int m;
    sim_method method = method_of(e, name);
    pleat_status status = add_method(f, e, name, &m, error);
    if (!status && f->n + n > ROUTE_MOST_REPLICAS)
        status = err_set(error, PLEAT_EINPUT, "a pool has at most %d replicas", ROUTE_MOST_REPLICAS);
    for (int i = 0; i < n && !status; i++)
        f->replica[f->n++] = (route_replica){.profile = f->profile[m],
                                             .method = m,
                                             .kv_bytes = e->kv_bytes,
                                             .token_bytes = e->token_bytes * method.share,
                                             .most_kept_tokens = method.budget,
                                             .most_context_tokens = e->most_context,
                                             .most_batch = e->most_batch,
                                             .step_tokens = e->step_tokens};
    return status;
}

/* One part of a spec, "kivi" or "kivi*3"; *at moves on. */
static pleat_status add_part(sim_fleet *f, const sim_engine *e, const char **at, pleat_error *error) {
    char name[SIM_METHOD_CAP];
    size_t n = strcspn(*at, ",*"), whole = strcspn(*at, ",");
    long count = 1;
    char *end = (char *)*at + n;
    if (end[0] == '*')
        count = strtol(end + 1, &end, 10);
    if (!n || n >= sizeof(name) || end != *at + whole || count < 1 || count > ROUTE_MOST_REPLICAS)
        return err_set(error, PLEAT_EINPUT, "pool \"%.60s\": \"%.*s\" is not METHOD or METHOD*COUNT", f->label,
                       (int)(whole < 40 ? whole : 40), *at);
    snprintf(name, sizeof(name), "%.*s", (int)n, *at);
    *at += whole + ((*at)[whole] == ',');
    return add_replicas(f, e, name, (int)count, error);
}

pleat_status sim_fleet_open(const sim_engine *e, const char *spec, sim_fleet *out, pleat_error *error) {
    int m;
    memset(out, 0, sizeof(*out));
    if ((size_t)snprintf(out->label, sizeof(out->label), "%s", spec) >= sizeof(out->label))
        return err_set(error, PLEAT_EINPUT, "pool \"%.60s...\" is too long", spec);
    pleat_status status = add_method(out, e, e->base, &m, error);
    if (!status && !strpbrk(spec, ",*")) {
        status = add_replicas(out, e, e->base, 1, error);
        status = status ? status : add_replicas(out, e, spec, 3, error);
    } else {
        for (const char *at = spec; !status && (*at || at == spec);)
            status = add_part(out, e, &at, error);
    }
    if (status)
        sim_fleet_close(out);
    return status;
}

void sim_fleet_close(sim_fleet *f) {
    for (int i = 0; i < f->n_methods; i++)
        predict_profile_free(f->profile[i]);
    memset(f, 0, sizeof(*f));
}

void sim_fleet_methods(const sim_fleet *f, const sim_growths *growths, sim_load_options *load) {
    load->n_methods = f->n_methods;
    for (int m = 0; m < f->n_methods; m++) {
        load->method[m] = f->method[m];
        load->growth[m] = m ? sim_growth_find(growths, f->method[m]) : NULL;
    }
}

pleat_status sim_fleet_capacity(const sim_fleet *f, const sim_load_options *load, double *per_s, pleat_error *error) {
    enum { N_REQUESTS = 4000, SEED = 0xCAFE };
    sim_load_options options = *load;
    sim_load sample;
    double of[ROUTE_MOST_METHODS];
    options.n = N_REQUESTS;
    options.seed = SEED;
    pleat_status status = sim_load_make(&options, &sample, error);
    *per_s = 0;
    for (int m = 0; m < f->n_methods; m++)
        of[m] = -1;
    for (int i = 0; i < f->n && !status; i++) {
        int m = f->replica[i].method;
        if (of[m] < 0)
            status = sim_capacity(&f->replica[i], &sample, &of[m], error);
        *per_s += of[m];
    }
    sim_load_free(&sample);
    return status;
}
