/* negatives_print.c - see negatives_print.h. */
#include "cli/negatives_print.h"
#include "base/text.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *negatives_percent(double threshold, char *out) {
    snprintf(out, 16, "%.6g %%", 100 * threshold);
    return out;
}

static unsigned whole(const negatives_result *r) {
    return (unsigned)((1ull << r->plan->n) - 1);
}

static negatives_tally *judge(const negatives_result *r, unsigned mask, double threshold, bool *is_negative) {
    int methods[NEGATIVES_MOST_METHODS], n = negatives_subset(r->plan, mask, methods);
    negatives_tally *of_set = calloc((size_t)r->table->sets.n + 1, sizeof(*of_set));
    if (of_set)
        negatives_judge(r->table, r->plan->base, methods, n, threshold, of_set, is_negative);
    return of_set;
}

/* ---- JSON ---- */

static json_t *number(double x) {
    return isnan(x) ? json_null() : json_real(x);
}

/* What the marked samples score: by class, then by method. */
static json_t *scores_among(const negatives_result *r, const bool *among) {
    const char *classes[NEGATIVES_MOST_CLASSES];
    int n, n_classes = negatives_classes(r->table, classes);
    json_t *by_class = json_object();
    for (int i = 0; i < n_classes; i++) {
        double base = negatives_mean_among(r->table, r->plan->base, among, classes[i], &n);
        if (!n)
            continue;
        json_t *means = json_object();
        json_object_set_new(means, r->plan->base_name, number(base));
        for (int k = 0; k < r->plan->n; k++)
            json_object_set_new(means, r->plan->name[k],
                                number(negatives_mean_among(r->table, r->plan->method[k], among, classes[i], &n)));
        json_object_set_new(by_class, classes[i], means);
    }
    return by_class;
}

static json_t *counts_of(const negatives_result *r, unsigned mask, double threshold) {
    bool *negative = calloc((size_t)r->table->samples.n + 1, sizeof(*negative));
    negatives_tally *of_set = negative ? judge(r, mask, threshold, negative) : NULL;
    json_t *scores = of_set && mask == whole(r) ? scores_among(r, negative) : NULL;
    free(negative);
    if (!of_set)
        return NULL;
    const char *classes[NEGATIVES_MOST_CLASSES];
    int n_classes = negatives_classes(r->table, classes);
    json_t *methods = json_array(), *by_class = json_object(), *sets = json_object();
    for (int i = 0; i < r->plan->n; i++)
        if (mask >> i & 1)
            json_array_append_new(methods, json_string(r->plan->name[i]));
    for (int i = 0; i < n_classes; i++) {
        negatives_tally sum = negatives_sum(r->table, of_set, classes[i]);
        if (sum.samples)
            json_object_set_new(by_class, classes[i], json_integer(sum.negative));
    }
    for (int i = 0; i < r->table->sets.n; i++)
        json_object_set_new(sets, intern_key(&r->table->sets, i), json_integer(of_set[i].negative));
    negatives_tally all = negatives_sum(r->table, of_set, NULL);
    free(of_set);
    return json_pack("{s:o,s:f,s:i,s:i,s:i,s:o,s:o,s:o*}", "methods", methods, "threshold", threshold, "benign",
                     all.benign, "negative", all.negative, "missing", all.missing, "classes", by_class, "data_sets",
                     sets, "scores", scores);
}

static bool add_counts(const negatives_result *r, unsigned mask, json_t *list) {
    for (int i = 0; i < r->n_thresholds; i++)
        if (json_array_append_new(list, counts_of(r, mask, r->threshold[i])))
            return false;
    return true;
}

static json_t *averages(const negatives_result *r) {
    json_t *object = json_object();
    json_object_set_new(object, r->plan->base_name, number(negatives_average(r->table, r->plan->base)));
    for (int i = 0; i < r->plan->n; i++)
        json_object_set_new(object, r->plan->name[i], number(negatives_average(r->table, r->plan->method[i])));
    return object;
}

static json_t *data_sets(const negatives_result *r) {
    json_t *list = json_array();
    negatives_tally *of_set = judge(r, 0, 0, NULL);
    for (int i = 0; of_set && i < r->table->sets.n; i++) {
        json_t *means = json_object();
        json_object_set_new(means, r->plan->base_name, number(negatives_mean(r->table, r->plan->base, i)));
        for (int k = 0; k < r->plan->n; k++)
            json_object_set_new(means, r->plan->name[k], number(negatives_mean(r->table, r->plan->method[k], i)));
        json_array_append_new(list, json_pack("{s:s,s:s,s:i,s:i,s:o}", "name", intern_key(&r->table->sets, i), "class",
                                              r->table->klass[i], "samples", of_set[i].samples, "benign",
                                              of_set[i].benign, "means", means));
    }
    free(of_set);
    return list;
}

json_t *negatives_json(const negatives_result *r) {
    unsigned masks[NEGATIVES_MOST_SUBSETS], all = whole(r);
    int n = negatives_subsets(r->plan, masks);
    json_t *counts = json_array(), *combinations = json_array();
    bool ok = true;
    for (int i = 0; i < n && ok; i++) {
        if (__builtin_popcount(masks[i]) == 1 || masks[i] == all)
            ok = add_counts(r, masks[i], counts);
        if (__builtin_popcount(masks[i]) > 1)
            ok = ok && add_counts(r, masks[i], combinations);
    }
    json_t *result = json_pack("{s:s,s:s,s:o,s:o,s:o,s:o}", "base", r->plan->base_name, "base_method",
                               intern_key(&r->table->methods, r->plan->base), "averages", averages(r), "counts", counts,
                               "combinations", combinations, "data_sets", data_sets(r));
    if (!ok && result) {
        json_decref(result);
        result = NULL;
    }
    return result;
}

/* ---- tables ---- */

static char *subset_name(const negatives_plan *p, unsigned mask) {
    text name = {0};
    for (int i = 0; i < p->n; i++)
        if (mask >> i & 1)
            text_printf(&name, "%s%s", name.n ? " + " : "", p->name[i]);
    return name.bytes;
}

static void print_averages(const negatives_result *r) {
    printf("Average score (100 x the mean of the data sets' means)\n");
    for (int i = -1; i < r->plan->n; i++) {
        int method = i < 0 ? r->plan->base : r->plan->method[i];
        const char *name = i < 0 ? r->plan->base_name : r->plan->name[i],
                   *label = intern_key(&r->table->methods, method);
        printf("  %-24s %6.2f   %s%s\n", name, negatives_average(r->table, method), i < 0 ? "base: " : "", label);
    }
}

/* Negatives of every subset by threshold. */
static bool print_counts(const negatives_result *r) {
    unsigned masks[NEGATIVES_MOST_SUBSETS];
    int n = negatives_subsets(r->plan, masks);
    char percent[16];
    bool some_missing = false;
    printf("\nNegative samples by threshold\n  %-44s", "methods");
    for (int k = 0; k < r->n_thresholds; k++)
        printf(" %7s", negatives_percent(r->threshold[k], percent));
    printf("  missing\n");
    for (int i = 0; i < n; i++) {
        char *name = subset_name(r->plan, masks[i]);
        int missing = 0;
        printf("  %-44s", name ? name : "");
        free(name);
        for (int k = 0; k < r->n_thresholds; k++) {
            negatives_tally *of_set = judge(r, masks[i], r->threshold[k], NULL);
            if (!of_set)
                return false;
            negatives_tally sum = negatives_sum(r->table, of_set, NULL);
            free(of_set);
            missing = sum.missing;
            printf(" %7d", sum.negative);
        }
        some_missing = some_missing || missing;
        printf("  %7d\n", missing);
    }
    int unpaired = negatives_unpaired(r->table, r->plan->base);
    if (unpaired)
        printf("  %d samples have no score of the base %s and are left out\n", unpaired, r->plan->base_name);
    if (some_missing)
        printf("  missing: samples of the base for which some method of the row has no score; they are not negative\n");
    return true;
}

typedef struct columns { /* each method, and all together if several */
    negatives_tally *of_set[NEGATIVES_MOST_METHODS + 1];
    int n;
} columns;

static void columns_free(columns *c) {
    for (int i = 0; i < c->n; i++)
        free(c->of_set[i]);
}

static bool judge_columns(const negatives_result *r, double threshold, columns *c) {
    c->n = 0;
    for (int i = 0; i < r->plan->n + (r->plan->n > 1); i++) {
        unsigned mask = i < r->plan->n ? 1u << i : whole(r);
        c->of_set[i] = judge(r, mask, threshold, NULL);
        if (!c->of_set[i]) {
            columns_free(c);
            return false;
        }
        c->n++;
    }
    return true;
}

static void print_heading(const negatives_result *r, const char *first) {
    printf("  %-22s %7s %7s %6s", first, "samples", "benign", "base");
    for (int i = 0; i < r->plan->n; i++)
        printf(" %12.12s", r->plan->name[i]);
    printf(r->plan->n > 1 ? " %7s\n" : "\n", "all");
}

static bool print_sets(const negatives_result *r, double threshold) {
    const char *classes[NEGATIVES_MOST_CLASSES];
    int n_classes = negatives_classes(r->table, classes);
    columns c;
    char percent[16];
    if (!judge_columns(r, threshold, &c))
        return false;
    printf("\nBy task class, at %s\n", negatives_percent(threshold, percent));
    print_heading(r, "class");
    for (int i = 0; i < n_classes; i++) {
        negatives_tally sum = negatives_sum(r->table, c.of_set[0], classes[i]);
        if (!sum.samples)
            continue;
        printf("  %-22s %7d %7d %6s", classes[i], sum.samples, sum.benign, "");
        for (int k = 0; k < c.n; k++)
            printf(k < r->plan->n ? " %12d" : " %7d", negatives_sum(r->table, c.of_set[k], classes[i]).negative);
        printf("\n");
    }
    printf("\nBy data set, at %s (base: 100 x its mean score)\n", percent);
    print_heading(r, "data set");
    for (int i = 0; i < r->table->sets.n; i++) {
        const negatives_tally *first = &c.of_set[0][i];
        if (!first->samples)
            continue;
        printf("  %-22.22s %7d %7d %6.2f", intern_key(&r->table->sets, i), first->samples, first->benign,
               100 * negatives_mean(r->table, r->plan->base, i));
        for (int k = 0; k < c.n; k++)
            printf(k < r->plan->n ? " %12d" : " %7d", c.of_set[k][i].negative);
        printf("\n");
    }
    columns_free(&c);
    return true;
}

static void print_score(double score) {
    if (isnan(score))
        printf(" %12s", "-");
    else
        printf(" %12.1f", 100 * score);
}

/* What the samples that are negative for all methods together scored. */
static bool print_scores(const negatives_result *r, double threshold) {
    bool *among = calloc((size_t)r->table->samples.n + 1, sizeof(*among));
    negatives_tally *of_set = among ? judge(r, whole(r), threshold, among) : NULL;
    const char *classes[NEGATIVES_MOST_CLASSES];
    int n, n_classes = negatives_classes(r->table, classes);
    char percent[16];
    if (of_set && negatives_sum(r->table, of_set, NULL).negative) {
        printf("\nScore of the samples that are negative for %s at %s (100 x the mean of the data sets' means)\n",
               r->plan->n > 1 ? "all methods together" : "it", negatives_percent(threshold, percent));
        printf("  %-22s %7s %12.12s", "class", "samples", r->plan->base_name);
        for (int i = 0; i < r->plan->n; i++)
            printf(" %12.12s", r->plan->name[i]);
        printf("\n");
        for (int i = 0; i < n_classes; i++) {
            double base = negatives_mean_among(r->table, r->plan->base, among, classes[i], &n);
            if (!n)
                continue;
            printf("  %-22s %7d", classes[i], n);
            print_score(base);
            for (int k = 0; k < r->plan->n; k++)
                print_score(negatives_mean_among(r->table, r->plan->method[k], among, classes[i], &n));
            printf("\n");
        }
    }
    bool ok = of_set != NULL;
    free(of_set);
    free(among);
    return ok;
}

bool negatives_print(const negatives_result *r) {
    print_averages(r);
    bool ok = print_counts(r);
    for (int i = 0; i < r->n_thresholds && ok; i++)
        ok = print_sets(r, r->threshold[i]) && print_scores(r, r->threshold[i]);
    return ok;
}
