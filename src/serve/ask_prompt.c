/* ask_prompt.c - the prompts of a request: text, token ids, lists of either, or messages. */
#include "serve/ask_inside.h"
#include "base/text.h"
#include "model/model.h"
#include <stdlib.h>
#include <string.h>

enum { MOST_MESSAGES = 10000 };

/* A text that cannot fit, and is not to be cut, is refused before it is tokenised: no token stands for more than the
 * longest one's bytes. */
static bool fits(const ask_world *w, const json_t *body, const char *name, size_t n_bytes, refusal *r) {
    enum { TOKEN_BYTES = 256 };
    if (n_bytes / TOKEN_BYTES <= (size_t)w->context_tokens || field(body, "truncate_prompt_tokens"))
        return true;
    refuse(r, name, "a text of %zu bytes does not fit a context of %d tokens", n_bytes, w->context_tokens);
    r->code = CODE_TOO_LONG;
    return false;
}

/* ---- prompts ---- */

static bool add_ids(ask *a, int32_t *ids, int n, refusal *r) {
    ask_prompt *more = realloc(a->prompt, ((size_t)a->n_prompts + 1) * sizeof(*more));
    if (!more) {
        free(ids);
        return refuse_no_memory(r);
    }
    a->prompt = more;
    a->prompt[a->n_prompts++] = (ask_prompt){.ids = ids, .n = n};
    return n > 0 || refuse(r, "prompt", "the prompt has no tokens");
}

static bool add_text(const ask_world *w, ask *a, const json_t *body, const json_t *item, tokenizer_mode mode,
                     refusal *r) {
    int32_t *ids;
    int n;
    pleat_error error;
    size_t n_bytes = json_string_length(item);
    if (!fits(w, body, "prompt", n_bytes, r))
        return false;
    pleat_status status = tokenizer_encode(w->model->tok, json_string_value(item), n_bytes, mode, &ids, &n, &error);
    return status ? refuse_status(r, "prompt", status, &error) : add_ids(a, ids, n, r);
}

static bool add_tokens(const ask_world *w, ask *a, const json_t *list, refusal *r) {
    int n = (int)json_array_size(list);
    int32_t *ids = malloc(((size_t)n + 1) * sizeof(*ids));
    if (!ids)
        return refuse_no_memory(r);
    for (int i = 0; i < n; i++)
        if (!ask_token_id(w, "prompt", json_array_get(list, (size_t)i), &ids[i], r)) {
            free(ids);
            return false;
        }
    return add_ids(a, ids, n, r);
}

bool ask_read_prompts(const ask_world *w, ask *a, const json_t *body, refusal *r) {
    const json_t *prompt = field(body, "prompt"), *item;
    bool special = true;
    if (!field_flag(body, "add_special_tokens", &special, r))
        return false;
    tokenizer_mode mode = special ? TOKENIZER_SPECIAL : TOKENIZER_PARSE;
    if (!prompt)
        return refuse(r, "prompt", "prompt is missing");
    if (json_is_string(prompt))
        return add_text(w, a, body, prompt, mode, r);
    if (!json_is_array(prompt) || !json_array_size(prompt))
        return refuse(r, "prompt", "prompt must be a text, token ids, or a list of either that is not empty");
    if (json_is_number(json_array_get(prompt, 0)))
        return add_tokens(w, a, prompt, r);
    if (json_array_size(prompt) > (size_t)w->most_answers)
        return refuse(r, "prompt", "%zu prompts in one request; at most %d are possible", json_array_size(prompt),
                      w->most_answers);
    size_t i;
    json_array_foreach(prompt, i, item) {
        if (json_is_string(item) ? !add_text(w, a, body, item, mode, r)
                                 : json_is_array(item) && !add_tokens(w, a, item, r))
            return false;
        if (!json_is_string(item) && !json_is_array(item))
            return refuse(r, "prompt", "prompt %zu of the list is neither a text nor token ids", i);
    }
    return true;
}

bool ask_pin(ask_prompt *p, token_span span, refusal *r) {
    span.end = span.end < p->n ? span.end : p->n;
    if (span.first >= span.end)
        return true;
    token_span *more = realloc(p->pin, ((size_t)p->n_pins + 1) * sizeof(*more));
    if (!more)
        return refuse_no_memory(r);
    p->pin = more;
    p->pin[p->n_pins++] = span;
    return true;
}

/* ---- messages ---- */

/* A message's content: a text, or parts of text joined by line breaks. */
static bool add_content(const json_t *content, text *out, refusal *r) {
    if (json_is_string(content)) {
        text_append(out, json_string_value(content), json_string_length(content));
        return true;
    }
    if (!json_is_array(content) || !json_array_size(content))
        return refuse(r, "messages", "a message's content must be a text or a list of parts");
    size_t i;
    const json_t *part;
    json_array_foreach(content, i, part) {
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *string = json_object_get(part, "text");
        if (!type || strcmp(type, "text"))
            return refuse(r, "messages", "a part of a message is of type \"%.40s\"; only \"text\" is possible",
                          type ? type : "");
        if (!json_is_string(string))
            return refuse(r, "messages", "a part of a message has no text");
        if (i)
            text_append(out, "\n", 1);
        text_append(out, json_string_value(string), json_string_length(string));
    }
    return true;
}

static const char *known_role(const char *role) {
    static const char *const roles[] = {"system", "user", "assistant"};
    if (role && !strcmp(role, "developer"))
        return roles[0];
    for (size_t i = 0; role && i < sizeof(roles) / sizeof(*roles); i++)
        if (!strcmp(role, roles[i]))
            return roles[i];
    return NULL;
}

static bool read_message(const json_t *item, chat_message *message, text *content, refusal *r) {
    if (!json_is_object(item))
        return refuse(r, "messages", "a message must be an object with role and content");
    const char *role = json_string_value(json_object_get(item, "role"));
    message->role = known_role(role);
    if (!message->role)
        return refuse(r, "messages", "a message's role is \"%.40s\"; system, developer, user and assistant are known",
                      role ? role : "");
    const json_t *calls = field(item, "tool_calls");
    if (calls && !(json_is_array(calls) && !json_array_size(calls)))
        return refuse(r, "messages", "tool calls are not supported");
    return add_content(json_object_get(item, "content"), content, r);
}

/* A conversation while it is read: [n] of each. */
typedef struct conversation {
    chat_message *message;
    text *content; /* the messages' own */
    token_span *span;
    bool *pin;
    size_t n, n_bytes;
} conversation;

static void conversation_free(conversation *c) {
    for (size_t i = 0; c->content && i < c->n; i++)
        text_free(&c->content[i]);
    free(c->content);
    free(c->message);
    free(c->span);
    free(c->pin);
}

static bool conversation_open(conversation *c, size_t n, refusal *r) {
    *c = (conversation){.message = calloc(n, sizeof(*c->message)),
                        .content = calloc(n, sizeof(*c->content)),
                        .span = calloc(n, sizeof(*c->span)),
                        .pin = calloc(n, sizeof(*c->pin)),
                        .n = n};
    if (c->message && c->content && c->span && c->pin)
        return true;
    conversation_free(c);
    return refuse_no_memory(r);
}

static bool conversation_read(conversation *c, const json_t *messages, refusal *r) {
    for (size_t i = 0; i < c->n; i++) {
        const json_t *item = json_array_get(messages, i);
        chat_message *message = &c->message[i];
        text *content = &c->content[i];
        if (!read_message(item, message, content, r) || !field_flag(item, "pin", &c->pin[i], r))
            return false;
        if (content->failed)
            return refuse_no_memory(r);
        message->content = content->bytes ? content->bytes : "";
        message->content_bytes = content->n;
        c->n_bytes += content->n;
    }
    return true;
}

static bool encode(const ask_world *w, const conversation *c, bool begun, ask_messages *out, refusal *r) {
    pleat_error error;
    *out = (ask_messages){.pin = malloc(c->n * sizeof(*out->pin))};
    if (!out->pin)
        return refuse_no_memory(r);
    const tokenizer *tok = w->model->tok;
    const gguf *file = w->model->file;
    pleat_status status =
        begun ? chat_encode_begun(tok, file, w->format, c->message, (int)c->n, c->span, &out->ids, &out->n, &error)
              : chat_encode_spans(tok, file, w->format, c->message, (int)c->n, 0, c->span, &out->ids, &out->n, &error);
    if (status) {
        free(out->pin);
        return refuse_status(r, "messages", status, &error);
    }
    for (size_t i = 0; i < c->n; i++)
        if (c->pin[i])
            out->pin[out->n_pins++] = c->span[i];
    out->system = chat_system_span(c->message, c->span);
    return true;
}

/* Whether the last message goes on: clients then say that no opening is added, which alone cannot be obeyed. */
static bool read_begun(const json_t *body, bool *begun, refusal *r) {
    bool opens = !json_is_true(field(body, "continue_final_message"));
    if (!field_flag(body, "continue_final_message", begun, r) || !field_flag(body, "add_generation_prompt", &opens, r))
        return false;
    if (opens && *begun)
        return refuse(r, "continue_final_message", "continue_final_message needs add_generation_prompt to be false");
    return opens || *begun ||
           refuse(r, "add_generation_prompt", "add_generation_prompt can only be false with continue_final_message");
}

bool ask_messages_read(const ask_world *w, const json_t *body, ask_messages *out, refusal *r) {
    const json_t *messages = field(body, "messages");
    size_t n = json_array_size(messages);
    conversation c;
    bool begun = false;
    if (!w->has_chat)
        return refuse(r, "messages", "%.500s", w->no_chat);
    if (!messages)
        return refuse(r, "messages", "messages is missing");
    if (!json_is_array(messages) || !n || n > MOST_MESSAGES)
        return refuse(r, "messages", "messages must be a list of 1 to %d messages", MOST_MESSAGES);
    if (!read_begun(body, &begun, r) || !conversation_open(&c, n, r))
        return false;
    bool ok =
        conversation_read(&c, messages, r) && fits(w, body, "messages", c.n_bytes, r) && encode(w, &c, begun, out, r);
    conversation_free(&c);
    return ok;
}

bool ask_read_messages(const ask_world *w, ask *a, const json_t *body, token_span *system, refusal *r) {
    ask_messages m;
    if (!ask_messages_read(w, body, &m, r))
        return false;
    bool ok = add_ids(a, m.ids, m.n, r);
    for (int i = 0; i < m.n_pins && ok; i++)
        ok = ask_pin(&a->prompt[0], m.pin[i], r);
    free(m.pin);
    *system = m.system;
    return ok;
}
