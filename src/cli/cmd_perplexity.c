/* cmd_perplexity.c - `pleat perplexity`. */
#include "cli/commands.h"
#include "cli/methods.h"
#include "cli/print.h"
#include "cli/watch.h"
#include "measure/quality.h"
#include <stdio.h>
#include <stdlib.h>

static const command self = {
    .name = "perplexity",
    .summary = "Perplexity of a text. Without a method: the protocol of llama.cpp's tool (windows of --ctx, second "
               "half scored in one pass).\n"
               "With methods: the first half of each window is prefilled and compressed, the second half is decoded "
               "through the compressed\n"
               "cache, side by side with f16, giving the KL divergence from f16 as well.",
    .arguments = "",
    .example = "pleat perplexity -m smollm2-135m -f tests/data/shakespeare-40k.txt\n"
               "pleat perplexity -m smollm2-135m -f tests/data/shakespeare-40k.txt --method kivi-4,h2o-512 --ctx 4096",
};

enum { PLAIN_CTX = 512, METHOD_CTX = 4096 };

typedef struct settings {
    const char *model, *file, *methods;
    int ctx, windows, threads;
    bool json, repack;
} settings;

static json_t *result_json(const quality_result *r, const char *spec) {
    return json_pack("{s:f,s:f,s:i,s:i,s:s,s:f,s:f,s:f,s:f,s:I}", "perplexity", r->perplexity, "stderr", r->error,
                     "windows", r->windows, "tokens", r->tokens, "method", spec, "kl_mean", r->kl_mean, "kl_p99",
                     r->kl_p99, "top1_agreement", r->top1_agreement, "kept_share", r->kept_share, "kv_bytes",
                     (json_int_t)r->kv_bytes);
}

static int print_plain(const settings *s, const quality_result *r) {
    if (s->json)
        return print_json(self.name, result_json(r, "f16"));
    printf("perplexity %.4f +/- %.4f (%d windows of %d, %d tokens scored)\n", r->perplexity, r->error, r->windows,
           s->ctx, r->tokens);
    return EXIT_OK;
}

/* One object for one method (f16 stands beside it as "f16"), a list under "methods" for several. */
static int print_methods(const settings *s, const measure_methods *m, const quality_result *r) {
    if (!s->json) {
        printf("%-16s %10s %8s %10s %10s %7s %6s %10s\n", "method", "perplexity", "+/-", "KL mean", "KL p99", "top-1",
               "kept", "KV bytes");
        for (int i = 0; i < m->n; i++)
            printf("%-16s %10.4f %8.4f %10.6f %10.6f %7.4f %6.3f %10zu\n", m->label[i], r[i].perplexity, r[i].error,
                   r[i].kl_mean, r[i].kl_p99, r[i].top1_agreement, r[i].kept_share, r[i].kv_bytes);
        printf("(%d windows of %d, %d tokens decoded and scored)\n", r[0].windows, s->ctx, r[0].tokens);
        return EXIT_OK;
    }
    json_t *list = json_array();
    for (int i = 0; i < m->n; i++) {
        json_t *row = result_json(&r[i], pleat_method_spec(m->method[i]));
        json_object_set_new(row, "label", json_string(m->label[i]));
        json_array_append_new(list, row);
    }
    json_t *object = m->n <= 2 ? json_deep_copy(json_array_get(list, (size_t)m->n - 1)) : json_object();
    json_object_set_new(object, "methods", list);
    return print_json(self.name, object);
}

static pleat_status measure(const settings *s, pleat_model *model, const char *text, size_t n_bytes, int *code,
                            pleat_error *error) {
    watch w;
    measure_watch tell = watch_of(&w, "perplexity");
    pleat_engine_options options = {.n_threads = s->threads};
    pleat_engine *engine = NULL;
    measure_methods methods = {.n = 0};
    quality_result result[MEASURE_MOST_METHODS];
    pleat_status status = s->methods ? methods_read(self.name, s->methods, model, &methods, error) : PLEAT_OK;
    status = status ? status : pleat_engine_open(model, &options, &engine, error);
    if (!status && s->methods)
        status = quality_methods(engine, &methods, text, n_bytes, s->ctx, s->windows, result, &tell, error);
    else if (!status)
        status = quality_perplexity(engine, text, n_bytes, s->ctx, s->windows, result, &tell, error);
    watch_end(&w);
    if (!status)
        *code = s->methods ? print_methods(s, &methods, result) : print_plain(s, result);
    measure_methods_free(&methods);
    pleat_engine_close(engine);
    return status;
}

int cmd_perplexity(int argc, char **argv) {
    settings s = {.ctx = 0, .repack = true};
    int n_arguments;
    const option options[] = {
        {"model", 'm', OPTION_TEXT, &s.model, "M", "model by name or file", 0, 0},
        {"file", 'f', OPTION_TEXT, &s.file, "FILE", "the text (- for standard input)", 0, 0},
        {"ctx", 0, OPTION_INT, &s.ctx, "N", "tokens of a window (512; with a method 4096)", 8, 1 << 24},
        {"windows", 0, OPTION_INT, &s.windows, "N", "at most N windows; 0: all", 0, 1 << 24},
        {"method", 0, OPTION_TEXT, &s.methods, "A,B", "methods to measure beside f16", 0, 0},
        {"threads", 't', OPTION_INT, &s.threads, "N", "threads; 0: all cores", 0, 1024},
        OPTION_REPACK(&s.repack),
        {"json", 0, OPTION_FLAG, &s.json, NULL, "print one JSON object", 0, 0},
        {0},
    };
    int code = options_parse(&self, options, argc, argv, &n_arguments);
    if (code >= 0)
        return code;
    if (!s.file) {
        fprintf(stderr, "pleat perplexity: which text? give it with -f FILE\n");
        return EXIT_USAGE;
    }
    s.ctx = s.ctx ? s.ctx : s.methods ? METHOD_CTX : PLAIN_CTX;
    pleat_error error;
    pleat_model *model = NULL;
    char *text = NULL;
    size_t n_bytes;
    pleat_status status = file_read(s.file, &text, &n_bytes, &error);
    status = status ? status : model_open(s.model, s.threads, s.repack, &model, &error);
    status = status ? status : measure(&s, model, text, n_bytes, &code, &error);
    if (status)
        code = print_error(self.name, &error);
    free(text);
    pleat_model_close(model);
    return code;
}
