/* ask.c - the fields of a completion request but for its prompts (ask_prompt.c). A field that is not known is ignored,
 * as clients of this API expect; one that is known and would change the answer, but cannot be obeyed, is refused. */
#include "serve/ask_inside.h"
#include "base/status.h"
#include "kv/method.h"
#include "model/model.h"
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { MOST_BIAS = 1024, MOST_ANSWERS = 128, MOST_TOKENS = 1 << 20 };

/* ---- fields that cannot be obeyed ---- */

/* Fields that would change the answer, with the number that would not (NAN: every one would). */
static const struct {
    const char *name;
    double neutral;
} unknown[] = {{"tools", NAN},
               {"functions", NAN},
               {"function_call", NAN},
               {"grammar", NAN},
               {"guided_json", NAN},
               {"guided_regex", NAN},
               {"guided_choice", NAN},
               {"guided_grammar", NAN},
               {"json_schema", NAN},
               {"structured_outputs", NAN},
               {"structural_tag", NAN},
               {"regex", NAN},
               {"ebnf", NAN},
               {"suffix", NAN},
               {"prompt_logprobs", NAN},
               {"prompt_embeds", NAN},
               {"audio", NAN},
               {"documents", NAN},
               {"web_search_options", NAN},
               {"use_beam_search", NAN},
               {"bad_words", NAN},
               {"logits_processors", NAN},
               {"chat_template", NAN},
               {"chat_template_kwargs", NAN},
               {"return_tokens_as_token_ids", NAN},
               {"return_token_ids", NAN},
               {"n_predict", NAN},
               {"lora", NAN},
               {"mirostat", 0},
               {"dry_multiplier", 0},
               {"xtc_probability", 0},
               {"dynatemp_range", 0},
               {"typical_p", 1},
               {"top_n_sigma", -1}};

static bool changes_nothing(const json_t *at, double neutral) {
    return !at || json_is_false(at) || (json_is_string(at) && !json_string_length(at)) ||
           (json_is_array(at) && !json_array_size(at)) || (json_is_object(at) && !json_object_size(at)) ||
           (json_is_number(at) && json_number_value(at) == neutral);
}

static bool check_unknown(const json_t *body, bool chat, refusal *r) {
    for (size_t i = 0; i < sizeof(unknown) / sizeof(*unknown); i++)
        if (!changes_nothing(field(body, unknown[i].name), unknown[i].neutral))
            return refuse(r, unknown[i].name, "%s is not supported", unknown[i].name);
    if (json_is_false(field(body, "skip_special_tokens")))
        return refuse(r, "skip_special_tokens", "skip_special_tokens can only be true: marks are never shown");
    if (chat && json_is_true(field(body, "echo")))
        return refuse(r, "echo", "echo is not supported here");
    if (chat && json_is_true(field(body, "add_special_tokens")))
        return refuse(r, "add_special_tokens", "add_special_tokens can only be false here: the chat format has them");
    const json_t *choice = field(body, "tool_choice");
    const char *word = json_string_value(choice);
    if (choice && !(word && (!strcmp(word, "none") || !strcmp(word, "auto"))))
        return refuse(r, "tool_choice", "tool_choice can only be \"none\" or \"auto\": there are no tools");
    const json_t *format = field(body, "response_format");
    const char *type = json_string_value(json_object_get(format, "type"));
    if (format && (!type || strcmp(type, "text")))
        return refuse(r, "response_format", "response_format can only be {\"type\": \"text\"}");
    int64_t best = 1, n = 1;
    if (chat || !field(body, "best_of"))
        return true;
    if (!field_int(body, "best_of", 1, MOST_ANSWERS, &best, r) || !field_int(body, "n", 1, MOST_ANSWERS, &n, r))
        return false;
    return best == n || refuse(r, "best_of", "best_of must be equal to n");
}

/* ---- plain fields ---- */

static uint64_t random_seed(void) {
    uint64_t seed = 0;
    (void)!getrandom(&seed, sizeof(seed), 0);
    return seed;
}

static bool read_sampling(ask *a, const json_t *body, refusal *r) {
    pleat_sampling *p = &a->sampling;
    int64_t top_k = 0, seed = 0;
    *p = pleat_sampling_default();
    p->temperature = 1;
    float repeat = 1;
    if (!field_real(body, "temperature", 0, 100, &p->temperature, r) ||
        !field_real(body, "top_p", 1e-6, 1, &p->top_p, r) || !field_real(body, "min_p", 0, 1, &p->min_p, r) ||
        !field_real(body, "presence_penalty", -2, 2, &p->presence_penalty, r) ||
        !field_real(body, "frequency_penalty", -2, 2, &p->frequency_penalty, r) ||
        !field_real(body, "repeat_penalty", 0.01, 100, &repeat, r) ||
        !field_real(body, "repetition_penalty", 0.01, 100, &repeat, r) ||
        !field_int(body, "top_k", -1, 1 << 30, &top_k, r) || !field_int(body, "seed", INT64_MIN, INT64_MAX, &seed, r))
        return false;
    p->top_k = top_k > 0 ? (int)top_k : 0;
    p->repeat_penalty = repeat;
    p->seed = field(body, "seed") ? (uint64_t)seed : random_seed();
    return true;
}

static bool read_logprobs(ask *a, const json_t *body, refusal *r) {
    int64_t n = -1;
    if (!a->chat) {
        if (!field_int(body, "logprobs", 0, REQUEST_MOST_TOP, &n, r))
            return false;
        a->logprobs = n >= 0;
        a->n_top = n > 0 ? (int)n : 0;
        return field_flag(body, "echo", &a->echo, r);
    }
    if (!field_flag(body, "logprobs", &a->logprobs, r) || !field_int(body, "top_logprobs", 0, REQUEST_MOST_TOP, &n, r))
        return false;
    if (n >= 0 && !a->logprobs)
        return refuse(r, "top_logprobs", "top_logprobs needs logprobs to be true");
    a->n_top = n > 0 ? (int)n : 0;
    return true;
}

static bool read_stream(ask *a, const json_t *body, refusal *r) {
    const json_t *options = field(body, "stream_options");
    if (!field_flag(body, "stream", &a->stream, r))
        return false;
    if (!options)
        return true;
    if (!a->stream)
        return refuse(r, "stream_options", "stream_options needs stream to be true");
    if (!json_is_object(options))
        return refuse(r, "stream_options", "stream_options must be an object");
    return field_flag(options, "include_usage", &a->include_usage, r) &&
           field_flag(options, "continuous_usage_stats", &a->running_usage, r);
}

static bool add_stop(ask *a, const json_t *item, refusal *r) {
    if (!json_is_string(item))
        return refuse(r, "stop", "stop must be a string or a list of strings");
    size_t n = json_string_length(item);
    if (n < 1 || n > STOP_MOST_BYTES)
        return refuse(r, "stop", "a stop string has %zu bytes; 1 to %d are possible", n, STOP_MOST_BYTES);
    return stop_add(&a->stops, json_string_value(item), n) || refuse_no_memory(r);
}

static bool read_stops(ask *a, const json_t *body, refusal *r) {
    const json_t *stop = field(body, "stop"), *item;
    size_t i;
    if (!field_flag(body, "include_stop_str_in_output", &a->stops.shown, r))
        return false;
    if (json_is_array(stop)) {
        if (json_array_size(stop) > STOP_MOST)
            return refuse(r, "stop", "%zu stop strings; at most %d are possible", json_array_size(stop), STOP_MOST);
        json_array_foreach(stop, i, item) if (!add_stop(a, item, r)) return false;
        return true;
    }
    return !stop || add_stop(a, stop, r);
}

static bool token_id(const ask_world *w, const char *name, int64_t id, refusal *r) {
    int n_vocab = w->model->n_vocab;
    return (id >= 0 && id < n_vocab) ||
           refuse(r, name, "%s names token %lld; the vocabulary has %d tokens", name, (long long)id, n_vocab);
}

bool ask_token_id(const ask_world *w, const char *name, const json_t *item, int32_t *id, refusal *r) {
    if (!json_is_integer(item))
        return refuse(r, name, "%s must hold token ids, which are whole numbers", name);
    *id = (int32_t)json_integer_value(item);
    return token_id(w, name, json_integer_value(item), r);
}

static bool read_stop_ids(const ask_world *w, ask *a, const json_t *body, refusal *r) {
    const json_t *list = field(body, "stop_token_ids"), *item;
    size_t i;
    if (!list)
        return true;
    if (!json_is_array(list) || json_array_size(list) > ASK_MOST_STOP_IDS)
        return refuse(r, "stop_token_ids", "stop_token_ids must be a list of at most %d token ids", ASK_MOST_STOP_IDS);
    json_array_foreach(list, i, item) {
        if (!ask_token_id(w, "stop_token_ids", item, &a->stop_id[a->n_stop_id], r))
            return false;
        a->n_stop_id++;
    }
    return true;
}

/* Whether a token may come before the answer has its least length. */
static bool is_no_end(const ask_world *w, const ask *a, int32_t id) {
    for (int i = 0; i < a->n_stop_id; i++)
        if (a->stop_id[i] == id)
            return false;
    return !pleat_token_ends(w->model, id);
}

static bool read_allowed(const ask_world *w, ask *a, const json_t *body, refusal *r) {
    static const char name[] = "allowed_token_ids";
    const json_t *list = field(body, name), *item;
    size_t i;
    int n_allowed = 0;
    bool any = false;
    if (!list)
        return true;
    if (!json_is_array(list) || !json_array_size(list))
        return refuse(r, name, "%s must be a list of token ids that is not empty", name);
    a->allowed = calloc(((size_t)w->model->n_vocab + 7) / 8, 1);
    if (!a->allowed)
        return refuse_no_memory(r);
    json_array_foreach(list, i, item) {
        int32_t id = 0;
        if (!ask_token_id(w, name, item, &id, r))
            return false;
        n_allowed += !(a->allowed[id / 8] >> id % 8 & 1);
        a->allowed[id / 8] |= (uint8_t)(1 << id % 8);
        any = any || is_no_end(w, a, id);
    }
    if (!a->sampling.top_k || a->sampling.top_k > n_allowed) /* nothing is ranked that cannot come */
        a->sampling.top_k = n_allowed;
    return any || json_integer_value(field(body, "min_tokens")) < 1 ||
           refuse(r, name, "%s has only tokens that end an answer; with min_tokens there is none to begin with", name);
}

static bool read_bias(const ask_world *w, ask *a, const json_t *body, refusal *r) {
    json_t *map = (json_t *)field(body, "logit_bias"), *value;
    const char *key;
    if (!map)
        return true;
    if (!json_is_object(map) || json_object_size(map) > MOST_BIAS)
        return refuse(r, "logit_bias", "logit_bias must be an object of at most %d token ids and numbers", MOST_BIAS);
    a->bias = malloc((json_object_size(map) + 1) * sizeof(*a->bias));
    if (!a->bias)
        return refuse_no_memory(r);
    json_object_foreach(map, key, value) {
        char *end;
        long long id = strtoll(key, &end, 10);
        if (end == key || *end || key[0] == ' ' || key[0] == '+')
            return refuse(r, "logit_bias", "logit_bias has the key \"%.40s\"; token ids are expected", key);
        if (!token_id(w, "logit_bias", id, r))
            return false;
        double bias = json_number_value(value);
        if (!json_is_number(value) || !(bias >= -100 && bias <= 100))
            return refuse(r, "logit_bias", "logit_bias of token %lld must be a number between -100 and 100", id);
        a->bias[a->n_bias++] = (token_bias){.id = (int32_t)id, .bias = (float)bias};
    }
    return true;
}

/* ---- method ---- */

pleat_status serve_method(const char *spec, const pleat_model *model, pleat_method **out, pleat_error *error) {
    char longer[1200];
    pleat_status status = pleat_method_parse(spec, model, out, error);
    if (status || kv_method_is_f16(*out) || strstr(spec, "prefill:"))
        return status;
    pleat_method_free(*out);
    *out = NULL;
    snprintf(longer, sizeof(longer), "%s+prefill:bounded", spec);
    return pleat_method_parse(longer, model, out, error);
}

static bool read_method(const ask_world *w, ask *a, const json_t *body, const char *header, refusal *r) {
    const char *spec = header ? header : w->method;
    pleat_error error;
    if (!field_text(body, "kv_method", 1000, &spec, r))
        return false;
    if (!strcmp(spec, "auto"))
        return refuse(r, "kv_method",
                      "kv_method \"auto\" is not there yet; name a method (GET /v1/methods lists them)");
    if (strlen(spec) > 1000)
        return refuse(r, "kv_method", "x-kv-method is longer than 1000 bytes");
    pleat_status status = serve_method(spec, w->model, &a->method, &error);
    return !status || refuse_status(r, "kv_method", status, &error);
}

/* The request's pin: true (the system message) or a number of leading tokens. */
static bool read_pin(ask *a, const json_t *body, token_span system, refusal *r) {
    const json_t *pin = field(body, "pin");
    token_span span = {0, 0};
    if (json_is_true(pin) && !a->chat)
        return refuse(r, "pin", "pin must be a number of leading tokens here");
    if (json_is_true(pin))
        span = system;
    else if (pin && !json_is_false(pin)) {
        int64_t n = 0;
        if (!field_int(body, "pin", 0, MOST_TOKENS, &n, r))
            return false;
        span.end = (int)n;
    }
    for (int i = 0; i < a->n_prompts; i++)
        if (!ask_pin(&a->prompt[i], span, r))
            return false;
    return true;
}

/* Where something is pinned and something is evicted, the method gets its modifier. */
static bool let_pin(const ask_world *w, ask *a, refusal *r) {
    bool any = false;
    for (int i = 0; i < a->n_prompts; i++)
        any = any || a->prompt[i].n_pins;
    if (!any || !strcmp(a->method->policy->name, "all") || a->method->pin)
        return true;
    char spec[KV_MAX_SPEC_BYTES + 8];
    snprintf(spec, sizeof(spec), "%s+pin", pleat_method_spec(a->method));
    pleat_method *pinned;
    pleat_status status = pleat_method_parse(spec, w->model, &pinned, NULL);
    if (status == PLEAT_EMEMORY)
        return refuse_no_memory(r);
    if (status)
        return refuse(r, "pin", "the method %.200s cannot pin tokens", pleat_method_spec(a->method));
    pleat_method_free(a->method);
    a->method = pinned;
    return true;
}

/* ---- lengths ---- */

/* What of a span is left when `cut` tokens before its row's end were taken away in front. */
static token_span moved(token_span span, int cut) {
    span.first = span.first > cut ? span.first - cut : 0;
    span.end = span.end > cut ? span.end - cut : 0;
    return span;
}

/* Of longer prompts the last tokens only. */
static bool truncate(ask *a, const json_t *body, token_span *system, refusal *r) {
    int64_t most = INT_MAX;
    if (!field_int(body, "truncate_prompt_tokens", 1, MOST_TOKENS, &most, r))
        return false;
    for (int i = 0; i < a->n_prompts; i++) {
        ask_prompt *p = &a->prompt[i];
        int cut = p->n - (int)most, n_left = 0;
        if (cut <= 0)
            continue;
        p->n = (int)most;
        memmove(p->ids, p->ids + cut, (size_t)p->n * sizeof(*p->ids));
        *system = moved(*system, cut);
        for (int k = 0; k < p->n_pins; k++) {
            token_span span = moved(p->pin[k], cut);
            if (span.end)
                p->pin[n_left++] = span;
        }
        p->n_pins = n_left;
    }
    return true;
}

/* Whether prompt and answer must fit the context: the operator's word holds for every method, the model's for those
 * whose positions grow with the text. */
static bool keeps_context(const ask_world *w, const ask *a) {
    return w->context_said || !kv_method_is_endless(a->method);
}

/* As much as the context and the pool leave; a page of text at most when nobody said how much. */
static int default_tokens(const ask_world *w, const ask *a, const ask_prompt *p) {
    enum { CHAT_TOKENS = 4096, TEXT_TOKENS = 16 };
    int most = a->chat ? CHAT_TOKENS : TEXT_TOKENS, room = w->context_tokens - p->n;
    if (keeps_context(w, a))
        most = most < room ? most : room;
    while (most > 1 && engine_plan_bytes(w->model, a->method, p->n, most) > w->pool_bytes)
        most /= 2;
    return most > 1 ? most : 1;
}

static bool read_lengths(const ask_world *w, ask *a, const json_t *body, refusal *r) {
    int64_t most = -1, newer = -1, least = 0;
    if (!field_int(body, "max_tokens", a->chat ? 1 : 0, MOST_TOKENS, &most, r) ||
        !field_int(body, "max_completion_tokens", a->chat ? 1 : 0, MOST_TOKENS, &newer, r) ||
        !field_int(body, "min_tokens", 0, MOST_TOKENS, &least, r) || !field_flag(body, "ignore_eos", &a->ignore_end, r))
        return false;
    if (most >= 0 && newer >= 0 && most != newer)
        return refuse(r, "max_tokens", "max_tokens is %lld and max_completion_tokens %lld; give one", (long long)most,
                      (long long)newer);
    most = newer >= 0 ? newer : most;
    for (int i = 0; i < a->n_prompts; i++) {
        ask_prompt *p = &a->prompt[i];
        p->max_tokens = most >= 0 ? (int)most : default_tokens(w, a, p);
        if (keeps_context(w, a) && p->n + p->max_tokens > w->context_tokens) {
            refuse(r, a->chat ? "messages" : "prompt",
                   "the context has %d tokens; %d of the prompt and %d of the answer were asked for", w->context_tokens,
                   p->n, p->max_tokens);
            r->code = CODE_TOO_LONG;
            return false;
        }
        if (least > p->max_tokens)
            return refuse(r, "min_tokens", "min_tokens is %lld, more than the %d tokens of the answer",
                          (long long)least, p->max_tokens);
    }
    a->min_tokens = (int)least;
    return true;
}

/* ---- a whole request ---- */

bool ask_model(const ask_world *w, const json_t *body, refusal *r) {
    const char *name = NULL;
    if (!field_text(body, "model", 1000, &name, r))
        return false;
    if (!name || !strcmp(name, w->name))
        return true;
    refuse(r, "model", "the model \"%.100s\" does not exist; this server has \"%.100s\"", name, w->name);
    r->status = 404;
    r->code = "model_not_found";
    return false;
}

static bool read_all(const ask_world *w, ask *a, const json_t *body, const char *header, refusal *r) {
    int64_t n = 1;
    const char *salt = "", *user;
    token_span system = {0, 0};
    if (!ask_model(w, body, r) || !check_unknown(body, a->chat, r) || !field_int(body, "n", 1, MOST_ANSWERS, &n, r) ||
        !field_text(body, "cache_salt", 256, &salt, r) || !field_text(body, "user", 1000, &user, r) ||
        !read_stream(a, body, r) || !read_sampling(a, body, r) || !read_logprobs(a, body, r) ||
        !read_stops(a, body, r) || !read_stop_ids(w, a, body, r) || !read_bias(w, a, body, r) ||
        !read_allowed(w, a, body, r) || !read_method(w, a, body, header, r))
        return false;
    a->n = (int)n;
    snprintf(a->salt, sizeof(a->salt), "%s", salt);
    if (!(a->chat ? ask_read_messages(w, a, body, &system, r) : ask_read_prompts(w, a, body, r)))
        return false;
    if (a->n_prompts * n > w->most_answers)
        return refuse(r, a->n_prompts > 1 ? "prompt" : "n", "%d answers in one request; at most %d are possible",
                      (int)(a->n_prompts * n), w->most_answers);
    return truncate(a, body, &system, r) && read_pin(a, body, system, r) && let_pin(w, a, r) &&
           read_lengths(w, a, body, r);
}

ask *ask_read(const ask_world *w, const json_t *body, bool chat, const char *header, refusal *r) {
    ask *a = calloc(1, sizeof(*a));
    if (!a) {
        refuse_no_memory(r);
        return NULL;
    }
    a->chat = chat;
    if (read_all(w, a, body, header, r))
        return a;
    ask_free(a);
    return NULL;
}

void ask_free(ask *a) {
    if (!a)
        return;
    for (int i = 0; i < a->n_prompts; i++) {
        free(a->prompt[i].ids);
        free(a->prompt[i].pin);
    }
    free(a->prompt);
    free(a->bias);
    free(a->allowed);
    stop_free(&a->stops);
    pleat_method_free(a->method);
    free(a);
}
