/* answer.c - answers as OpenAI's clients read them: whole ones by jansson, events by hand (one is written per token).
 *
 * Text and tokens both come from a choice's log; a whole answer is the stream's text in one piece. Token texts of
 * logprobs that are not whole characters are written "bytes:\xe2\x82", as that API does. */
#include "serve/job.h"
#include "base/clock.h"
#include "net/sse.h"
#include "text/utf8.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- JSON by hand ---- */

static void put_string(text *out, const char *bytes, size_t n) {
    text_append(out, "\"", 1);
    size_t from = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f)
            continue;
        text_append(out, bytes + from, i - from);
        from = i + 1;
        if (c == '\n')
            text_append(out, "\\n", 2);
        else if (c == '"' || c == '\\')
            text_printf(out, "\\%c", c);
        else
            text_printf(out, "\\u%04x", c);
    }
    text_append(out, bytes + from, n - from);
    text_append(out, "\"", 1);
}

/* ---- usage ---- */

static json_t *usage_of(job *j) {
    int prompt = 0, answer = 0, cached = 0;
    size_t kv = 0, peak = 0;
    int preemptions = 0;
    const ask *a = j->ask;
    for (int i = 0; i < a->n_prompts; i++)
        prompt += a->prompt[i].n;
    for (int i = 0; i < j->n_choices; i++) {
        choice *c = &j->choice[i];
        bool ended = atomic_load(&c->ended);
        answer += atomic_load(&c->log.n);
        cached += i % a->n ? 0 : atomic_load(&c->n_cached);
        kv += ended ? c->usage.kv_bytes : atomic_load(&c->kv_bytes);
        peak += ended ? c->usage.kv_peak_bytes : atomic_load(&c->kv_peak_bytes);
        preemptions += ended ? c->usage.preemptions : atomic_load(&c->n_preemptions);
    }
    json_t *usage = json_pack("{s:i,s:i,s:i,s:{s:i},s:s,s:I,s:I,s:i}", "prompt_tokens", prompt, "completion_tokens",
                              answer, "total_tokens", prompt + answer, "prompt_tokens_details", "cached_tokens", cached,
                              "kv_method", pleat_method_spec(a->method), "kv_bytes", (json_int_t)kv, "kv_peak_bytes",
                              (json_int_t)peak, "preemptions", preemptions);
    json_t *warnings = tell_warnings(j->server, a->method);
    if (json_array_size(warnings))
        json_object_set(usage, "kv_warnings", warnings);
    json_decref(warnings);
    return usage;
}

/* ---- logprobs ---- */

/* A token as a JSON string: its text when that is whole characters. */
static json_t *token_name(const pleat_model *model, int32_t id) {
    size_t n;
    const char *bytes = pleat_token_bytes(model, id, true, &n);
    if (utf8_valid(bytes, n))
        return json_stringn(bytes, n);
    char name[200];
    int at = snprintf(name, sizeof(name), "bytes:");
    for (size_t i = 0; i < n && at < (int)sizeof(name) - 5; i++)
        at += snprintf(name + at, sizeof(name) - (size_t)at, "\\x%02x", (unsigned char)bytes[i]);
    return json_string(name);
}

static json_t *number(float x) {
    return json_real(isfinite(x) ? (double)x : -9999);
}

static json_t *chat_token(const pleat_model *model, int32_t id, float logprob) {
    size_t n;
    const char *bytes = pleat_token_bytes(model, id, true, &n);
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_integer((unsigned char)bytes[i]));
    return json_pack("{s:o,s:o,s:o}", "token", token_name(model, id), "logprob", number(logprob), "bytes", list);
}

static json_t *chat_logprobs(const pleat_model *model, const token_log *log, int from, int to) {
    json_t *content = json_array();
    for (int i = from; i < to; i++) {
        json_t *token = chat_token(model, log->id[i], log->logprob[i]), *top = json_array();
        for (int k = i * log->n_top; k < (i + 1) * log->n_top; k++)
            if (log->top_id[k] >= 0)
                json_array_append_new(top, chat_token(model, log->top_id[k], log->top_logprob[k]));
        json_object_set_new(token, "top_logprobs", top);
        json_array_append_new(content, token);
    }
    return json_pack("{s:o,s:n}", "content", content, "refusal");
}

/* The four lists of a text completion. */
typedef struct text_logprobs {
    json_t *tokens, *logprobs, *tops, *offsets;
} text_logprobs;

/* log NULL: the first token of a prompt, of which nothing is known. */
static void add_logprob(text_logprobs *l, choice *c, int32_t id, const token_log *log, int i) {
    const pleat_model *model = c->job->server->world.model;
    size_t n;
    const char *bytes = pleat_token_bytes(model, id, false, &n);
    json_t *own = token_name(model, id);
    json_array_append(l->tokens, own);
    json_array_append_new(l->offsets, json_integer(c->offset));
    for (size_t k = 0; k < n; k++)
        c->offset += ((unsigned char)bytes[k] & 0xC0) != 0x80;
    json_array_append_new(l->logprobs, log ? number(log->logprob[i]) : json_null());
    if (!log) {
        json_decref(own);
        json_array_append_new(l->tops, json_null());
        return;
    }
    json_t *top = json_object();
    for (int k = i * log->n_top; k < (i + 1) * log->n_top; k++) {
        json_t *name = log->top_id[k] >= 0 ? token_name(model, log->top_id[k]) : NULL;
        const char *key = json_string_value(name);
        if (key && !json_object_get(top, key))
            json_object_set_new(top, key, number(log->top_logprob[k]));
        json_decref(name);
    }
    if (own) /* always one of them, as clients look it up */
        json_object_set_new(top, json_string_value(own), number(log->logprob[i]));
    json_decref(own);
    json_array_append_new(l->tops, top);
}

/* Of tokens from..to-1, and with echo of the prompt before them: each token of a choice once, in order. */
static json_t *completion_logprobs(choice *c, bool echo, int from, int to) {
    text_logprobs l = {json_array(), json_array(), json_array(), json_array()};
    int n_known = atomic_load(&c->prompt_log.n);
    for (int i = 0; echo && i < c->prompt->n; i++)
        add_logprob(&l, c, c->prompt->ids[i], i && i <= n_known ? &c->prompt_log : NULL, i - 1);
    for (int i = from; i < to; i++)
        add_logprob(&l, c, c->log.id[i], &c->log, i);
    return json_pack("{s:o,s:o,s:o,s:o}", "tokens", l.tokens, "token_logprobs", l.logprobs, "top_logprobs", l.tops,
                     "text_offset", l.offsets);
}

/* ---- text ---- */

static void add_prompt_text(const choice *c, text *out) {
    text_of_tokens(c->job->server->world.model, c->prompt->ids, c->prompt->n, false, out);
}

/* Takes what has come into c->shown. true: the choice has ended and all of it is there. */
static bool read_text(choice *c) {
    const ask *a = c->job->ask;
    bool ended = atomic_load(&c->ended);
    int n = atomic_load_explicit(&c->log.n, memory_order_acquire);
    for (; c->n_read < n; c->n_read++) {
        size_t n_bytes;
        const char *bytes = pleat_token_bytes(c->job->server->world.model, c->log.id[c->n_read], false, &n_bytes);
        stop_text_add(&c->text, &a->stops, bytes, n_bytes, c->n_read + 1 >= a->min_tokens, &c->shown);
        c->n_unsent++;
    }
    if (ended)
        stop_text_end(&c->text, &c->shown);
    return ended;
}

/* ---- whole answers ---- */

static json_t *whole_choice(choice *c) {
    const ask *a = c->job->ask;
    if (a->echo)
        add_prompt_text(c, &c->shown);
    read_text(c);
    json_t *logprobs = json_null(), *said = json_stringn(c->shown.bytes ? c->shown.bytes : "", c->shown.n);
    if (a->logprobs)
        logprobs = a->chat ? chat_logprobs(c->job->server->world.model, &c->log, 0, c->log.n)
                           : completion_logprobs(c, a->echo, 0, c->log.n);
    if (c->shown.failed || !said) {
        json_decref(said);
        json_decref(logprobs);
        return NULL;
    }
    if (!a->chat)
        return json_pack("{s:i,s:o,s:o,s:s}", "index", c->index, "text", said, "logprobs", logprobs, "finish_reason",
                         request_finish_name(c->finish));
    return json_pack("{s:i,s:{s:s,s:o,s:n},s:o,s:s}", "index", c->index, "message", "role", "assistant", "content",
                     said, "refusal", "logprobs", logprobs, "finish_reason", request_finish_name(c->finish));
}

char *answer_whole(job *j) {
    json_begin();
    json_t *choices = json_array();
    for (int i = 0; i < j->n_choices; i++)
        if (json_array_append_new(choices, whole_choice(&j->choice[i]))) {
            json_decref(choices);
            return NULL;
        }
    json_t *answer = json_pack("{s:s,s:s,s:I,s:s,s:s,s:o,s:o}", "id", j->id, "object",
                               j->ask->chat ? "chat.completion" : "text_completion", "created", (json_int_t)j->created,
                               "model", j->server->options.name, "system_fingerprint", "pleat-" PLEAT_VERSION,
                               "choices", choices, "usage", usage_of(j));
    char *body = json_dumps(answer, JSON_COMPACT);
    json_decref(answer);
    if (!json_ran_out())
        return body;
    free(body);
    return NULL;
}

/* ---- events ---- */

static void event_begin(job *j) {
    sse_begin(&j->out);
    text_printf(&j->out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", j->id,
                j->ask->chat ? "chat.completion.chunk" : "text_completion", (long long)j->created);
    put_string(&j->out, j->server->options.name, strlen(j->server->options.name));
    text_puts(&j->out, ",\"system_fingerprint\":\"pleat-" PLEAT_VERSION "\"");
}

static void put_json(text *out, json_t *value) {
    char *written = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    text_puts(out, written ? written : "null");
    out->failed |= !written;
    free(written);
    json_decref(value);
}

static void event_end(job *j) {
    const ask *a = j->ask;
    if (a->include_usage || a->running_usage) {
        text_puts(&j->out, ",\"usage\":");
        put_json(&j->out, a->running_usage ? usage_of(j) : json_null());
    }
    text_append(&j->out, "}", 1);
    sse_end(&j->out);
}

/* One event of a choice: the text not sent yet, and its end when it has ended. */
static void event(choice *c, request_finish finish) {
    job *j = c->job;
    const ask *a = j->ask;
    text *out = &j->out;
    event_begin(j);
    text_printf(out, ",\"choices\":[{\"index\":%d,", c->index);
    text_puts(out, a->chat ? "\"delta\":{" : "\"text\":");
    if (a->chat && !c->begun)
        text_puts(out, "\"role\":\"assistant\",");
    if (a->chat && (!finish || c->shown.n))
        text_puts(out, "\"content\":");
    if (!a->chat || !finish || c->shown.n)
        put_string(out, c->shown.bytes ? c->shown.bytes : "", c->shown.n);
    else if (!c->begun)
        text_puts(out, "\"content\":\"\"");
    text_puts(out, a->chat ? "},\"logprobs\":" : ",\"logprobs\":");
    int from = c->n_read - c->n_unsent;
    if (!a->logprobs || !(c->n_unsent || (a->echo && !c->begun)))
        text_puts(out, "null");
    else if (a->chat)
        put_json(out, chat_logprobs(j->server->world.model, &c->log, from, c->n_read));
    else
        put_json(out, completion_logprobs(c, a->echo && !c->begun, from, c->n_read));
    text_printf(out, finish ? ",\"finish_reason\":\"%s\"}]" : ",\"finish_reason\":null}]", request_finish_name(finish));
    event_end(j);
    c->begun = true;
    c->shown.n = 0;
    c->n_unsent = 0;
}

/* The prompt's log probabilities, which the first event of an echo brings, have all come, or none will come any more.
 */
static bool echo_is_known(choice *c) {
    const ask *a = c->job->ask;
    return !a->echo || !a->logprobs || atomic_load(&c->ended) || atomic_load(&c->prompt_log.n) >= c->prompt->n - 1;
}

/* Whatever came since; an event per token where the reader keeps up, and a longer one where it does not. */
static void choice_events(choice *c) {
    const ask *a = c->job->ask;
    if (c->done || !echo_is_known(c))
        return;
    if (a->echo && !c->begun && !c->n_read)
        add_prompt_text(c, &c->shown);
    bool ended = read_text(c);
    if (c->shown.n || (a->logprobs && c->n_unsent))
        event(c, REQUEST_GOES_ON);
    if (!ended)
        return;
    c->done = true;
    if (finish_answers(c->finish))
        event(c, c->finish);
    c->job->out.failed |= c->shown.failed;
}

bool answer_events(job *j) {
    bool all = true;
    refusal r;
    json_begin();
    bool failed = job_failed(j, &r); /* before: all that it has said is read then */
    for (int i = 0; i < j->n_choices; i++) {
        choice_events(&j->choice[i]);
        all &= j->choice[i].done;
    }
    if (failed || (all && job_failed(j, &r))) { /* an error event, and no [DONE] */
        sse_begin(&j->out);
        put_json(&j->out, refusal_object(&r));
        sse_end(&j->out);
        return true;
    }
    j->out.failed |= json_ran_out();
    if (!all)
        return false;
    if (j->ask->include_usage) {
        event_begin(j);
        text_puts(&j->out, ",\"choices\":[],\"usage\":");
        put_json(&j->out, usage_of(j));
        text_append(&j->out, "}", 1);
        sse_end(&j->out);
    }
    sse_put(&j->out, "[DONE]");
    return true;
}
