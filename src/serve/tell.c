/* tell.c - what the server says of itself: models, methods, tokens, health, figures. */
#include "serve/inside.h"
#include "base/text.h"
#include "kv/method.h"
#include "model/model.h"
#include "text/utf8.h"
#include <stdlib.h>
#include <string.h>

static void lack_memory(http_exchange *x) {
    refusal r;
    refuse_no_memory(&r);
    serve_refuse(x, &r);
}

/* The value was made since json_begin. */
static void answer(http_exchange *x, json_t *value) {
    char *body = json_dumps(value, JSON_COMPACT);
    json_decref(value);
    if (body && !json_ran_out())
        http_answer(x, 200, "application/json", body, strlen(body));
    else
        lack_memory(x);
    free(body);
}

/* ---- models and methods ---- */

static json_t *model_of(const server *s) {
    pleat_model_info m = pleat_model_describe(s->world.model);
    return json_pack("{s:s,s:s,s:I,s:s,s:s,s:n,s:i,s:{s:s,s:i,s:i,s:I,s:s}}", "id", s->options.name, "object", "model",
                     "created", (json_int_t)s->created, "owned_by", "pleat", "root", s->options.name, "parent",
                     "max_model_len", s->world.context_tokens, "meta", "architecture", m.architecture, "n_vocab",
                     m.n_vocab, "n_layer", m.n_layer, "kv_f16_bytes_per_token", (json_int_t)m.f16_token_bytes,
                     "kv_method", s->options.method);
}

json_t *tell_warnings(const server *s, const pleat_method *method) {
    const char *warning[KV_MOST_WARNINGS];
    json_t *list = json_array();
    int n = kv_method_warnings(method, &s->world.model->kv, warning, 0);
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_string(warning[i]));
    return list;
}

void tell_models(server *s, http_exchange *x) {
    const char *path = http_path(x), *rest = strstr(path, "/models/");
    if (!rest) {
        answer(x, json_pack("{s:s,s:[o]}", "object", "list", "data", model_of(s)));
        return;
    }
    if (!strcmp(rest + 8, s->options.name)) {
        answer(x, model_of(s));
        return;
    }
    refusal r = {.status = 404, .code = "model_not_found", .param = "model", .text = "this model does not exist"};
    serve_refuse(x, &r);
}

/* Adds a preset, unless the model that is served cannot have it. false: no memory. */
static bool add_preset(const server *s, const kv_preset *preset, json_t *list) {
    pleat_method *method;
    pleat_status status = pleat_method_parse(preset->name, s->world.model, &method, NULL);
    if (status)
        return status != PLEAT_EMEMORY;
    json_array_append_new(list, json_pack("{s:s,s:s,s:o}", "name", preset->name, "spec", pleat_method_spec(method),
                                          "warnings", tell_warnings(s, method)));
    pleat_method_free(method);
    return true;
}

static json_t *part_of(const char *name, const char *paper, const char *summary, const kv_param *params) {
    json_t *list = json_array();
    for (int i = 0; params && params[i].name; i++)
        json_array_append_new(list, json_pack("{s:s,s:s}", "name", params[i].name, "help", params[i].help));
    return json_pack("{s:s,s:s,s:s,s:o}", "name", name, "paper", paper, "summary", summary, "parameters", list);
}

void tell_methods(server *s, http_exchange *x) {
    json_t *formats = json_array(), *policies = json_array(), *splits = json_array(), *presets = json_array();
    for (int i = 0; kv_formats[i]; i++)
        json_array_append_new(
            formats, part_of(kv_formats[i]->name, kv_formats[i]->paper, kv_formats[i]->summary, kv_formats[i]->params));
    for (int i = 0; kv_policies[i]; i++)
        json_array_append_new(policies, part_of(kv_policies[i]->name, kv_policies[i]->paper, kv_policies[i]->summary,
                                                kv_policies[i]->params));
    for (int i = 0; kv_splits[i]; i++)
        json_array_append_new(
            splits, part_of(kv_splits[i]->name, kv_splits[i]->paper, kv_splits[i]->summary, kv_splits[i]->params));
    bool ok = true;
    for (int i = 0; kv_presets[i].name && ok; i++)
        ok = add_preset(s, &kv_presets[i], presets);
    json_t *all = json_pack("{s:s,s:s,s:o,s:o,s:o,s:o}", "object", "list", "default", s->options.method, "presets",
                            presets, "formats", formats, "policies", policies, "splits", splits);
    if (ok) {
        answer(x, all);
    } else {
        lack_memory(x);
        json_decref(all);
    }
}

/* ---- tokens ---- */

/* The whole body of a POST, NULL: refused. */
static json_t *body_of(http_exchange *x) {
    refusal r = {0};
    size_t n;
    const char *bytes = http_body(x, &n);
    json_t *body = fields_parse(bytes, n, &r);
    if (!body)
        serve_refuse(x, &r);
    return body;
}

/* Of a text while it is made tokens, by the byte; of a token in a list of ids, and with its piece, until the answer is
 * written: values, their text, and its copy in the connection. Estimates from above. */
enum { ENCODE_BYTES = 8, ID_BYTES = 100, PIECE_BYTES = 1000 };

/* {"prompt" or "content": TEXT} or {"messages": [...]}. */
static bool encode(server *s, const http_exchange *x, const json_t *body, int32_t **ids, int *n, holding *held,
                   refusal *r) {
    bool special = true;
    const char *key = field(body, "content") ? "content" : "prompt";
    const json_t *prompt = field(body, key);
    pleat_error error;
    if (!ask_model(&s->world, body, r) || !field_flag(body, "add_special", &special, r) ||
        !field_flag(body, "add_special_tokens", &special, r))
        return false;
    if (field(body, "messages")) {
        ask_messages m;
        if (!ask_messages_read(&s->world, body, &m, r))
            return false;
        free(m.pin);
        *ids = m.ids;
        *n = m.n;
        return true;
    }
    if (!json_is_string(prompt))
        return refuse(r, key, "%s must be a text", key);
    if (!serve_take(s, x, held, json_string_length(prompt) * ENCODE_BYTES, r))
        return false;
    pleat_status status = tokenizer_encode(s->world.model->tok, json_string_value(prompt), json_string_length(prompt),
                                           special ? TOKENIZER_SPECIAL : TOKENIZER_PARSE, ids, n, &error);
    return !status || refuse_status(r, key, status, &error);
}

/* A token with its text, or with its bytes where they are no whole characters. */
static json_t *piece_of(const pleat_model *model, int32_t id) {
    size_t n;
    const char *bytes = pleat_token_bytes(model, id, true, &n);
    json_t *piece = utf8_valid(bytes, n) ? json_stringn(bytes, n) : json_array();
    for (size_t i = 0; json_is_array(piece) && i < n; i++)
        json_array_append_new(piece, json_integer((unsigned char)bytes[i]));
    return json_pack("{s:i,s:o}", "id", id, "piece", piece);
}

void tell_tokens(server *s, http_exchange *x) {
    refusal r = {0};
    int32_t *ids = NULL;
    int n = 0;
    holding held = {0};
    bool with_pieces = false, with_strings = false;
    json_t *body = body_of(x);
    if (!body)
        return;
    if (!field_flag(body, "with_pieces", &with_pieces, &r) ||
        !field_flag(body, "return_token_strs", &with_strings, &r) ||
        (with_strings && !refuse(&r, "return_token_strs", "return_token_strs is not supported; with_pieces is")) ||
        !encode(s, x, body, &ids, &n, &held, &r) ||
        !serve_take(s, x, &held, (size_t)n * (with_pieces ? PIECE_BYTES : ID_BYTES), &r)) {
        serve_refuse(x, &r);
    } else {
        json_t *list = json_array();
        for (int i = 0; i < n; i++)
            json_array_append_new(list, with_pieces ? piece_of(s->world.model, ids[i]) : json_integer(ids[i]));
        answer(x, json_pack("{s:i,s:i,s:o}", "count", n, "max_model_len", s->world.context_tokens, "tokens", list));
    }
    free(ids);
    serve_give(s, &held);
    json_decref(body);
}

static json_t *token_text(const pleat_model *model, int32_t id) {
    size_t n;
    const char *bytes = id < 0 ? NULL : pleat_token_bytes(model, id, true, &n);
    json_t *value = bytes ? json_stringn(bytes, n) : NULL;
    return value ? value : json_null();
}

void tell_tokenizer(server *s, http_exchange *x) {
    const pleat_model *model = s->world.model;
    answer(x, json_pack("{s:s,s:o,s:o,s:n,s:b,s:i}", "tokenizer_class", "pleat", "bos_token",
                        token_text(model, tokenizer_bos(model->tok)), "eos_token",
                        token_text(model, tokenizer_eos(model->tok)), "pad_token", "add_bos_token",
                        tokenizer_adds_bos(model->tok), "model_max_length", s->world.context_tokens));
}

/* Bytes while ids become a text: the ids; the bytes, which are written out, repaired and quoted twice. */
static size_t decode_bytes(const server *s, const int32_t *ids, size_t n) {
    enum { COPIES = 16 };
    size_t bytes = n * sizeof(*ids), n_of_token;
    for (size_t i = 0; i < n; i++) {
        pleat_token_bytes(s->world.model, ids[i], true, &n_of_token);
        bytes += n_of_token * COPIES;
    }
    return bytes;
}

static bool decode(server *s, const http_exchange *x, const json_t *list, text *out, holding *held, refusal *r) {
    size_t i;
    const json_t *item;
    if (!json_is_array(list))
        return refuse(r, "tokens", "tokens must be a list of token ids");
    int32_t *ids = malloc((json_array_size(list) + 1) * sizeof(*ids));
    bool ok = ids || refuse_no_memory(r);
    json_array_foreach(list, i, item) ok = ok && ask_token_id(&s->world, "tokens", item, &ids[i], r);
    ok = ok && serve_take(s, x, held, decode_bytes(s, ids, json_array_size(list)), r);
    if (ok)
        text_of_tokens(s->world.model, ids, (int)json_array_size(list), true, out);
    free(ids);
    return ok && (!out->failed || refuse_no_memory(r));
}

void tell_text(server *s, http_exchange *x) {
    refusal r = {0};
    text out = {0};
    holding held = {0};
    json_t *body = body_of(x);
    if (!body)
        return;
    if (ask_model(&s->world, body, &r) && decode(s, x, field(body, "tokens"), &out, &held, &r)) {
        const char *said = out.bytes ? out.bytes : "";
        answer(x, json_pack("{s:s%,s:s%}", "prompt", said, out.n, "content", said, out.n));
    } else {
        serve_refuse(x, &r);
    }
    text_free(&out);
    serve_give(s, &held);
    json_decref(body);
}

/* ---- health and figures ---- */

void tell_live(server *s, http_exchange *x) {
    (void)s;
    answer(x, json_pack("{s:s}", "status", "ok"));
}

void tell_ready(server *s, http_exchange *x) {
    refusal r;
    if (atomic_load(&s->draining)) {
        refuse_draining(&r);
        r.code_is_status = true;
        serve_refuse(x, &r);
    } else {
        tell_live(s, x);
    }
}

void tell_version(server *s, http_exchange *x) {
    answer(x, json_pack("{s:s,s:s}", "version", PLEAT_VERSION, "level", pleat_engine_level(s->engine)));
}

/* The last stands for all that found no place, as clients may write any number of methods. */
enum { MOST_METHODS = 32 };
typedef struct tally {
    char spec[MOST_METHODS][KV_MAX_SPEC_BYTES];
    metrics_method method[MOST_METHODS];
    int n;
} tally;

static void see(void *context, const char *spec, size_t bytes) {
    tally *t = context;
    int i = 0;
    while (i < t->n && strcmp(t->spec[i], spec))
        i++;
    if (i >= MOST_METHODS - 1) {
        i = MOST_METHODS - 1;
        spec = "others";
    }
    if (i == t->n) {
        strncpy(t->spec[i], spec, sizeof(t->spec[i]) - 1);
        t->method[t->n++] = (metrics_method){.spec = t->spec[i]};
    }
    t->method[i].kv_bytes += bytes;
    t->method[i].running++;
}

void tell_metrics(server *s, http_exchange *x) {
    text out = {0};
    tally *t = calloc(1, sizeof(*t));
    scheduler_figures f = scheduler_describe(s->scheduler);
    metrics_model model = {s->options.name, pleat_model_describe(s->world.model).f16_token_bytes};
    if (t) {
        jobs_kv_bytes(s, see, t);
        metrics_write(s->metrics, &f, &model, t->method, t->n, &out);
    }
    if (t && !out.failed)
        http_answer(x, 200, "text/plain; version=0.0.4; charset=utf-8", out.bytes, out.n);
    else
        lack_memory(x);
    text_free(&out);
    free(t);
}
