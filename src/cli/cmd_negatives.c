/* cmd_negatives.c - `pleat negatives`: which samples do the methods break? */
#include "base/status.h"
#include "cli/commands.h"
#include "cli/negatives_texts.h"
#include "cli/print.h"
#include "measure/score_file.h"
#include "report/report.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const command self = {
    .name = "negatives",
    .summary =
        "Which samples does compression break? A sample is benign when its uncompressed score is at least its data\n"
        "set's mean, and negative for a set of methods when each of them loses the threshold or more of that score\n"
        "(Algorithm 1 of arXiv 2503.24000). Scores come from a CSV: algorithm,config,dataset,id,score.\n"
        "--answers scores the answers of a model to LongBench by its metrics; --longbench checks its samples.",
    .arguments = "",
    .example = "pleat negatives --scores longbench-scores.csv --methods kivi,gear --threshold 0.1\n"
               "pleat negatives --scores longbench-scores.csv --methods kivi,gear --export negatives.jsonl\n"
               "pleat negatives --answers pred/hotpotqa.jsonl,pred/qasper.jsonl --as kivi/4bits -o kivi.csv",
};

typedef struct settings {
    const char *scores, *methods, *thresholds, *base, *store, *export, *longbench, *answers, *as, *output, *report;
    bool json;
} settings;

/* "0.1,0.2" into the result; -1 or the exit code. */
static int read_thresholds(const char *list, negatives_result *result) {
    for (const char *at = list;; at++) {
        char *end;
        double x = strtod(at, &end);
        const char *why = NULL;
        if (end == at || (*end && *end != ',') || *at == ' ')
            why = "numbers separated by commas are expected";
        else if (!(x >= 0 && x <= 1))
            why = "a threshold is a fraction from 0 to 1 (0.1 is 10 %)";
        else if (result->n_thresholds == NEGATIVES_MOST_THRESHOLDS)
            why = "that is too many numbers";
        if (why) {
            fprintf(stderr, "pleat negatives: --threshold is \"%.60s\"; %s; see `pleat negatives --help`\n", list, why);
            return EXIT_USAGE;
        }
        result->threshold[result->n_thresholds++] = x;
        at = end;
        if (!*at)
            return -1;
    }
}

/* The newest run that holds scores. */
static pleat_status find_run(store *db, const char *path, int64_t *run, pleat_error *error) {
    store_runs runs;
    pleat_status status = store_runs_read(db, &runs, error);
    if (status)
        return status;
    *run = 0;
    for (int i = runs.n - 1; i >= 0 && !*run; i--)
        if (!strcmp(runs.run[i].what, "scores"))
            *run = runs.run[i].id;
    store_runs_free(&runs);
    return *run ? PLEAT_OK : err_set(error, PLEAT_EINPUT, "%.300s holds no scores; import some with --scores", path);
}

static int show(const settings *s, const negatives_result *result) {
    int n_exported = 0;
    if (s->export) {
        int code = negatives_export(result, s->longbench, s->export, &n_exported);
        if (code != EXIT_OK)
            return code;
    }
    if (s->json) {
        json_t *object = negatives_json(result);
        if (object && s->export)
            json_object_set_new(object, "exported", json_integer(n_exported));
        if (object && s->report)
            json_object_set_new(object, "report", json_string(s->report));
        if (object)
            return print_json(self.name, object);
    } else if (negatives_print(result)) {
        if (s->export)
            printf("\n%d negative samples: %s\n", n_exported, s->export);
        if (s->report)
            printf("\nreport: %s\n", s->report);
        return EXIT_OK;
    }
    fprintf(stderr, "pleat negatives: no memory for the result\n");
    return EXIT_FAILED;
}

static int evaluate(const settings *s, negatives_result *result) {
    pleat_error error;
    store *db = NULL;
    int64_t run = 0;
    store_scores rows = {.n = 0};
    negatives_table table = {.set_of = NULL};
    negatives_plan plan = {.n = 0};
    pleat_status status = store_open(s->store ? s->store : STORE_IN_MEMORY, s->scores != NULL, &db, &error);
    if (!status)
        status = s->scores ? score_file_import(s->scores, db, &run, &error) : find_run(db, s->store, &run, &error);
    status = status ? status : store_scores_read(db, run, &rows, &error);
    status = status ? status : negatives_table_make(&rows, &table, &error);
    status = status ? status : negatives_plan_make(&table, s->methods, s->base, &plan, &error);
    if (!status && s->report)
        status = report_negatives_write(db, run, s->methods, s->base, result->threshold[0], s->report, &error);
    result->table = &table;
    result->plan = &plan;
    int code = status ? print_error(self.name, &error) : show(s, result);
    negatives_plan_free(&plan);
    negatives_table_free(&table);
    store_scores_free(&rows);
    store_close(db);
    return code;
}

static int usage(const char *sentence) {
    fprintf(stderr, "pleat negatives: %s; see `pleat negatives --help`\n", sentence);
    return EXIT_USAGE;
}

int cmd_negatives(int argc, char **argv) {
    settings s = {.thresholds = "0.1", .as = "own"};
    negatives_result result = {.n_thresholds = 0};
    int n_arguments, n_threads = 0;
    const option options[] = {
        {"scores", 0, OPTION_TEXT, &s.scores, "FILE", "the score file (- for standard input)", 0, 0},
        {"methods", 0, OPTION_TEXT, &s.methods, "A,B", "algorithm or algorithm/config; all but the base if not given",
         0, 0},
        {"threshold", 0, OPTION_TEXT, &s.thresholds, "T,T", "fractions of the uncompressed score", 0, 0},
        {"base", 0, OPTION_TEXT, &s.base, "NAME", "the uncompressed one; if not given, hf, fp16 or f16", 0, 0},
        {"store", 0, OPTION_TEXT, &s.store, "FILE", "keep the scores in a study database; alone: evaluate its newest",
         0, 0},
        {"export", 0, OPTION_TEXT, &s.export, "FILE",
         "the samples that are negative for all methods, as JSON lines (one threshold)", 0, 0},
        {"longbench", 0, OPTION_TEXT, &s.longbench, "F,F",
         "LongBench's samples: their texts go into the export; alone: check them", 0, 0},
        {"answers", 0, OPTION_TEXT, &s.answers, "F,F", "answers (\"pred\") to LongBench as JSON lines: score them", 0,
         0},
        {"as", 0, OPTION_TEXT, &s.as, "NAME", "algorithm or algorithm/config of these answers", 0, 0},
        {"output", 'o', OPTION_TEXT, &s.output, "FILE", "where their scores go, a CSV for --scores", 0, 0},
        {"report", 0, OPTION_TEXT, &s.report, "FILE",
         "a page with tables and curves (its tables are of the first threshold)", 0, 0},
        OPTION_ONE_THREAD(&n_threads),
        {"json", 0, OPTION_FLAG, &s.json, NULL, "print one JSON object", 0, 0},
        {0},
    };
    int code = options_parse(&self, options, argc, argv, &n_arguments);
    if (code >= 0)
        return code;
    bool evaluates = s.scores || s.store;
    if (s.answers)
        return evaluates || s.longbench || s.export || s.report ? usage("--answers stands alone, with --as and -o")
                                                                : negatives_score(s.answers, s.as, s.output, s.json);
    if (s.output || (s.report && !evaluates))
        return usage(s.output ? "-o belongs to --answers" : "a report is of --scores or a --store");
    if (!evaluates)
        return s.longbench && !s.export ? negatives_check(s.longbench, s.json)
                                        : usage("which scores? give them with --scores FILE");
    if (s.longbench && !s.export)
        return usage("with scores, --longbench belongs to --export");
    code = read_thresholds(s.thresholds, &result);
    if (code >= 0)
        return code;
    if (s.export && result.n_thresholds > 1)
        return usage("an export is of one --threshold");
    return evaluate(&s, &result);
}
