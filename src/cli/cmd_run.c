/* cmd_run.c - `pleat run`: one prompt, or a chat; with --session, a conversation that goes on in a later process.
 *
 * A session's file holds the cache and the tokens, the last sampled one among them, so that what follows is what one
 * process would have said. It is written anew after every turn.
 *
 * Ctrl-C ends the answer that is being written (a chat goes on with the next turn); anywhere else, and a second time,
 * it ends the program as it always does. */
#include "cli/commands.h"
#include "cli/methods.h"
#include "cli/print.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "engine/generate.h"
#include "engine/engine.h"
#include "base/progress.h"
#include "text/chat.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const command self = {
    .name = "run",
    .summary = "One prompt to the terminal, streaming, in the model's chat format unless --raw; -i chats.",
    .arguments = "",
    .example = "pleat run -m smollm2-135m -p \"Name three rivers.\" --method kivi-4\npleat run -m smollm2-135m -i "
               "--temp 0.7 --seed 1\npleat run -m smollm2-135m --session rivers.kv -p \"And three more.\"",
};

typedef struct settings {
    const char *model, *prompt, *system, *method, *chat, *file;
    int max_tokens, threads, top_k, pool_mb;
    double temperature, top_p, min_p, repeat_penalty, presence_penalty;
    uint64_t seed;
    bool raw, interactive, json, repack;
} settings;

typedef struct session {
    const settings *s;
    pleat_model *model;
    pleat_engine *engine;
    pleat_method *method;
    pleat_seq *seq;
    float *logits;
    chat_format format;
    chat_message *message; /* contents are owned */
    int n_messages, cap_messages;
    generate_stream stream;
    int32_t pending;
    double ttft_ms;
    int n_prompt;
    bool begun; /* this turn has changed the cache: what fails now cannot be taken back */
} session;

/* ---- Ctrl-C ---- */

static volatile sig_atomic_t answering, interrupted;

static void die_of_interrupt(void) {
    signal(SIGINT, SIG_DFL);
    raise(SIGINT);
}

static void on_interrupt(int number) {
    (void)number;
    if (!answering || interrupted)
        die_of_interrupt();
    interrupted = 1;
}

static bool show(void *context, int index, const char *bytes, size_t n) {
    (void)context;
    (void)index;
    return fwrite(bytes, 1, n, stdout) == n && fflush(stdout) == 0 && !interrupted;
}

/* ---- a session ---- */

static const char *spec_of(const settings *s) {
    return s->method ? s->method : "f16";
}

/* The format of the model's file; what to type when that says nothing. */
static pleat_status find_format(session *x, pleat_error *error) {
    pleat_status status = chat_format_detect(x->model->file, &x->format, error);
    if (status != PLEAT_EINPUT)
        return status;
    pleat_error reason = *error;
    return err_set(error, status, "%.460s: --chat NAME or --raw", reason.text);
}

static pleat_status add_message(session *x, const char *role, const char *content, size_t n, pleat_error *error) {
    char *copy = malloc(n + 1);
    if (!copy || !mem_grow(&x->message, &x->cap_messages, x->n_messages + 1, sizeof(*x->message))) {
        free(copy);
        return err_set(error, PLEAT_EMEMORY, "no memory for a message of %zu bytes", n);
    }
    memcpy(copy, content, n);
    copy[n] = 0;
    x->message[x->n_messages++] = (chat_message){role, copy, n};
    return PLEAT_OK;
}

/* Goes on where the file stopped. What was said stands in the cache alone: two empty messages take its place. */
static pleat_status resume(session *x, pleat_error *error) {
    generate_stream *stream = &x->stream;
    const settings *s = x->s;
    pleat_status status = pleat_seq_load(x->engine, s->file, &x->seq, &stream->history, &stream->n_history, error);
    if (status)
        return status;
    stream->cap_history = stream->n_history;
    pleat_seq_stats stats = pleat_seq_describe(x->seq);
    if (s->method && strcmp(stats.method, pleat_method_spec(x->method)))
        return err_set(error, PLEAT_EINPUT, "the session %.200s was begun with --method %.150s", s->file, stats.method);
    if (s->system)
        return err_set(error, PLEAT_EINPUT, "the session %.200s has begun: --system comes too late", s->file);
    if (stream->n_history > stats.n_tokens + 1)
        return err_set(error, PLEAT_EINPUT, "%.200s holds %d tokens that its cache has not seen", s->file,
                       stream->n_history - stats.n_tokens);
    if (stream->n_history > stats.n_tokens)
        x->pending = stream->history[stats.n_tokens];
    status = add_message(x, "user", "", 0, error);
    return status ? status : add_message(x, "assistant", "", 0, error);
}

/* Before anything is said that could not be kept. */
static pleat_status begin_file(const char *path, pleat_error *error) {
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    pleat_status status = PLEAT_OK;
    if (!folder)
        status = err_set(error, PLEAT_EMEMORY, "no memory for a path");
    else if (access(folder, W_OK | X_OK))
        status = err_set(error, PLEAT_EIO, "%.300s cannot be written: %s", path, strerror(errno));
    free(folder);
    return status;
}

static pleat_status keep(const session *x, pleat_error *error) {
    const generate_stream *stream = &x->stream;
    return x->s->file ? pleat_seq_save(x->seq, stream->history, stream->n_history, x->s->file, error) : PLEAT_OK;
}

static pleat_status open_session(session *x, pleat_error *error) {
    const settings *s = x->s;
    pleat_engine_options options = {.n_threads = s->threads, .pool_bytes = (size_t)s->pool_mb * 1000 * 1000};
    pleat_status status = model_open(s->model, s->threads, s->repack, &x->model, error);
    status = status ? status : method_read(self.name, spec_of(s), x->model, &x->method, error);
    if (!status && !s->raw && !s->chat)
        status = find_format(x, error);
    status = status ? status : pleat_engine_open(x->model, &options, &x->engine, error);
    bool resumes = s->file && access(s->file, F_OK) == 0;
    if (!status && resumes)
        status = resume(x, error);
    if (!status && s->file && !resumes)
        status = begin_file(s->file, error);
    if (!status && !resumes)
        status = pleat_seq_open(x->engine, x->method, &x->seq, error);
    if (status)
        return status;
    x->logits = mem_alloc((size_t)x->model->n_vocab, sizeof(float));
    return x->logits ? PLEAT_OK : err_set(error, PLEAT_EMEMORY, "no memory for %d logits", x->model->n_vocab);
}

static void close_session(session *x) {
    text_free(&x->stream.answer);
    free(x->stream.history);
    for (int i = 0; i < x->n_messages; i++)
        free((char *)x->message[i].content);
    free(x->message);
    mem_free(x->logits);
    pleat_seq_close(x->seq);
    pleat_engine_close(x->engine);
    pleat_method_free(x->method);
    pleat_model_close(x->model);
}

/* The messages from `first` on as ids. A system message among them is never evicted by a method with `pin`. */
static pleat_status encode_messages(session *x, int first, int32_t **ids, int *n_ids, pleat_error *error) {
    token_span *spans = malloc((size_t)x->n_messages * sizeof(*spans));
    if (!spans)
        return err_set(error, PLEAT_EMEMORY, "no memory for a conversation of %d messages", x->n_messages);
    pleat_status status = chat_encode_spans(x->model->tok, x->model->file, x->format, x->message, x->n_messages, first,
                                            spans, ids, n_ids, error);
    token_span system = status || first ? (token_span){0, 0} : chat_system_span(x->message, spans);
    if (system.end > system.first)
        status = pleat_seq_pin(x->seq, system.first, system.end - system.first, error);
    if (status && *ids)
        free(*ids);
    free(spans);
    return status;
}

/* The ids of the next turn; a token of the last answer that is not in the cache yet goes in front. */
static pleat_status turn_ids(session *x, const char *prompt, size_t n, int32_t **ids, int *n_ids, pleat_error *error) {
    int first = x->n_messages, n_new;
    int32_t *new_ids = NULL;
    pleat_status status;
    if (x->s->raw) { /* BOS stands at the beginning alone */
        status = tokenizer_encode(x->model->tok, prompt, n, x->stream.n_history ? TOKENIZER_PARSE : TOKENIZER_SPECIAL,
                                  &new_ids, &n_new, error);
    } else {
        status =
            first == 0 && x->s->system ? add_message(x, "system", x->s->system, strlen(x->s->system), error) : PLEAT_OK;
        status = status ? status : add_message(x, "user", prompt, n, error);
        status = status ? status : encode_messages(x, first, &new_ids, &n_new, error);
    }
    if (status)
        return status;
    bool held = x->pending >= 0;
    *ids = malloc(((size_t)n_new + 1) * sizeof(**ids));
    if (*ids) {
        (*ids)[0] = x->pending;
        memcpy(*ids + held, new_ids, (size_t)n_new * sizeof(**ids));
        *n_ids = n_new + held;
    }
    free(new_ids);
    if (!*ids)
        return err_set(error, PLEAT_EMEMORY, "no memory for a prompt of %d tokens", n_new);
    return *n_ids ? PLEAT_OK : err_set(error, PLEAT_EINPUT, "the prompt has no tokens");
}

static generate_options sampling_of(const settings *s) {
    pleat_sampling p = pleat_sampling_default();
    p.temperature = (float)s->temperature;
    p.top_k = s->top_k;
    p.top_p = (float)s->top_p;
    p.min_p = (float)s->min_p;
    p.repeat_penalty = (float)s->repeat_penalty;
    p.presence_penalty = (float)s->presence_penalty;
    p.seed = s->seed;
    return (generate_options){.max_tokens = s->max_tokens, .sampling = p};
}

/* Step by step, so that a long prompt can show how far it is. */
static pleat_status prefill(session *x, const int32_t *ids, int n_ids, pleat_error *error) {
    progress bar;
    pleat_status status = PLEAT_OK;
    int room = pleat_seq_room(x->seq);
    if (n_ids > room)
        return err_set(error, PLEAT_EFULL, "the prompt has %d tokens; the context of %d tokens has room for %d more",
                       n_ids, x->model->context_tokens, room);
    x->begun = true;
    progress_begin(&bar, "prompt", n_ids);
    for (int from = 0, n; from < n_ids && !status; from += n) {
        n = pleat_seq_cut(x->engine, x->seq, n_ids - from);
        bool last = from + n == n_ids;
        pleat_item item = {.seq = x->seq,
                           .tokens = ids + from,
                           .n_tokens = n,
                           .phase = last ? PLEAT_PROMPT_END : PLEAT_PROMPT,
                           .want = last ? PLEAT_LOGITS_LAST : PLEAT_LOGITS_NONE,
                           .logits = last ? x->logits : NULL};
        status = pleat_step(x->engine, &item, 1, error);
        progress_update(&bar, from + n, NULL);
    }
    progress_end(&bar);
    return status;
}

static pleat_status answer(session *x, const int32_t *ids, int n_ids, pleat_error *error) {
    generate_stream *s = &x->stream;
    int held = x->pending >= 0; /* it stands in the history already */
    if (!mem_grow(&s->history, &s->cap_history, s->n_history + n_ids, sizeof(*s->history)))
        return err_set(error, PLEAT_EMEMORY, "no memory for a conversation of %d tokens", s->n_history + n_ids);
    memcpy(s->history + s->n_history, ids + held, (size_t)(n_ids - held) * sizeof(*ids));
    s->n_history += n_ids - held;
    s->seq = x->seq;
    s->logits = x->logits;
    text_free(&s->answer);
    generate_options options = sampling_of(x->s);
    answering = !x->s->json;
    pleat_status status = generate_run(x->engine, s, 1, &options, x->s->json ? NULL : show, NULL, error);
    answering = 0;
    x->pending = s->pending;
    return status;
}

/* On failure the conversation is as it was before; the cache too, unless x->begun. */
static pleat_status run_turn(session *x, const char *prompt, size_t n, pleat_error *error) {
    int32_t *ids = NULL;
    int n_ids = 0, n_messages = x->n_messages;
    double started = clock_seconds();
    interrupted = 0;
    x->begun = false;
    pleat_status status = turn_ids(x, prompt, n, &ids, &n_ids, error);
    status = status ? status : pleat_seq_expect(x->seq, x->s->max_tokens, error);
    status = status ? status : prefill(x, ids, n_ids, error);
    if (!status) {
        x->n_prompt = n_ids;
        x->ttft_ms = (clock_seconds() - started) * 1e3;
        status = answer(x, ids, n_ids, error);
    }
    status = status ? status : keep(x, error);
    while (status && x->n_messages > n_messages)
        free((char *)x->message[--x->n_messages].content);
    free(ids);
    return status;
}

static double tpot_ms(const generate_stream *s) {
    return s->n_steps ? s->decode_ms / s->n_steps : 0;
}

static int print_result(session *x) {
    const generate_stream *s = &x->stream;
    pleat_seq_stats stats = pleat_seq_describe(x->seq);
    if (x->s->json) {
        json_t *ids = json_array();
        for (int i = s->n_history - s->n_ids; i < s->n_history; i++)
            json_array_append_new(ids, json_integer(s->history[i]));
        return print_json(self.name,
                          json_pack("{s:s%,s:o,s:i,s:i,s:s,s:s,s:I,s:I,s:f,s:f}", "text",
                                    s->answer.bytes ? s->answer.bytes : "", s->answer.n, "ids", ids, "prompt_tokens",
                                    x->n_prompt, "completion_tokens", s->n_ids, "finish", s->finish, "method",
                                    stats.method, "kv_bytes", (json_int_t)stats.kv_bytes, "kv_peak_bytes",
                                    (json_int_t)stats.kv_peak_bytes, "ttft_ms", x->ttft_ms, "tpot_ms", tpot_ms(s)));
    }
    char bytes[16];
    putchar('\n');
    fflush(stdout);
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "[%d prompt tokens in %.0f ms, %d new at %.1f ms (%s), KV cache %s, %s]\n", x->n_prompt,
                x->ttft_ms, s->n_ids, tpot_ms(s), s->finish, text_bytes(stats.kv_bytes, bytes), stats.method);
    return EXIT_OK;
}

/* One line of input as a turn. EXIT_OK: the chat goes on. */
static int chat_turn(session *x, const char *line, size_t n) {
    pleat_error error;
    pleat_status status = run_turn(x, line, n, &error);
    const text *said = &x->stream.answer;
    if (!status && !x->s->raw)
        status = add_message(x, "assistant", said->bytes ? said->bytes : "", said->n, &error);
    if (!status)
        return print_result(x);
    print_error(self.name, &error);
    return x->begun ? EXIT_FAILED : EXIT_OK; /* a shorter line may still fit */
}

static int chat(session *x) {
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    int code = EXIT_OK;
    bool terminal = isatty(STDIN_FILENO);
    while (code == EXIT_OK) {
        if (terminal)
            fprintf(stderr, "> ");
        if ((n = getline(&line, &cap, stdin)) < 0)
            break;
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            n--;
        if (n == 0)
            continue;
        code = chat_turn(x, line, (size_t)n);
        if (code == EXIT_OK && pleat_seq_room(x->seq) < 1) {
            fprintf(stderr, "pleat run: the model's context of %d tokens is full; the chat ends here\n",
                    x->model->context_tokens);
            break;
        }
    }
    if (terminal && code == EXIT_OK && feof(stdin))
        fputc('\n', stderr);
    free(line);
    return code;
}

static int run(const settings *s, chat_format format) {
    session x = {.s = s, .format = format, .pending = -1};
    pleat_error error;
    int code;
    signal(SIGINT, on_interrupt);
    if (open_session(&x, &error))
        code = print_error(self.name, &error);
    else if (s->interactive)
        code = chat(&x);
    else if (run_turn(&x, s->prompt, strlen(s->prompt), &error))
        code = print_error(self.name, &error);
    else
        code = print_result(&x);
    close_session(&x);
    if (interrupted && !s->interactive)
        die_of_interrupt();
    return code;
}

/* What can be said to be wrong before any work. */
static pleat_status check(const settings *s, chat_format *format, pleat_error *error) {
    pleat_method *method;
    if (!s->model)
        return err_set(error, PLEAT_EINPUT, "which model? give it with -m NAME or -m FILE.gguf");
    if (s->interactive == (s->prompt != NULL) || (s->interactive && s->json))
        return err_set(error, PLEAT_EINPUT, "give one of -p TEXT and -i (which has no --json)");
    if (s->raw && (s->chat || s->system))
        return err_set(error, PLEAT_EINPUT, "--raw has no chat format and no system message");
    pleat_status status = s->chat ? chat_format_parse(s->chat, format, error) : PLEAT_OK;
    status = status ? status : pleat_method_parse(spec_of(s), NULL, &method, error);
    if (!status)
        pleat_method_free(method);
    return status;
}

int cmd_run(int argc, char **argv) {
    settings s = {.max_tokens = 512, .top_p = 1, .repeat_penalty = 1, .repack = true};
    int n_arguments;
    const option options[] = {
        {"model", 'm', OPTION_TEXT, &s.model, "M", "model by name or file", 0, 0},
        {"prompt", 'p', OPTION_TEXT, &s.prompt, "TEXT", "the prompt", 0, 0},
        {"interactive", 'i', OPTION_FLAG, &s.interactive, NULL, "chat: a line of input is a turn", 0, 0},
        {"predict", 'n', OPTION_INT, &s.max_tokens, "N", "at most N new tokens", 0, 1 << 24},
        {"method", 0, OPTION_TEXT, &s.method, "SPEC",
         "compression of the KV cache (see `pleat methods`); f16 if none is named; with +pin the system message stays",
         0, 0},
        {"session", 0, OPTION_TEXT, &s.file, "FILE",
         "the conversation in FILE goes on, its cache and all; begun if there is no such file", 0, 0},
        {"system", 0, OPTION_TEXT, &s.system, "TEXT", "system message", 0, 0},
        {"chat", 0, OPTION_TEXT, &s.chat, "FORMAT", "chatml, llama-2, llama-3, gemma or mistral instead of the file's",
         0, 0},
        {"raw", 0, OPTION_FLAG, &s.raw, NULL, "the text as it is, no chat format; special-token text is parsed", 0, 0},
        {"temp", 0, OPTION_FLOAT, &s.temperature, "T", "temperature; 0 is greedy with every penalty off", 0, 100},
        {"top-k", 0, OPTION_INT, &s.top_k, "K", "only the K most likely tokens; 0: off", 0, 1e9},
        {"top-p", 0, OPTION_FLOAT, &s.top_p, "P", "only the most likely tokens that sum to P", 0, 1},
        {"min-p", 0, OPTION_FLOAT, &s.min_p, "P", "only tokens at least P times as likely as the best", 0, 1},
        {"repeat-penalty", 0, OPTION_FLOAT, &s.repeat_penalty, "R", "over the last 64 tokens", 0.01, 100},
        {"presence-penalty", 0, OPTION_FLOAT, &s.presence_penalty, "R", "over the last 64 tokens", -100, 100},
        {"seed", 0, OPTION_SEED, &s.seed, "S", "of the random numbers", 0, 0},
        {"kv-memory", 0, OPTION_INT, &s.pool_mb, "MB", "budget of the KV cache; 0: half of the free memory", 0,
         1 << 24},
        {"threads", 't', OPTION_INT, &s.threads, "N", "threads; 0: all cores", 0, 1024},
        OPTION_REPACK(&s.repack),
        {"json", 0, OPTION_FLAG, &s.json, NULL, "print one JSON object at the end", 0, 0},
        {0},
    };
    int code = options_parse(&self, options, argc, argv, &n_arguments);
    if (code >= 0)
        return code;
    pleat_error error;
    chat_format format = CHAT_CHATML;
    if (check(&s, &format, &error)) {
        print_error(self.name, &error);
        return EXIT_USAGE;
    }
    return run(&s, format);
}
