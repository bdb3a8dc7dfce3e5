/* cmd_serve.c - `pleat serve`: options, the configuration file, the memory plan, signals.
 *
 * A configuration file stands for options in front of those of the command line, which win: JSON ({"pool": "4GB"}) or a
 * line "name = value" each ("#" begins a comment). So it knows what the command line knows, and refuses the rest. */
#include "cli/commands.h"
#include "cli/methods.h"
#include "cli/print.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/text.h"
#include "model/model.h"
#include "serve/serve.h"
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static const command self = {
    .name = "serve",
    .summary = "An OpenAI-compatible server; each request may name its method (kv_method). A page to try it is at /.",
    .arguments = "",
    .example = "pleat serve -m smollm2-135m --port 8080 --method kivi-4\npleat serve -m qwen2.5-coder-1.5b --socket "
               "/run/pleat.sock --api-key-file keys --pool 4GB",
};

enum { MOST_KEYS = 64, MOST_WORDS = 256 };

typedef struct settings {
    const char *model, *alias, *host, *socket, *method, *chat, *key, *key_file, *cors, *config;
    const char *pool, *prefix, *moved, *moved_dir, *body;
    int port, context, threads, max_running, max_waiting, step_tokens, http_threads, connections;
    double overcommit, drain_seconds;
    bool json;
} settings;

/* ---- the configuration file ---- */

typedef struct words {
    char *word[MOST_WORDS];
    int n;
} words;

static pleat_status add_word(words *w, const char *name, const char *value, pleat_error *error) {
    text t = {0};
    if (!strcmp(name, "config"))
        return err_set(error, PLEAT_EINPUT, "a configuration file cannot name another");
    text_printf(&t, value ? "--%s=%s" : "--%s", name, value);
    if (t.failed || w->n == MOST_WORDS) {
        text_free(&t);
        return err_set(error, PLEAT_EINPUT, "the configuration file is too long");
    }
    w->word[w->n++] = t.bytes;
    return PLEAT_OK;
}

static pleat_status read_object(const char *path, const char *bytes, size_t n, words *w, pleat_error *error) {
    json_error_t reason;
    json_t *all = json_loadb(bytes, n, JSON_REJECT_DUPLICATES, &reason), *value;
    const char *name;
    pleat_status status = PLEAT_OK;
    if (!all)
        return err_set(error, PLEAT_EINPUT, "%s: line %d: %s", path, reason.line, reason.text);
    json_object_foreach(all, name, value) {
        char *number = NULL;
        if (json_is_false(value))
            continue;
        if (json_is_number(value))
            number = json_dumps(value, JSON_ENCODE_ANY);
        else if (!json_is_string(value) && !json_is_true(value))
            status = err_set(error, PLEAT_EINPUT, "%s: %s must be a text, a number, true or false", path, name);
        status = status ? status : add_word(w, name, number ? number : json_string_value(value), error);
        free(number);
        if (status)
            break;
    }
    json_decref(all);
    return status;
}

static char *trimmed(char *s) {
    while (isspace((unsigned char)*s))
        s++;
    for (size_t n = strlen(s); n && isspace((unsigned char)s[n - 1]);)
        s[--n] = 0;
    return s;
}

static pleat_status read_lines(const char *path, char *bytes, words *w, pleat_error *error) {
    int number = 0;
    for (char *line = bytes, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        number++;
        line = trimmed(line);
        if (!*line || *line == '#')
            continue;
        char *equals = strchr(line, '=');
        if (!equals)
            return err_set(error, PLEAT_EINPUT, "%s: line %d: name = value is expected", path, number);
        *equals = 0;
        const char *name = trimmed(line), *value = trimmed(equals + 1);
        if (!strcmp(value, "false"))
            continue;
        pleat_status status = add_word(w, name, strcmp(value, "true") ? value : NULL, error);
        if (status)
            return status;
    }
    return PLEAT_OK;
}

static pleat_status read_config(const char *path, words *w, pleat_error *error) {
    char *bytes;
    size_t n;
    pleat_status status = file_read(path, &bytes, &n, error);
    if (status)
        return status;
    status = bytes[strspn(bytes, " \t\r\n")] == '{' ? read_object(path, bytes, n, w, error)
                                                    : read_lines(path, bytes, w, error);
    free(bytes);
    return status;
}

/* ---- values ---- */

/* "4GB", "512M", "1.5g", bytes; decimal units. */
static pleat_status read_size(const char *name, const char *value, size_t *bytes, pleat_error *error) {
    char *end;
    if (!value)
        return PLEAT_OK;
    double x = strtod(value, &end);
    const char *units = "kmgt", *unit = *end ? strchr(units, tolower((unsigned char)*end)) : NULL;
    for (const char *u = units; unit && u <= unit; u++)
        x *= 1000;
    end += unit != NULL;
    end += *end == 'b' || *end == 'B';
    if (end == value || *end || !(x >= 0 && x < 1e15))
        return err_set(error, PLEAT_EINPUT, "--%s is \"%.60s\"; a size such as 512MB or 4GB is expected", name, value);
    *bytes = (size_t)x;
    return PLEAT_OK;
}

/* One key a line. */
static pleat_status read_keys(const settings *s, char **file, const char **keys, int *n_keys, pleat_error *error) {
    size_t n;
    if (s->key)
        keys[(*n_keys)++] = s->key;
    if (s->key && !*s->key)
        return err_set(error, PLEAT_EINPUT, "--api-key is empty");
    if (!s->key_file)
        return PLEAT_OK;
    pleat_status status = file_read(s->key_file, file, &n, error);
    for (char *line = status ? NULL : *file, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        line = trimmed(line);
        if (!*line)
            continue;
        if (*n_keys == MOST_KEYS)
            return err_set(error, PLEAT_EINPUT, "%s: more than %d keys", s->key_file, MOST_KEYS);
        keys[(*n_keys)++] = line;
    }
    if (!status && !*n_keys)
        return err_set(error, PLEAT_EINPUT, "%s: there is no key in it", s->key_file);
    return status;
}

/* ---- memory ---- */

typedef struct plan {
    size_t weights, pool, prefix, moved, work, total, available;
} plan;

/* Activations of a step; logits of its rows, of running requests and of prompts; the tokenizer; positions and scores of
 * the pool's tokens; stacks, buffers and the rest. */
static size_t work_bytes(const settings *s, const pleat_model *model, size_t pool_bytes) {
    enum { LOGIT_ROWS = 32 + 64 + 1, TOKEN_BYTES = 80, POOL_SHARE = 50, REST_BYTES = 12 << 20 };
    int d = model->head_dim, heads = model->n_head + model->n_head_kv;
    size_t row = (size_t)(2 * model->n_embd + 2 * heads * d + 2 * model->n_ff + 2 * model->kv.n_rot) * sizeof(float) +
                 (size_t)model->n_ff * 5 / 4; /* its int8 form, with scales and sums */
    return (size_t)s->step_tokens * row +
           (size_t)(LOGIT_ROWS + s->max_running) * (size_t)model->n_vocab * sizeof(float) +
           (size_t)model->n_vocab * TOKEN_BYTES + pool_bytes / POOL_SHARE + REST_BYTES;
}

static pleat_status make_plan(const settings *s, const pleat_model *model, plan *p, pleat_error *error) {
    char needed[16], there[16];
    size_t taken = mem_available_bytes();
    pleat_status status = read_size("pool", s->pool, &p->pool, error);
    p->pool = s->pool ? p->pool : taken / 2;
    p->prefix = p->pool / 4;
    p->moved = s->overcommit > 1 ? p->pool / 4 : 0; /* what is admitted fits the pool otherwise */
    status = status ? status : read_size("prefix", s->prefix, &p->prefix, error);
    status = status ? status : read_size("moved", s->moved, &p->moved, error);
    if (status)
        return status;
    if (p->pool < 1 << 20)
        return err_set(error, PLEAT_EINPUT, "--pool is %zu bytes; at least 1MB is possible", p->pool);
    pleat_model_info m = pleat_model_describe(model);
    p->weights = m.packed_bytes + model->embed->bytes; /* the embedding is read from the file's mapping */
    p->work = work_bytes(s, model, p->pool);
    p->total = p->weights + p->pool + p->moved + p->work;
    p->available = taken + m.packed_bytes; /* the packed weights are there already */
    if (p->total > p->available)
        return err_set(error, PLEAT_EMEMORY,
                       "weights, KV pool, moved-out caches and working memory need %s; %s are free (lower --pool, "
                       "--moved or --max-running)",
                       text_bytes(p->total, needed), text_bytes(p->available, there));
    return PLEAT_OK;
}

static void print_plan(const settings *s, const plan *p, const server *serving, const pleat_engine *engine) {
    char a[16], b[16], c[16], d[16], e[16], f[16], where[400];
    if (s->socket)
        snprintf(where, sizeof(where), "unix:%.380s", s->socket);
    else
        snprintf(where, sizeof(where), "http://%.380s:%d", s->host, serve_port(serving));
    if (s->json) {
        print_json(self.name, json_pack("{s:s,s:s,s:s,s:i,s:{s:I,s:I,s:I,s:I,s:I,s:I}}", "model", s->alias, "method",
                                        s->method, "address", where, "port", serve_port(serving), "memory",
                                        "weights_bytes", (json_int_t)p->weights, "pool_bytes", (json_int_t)p->pool,
                                        "prefix_bytes", (json_int_t)p->prefix, "moved_bytes", (json_int_t)p->moved,
                                        "work_bytes", (json_int_t)p->work, "total_bytes", (json_int_t)p->total));
    } else {
        printf("memory: weights %s + KV pool %s (of it for earlier prompts at most %s) + moved-out caches %s + working "
               "memory %s = %s\n",
               text_bytes(p->weights, a), text_bytes(p->pool, b), text_bytes(p->prefix, c), text_bytes(p->moved, d),
               text_bytes(p->work, e), text_bytes(p->total, f));
        printf("%s, %s, %d threads, %s\nlistening on %s\n", s->alias, s->method, engine_threads(engine),
               pleat_engine_level(engine), where);
    }
    fflush(stdout);
}

/* ---- running ---- */

static void stop_signals(sigset_t *set) {
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
}

static bool signalled(const sigset_t *set) {
    return sigtimedwait(set, NULL, &(struct timespec){0}) > 0;
}

/* Until a first signal; then until all answers are sent, the time is over, or a second one. */
static void wait_for_end(const settings *s, server *serving, const sigset_t *set) {
    int number;
    while (sigwait(set, &number))
        ;
    serve_drain(serving);
    fprintf(stderr, "pleat serve: shutting down; waiting up to %g s for the answers under way\n", s->drain_seconds);
    double end = clock_seconds() + s->drain_seconds;
    while (clock_seconds() < end && !serve_drained(serving, 0.05) && !signalled(set))
        ;
}

static pleat_status open_all(const settings *s, const serve_options *o, pleat_model **model, pleat_engine **engine,
                             plan *p, server **serving, pleat_error *error) {
    pleat_method *method = NULL; /* requests parse it again: here it is for its warnings */
    pleat_status status = model_open(s->model, s->threads, model, error);
    status = status ? status : method_read(self.name, s->method, *model, &method, error);
    pleat_method_free(method);
    status = status ? status : make_plan(s, *model, p, error);
    if (status)
        return status;
    pleat_engine_options engine_options = {.n_threads = s->threads,
                                           .pool_bytes = p->pool,
                                           .max_step_tokens = s->step_tokens,
                                           .max_sequences = s->max_running,
                                           .prefix_bytes = p->prefix};
    serve_options full = *o;
    full.scheduler.moved_bytes = p->moved ? p->moved : 1;
    status = pleat_engine_open(*model, &engine_options, engine, error);
    return status ? status : serve_open(*engine, &full, serving, error);
}

static int run(settings *s, const serve_options *o) {
    pleat_model *model = NULL;
    pleat_engine *engine = NULL;
    server *serving = NULL;
    plan p = {0};
    pleat_error error;
    sigset_t set;
    stop_signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* before any thread */
    pleat_status status = open_all(s, o, &model, &engine, &p, &serving, &error);
    int code = status ? print_error(self.name, &error) : EXIT_OK;
    if (!status) {
        print_plan(s, &p, serving, engine);
        wait_for_end(s, serving, &set);
        serve_close(serving);
    }
    pleat_engine_close(engine);
    pleat_model_close(model);
    return code;
}

static void raise_files(void) {
    struct rlimit limit;
    if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max < 65536 ? limit.rlim_max : 65536;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* The name of a model in the API: what -m says without folders and ending. */
static void set_alias(settings *s, char *out, size_t cap) {
    const char *name = file_name(s->model);
    size_t n = strlen(name);
    if (n > 5 && !strcmp(name + n - 5, ".gguf"))
        n -= 5;
    snprintf(out, cap, "%.*s", (int)n, name);
    if (!s->alias)
        s->alias = out;
}

static pleat_status check(const settings *s, serve_options *o, char **key_file, const char **keys, pleat_error *error) {
    if (!s->model)
        return err_set(error, PLEAT_EINPUT, "which model? give it with -m NAME or -m FILE.gguf");
    int least = scheduler_least_step(s->max_running);
    if (s->step_tokens % 64 || s->step_tokens < least)
        return err_set(error, PLEAT_EINPUT,
                       "--step-tokens is %d; a multiple of 64 from %d on is possible with --max-running %d, so that 64 "
                       "tokens of a prompt fit beside one of each other request",
                       s->step_tokens, least, s->max_running);
    pleat_status status = read_keys(s, key_file, keys, &o->n_keys, error);
    status = status ? status : read_size("body", s->body, &o->http.body_bytes, error);
    return status;
}

static int parse(settings *s, int argc, char **argv) {
    int n_arguments;
    const option options[] = {
        {"model", 'm', OPTION_TEXT, &s->model, "M", "model by name or file", 0, 0},
        {"alias", 0, OPTION_TEXT, &s->alias, "NAME", "the model's name in the API; else as -m says", 0, 0},
        {"host", 0, OPTION_TEXT, &s->host, "HOST", "address to listen on", 0, 0},
        {"port", 'p', OPTION_INT, &s->port, "N", "port; 0: any free one", 0, 65535},
        {"socket", 0, OPTION_TEXT, &s->socket, "PATH", "a Unix socket instead of host and port", 0, 0},
        {"method", 0, OPTION_TEXT, &s->method, "SPEC", "of requests that name none (see `pleat methods`)", 0, 0},
        {"chat", 0, OPTION_TEXT, &s->chat, "FORMAT", "chatml, llama-2, llama-3, gemma or mistral instead of the file's",
         0, 0},
        {"api-key", 0, OPTION_TEXT, &s->key, "K", "requests must bring it as a bearer token", 0, 0},
        {"api-key-file", 0, OPTION_TEXT, &s->key_file, "F", "keys, one a line; each is a tenant of its own", 0, 0},
        {"cors", 0, OPTION_TEXT, &s->cors, "ORIGIN", "whose pages browsers let ask, \"*\": any; none without", 0, 0},
        {"ctx", 0, OPTION_INT, &s->context, "N", "tokens of prompt and answer; 0: the model's context", 0, 1 << 24},
        {"max-running", 0, OPTION_INT, &s->max_running, "N", "requests in a batch", 1, 4096},
        {"max-waiting", 0, OPTION_INT, &s->max_waiting, "N", "requests in the queue; more are told 429", 1, 1 << 20},
        {"step-tokens", 0, OPTION_INT, &s->step_tokens, "N", "tokens of a step, a multiple of 64", 64, 1 << 16},
        {"pool", 0, OPTION_TEXT, &s->pool, "SIZE", "KV pool (4GB, 512MB); else half of the free memory", 0, 0},
        {"prefix", 0, OPTION_TEXT, &s->prefix, "SIZE", "of it, for earlier prompts; else a quarter, 0: off", 0, 0},
        {"moved", 0, OPTION_TEXT, &s->moved, "SIZE",
         "for caches moved out; else a quarter of the pool, 0 without --overcommit", 0, 0},
        {"moved-dir", 0, OPTION_TEXT, &s->moved_dir, "D", "folder for those that do not fit there", 0, 0},
        {"overcommit", 0, OPTION_FLOAT, &s->overcommit, "X", "admitted bytes over the pool's", 1, 100},
        {"drain-seconds", 0, OPTION_FLOAT, &s->drain_seconds, "S", "for answers under way after SIGTERM", 0, 86400},
        {"body", 0, OPTION_TEXT, &s->body, "SIZE", "most of a request's body; else 8MiB", 0, 0},
        {"connections", 0, OPTION_INT, &s->connections, "N", "open at a time", 1, 60000},
        {"http-threads", 0, OPTION_INT, &s->http_threads, "N", "threads that read and write", 1, 64},
        {"config", 0, OPTION_TEXT, &s->config, "FILE", "these options from a file: JSON, or name = value lines", 0, 0},
        {"threads", 't', OPTION_INT, &s->threads, "N", "threads; 0: all cores", 0, 1024},
        {"json", 0, OPTION_FLAG, &s->json, NULL, "print address and memory plan as one JSON object", 0, 0},
        {0},
    };
    return options_parse(&self, options, argc, argv, &n_arguments);
}

/* The command line again, with the file's words in front. argv is left as it is: options_parse moves arguments. */
static int parse_config(settings *s, int argc, char **argv, words *w) {
    pleat_error error;
    char *all[MOST_WORDS + 64];
    int n = 0;
    if (read_config(s->config, w, &error)) {
        print_error(self.name, &error);
        return EXIT_USAGE;
    }
    all[n++] = argv[0];
    for (int i = 0; i < w->n; i++)
        all[n++] = w->word[i];
    for (int i = 1; i < argc && n < MOST_WORDS + 64; i++)
        all[n++] = argv[i];
    return parse(s, n, all);
}

int cmd_serve(int argc, char **argv) {
    settings s = {.method = "f16",
                  .host = "127.0.0.1",
                  .port = 8080,
                  .max_running = 32,
                  .max_waiting = 256,
                  .step_tokens = 512,
                  .overcommit = 1,
                  .drain_seconds = 30,
                  .connections = 1024,
                  .http_threads = 4};
    char alias[300], *key_file = NULL;
    const char *keys[MOST_KEYS + 1];
    words w = {.n = 0};
    serve_options o = {.keys = keys};
    pleat_error error;
    int code = parse(&s, argc, argv);
    if (code < 0 && s.config)
        code = parse_config(&s, argc, argv, &w);
    if (code < 0 && check(&s, &o, &key_file, keys, &error)) {
        print_error(self.name, &error);
        code = EXIT_USAGE;
    }
    if (code < 0) {
        set_alias(&s, alias, sizeof(alias));
        o.name = s.alias;
        o.method = s.method;
        o.chat = s.chat;
        o.cors = s.cors;
        o.context_tokens = s.context;
        o.http.host = s.host;
        o.http.port = s.port;
        o.http.path = s.socket;
        o.http.n_threads = s.http_threads;
        o.http.connections = s.connections;
        o.scheduler = (scheduler_options){.max_running = s.max_running,
                                          .max_waiting = s.max_waiting,
                                          .step_tokens = s.step_tokens,
                                          .overcommit = s.overcommit,
                                          .moved_dir = s.moved_dir};
        raise_files();
        code = run(&s, &o);
    }
    for (int i = 0; i < w.n; i++)
        free(w.word[i]);
    free(key_file);
    return code;
}
