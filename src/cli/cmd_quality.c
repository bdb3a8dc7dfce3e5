/* cmd_quality.c - `pleat quality`: the quality table. */
#include "cli/commands.h"
#include "cli/methods.h"
#include "cli/print.h"
#include "cli/watch.h"
#include "base/file.h"
#include "base/text.h"
#include "measure/assets.h"
#include "measure/quality_run.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const command self = {
    .name = "quality",
    .summary =
        "What every method costs in quality, side by side from one exact prefill of each text: perplexity and KL "
        "against f16, bytes of the\n"
        "cache, and which of five numbers hidden in a long text it still finds. Each result is stored as it is "
        "made: killed at any time,\n"
        "the same command goes on, and more windows or other sizes join what is there.",
    .arguments = "",
    .example =
        "pleat quality -m smollm2-135m -f shakespeare.txt\n"
        "pleat quality -m qwen2.5-coder-0.5b -f shakespeare.txt --ctx 4096,16384 --needle 8192,16384 --windows 2",
};

typedef struct settings {
    const char *model, *file, *methods, *store;
    option_ints ctx, needle;
    int windows, rounds, scored, threads, pool_mb;
    bool again, json, repack;
} settings;

/* ---- printing ---- */

static json_t *rows_json(const quality_table *t) {
    json_t *list = json_array();
    for (int i = 0; i < t->n_rows; i++) {
        const quality_row *row = &t->row[i];
        const quality_result *r = &row->result;
        json_array_append_new(list, json_pack("{s:s,s:s,s:i,s:i,s:i,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:I,s:I}", "method",
                                              row->label, "spec", row->spec, "ctx", row->ctx, "windows", r->windows,
                                              "tokens", r->tokens, "perplexity", r->perplexity, "stderr", r->error,
                                              "kl_mean", r->kl_mean, "kl_p99", r->kl_p99, "top1_agreement",
                                              r->top1_agreement, "kept_share", r->kept_share, "bytes_per_token",
                                              (double)r->kv_bytes / (row->ctx - 1), "kv_bytes", (json_int_t)r->kv_bytes,
                                              "kv_peak_bytes", (json_int_t)r->kv_peak_bytes));
    }
    return list;
}

static json_t *found_json(const quality_table *t) {
    json_t *list = json_array();
    for (int i = 0; i < t->n_found; i++) {
        json_t *depths = json_array();
        for (int d = 0; d < NEEDLE_DEPTHS; d++)
            json_array_append_new(depths, json_pack("{s:i,s:i}", "depth_percent", needle_depth_percent(d), "found",
                                                    t->found[i].found[d]));
        json_array_append_new(list, json_pack("{s:s,s:i,s:i,s:o}", "method", t->found[i].label, "prompt_tokens",
                                              t->found[i].tokens, "rounds", t->found[i].n_rounds, "depths", depths));
    }
    return list;
}

/* The tables are Markdown, to be read here or put in a document. */
static void print_rows(const quality_table *t) {
    for (int i = 0; i < t->n_rows; i++) {
        const quality_row *row = &t->row[i];
        const quality_result *r = &row->result;
        char peak[16];
        if (i == 0 || row[-1].ctx != row->ctx)
            printf("\n%d window%s of %d tokens, %d positions scored\n\n"
                   "| method | perplexity | +/- | KL mean | KL p99 | top-1 | kept | bytes/token | peak |\n"
                   "|---|---|---|---|---|---|---|---|---|\n",
                   r->windows, r->windows == 1 ? "" : "s", row->ctx, r->tokens);
        printf("| %-14s | %9.3f | %6.3f | %8.5f | %8.4f | %5.3f | %5.3f | %8.0f | %8s |\n", row->label, r->perplexity,
               r->error, r->kl_mean, r->kl_p99, r->top1_agreement, r->kept_share, (double)r->kv_bytes / (row->ctx - 1),
               text_bytes(r->kv_peak_bytes, peak));
    }
}

static void print_found(const quality_table *t) {
    for (int i = 0; i < t->n_found; i++) {
        const quality_found *f = &t->found[i];
        int sum = 0;
        if (i == 0 || f[-1].tokens != f->tokens) {
            printf("\nneedles in %d tokens, found of %d by depth\n\n| method |", f->tokens, f->n_rounds);
            for (int d = 0; d < NEEDLE_DEPTHS; d++)
                printf(" %d %% |", needle_depth_percent(d));
            printf(" all |\n|---|---|---|---|---|---|---|\n");
        }
        printf("| %-14s |", f->label);
        for (int d = 0; d < NEEDLE_DEPTHS; d++) {
            printf(" %d |", f->found[d]);
            sum += f->found[d];
        }
        printf(" %d/%d |\n", sum, NEEDLE_DEPTHS * f->n_rounds);
    }
}

static int print_table(const settings *s, const store_begun *begun, const quality_table *t) {
    if (s->json)
        return print_json(self.name, json_pack("{s:s,s:I,s:o,s:o}", "store", s->store, "run", (json_int_t)begun->id,
                                               "rows", rows_json(t), "needles", found_json(t)));
    print_rows(t);
    print_found(t);
    return EXIT_OK;
}

/* ---- the work ---- */

static int count_sizes(int to[QUALITY_MOST_SIZES], const option_ints *from) {
    int n = 0;
    for (int i = 0; i < from->n && n < QUALITY_MOST_SIZES; i++)
        if (from->value[i] > 0)
            to[n++] = from->value[i];
    return n;
}

static pleat_status measure(const settings *s, pleat_model *model, const char *bytes, size_t n_bytes, int *code,
                            pleat_error *error) {
    watch w;
    measure_watch tell = watch_of(&w, self.name);
    measure_methods methods = {.n = 0};
    pleat_engine_options options = {.n_threads = s->threads, .pool_bytes = (size_t)s->pool_mb * 1000 * 1000};
    pleat_engine *engine = NULL;
    store *db = NULL;
    store_begun begun;
    quality_table table = {.n_rows = 0};
    pleat_status status = methods_read(self.name, s->methods, model, &methods, error);
    status = status ? status : pleat_engine_open(model, &options, &engine, error);
    status = status ? status : store_open(s->store, true, &db, error);
    if (!status) {
        quality_plan plan = {.methods = &methods,
                             .text = bytes,
                             .text_bytes = n_bytes,
                             .text_name = s->file ? file_name(s->file) : "built-in",
                             .n_windows = s->windows,
                             .n_scored = s->scored,
                             .n_rounds = s->rounds};
        plan.n_ctx = count_sizes(plan.ctx, &s->ctx);
        plan.n_needles = count_sizes(plan.needle, &s->needle);
        status = quality_run(engine, &plan, db, s->again ? STORE_ANEW : STORE_GO_ON, &begun, &tell, error);
    }
    watch_end(&w);
    status = status ? status : quality_table_read(db, begun.id, &table, error);
    if (!status)
        *code = print_table(s, &begun, &table);
    quality_table_free(&table);
    store_close(db);
    pleat_engine_close(engine);
    measure_methods_free(&methods);
    return status;
}

int cmd_quality(int argc, char **argv) {
    settings s = {.model = "smollm2-135m",
                  .methods = "all",
                  .store = "quality.db",
                  .ctx = {{4096}, 1},
                  .needle = {{0}, 1},
                  .windows = 1,
                  .rounds = 1,
                  .scored = 512,
                  .repack = true};
    int n_arguments;
    const option options[] = {
        {"model", 'm', OPTION_TEXT, &s.model, "M", "model by name or file", 0, 0},
        {"file", 'f', OPTION_TEXT, &s.file, "FILE", "the text (- for standard input); without it a short built-in one",
         0, 0},
        {"methods", 0, OPTION_TEXT, &s.methods, "A,B", "specs or presets; all: every preset", 0, 0},
        {"ctx", 0, OPTION_INTS, &s.ctx, "4096,16384", "tokens of a window for perplexity and KL; 0: none", 0, 1 << 24},
        {"windows", 0, OPTION_INT, &s.windows, "N", "windows of each size", 0, 1 << 16},
        {"scored", 0, OPTION_INT, &s.scored, "N",
         "positions at a window's end that are decoded and scored; 0: half of the window", 0, 1 << 24},
        {"needle", 0, OPTION_INTS, &s.needle, "8192,16384", "tokens of a text with hidden numbers; 0: none", 0,
         1 << 24},
        {"rounds", 0, OPTION_INT, &s.rounds, "N", "such texts of each size", 0, 1 << 16},
        {"kv-memory", 0, OPTION_INT, &s.pool_mb, "MB", "budget of the KV cache; 0: half of the free memory", 0,
         1 << 24},
        {"again", 0, OPTION_FLAG, &s.again, NULL, "measure anew what the store holds already", 0, 0},
        {"store", 0, OPTION_TEXT, &s.store, "FILE", "the study database", 0, 0},
        {"threads", 't', OPTION_INT, &s.threads, "N", "threads; 0: all cores", 0, 1024},
        OPTION_REPACK(&s.repack),
        {"json", 0, OPTION_FLAG, &s.json, NULL, "print one JSON object", 0, 0},
        {0},
    };
    int code = options_parse(&self, options, argc, argv, &n_arguments);
    if (code >= 0)
        return code;
    pleat_error error;
    pleat_model *model = NULL;
    char *read = NULL;
    size_t n_bytes;
    const char *bytes = assets_text(&n_bytes);
    watch_interrupts("\npleat quality: stopped; what was measured is stored, and the same command goes on from here\n");
    pleat_status status = s.file ? file_read(s.file, &read, &n_bytes, &error) : PLEAT_OK;
    status = status ? status : model_open(s.model, s.threads, s.repack, &model, &error);
    status = status ? status : measure(&s, model, read ? read : bytes, n_bytes, &code, &error);
    if (status)
        code = print_error(self.name, &error);
    free(read);
    pleat_model_close(model);
    return code;
}
