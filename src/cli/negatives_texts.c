/* negatives_texts.c - see negatives_texts.h. */
#include "cli/negatives_texts.h"
#include "base/csv.h"
#include "base/file.h"
#include "base/status.h"
#include "cli/print.h"
#include "measure/longbench.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char command_name[] = "negatives";

static pleat_status read_files(const char *files, longbench_need need, longbench_samples *samples, pleat_error *error) {
    pleat_status status = PLEAT_OK;
    for (const char *at = files; !status; at++) {
        size_t n = strcspn(at, ","), n_bytes;
        char path[4200], *bytes = NULL;
        if (!n || (size_t)snprintf(path, sizeof(path), "%.*s", (int)n, at) >= sizeof(path))
            return err_set(error, PLEAT_EINPUT, "a file name in \"%.200s\" is empty or too long", files);
        status = file_read(path, &bytes, &n_bytes, error);
        status = status ? status : longbench_read(samples, need, path, bytes, n_bytes, error);
        free(bytes);
        at += n;
        if (!*at)
            break;
    }
    return status;
}

/* ---- what the files hold ---- */

typedef struct summary {
    int n, n_answers, shortest, longest;
    double mean_length;
    const char *language;
} summary;

static summary summarise(const longbench_samples *samples, const char *data_set) {
    summary s = {.shortest = -1, .language = ""};
    for (int i = 0; i < samples->n; i++) {
        if (strcmp(samples->sample[i].data_set, data_set))
            continue;
        const json_t *record = samples->sample[i].record;
        const char *language = json_string_value(json_object_get(record, "language"));
        int length = (int)json_integer_value(json_object_get(record, "length"));
        s.shortest = s.shortest < 0 || length < s.shortest ? length : s.shortest;
        s.longest = length > s.longest ? length : s.longest;
        s.mean_length += length;
        s.n_answers += (int)json_array_size(json_object_get(record, "answers"));
        s.language = !*s.language || !strcmp(s.language, language) ? language : "mixed";
        s.n++;
    }
    s.mean_length /= s.n;
    return s;
}

static const char *metric_of(const char *data_set) {
    const longbench_set *set = longbench_find(data_set);
    return set ? metrics_name(set->metric) : "unknown";
}

static json_t *summary_json(const longbench_samples *samples) {
    json_t *list = json_array(), *count;
    const char *name;
    json_object_foreach(samples->sets, name, count) {
        summary s = summarise(samples, name);
        json_array_append_new(list, json_pack("{s:s,s:s,s:s,s:i,s:s,s:i,s:f,s:i,s:i}", "name", name, "class",
                                              longbench_class(name), "metric", metric_of(name), "samples", s.n,
                                              "language", s.language, "shortest", s.shortest, "mean_length",
                                              s.mean_length, "longest", s.longest, "answers", s.n_answers));
    }
    return json_pack("{s:i,s:o}", "samples", samples->n, "data_sets", list);
}

static void summary_print(const longbench_samples *samples) {
    json_t *count;
    const char *name;
    printf("  %-22s %-14s %-14s %7s %-8s %8s  %s\n", "data set", "class", "metric", "samples", "language", "answers",
           "length: shortest, mean, longest");
    json_object_foreach(samples->sets, name, count) {
        summary s = summarise(samples, name);
        printf("  %-22s %-14s %-14s %7d %-8s %8d  %d, %.0f, %d\n", name, longbench_class(name), metric_of(name), s.n,
               s.language, s.n_answers, s.shortest, s.mean_length, s.longest);
    }
}

int negatives_check(const char *files, bool json) {
    longbench_samples samples = {0};
    pleat_error error;
    int code = EXIT_OK;
    if (read_files(files, LONGBENCH_TEXTS, &samples, &error))
        code = print_error(command_name, &error);
    else if (json)
        code = print_json(command_name, summary_json(&samples));
    else
        summary_print(&samples);
    longbench_free(&samples);
    return code;
}

/* ---- scores of answers ---- */

/* A CSV of all scores, their digits in full. */
static pleat_status save_scores(const longbench_samples *samples, const double *score, const char *as, const char *path,
                                pleat_error *error) {
    text out = {0};
    char algorithm[200];
    size_t n = strcspn(as, "/");
    if (!n || n >= sizeof(algorithm))
        return err_set(error, PLEAT_EINPUT, "--as is \"%.100s\"; ALGORITHM or ALGORITHM/CONFIG is expected", as);
    snprintf(algorithm, sizeof(algorithm), "%.*s", (int)n, as);
    text_puts(&out, "algorithm,config,dataset,id,score\n");
    for (int i = 0; i < samples->n; i++) {
        const char *cells[] = {algorithm, as[n] ? as + n + 1 : "", samples->sample[i].data_set, samples->sample[i].id};
        for (int k = 0; k < 4; k++) {
            csv_put(&out, cells[k]);
            text_puts(&out, ",");
        }
        text_printf(&out, "%.17g\n", score[i]);
    }
    pleat_status status = out.failed ? err_set(error, PLEAT_EMEMORY, "no memory for %d scores", samples->n)
                                     : file_save(path, out.bytes, out.n, error);
    text_free(&out);
    return status;
}

static double mean_of(const longbench_samples *samples, const double *score, const char *data_set) {
    long double sum = 0;
    int n = 0;
    for (int i = 0; i < samples->n; i++)
        if (!strcmp(samples->sample[i].data_set, data_set)) {
            sum += score[i];
            n++;
        }
    return (double)(sum / n);
}

static json_t *scores_json(const longbench_samples *samples, const double *score) {
    json_t *list = json_array(), *count;
    const char *name;
    long double sum = 0;
    json_object_foreach(samples->sets, name, count) {
        double mean = mean_of(samples, score, name);
        sum += mean;
        json_array_append_new(list, json_pack("{s:s,s:s,s:s,s:O,s:f}", "name", name, "class", longbench_class(name),
                                              "metric", metric_of(name), "samples", count, "mean", mean));
    }
    return json_pack("{s:i,s:f,s:o}", "answers", samples->n, "average",
                     (double)(100 * sum / (long double)json_object_size(samples->sets)), "data_sets", list);
}

static void scores_print(const json_t *all) {
    size_t i;
    json_t *set;
    printf("  %-22s %-14s %-14s %7s %7s\n", "data set", "class", "metric", "answers", "mean");
    json_array_foreach(json_object_get(all, "data_sets"), i, set) printf(
        "  %-22s %-14s %-14s %7d %7.2f\n", json_string_value(json_object_get(set, "name")),
        json_string_value(json_object_get(set, "class")), json_string_value(json_object_get(set, "metric")),
        (int)json_integer_value(json_object_get(set, "samples")), 100 * json_real_value(json_object_get(set, "mean")));
    printf("  average %.2f\n", json_real_value(json_object_get(all, "average")));
}

int negatives_score(const char *files, const char *as, const char *output, bool json) {
    longbench_samples samples = {0};
    pleat_error error;
    double *score = NULL;
    pleat_status status = read_files(files, LONGBENCH_ANSWERS, &samples, &error);
    if (!status && !(score = calloc((size_t)samples.n + 1, sizeof(*score))))
        status = err_set(&error, PLEAT_EMEMORY, "no memory for %d scores", samples.n);
    for (int i = 0; i < samples.n && !status; i++)
        status = longbench_score(&samples.sample[i], &score[i], &error);
    if (!status && output)
        status = save_scores(&samples, score, as, output, &error);
    int code = EXIT_OK;
    if (status) {
        code = print_error(command_name, &error);
    } else if (json) {
        code = print_json(command_name, scores_json(&samples, score));
    } else {
        json_t *all = scores_json(&samples, score);
        scores_print(all);
        json_decref(all);
    }
    free(score);
    longbench_free(&samples);
    return code;
}

/* ---- export ---- */

/* Ids are places in the whole published file: a part of it whose samples have no "id" of their own would give each
 * sample another's text. */
static pleat_status check_whole(const negatives_result *r, const longbench_samples *samples, pleat_error *error) {
    const negatives_table *t = r->table;
    for (int i = 0; i < samples->n; i++) {
        const char *set = samples->sample[i].data_set;
        int n = 0, index = intern_find(&t->sets, set, strlen(set));
        if (samples->sample[i].own_id || index < 0)
            continue;
        for (int k = 0; k < t->samples.n; k++)
            n += t->set_of[k] == index;
        if (longbench_count(samples, set) != n)
            return err_set(error, PLEAT_EINPUT,
                           "the texts hold %d samples of %.60s and the scores %d: without an \"id\" in each, texts and "
                           "scores cannot be matched",
                           longbench_count(samples, set), set, n);
    }
    return PLEAT_OK;
}

static double score_at(const negatives_result *r, int method, int sample) {
    return r->table->score[(size_t)method * (size_t)r->table->samples.n + (size_t)sample];
}

static json_t *export_record(const negatives_result *r, const longbench_samples *samples, int i) {
    const negatives_table *t = r->table;
    const char *set = intern_key(&t->sets, t->set_of[i]), *id = negatives_sample(t, i);
    const longbench_sample *found = longbench_sample_find(samples, set, id);
    json_t *record = found ? json_copy(found->record) : json_object(), *scores = json_object();
    for (int k = 0; k < r->plan->n; k++)
        json_object_set_new(scores, r->plan->name[k], json_real(score_at(r, r->plan->method[k], i)));
    json_t *verdict = json_pack("{s:s,s:s,s:s,s:s,s:f,s:f,s:o}", "dataset", set, "id", id, "class",
                                t->klass[t->set_of[i]], "base", r->plan->base_name, "base_score",
                                score_at(r, r->plan->base, i), "threshold", r->threshold[0], "scores", scores);
    json_object_update(record, verdict);
    json_decref(verdict);
    return record;
}

static pleat_status write_export(const negatives_result *r, const longbench_samples *samples, const bool *negative,
                                 const char *output, int *n, pleat_error *error) {
    text out = {0};
    *n = 0;
    for (int i = 0; i < r->table->samples.n && !out.failed; i++) {
        if (!negative[i])
            continue;
        json_t *record = export_record(r, samples, i);
        char *line = record ? json_dumps(record, JSON_COMPACT | JSON_REAL_PRECISION(16)) : NULL;
        json_decref(record);
        if (!line) {
            out.failed = true;
            break;
        }
        text_puts(&out, line);
        text_puts(&out, "\n");
        free(line);
        ++*n;
    }
    pleat_status status = out.failed ? err_set(error, PLEAT_EMEMORY, "no memory for the export")
                                     : file_save(output, out.bytes ? out.bytes : "", out.n, error);
    text_free(&out);
    return status;
}

int negatives_export(const negatives_result *r, const char *files, const char *output, int *n) {
    longbench_samples samples = {0};
    pleat_error error;
    int methods[NEGATIVES_MOST_METHODS], n_methods = negatives_subset(r->plan, ~0u, methods);
    bool *negative = calloc((size_t)r->table->samples.n + 1, sizeof(*negative));
    negatives_tally *of_set = calloc((size_t)r->table->sets.n + 1, sizeof(*of_set));
    pleat_status status = PLEAT_OK;
    if (!negative || !of_set)
        status = err_set(&error, PLEAT_EMEMORY, "no memory for the export");
    if (!status && files)
        status = read_files(files, LONGBENCH_TEXTS, &samples, &error);
    status = status ? status : check_whole(r, &samples, &error);
    if (!status) {
        negatives_judge(r->table, r->plan->base, methods, n_methods, r->threshold[0], of_set, negative);
        status = write_export(r, &samples, negative, output, n, &error);
    }
    free(negative);
    free(of_set);
    longbench_free(&samples);
    return status ? print_error(command_name, &error) : EXIT_OK;
}
