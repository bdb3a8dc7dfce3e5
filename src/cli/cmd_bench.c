/* cmd_bench.c - `pleat bench`. */
#include "cli/commands.h"
#include "cli/methods.h"
#include "cli/print.h"
#include "cli/watch.h"
#include "base/text.h"
#include "measure/study.h"
#include "model/model.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const command self = {
    .name = "bench",
    .summary =
        "Throughput over batch sizes, prompt lengths and methods; prefill and decode (64 tokens) apart, f16 always "
        "among them.\n"
        "Rates are tokens per second of the whole batch. Every point is stored as it is made; a run that was stopped "
        "goes on.",
    .arguments = "",
    .example = "pleat bench -m smollm2-135m --methods int8,kivi-4 --batch 1,4 --prompt 256,1024",
};

typedef struct settings {
    const char *model, *methods, *store;
    option_ints batch, prompt;
    int repeats, fill, threads, pool_mb;
    bool beyond, again, json, repack;
} settings;

static const store_point *twin_of(const store_points *points, const store_point *p, const char *label, bool filled) {
    for (int i = 0; i < points->n; i++) {
        const store_point *b = &points->point[i];
        if (!strcmp(b->label, label) && b->batch == p->batch && b->prompt_tokens == p->prompt_tokens &&
            !strcmp(b->stage, p->stage) && b->filled == filled)
            return b;
    }
    return NULL;
}

/* The point over a real prompt that this one, over a fill, is compared with; NULL: it is no such check. */
static const store_point *checked_by(const store_points *points, const store_point *p) {
    const store_point *real = p->filled ? twin_of(points, p, p->label, false) : NULL;
    return real && !real->error && !p->error ? real : NULL;
}

/* 0: f16 was not measured there. */
static double ratio_of(const store_points *points, const store_point *p) {
    const store_point *base = twin_of(points, p, "f16", p->filled);
    return base && !base->error && base->median > 0 ? p->median / base->median : 0;
}

static json_t *point_json(const store_points *points, const store_point *p) {
    json_t *o = json_pack("{s:s,s:s,s:i,s:i,s:s,s:b}", "method", p->label, "spec", p->spec, "batch", p->batch,
                          "prompt_tokens", p->prompt_tokens, "stage", p->stage, "filled", p->filled);
    if (p->error) {
        json_object_update_new(o,
                               json_pack("{s:s,s:I}", "error", p->error, "bytes_needed", (json_int_t)p->bytes_needed));
        return o;
    }
    json_t *rates = json_array();
    for (int i = 0; i < p->n_repeats; i++)
        json_array_append_new(rates, json_real(p->rate[i]));
    double ratio = ratio_of(points, p);
    json_object_update_new(o, json_pack("{s:f,s:f,s:o,s:I,s:I}", "tokens_per_s", p->median, "spread", p->spread,
                                        "repeats", rates, "kv_bytes", (json_int_t)p->kv_bytes, "kv_peak_bytes",
                                        (json_int_t)p->kv_peak_bytes));
    json_object_set_new(o, "ratio_f16", ratio > 0 ? json_real(ratio) : json_null());
    return o;
}

static int print_points_json(const store_run *run, const settings *s, const store_points *points) {
    json_t *list = json_array(), *checks = json_array();
    for (int i = 0; i < points->n; i++) {
        const store_point *p = &points->point[i], *real = checked_by(points, p);
        if (real)
            json_array_append_new(checks, json_pack("{s:s,s:i,s:i,s:f,s:f}", "method", p->label, "batch", p->batch,
                                                    "prompt_tokens", p->prompt_tokens, "filled", p->median, "real",
                                                    real->median));
        else
            json_array_append_new(list, point_json(points, p));
    }
    return print_json(self.name, json_pack("{s:{s:s,s:s,s:i,s:s,s:s},s:s,s:o,s:o,s:s}", "machine", "cpu", run->machine,
                                           "level", run->level, "threads", run->n_threads, "repack",
                                           s->repack ? "on" : "off", "version", run->version, "model", run->model_name,
                                           "points", list, "fill_agreement", checks, "store", s->store));
}

static void print_point(const store_points *points, const store_point *p) {
    char now[16], peak[16];
    printf("%-16s %5d %7d %-8s ", p->label, p->batch, p->prompt_tokens, p->stage);
    if (p->error) {
        printf("%s (%s needed)\n", p->error, text_bytes(p->bytes_needed, now));
        return;
    }
    printf("%10.1f %6.1f%% %10s %10s ", p->median, 100 * p->spread, text_bytes(p->kv_bytes, now),
           text_bytes(p->kv_peak_bytes, peak));
    if (ratio_of(points, p) > 0)
        printf("%5.2fx%s\n", ratio_of(points, p), p->filled ? " filled" : "");
    else
        printf("%6s%s\n", "-", p->filled ? " filled" : "");
}

static void print_points(const store_run *run, const settings *s, const store_points *points) {
    bool any_check = false;
    printf("%s on %s, kernels %s, %d threads%s\n\n", run->model_name, run->machine, run->level, run->n_threads,
           s->repack ? "" : ", weights mapped");
    printf("%-16s %5s %7s %-8s %10s %7s %10s %10s %6s\n", "method", "batch", "prompt", "stage", "tokens/s", "spread",
           "KV now", "KV peak", "ratio");
    for (int i = 0; i < points->n; i++)
        if (!checked_by(points, &points->point[i]))
            print_point(points, &points->point[i]);
    for (int i = 0; i < points->n; i++) {
        const store_point *p = &points->point[i], *real = checked_by(points, p);
        if (real && !any_check)
            printf("\ndecode over a synthetic fill beside a real prompt (batch %d, %d tokens), tokens/s:\n", p->batch,
                   p->prompt_tokens);
        if (real)
            printf("%-16s %10.1f %10.1f\n", p->label, p->median, real->median);
        any_check = any_check || real;
    }
    printf("\nstored in %s\n", s->store);
}

static void fill_grid(const settings *s, const measure_methods *methods, throughput_grid *grid) {
    *grid = (throughput_grid){.methods = methods, .repeats = s->repeats, .fill_tokens = s->fill};
    for (int i = 0; i < s->batch.n; i++)
        throughput_add_size(grid->batch, &grid->n_batch, s->batch.value[i]);
    for (int i = 0; i < s->prompt.n; i++)
        throughput_add_size(grid->prompt, &grid->n_prompt, s->prompt.value[i]);
}

static int largest(const option_ints *list) {
    int most = 0;
    for (int i = 0; i < list->n; i++)
        most = list->value[i] > most ? list->value[i] : most;
    return most;
}

static pleat_status measure(const settings *s, pleat_model *model, int *code, pleat_error *error) {
    watch w;
    measure_watch tell = watch_of(&w, "bench");
    measure_methods methods = {.n = 0};
    measure_identity identity;
    throughput_grid grid;
    study_done done;
    int longest = largest(&s->prompt) + THROUGHPUT_DECODE_TOKENS, most = largest(&s->batch);
    if (s->beyond && longest > model->context_tokens)
        model_stretch_context(model, longest);
    pleat_engine_options options = {.n_threads = s->threads,
                                    .max_sequences = most > 64 ? most : 64,
                                    .pool_bytes = (size_t)s->pool_mb * 1000 * 1000};
    pleat_engine *engine = NULL;
    store *db = NULL;
    store_points points = {0};
    pleat_status status = methods_read(self.name, s->methods, model, &methods, error);
    fill_grid(s, &methods, &grid);
    status = status ? status : pleat_engine_open(model, &options, &engine, error);
    status = status ? status : store_open(s->store, true, &db, error);
    status =
        status ? status : study_bench(engine, &grid, db, s->again ? STORE_ANEW : STORE_GO_ON_OPEN, &done, &tell, error);
    watch_end(&w);
    status = status ? status : store_points_read(db, done.begun.id, &points, error);
    if (!status) {
        store_run run = measure_run_of("bench", model, engine, "", &identity);
        if (done.begun.resumed)
            fprintf(stderr, "pleat bench: went on with the run that was begun at %s UTC and not finished\n",
                    done.begun.started);
        if (s->json)
            *code = print_points_json(&run, s, &points);
        else
            print_points(&run, s, &points);
    }
    store_points_free(&points);
    store_close(db);
    pleat_engine_close(engine);
    measure_methods_free(&methods);
    return status;
}

int cmd_bench(int argc, char **argv) {
    settings s = {.methods = "f16,int8,kivi-4,kivi-2,streaming-512,h2o-512",
                  .store = "study.db",
                  .batch = {{1, 8}, 2},
                  .prompt = {{512, 4096}, 2},
                  .repeats = 3,
                  .fill = 0,
                  .repack = true};
    int n_arguments;
    const option options[] = {
        {"model", 'm', OPTION_TEXT, &s.model, "M", "model by name or file", 0, 0},
        {"methods", 0, OPTION_TEXT, &s.methods, "A,B", "specs or presets; all: every preset", 0, 0},
        {"batch", 0, OPTION_INTS, &s.batch, "1,8", "sequences at once", 1, 512},
        {"prompt", 0, OPTION_INTS, &s.prompt, "512,4096", "tokens of each prompt", 1, 1 << 22},
        {"repeats", 0, OPTION_INT, &s.repeats, "N", "of each point", 1, STORE_MOST_REPEATS},
        {"fill", 0, OPTION_INT, &s.fill, "N", "prompts of N tokens and more: decode over a synthetic fill; 0: never", 0,
         1 << 22},
        {"beyond-context", 0, OPTION_FLAG, &s.beyond, NULL, "also lengths beyond the model's trained context", 0, 0},
        {"kv-memory", 0, OPTION_INT, &s.pool_mb, "MB", "budget of the KV cache; 0: half of the free memory", 0,
         1 << 24},
        {"again", 0, OPTION_FLAG, &s.again, NULL, "a new run, not what is left of one that was stopped", 0, 0},
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
    code = EXIT_OK;
    watch_interrupts("\npleat bench: stopped; the same command goes on from here\n");
    pleat_status status = model_open(s.model, s.threads, s.repack, &model, &error);
    status = status ? status : measure(&s, model, &code, &error);
    if (status)
        code = print_error(self.name, &error);
    pleat_model_close(model);
    return code;
}
