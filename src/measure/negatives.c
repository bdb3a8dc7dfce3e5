/* negatives.c - see negatives.h. Means are summed in long double, so that a data set of equal scores has exactly that
 * score as its mean and all its samples are benign. */
#include "measure/negatives.h"
#include "base/status.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the table ---- */

static int add_sample(negatives_table *t, const store_score *row, text *key) {
    key->n = 0;
    text_append(key, row->data_set, strlen(row->data_set) + 1);
    text_puts(key, row->sample);
    return key->failed ? -1 : intern_add(&t->samples, key->bytes, key->n, NULL);
}

/* The first pass numbers everything; false: no memory. */
static bool number_rows(negatives_table *t, const store_scores *rows, int *sample_of, text *key) {
    for (int i = 0; i < rows->n; i++) {
        const store_score *row = &rows->score[i];
        sample_of[i] = add_sample(t, row, key);
        if (sample_of[i] < 0 || intern_add(&t->sets, row->data_set, strlen(row->data_set), NULL) < 0 ||
            intern_add(&t->methods, row->label, strlen(row->label), NULL) < 0)
            return false;
    }
    return true;
}

static pleat_status take_means(negatives_table *t, pleat_error *error) {
    long double *sum = calloc((size_t)t->sets.n + 1, sizeof(*sum));
    int *n = calloc((size_t)t->sets.n + 1, sizeof(*n));
    for (int method = 0; sum && n && method < t->methods.n; method++) {
        const double *score = t->score + (size_t)method * (size_t)t->samples.n;
        double *mean = t->mean + (size_t)method * (size_t)t->sets.n;
        memset(sum, 0, (size_t)t->sets.n * sizeof(*sum));
        memset(n, 0, (size_t)t->sets.n * sizeof(*n));
        for (int i = 0; i < t->samples.n; i++)
            if (!isnan(score[i])) {
                sum[t->set_of[i]] += score[i];
                n[t->set_of[i]]++;
            }
        for (int set = 0; set < t->sets.n; set++)
            mean[set] = n[set] ? (double)(sum[set] / n[set]) : NAN;
    }
    bool room = sum && n;
    free(sum);
    free(n);
    return room ? PLEAT_OK : err_set(error, PLEAT_EMEMORY, "no memory for the means of %d data sets", t->sets.n);
}

static pleat_status fill(negatives_table *t, const store_scores *rows, const int *sample_of, pleat_error *error) {
    size_t n = (size_t)t->samples.n;
    for (size_t i = 0; i < (size_t)t->methods.n * n; i++)
        t->score[i] = NAN;
    for (int i = 0; i < t->sets.n; i++)
        t->klass[i] = "";
    for (int i = 0; i < rows->n; i++) {
        const store_score *row = &rows->score[i];
        int set = intern_find(&t->sets, row->data_set, strlen(row->data_set));
        int method = intern_find(&t->methods, row->label, strlen(row->label));
        double *cell = &t->score[(size_t)method * n + (size_t)sample_of[i]];
        if (!isnan(*cell))
            return err_set(error, PLEAT_EINPUT, "%.80s has two scores for sample %.80s of %.80s", row->label,
                           row->sample, row->data_set);
        *cell = row->value;
        t->set_of[sample_of[i]] = set;
        if (row->klass)
            t->klass[set] = row->klass;
    }
    return take_means(t, error);
}

pleat_status negatives_table_make(const store_scores *rows, negatives_table *out, pleat_error *error) {
    negatives_table t = {.set_of = NULL};
    text key = {0};
    size_t n_cells = 0;
    int *sample_of = calloc((size_t)rows->n + 1, sizeof(*sample_of));
    bool room = sample_of && number_rows(&t, rows, sample_of, &key) &&
                !__builtin_mul_overflow((size_t)t.methods.n, (size_t)t.samples.n, &n_cells);
    if (room) {
        t.set_of = calloc((size_t)t.samples.n + 1, sizeof(*t.set_of));
        t.klass = calloc((size_t)t.sets.n + 1, sizeof(*t.klass));
        t.score = calloc(n_cells + 1, sizeof(*t.score));
        t.mean = calloc((size_t)t.methods.n * (size_t)t.sets.n + 1, sizeof(*t.mean));
    }
    pleat_status status = t.set_of && t.klass && t.score && t.mean
                              ? fill(&t, rows, sample_of, error)
                              : err_set(error, PLEAT_EMEMORY, "no memory for %d scores", rows->n);
    text_free(&key);
    free(sample_of);
    if (status)
        negatives_table_free(&t);
    else
        *out = t;
    return status;
}

void negatives_table_free(negatives_table *t) {
    intern_free(&t->sets);
    intern_free(&t->methods);
    intern_free(&t->samples);
    free(t->set_of);
    free(t->klass);
    free(t->score);
    free(t->mean);
    *t = (negatives_table){.set_of = NULL};
}

const char *negatives_sample(const negatives_table *t, int i) {
    const char *key = intern_key(&t->samples, i);
    return key + strlen(key) + 1;
}

/* ---- names ---- */

static bool has_algorithm(const char *label, const char *name, size_t n) {
    return !strncmp(label, name, n) && (label[n] == '/' || !label[n]);
}

/* The methods of an algorithm (NULL: all), separated by commas. */
static void list_methods(const negatives_table *t, const char *algorithm, text *list) {
    for (int i = 0; i < t->methods.n; i++) {
        const char *label = intern_key(&t->methods, i);
        if (!algorithm || has_algorithm(label, algorithm, strlen(algorithm)))
            text_printf(list, "%s%s", list->n ? ", " : "", label);
    }
}

/* The method's number, -1: none, -2: several. */
static int find(const negatives_table *t, const char *name) {
    int found = intern_find(&t->methods, name, strlen(name));
    for (int i = 0; found < 0 && i < t->methods.n; i++) {
        if (!has_algorithm(intern_key(&t->methods, i), name, strlen(name)))
            continue;
        for (int k = i + 1; k < t->methods.n; k++)
            if (has_algorithm(intern_key(&t->methods, k), name, strlen(name)))
                return -2;
        found = i;
    }
    return found;
}

pleat_status negatives_method(const negatives_table *t, const char *name, int *method, pleat_error *error) {
    int found = find(t, name);
    if (found >= 0) {
        *method = found;
        return PLEAT_OK;
    }
    text list = {0};
    list_methods(t, found == -2 ? name : NULL, &list);
    pleat_status status = err_set(error, PLEAT_EINPUT,
                                  found == -2 ? "%.80s has several configurations, name one of: %.360s"
                                              : "there is no method \"%.80s\" among the scores, which have: %.360s",
                                  name, list.bytes ? list.bytes : "nothing");
    text_free(&list);
    return status;
}

pleat_status negatives_base(const negatives_table *t, const char *name, int *method, const char **called,
                            pleat_error *error) {
    static const char *const usual[] = {"hf", "fp16", "f16", NULL};
    for (int i = 0; !name && usual[i]; i++)
        if (find(t, usual[i]) != -1)
            name = usual[i];
    if (name) {
        *called = name;
        return negatives_method(t, name, method, error);
    }
    text list = {0};
    list_methods(t, NULL, &list);
    pleat_status status =
        err_set(error, PLEAT_EINPUT, "no base: the scores have none of hf, fp16 and f16; name one with --base: %.360s",
                list.bytes ? list.bytes : "nothing");
    text_free(&list);
    return status;
}

const char *negatives_short_name(const negatives_table *t, int method, char *out, size_t n) {
    const char *label = intern_key(&t->methods, method);
    size_t algorithm = strcspn(label, "/");
    if (algorithm < n) {
        memcpy(out, label, algorithm);
        out[algorithm] = 0;
        if (find(t, out) == method)
            return out;
    }
    return label;
}

/* ---- Algorithm 1 ---- */

static const double *scores_of(const negatives_table *t, int method) {
    return t->score + (size_t)method * (size_t)t->samples.n;
}

double negatives_mean(const negatives_table *t, int method, int set) {
    return t->mean[(size_t)method * (size_t)t->sets.n + (size_t)set];
}

double negatives_average(const negatives_table *t, int method) {
    long double sum = 0;
    int n = 0;
    for (int i = 0; i < t->sets.n; i++) {
        double mean = negatives_mean(t, method, i);
        if (isnan(mean))
            continue;
        sum += mean;
        n++;
    }
    return n ? (double)(100 * sum / n) : NAN;
}

int negatives_unpaired(const negatives_table *t, int base) {
    int n = 0;
    for (int i = 0; i < t->samples.n; i++)
        n += isnan(scores_of(t, base)[i]);
    return n;
}

void negatives_judge(const negatives_table *t, int base, const int *methods, int n_methods, double threshold,
                     negatives_tally *of_set, bool *is_negative) {
    const double *base_score = scores_of(t, base);
    memset(of_set, 0, (size_t)t->sets.n * sizeof(*of_set));
    for (int i = 0; i < t->samples.n; i++) {
        negatives_tally *tally = &of_set[t->set_of[i]];
        bool there = !isnan(base_score[i]), missing = false;
        bool benign = base_score[i] >= negatives_mean(t, base, t->set_of[i]), negative = benign;
        for (int k = 0; k < n_methods; k++) {
            double score = scores_of(t, methods[k])[i];
            missing = missing || isnan(score);
            negative = negative && score <= (1 - threshold) * base_score[i];
        }
        tally->samples += there;
        tally->benign += benign;
        tally->missing += there && missing;
        tally->negative += negative;
        if (is_negative)
            is_negative[i] = negative;
    }
}

negatives_tally negatives_sum(const negatives_table *t, const negatives_tally *of_set, const char *klass) {
    negatives_tally sum = {0};
    for (int i = 0; i < t->sets.n; i++) {
        if (klass && strcmp(klass, t->klass[i]))
            continue;
        sum.samples += of_set[i].samples;
        sum.benign += of_set[i].benign;
        sum.negative += of_set[i].negative;
        sum.missing += of_set[i].missing;
    }
    return sum;
}

double negatives_mean_among(const negatives_table *t, int method, const bool *among, const char *klass, int *n) {
    const double *score = scores_of(t, method);
    long double sum = 0;
    int n_sets = 0;
    *n = 0;
    for (int set = 0; set < t->sets.n; set++) {
        long double sum_of_set = 0;
        int n_of_set = 0;
        if (klass && strcmp(klass, t->klass[set]))
            continue;
        for (int i = 0; i < t->samples.n; i++)
            if (t->set_of[i] == set && among[i] && !isnan(score[i])) {
                sum_of_set += score[i];
                n_of_set++;
            }
        if (!n_of_set)
            continue;
        sum += sum_of_set / n_of_set;
        n_sets++;
        *n += n_of_set;
    }
    return n_sets ? (double)(sum / n_sets) : NAN;
}
