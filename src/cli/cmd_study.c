/* cmd_study.c - `pleat study`: everything on one model, then the page. */
#include "cli/commands.h"
#include "cli/methods.h"
#include "cli/print.h"
#include "cli/watch.h"
#include "measure/assets.h"
#include "measure/study.h"
#include "report/report.h"
#include "store/exchange.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const command self = {
    .name = "study",
    .summary = "Measures whether KV-cache compression pays on this machine with this model: the throughput grid, "
               "lengths of paired answers, perplexity\n"
               "and KL; then writes the report. Killed at any time it goes on where it stopped. The quick size (the "
               "default) takes a few minutes.\n"
               "`export FOLDER` writes a study as CSV files, `import FOLDER` makes a study of them.",
    .arguments = "[export|import FOLDER]",
    .example = "pleat study -m smollm2-135m\npleat study -m qwen2.5-coder-1.5b --full --store big.db -o big.html\n"
               "pleat study export results/laptop --store study.db",
    .most_arguments = 2,
};

enum { QUICK_PROMPTS = 12, FULL_PROMPTS = 1000, QUALITY_CTX = 4096 };

typedef struct settings {
    const char *model, *methods, *store, *report, *prompts;
    option_ints batch, prompt;
    int repeats, fill, max_tokens, n_prompts, ctx, windows, threads, pool_mb;
    bool full, again, json, repack;
} settings;

static void apply_full(settings *s) {
    s->batch = (option_ints){{1, 2, 4, 8, 16}, 5};
    s->prompt = (option_ints){{256, 512, 1024, 2048, 4096, 7936}, 6};
    s->fill = 4096;
    s->repeats = 5;
    s->max_tokens = 512;
    s->n_prompts = FULL_PROMPTS;
    s->windows = 2;
}

static pleat_status read_prompts(const settings *s, lengths_prompts *out, pleat_error *error) {
    char *bytes = NULL;
    size_t n;
    if (!s->prompts) {
        const char *own = assets_prompts(&n);
        return lengths_read("the built-in prompts", own, n, out, error);
    }
    pleat_status status = file_read(s->prompts, &bytes, &n, error);
    status = status ? status : lengths_read(s->prompts, bytes, n, out, error);
    free(bytes);
    return status;
}

static void fill_plan(const settings *s, const measure_methods *methods, const lengths_prompts *prompts,
                      study_plan *plan) {
    *plan = (study_plan){.grid = {.methods = methods, .repeats = s->repeats, .fill_tokens = s->fill},
                         .prompts = prompts,
                         .prompt_set = s->prompts ? s->prompts : "built-in",
                         .max_tokens = s->max_tokens,
                         .quality_ctx = s->ctx,
                         .quality_windows = s->windows};
    for (int i = 0; i < s->batch.n; i++)
        throughput_add_size(plan->grid.batch, &plan->grid.n_batch, s->batch.value[i]);
    for (int i = 0; i < s->prompt.n; i++)
        throughput_add_size(plan->grid.prompt, &plan->grid.n_prompt, s->prompt.value[i]);
    plan->n_prompts = s->n_prompts < prompts->n ? s->n_prompts : prompts->n;
}

static void tell_done(const study_done *done) {
    if (done->begun.finished && !done->measured_any)
        fprintf(stderr,
                "pleat study: all of this was measured by the run begun at %s UTC, so the report is written from it; "
                "--again measures anew\n",
                done->begun.started);
    else if (done->begun.resumed)
        fprintf(stderr, "pleat study: went on with the run begun at %s UTC\n", done->begun.started);
    if (done->n_skipped)
        fprintf(stderr, "pleat study: %d prompt%s did not fit in the KV memory or the context and %s left out\n",
                done->n_skipped, done->n_skipped == 1 ? "" : "s", done->n_skipped == 1 ? "was" : "were");
}

static pleat_status measure(const settings *s, pleat_model *model, study_done *done, pleat_error *error) {
    watch w;
    measure_watch tell = watch_of(&w, "study");
    measure_methods methods = {.n = 0};
    lengths_prompts prompts = {0};
    study_plan plan;
    pleat_engine *engine = NULL;
    store *db = NULL;
    int most = 64;
    for (int i = 0; i < s->batch.n; i++)
        most = s->batch.value[i] > most ? s->batch.value[i] : most;
    pleat_engine_options options = {
        .n_threads = s->threads, .max_sequences = most, .pool_bytes = (size_t)s->pool_mb * 1000 * 1000};
    pleat_status status = methods_read(self.name, s->methods, model, &methods, error);
    status = status ? status : read_prompts(s, &prompts, error);
    status = status ? status : pleat_engine_open(model, &options, &engine, error);
    status = status ? status : store_open(s->store, true, &db, error);
    if (!status) {
        fill_plan(s, &methods, &prompts, &plan);
        status = study_run(engine, &plan, db, s->again ? STORE_ANEW : STORE_GO_ON, done, &tell, error);
    }
    watch_end(&w);
    if (!status)
        tell_done(done);
    status = status ? status : report_write(db, done->begun.id, s->report, error);
    store_close(db);
    pleat_engine_close(engine);
    lengths_free(&prompts);
    measure_methods_free(&methods);
    return status;
}

/* ---- export, import ---- */

static void note_table(void *context, const char *table, int64_t n_rows) {
    json_object_set_new(context, table, json_integer((json_int_t)n_rows));
}

static int exchange(const settings *s, const char *verb, const char *folder) {
    bool in = !strcmp(verb, "import");
    json_t *rows = json_object(), *n;
    const char *name;
    pleat_error error;
    store *db = NULL;
    pleat_status status = store_open(s->store, in, &db, &error);
    status = status ? status : (in ? store_import : store_export)(db, folder, note_table, rows, &error);
    store_close(db);
    if (status) {
        json_decref(rows);
        return print_error(self.name, &error);
    }
    if (s->json)
        return print_json(self.name, json_pack("{s:s,s:s,s:o}", "store", s->store, "folder", folder, "rows", rows));
    json_object_foreach(rows, name, n) printf("%-12s %" JSON_INTEGER_FORMAT " rows\n", name, json_integer_value(n));
    json_decref(rows);
    return EXIT_OK;
}

int cmd_study(int argc, char **argv) {
    settings s = {.model = "smollm2-135m",
                  .methods = "f16,int8,kivi-4,kivi-2,streaming-512,h2o-512",
                  .store = "study.db",
                  .report = "report.html",
                  .batch = {{1, 4}, 2},
                  .prompt = {{256, 1024, 4096}, 3},
                  .repeats = 3,
                  .fill = 4096,
                  .max_tokens = 128,
                  .n_prompts = QUICK_PROMPTS,
                  .windows = 1,
                  .repack = true};
    int n_arguments;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--full"))
            apply_full(&s);
    const option options[] = {
        {"model", 'm', OPTION_TEXT, &s.model, "M", "model by name or file", 0, 0},
        {"full", 0, OPTION_FLAG, &s.full, NULL, "the large grid, long answers (hours); options after it change it", 0,
         0},
        {"methods", 0, OPTION_TEXT, &s.methods, "A,B", "specs or presets; all: every preset", 0, 0},
        {"batch", 0, OPTION_INTS, &s.batch, "1,4", "sequences at once", 1, 512},
        {"prompt", 0, OPTION_INTS, &s.prompt, "256,1024", "tokens of each prompt of the throughput grid", 1, 1 << 22},
        {"repeats", 0, OPTION_INT, &s.repeats, "N", "of each point", 1, STORE_MOST_REPEATS},
        {"fill", 0, OPTION_INT, &s.fill, "N", "prompts of N tokens and more: decode over a synthetic fill; 0: never", 0,
         1 << 22},
        {"prompts", 0, OPTION_TEXT, &s.prompts, "FILE", "JSONL of {\"id\", \"class\", \"prompt\"} for the answers", 0,
         0},
        {"samples", 0, OPTION_INT, &s.n_prompts, "N", "the first N of the prompts", 0, 1 << 24},
        {"predict", 'n', OPTION_INT, &s.max_tokens, "N", "at most N new tokens of an answer", 1, 1 << 20},
        {"ctx", 0, OPTION_INT, &s.ctx, "N", "tokens of a window for perplexity and KL (4096, or the model's context)",
         8, 1 << 24},
        {"windows", 0, OPTION_INT, &s.windows, "N", "windows for perplexity and KL; 0: leave that out", 0, 1 << 20},
        {"kv-memory", 0, OPTION_INT, &s.pool_mb, "MB", "budget of the KV cache; 0: half of the free memory", 0,
         1 << 24},
        {"again", 0, OPTION_FLAG, &s.again, NULL, "measure anew what this study holds already", 0, 0},
        {"store", 0, OPTION_TEXT, &s.store, "FILE", "the study database", 0, 0},
        {"output", 'o', OPTION_TEXT, &s.report, "FILE", "the page", 0, 0},
        {"threads", 't', OPTION_INT, &s.threads, "N", "threads; 0: all cores", 0, 1024},
        OPTION_REPACK(&s.repack),
        {"json", 0, OPTION_FLAG, &s.json, NULL, "print one JSON object", 0, 0},
        {0},
    };
    int code = options_parse(&self, options, argc, argv, &n_arguments);
    if (code >= 0)
        return code;
    if (n_arguments) {
        if (n_arguments == 2 && (!strcmp(argv[1], "export") || !strcmp(argv[1], "import")))
            return exchange(&s, argv[1], argv[2]);
        fprintf(stderr,
                "pleat study: \"%.40s\" is not understood; `pleat study export FOLDER` and `pleat study import "
                "FOLDER` are\n",
                argv[1]);
        return EXIT_USAGE;
    }
    pleat_error error;
    pleat_model *model = NULL;
    study_done done;
    watch_interrupts("\npleat study: stopped; what was measured is stored, and the same command goes on from here\n");
    pleat_status status = model_open(s.model, s.threads, s.repack, &model, &error);
    if (!status && !s.ctx) {
        int context = pleat_model_describe(model).context_tokens;
        s.ctx = context < QUALITY_CTX ? context : QUALITY_CTX;
    }
    status = status ? status : measure(&s, model, &done, &error);
    pleat_model_close(model);
    if (status)
        return print_error(self.name, &error);
    if (s.json)
        return print_json(self.name, json_pack("{s:s,s:s,s:I}", "store", s.store, "report", s.report, "run",
                                               (json_int_t)done.begun.id));
    printf("report: %s\nstudy:  %s\n", s.report, s.store);
    return EXIT_OK;
}
