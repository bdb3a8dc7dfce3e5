/* cmd_serve.c - `pleat serve`: its options. They go straight into what serve_run.h takes; defaults stand where the
 * options of the parts are declared (net/http.h, engine/scheduler.h, engine/engine.h) and, of what is the command's
 * own, below.
 *
 * A configuration file (serve_config.h) stands for options in front of those of the command line, which win. So it
 * knows what the command line knows, and refuses the rest. */
#include "base/file.h"
#include "base/status.h"
#include "cli/commands.h"
#include "cli/print.h"
#include "cli/serve_config.h"
#include "cli/serve_run.h"
#include <stdio.h>
#include <string.h>

static const command self = {
    .name = "serve",
    .summary = "An OpenAI-compatible server; each request may name its method (kv_method). A page to try it is at /.",
    .arguments = "",
    .example = "pleat serve -m smollm2-135m --port 8080 --method kivi-4\npleat serve -m qwen2.5-coder-1.5b --socket "
               "/run/pleat.sock --api-key-file keys --pool 4GB",
};

enum { DEFAULT_PORT = 8080, DEFAULT_RUNNING = 32, DEFAULT_DRAIN_SECONDS = 30, MOST_OPTIONS = 64 };

typedef struct settings {
    serve_task task;
    const char *key, *key_file, *config;
    const char *pool, *prefix, *moved, *requests, *body; /* sizes as they were written */
    char body_default[24];
} settings;

static void set_defaults(settings *s) {
    *s = (settings){.task = {.options = {.http = {.host = HTTP_HOST,
                                                  .port = DEFAULT_PORT,
                                                  .n_threads = HTTP_THREADS,
                                                  .connections = HTTP_CONNECTIONS},
                                         .scheduler = {.max_running = DEFAULT_RUNNING,
                                                       .max_waiting = SCHEDULER_WAITING,
                                                       .step_tokens = ENGINE_STEP_TOKENS,
                                                       .overcommit = 1},
                                         .method = SERVE_METHOD},
                             .sizes = {PLAN_UNSAID, PLAN_UNSAID, PLAN_UNSAID, PLAN_UNSAID},
                             .drain_seconds = DEFAULT_DRAIN_SECONDS,
                             .repack = true}};
    snprintf(s->body_default, sizeof(s->body_default), "%d", HTTP_BODY_BYTES);
    s->body = s->body_default;
}

/* The command line again, with the file's words in front. argv is left as it is: options_parse moves arguments. */
static int parse_config(const settings *s, const option *options, int argc, char **argv, config_words *w) {
    pleat_error error;
    char *all[CONFIG_MOST_WORDS + MOST_OPTIONS];
    int n = 0, n_arguments;
    if (config_read(s->config, options, w, &error)) {
        print_error(self.name, &error);
        return EXIT_USAGE;
    }
    all[n++] = argv[0];
    for (int i = 0; i < w->n; i++)
        all[n++] = w->word[i];
    for (int i = 1; i < argc && n < CONFIG_MOST_WORDS + MOST_OPTIONS; i++)
        all[n++] = argv[i];
    return options_parse(&self, options, n, all, &n_arguments);
}

static int parse(settings *s, int argc, char **argv, config_words *w) {
    int n_arguments;
    serve_options *o = &s->task.options;
    const option options[] = {
        {"model", 'm', OPTION_TEXT, &s->task.model, "M", "model by name or file", 0, 0},
        {"alias", 0, OPTION_TEXT, &o->name, "NAME", "the model's name in the API; else as -m says", 0, 0},
        {"host", 0, OPTION_TEXT, &o->http.host, "HOST", "address to listen on", 0, 0},
        {"port", 'p', OPTION_INT, &o->http.port, "N", "port; 0: any free one", 0, 65535},
        {"socket", 0, OPTION_TEXT, &o->http.path, "PATH", "a Unix socket instead of host and port", 0, 0},
        {"method", 0, OPTION_TEXT, &o->method, "SPEC", "of requests that name none (see `pleat methods`)", 0, 0},
        {"chat", 0, OPTION_TEXT, &o->chat, "FORMAT", "chatml, llama-2, llama-3, gemma or mistral instead of the file's",
         0, 0},
        {"api-key", 0, OPTION_TEXT, &s->key, "K", "requests must bring it as a bearer token", 0, 0},
        {"api-key-file", 0, OPTION_TEXT, &s->key_file, "F", "keys, one a line; each is a tenant of its own", 0, 0},
        {"cors", 0, OPTION_TEXT, &o->cors, "ORIGIN", "whose pages browsers let ask, \"*\": any; none without", 0, 0},
        {"ctx", 0, OPTION_INT, &o->context_tokens, "N", "tokens of prompt and answer; 0: the model's context", 0,
         1 << 24},
        {"max-running", 0, OPTION_INT, &o->scheduler.max_running, "N", "requests in a batch", 1, 4096},
        {"max-waiting", 0, OPTION_INT, &o->scheduler.max_waiting, "N", "requests in the queue; more are told 429", 1,
         1 << 20},
        {"step-tokens", 0, OPTION_INT, &o->scheduler.step_tokens, "N", "tokens of a step, a multiple of 64", 64,
         1 << 16},
        {"pool", 0, OPTION_TEXT, &s->pool, "SIZE", "KV pool (4GB, 512MB); else half of the free memory", 0, 0},
        {"prefix", 0, OPTION_TEXT, &s->prefix, "SIZE", "of it, for earlier prompts; else a quarter, 0: off", 0, 0},
        {"moved", 0, OPTION_TEXT, &s->moved, "SIZE",
         "for caches moved out; else a quarter of the pool, 0 without --overcommit", 0, 0},
        {"moved-dir", 0, OPTION_TEXT, &o->scheduler.moved_dir, "D", "folder for those that do not fit there", 0, 0},
        {"overcommit", 0, OPTION_FLOAT, &o->scheduler.overcommit, "X", "admitted bytes over the pool's", 1, 100},
        {"drain-seconds", 0, OPTION_FLOAT, &s->task.drain_seconds, "S", "for answers under way after SIGTERM", 0,
         86400},
        {"requests", 0, OPTION_TEXT, &s->requests, "SIZE",
         "for bodies, tokens and answers of all requests; more are told 503. Else for a full queue", 0, 0},
        {"body", 0, OPTION_TEXT, &s->body, "SIZE", "most of a request's body", 0, 0},
        {"connections", 0, OPTION_INT, &o->http.connections, "N", "open at a time", 1, 60000},
        {"http-threads", 0, OPTION_INT, &o->http.n_threads, "N", "threads that read and write", 1, 64},
        {"config", 0, OPTION_TEXT, &s->config, "FILE", "these options from a file: JSON, or name = value lines", 0, 0},
        {"threads", 't', OPTION_INT, &s->task.n_threads, "N", "threads; 0: all cores", 0, 1024},
        OPTION_REPACK(&s->task.repack),
        {"json", 0, OPTION_FLAG, &s->task.json, NULL, "print address and memory plan as one JSON object", 0, 0},
        {0},
    };
    int code = options_parse(&self, options, argc, argv, &n_arguments);
    return code < 0 && s->config ? parse_config(s, options, argc, argv, w) : code;
}

static pleat_status read_sizes(settings *s, pleat_error *error) {
    plan_sizes *sizes = &s->task.sizes;
    const struct {
        const char *option, *text;
        size_t *bytes;
    } list[] = {{"pool", s->pool, &sizes->pool},
                {"prefix", s->prefix, &sizes->prefix},
                {"moved", s->moved, &sizes->moved},
                {"requests", s->requests, &sizes->requests},
                {"body", s->body, &s->task.options.http.body_bytes}};
    pleat_status status = PLEAT_OK;
    for (size_t i = 0; i < sizeof(list) / sizeof(*list) && !status; i++)
        status = plan_size(list[i].option, list[i].text, list[i].bytes, error);
    return status;
}

static pleat_status check(settings *s, serve_keys *keys, pleat_error *error) {
    const scheduler_options *o = &s->task.options.scheduler;
    int least = scheduler_least_step(o->max_running);
    if (!s->task.model)
        return err_set(error, PLEAT_EINPUT, "which model? give it with -m NAME or -m FILE.gguf");
    if (o->step_tokens % 64 || o->step_tokens < least)
        return err_set(error, PLEAT_EINPUT,
                       "--step-tokens is %d; a multiple of 64 from %d on is possible with --max-running %d, so that 64 "
                       "tokens of a prompt fit beside one of each other request",
                       o->step_tokens, least, o->max_running);
    pleat_status status = keys_read(s->key, s->key_file, keys, error);
    s->task.options.keys = keys->key;
    s->task.options.n_keys = keys->n;
    return status ? status : read_sizes(s, error);
}

/* The name of a model in the API unless it has another: what -m says without folders and ending. */
static void set_name(settings *s, char *out, size_t cap) {
    const char *name = file_name(s->task.model);
    size_t n = strlen(name);
    if (n > 5 && !strcmp(name + n - 5, ".gguf"))
        n -= 5;
    snprintf(out, cap, "%.*s", (int)n, name);
    if (!s->task.options.name)
        s->task.options.name = out;
}

int cmd_serve(int argc, char **argv) {
    settings s;
    config_words words = {.n = 0};
    serve_keys keys = {.n = 0};
    char name[300];
    pleat_error error;
    set_defaults(&s);
    int code = parse(&s, argc, argv, &words);
    if (code < 0 && check(&s, &keys, &error)) {
        print_error(self.name, &error);
        code = EXIT_USAGE;
    }
    if (code < 0) {
        set_name(&s, name, sizeof(name));
        code = serve_run(self.name, &s.task);
    }
    keys_free(&keys);
    config_free(&words);
    return code;
}
