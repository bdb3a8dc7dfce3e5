/* ask_prompt.c - the prompts of a request: text, token ids, lists of either, or messages. */
#include "serve/ask_inside.h"
#include "base/text.h"
#include "model/model.h"
#include <stdlib.h>
#include <string.h>

enum { MOST_MESSAGES = 10000 };

static bool no_memory(refusal *r) {
    refuse(r, "", "no memory for a request");
    r->status = 503;
    return false;
}

/* A text that cannot fit is refused before it is tokenised: no token stands for more than the longest one's bytes. */
static bool fits(const ask_world *w, const char *name, size_t n_bytes, refusal *r) {
    enum { TOKEN_BYTES = 256 };
    return n_bytes / TOKEN_BYTES <= (size_t)w->context_tokens ||
           refuse(r, name, "a text of %zu bytes does not fit a context of %d tokens", n_bytes, w->context_tokens);
}

/* ---- prompts ---- */

static bool add_ids(ask *a, int32_t *ids, int n, refusal *r) {
    ask_prompt *more = realloc(a->prompt, ((size_t)a->n_prompts + 1) * sizeof(*more));
    if (!more) {
        free(ids);
        return no_memory(r);
    }
    a->prompt = more;
    a->prompt[a->n_prompts++] = (ask_prompt){.ids = ids, .n = n};
    return n > 0 || refuse(r, "prompt", "the prompt has no tokens");
}

static bool add_text(const ask_world *w, ask *a, const json_t *item, refusal *r) {
    int32_t *ids;
    int n;
    pleat_error error;
    size_t n_bytes = json_string_length(item);
    if (!fits(w, "prompt", n_bytes, r))
        return false;
    if (pleat_tokenize(w->model, json_string_value(item), n_bytes, true, &ids, &n, &error))
        return refuse(r, "prompt", "%.500s", error.text);
    return add_ids(a, ids, n, r);
}

static bool add_tokens(const ask_world *w, ask *a, const json_t *list, refusal *r) {
    int n = (int)json_array_size(list), n_vocab = w->model->n_vocab;
    int32_t *ids = malloc(((size_t)n + 1) * sizeof(*ids));
    if (!ids)
        return no_memory(r);
    for (int i = 0; i < n; i++) {
        const json_t *item = json_array_get(list, (size_t)i);
        json_int_t id = json_integer_value(item);
        if (json_is_integer(item) && id >= 0 && id < n_vocab) {
            ids[i] = (int32_t)id;
            continue;
        }
        free(ids);
        return json_is_integer(item) ? refuse(r, "prompt", "the prompt names token %lld; the vocabulary has %d tokens",
                                              (long long)id, n_vocab)
                                     : refuse(r, "prompt", "a prompt of token ids holds something else");
    }
    return add_ids(a, ids, n, r);
}

bool ask_read_prompts(const ask_world *w, ask *a, const json_t *body, refusal *r) {
    const json_t *prompt = field(body, "prompt"), *item;
    if (!prompt)
        return refuse(r, "prompt", "prompt is missing");
    if (json_is_string(prompt))
        return add_text(w, a, prompt, r);
    if (!json_is_array(prompt) || !json_array_size(prompt))
        return refuse(r, "prompt", "prompt must be a text, token ids, or a list of either that is not empty");
    if (json_is_number(json_array_get(prompt, 0)))
        return add_tokens(w, a, prompt, r);
    if (json_array_size(prompt) > (size_t)w->most_answers)
        return refuse(r, "prompt", "%zu prompts in one request; at most %d are possible", json_array_size(prompt),
                      w->most_answers);
    size_t i;
    json_array_foreach(prompt, i, item) {
        if (json_is_string(item) ? !add_text(w, a, item, r) : json_is_array(item) && !add_tokens(w, a, item, r))
            return false;
        if (!json_is_string(item) && !json_is_array(item))
            return refuse(r, "prompt", "prompt %zu of the list is neither a text nor token ids", i);
    }
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

static bool encode(const ask_world *w, const chat_message *message, int n, int32_t **ids, int *n_ids, refusal *r) {
    pleat_error error;
    if (!chat_encode(w->model->tok, w->model->file, w->format, message, n, 0, ids, n_ids, &error))
        return true;
    return refuse(r, "messages", "%.500s", error.text);
}

/* Tokens that two conversations with this system message begin with alike. */
static bool count_system(const ask_world *w, const chat_message *system, int *n, refusal *r) {
    int32_t *a, *b;
    int n_a, n_b;
    chat_message one[] = {*system, {"user", "a", 1}}, other[] = {*system, {"user", "b", 1}};
    *n = 0;
    if (!encode(w, one, 2, &a, &n_a, r))
        return false;
    if (!encode(w, other, 2, &b, &n_b, r)) {
        free(a);
        return false;
    }
    while (*n < n_a && *n < n_b && a[*n] == b[*n])
        ++*n;
    free(a);
    free(b);
    return true;
}

bool ask_chat_ids(const ask_world *w, const json_t *messages, int32_t **ids, int *n_ids, int *n_system, refusal *r) {
    size_t n = json_array_size(messages), total = 0;
    if (!w->has_chat)
        return refuse(r, "messages", "%.500s", w->no_chat);
    if (!json_is_array(messages) || !n || n > MOST_MESSAGES)
        return refuse(r, "messages", "messages must be a list of 1 to %d messages", MOST_MESSAGES);
    chat_message *message = calloc(n, sizeof(*message));
    text *content = calloc(n, sizeof(*content));
    bool ok = message && content;
    if (!ok)
        no_memory(r);
    for (size_t i = 0; i < n && ok; i++) {
        ok = read_message(json_array_get(messages, i), &message[i], &content[i], r);
        message[i].content = content[i].bytes ? content[i].bytes : "";
        message[i].content_bytes = content[i].n;
        total += content[i].n;
        if (ok && content[i].failed)
            ok = no_memory(r);
    }
    ok = ok && fits(w, "messages", total, r) && encode(w, message, (int)n, ids, n_ids, r);
    if (ok && n_system && !strcmp(message[0].role, "system") && !count_system(w, &message[0], n_system, r)) {
        free(*ids);
        ok = false;
    }
    for (size_t i = 0; content && i < n; i++)
        text_free(&content[i]);
    free(content);
    free(message);
    return ok;
}

bool ask_read_messages(const ask_world *w, ask *a, const json_t *body, int *n_system, refusal *r) {
    int32_t *ids;
    int n;
    bool pin = field(body, "pin") != NULL;
    if (!field(body, "messages"))
        return refuse(r, "messages", "messages is missing");
    return ask_chat_ids(w, field(body, "messages"), &ids, &n, pin ? n_system : NULL, r) && add_ids(a, ids, n, r);
}
