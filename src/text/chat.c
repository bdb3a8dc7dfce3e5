/* chat.c - conversations to ids, without a template interpreter.
 *
 * A conversation is a row of marks and plain text. A mark ("<|im_start|>") becomes its token when the vocabulary has it
 * as a special one, and text otherwise ("[INST]" of llama-2); text between two tokens is joined before it is tokenised,
 * as it would be in a rendered template, but is never parsed for special tokens.
 *
 *   chatml    <|im_start|>ROLE\nTEXT<|im_end|>\n
 *   llama-3   <|start_header_id|>ROLE<|end_header_id|>\n\nTEXT<|eot_id|>              text trimmed
 *   gemma     <start_of_turn>user|model\nTEXT<end_of_turn>\n                          text trimmed; the system's goes
 * before the first user's llama-2   BOS [INST] <<SYS>>\nSYSTEM\n<</SYS>>\n\nTEXT [/INST] TEXT EOS           BOS before
 * every user turn mistral   BOS [INST] TEXT [/INST]TEXT EOS                                         the system's goes
 * before the first user's */
#include "text/chat.h"
#include "base/status.h"
#include "base/text.h"
#include "text/vocab.h"
#include <stdlib.h>
#include <string.h>

static const char *const names[CHAT_COUNT] = {"chatml", "llama-2", "llama-3", "gemma", "mistral"};
#define NAMES "chatml, llama-2, llama-3, gemma, mistral"

const char *chat_format_name(chat_format format) {
    return names[format];
}

pleat_status chat_format_parse(const char *name, chat_format *format, pleat_error *error) {
    for (int i = 0; i < CHAT_COUNT; i++)
        if (!strcmp(name, names[i])) {
            *format = (chat_format)i;
            return PLEAT_OK;
        }
    return err_set(error, PLEAT_EINPUT, "the chat format \"%.40s\" is not known; known are %s", name, NAMES);
}

static pleat_status get_template(const gguf *file, gguf_string *found_text, bool *found, pleat_error *error) {
    return gguf_get_string(file, "tokenizer.chat_template", found_text, found, error);
}

static bool holds(gguf_string s, const char *mark) {
    return memmem(s.bytes, s.n, mark, strlen(mark)) != NULL;
}

pleat_status chat_format_detect(const gguf *file, chat_format *format, pleat_error *error) {
    static const struct {
        const char *mark;
        chat_format format;
    } marks[] = {{"<|im_start|>", CHAT_CHATML},
                 {"<|start_header_id|>", CHAT_LLAMA3},
                 {"<start_of_turn>", CHAT_GEMMA},
                 {"<<SYS>>", CHAT_LLAMA2},
                 {"[INST]", CHAT_MISTRAL}};
    gguf_string found_text;
    bool found;
    pleat_status status = get_template(file, &found_text, &found, error);
    if (status)
        return status;
    if (!found)
        return err_set(error, PLEAT_EINPUT, "%.150s has no chat template; name a chat format (%s) or use the raw text",
                       gguf_path(file), NAMES);
    for (size_t i = 0; i < sizeof(marks) / sizeof(*marks); i++)
        if (holds(found_text, marks[i].mark)) {
            *format = marks[i].format;
            return PLEAT_OK;
        }
    return err_set(error, PLEAT_EINPUT, "the chat template of %.150s is not one of those known (%s); name one of them",
                   gguf_path(file), NAMES);
}

/* ---- writing ---- */

typedef struct writer {
    const tokenizer *tok;
    pleat_error *error;
    pleat_status status; /* the first failure; nothing is written after it */
    text plain;          /* text since the last token */
    id_list list;
} writer;

static void fail_memory(writer *w) {
    if (!w->status)
        w->status = err_set(w->error, PLEAT_EMEMORY, "no memory for a conversation");
}

static void push_ids(writer *w, const char *bytes, size_t n, tokenizer_mode mode) {
    int32_t *ids = NULL;
    int n_ids = 0;
    if (!w->status)
        w->status = tokenizer_encode(w->tok, bytes, n, mode, &ids, &n_ids, w->error);
    for (int i = 0; !w->status && i < n_ids; i++)
        id_list_push(&w->list, ids[i]);
    free(ids);
    if (w->list.failed)
        fail_memory(w);
}

static void flush(writer *w) {
    if (w->plain.failed)
        fail_memory(w);
    if (w->plain.n)
        push_ids(w, w->plain.bytes, w->plain.n, TOKENIZER_PLAIN);
    text_free(&w->plain);
    w->plain = (text){0};
}

static void put(writer *w, const char *s) {
    text_puts(&w->plain, s);
}

static void put_id(writer *w, int32_t id) {
    flush(w);
    if (id >= 0)
        id_list_push(&w->list, id);
}

/* A mark of the format: its token, or text where the vocabulary has none. */
static void put_mark(writer *w, const char *mark) {
    int32_t *ids = NULL;
    int n_ids = 0;
    if (!w->status)
        w->status = tokenizer_encode(w->tok, mark, strlen(mark), TOKENIZER_PARSE, &ids, &n_ids, w->error);
    size_t n_bytes = 0;
    const char *bytes = n_ids == 1 ? tokenizer_bytes(w->tok, ids[0], true, &n_bytes) : NULL;
    if (bytes && n_bytes == strlen(mark) && !memcmp(bytes, mark, n_bytes))
        put_id(w, ids[0]);
    else
        put(w, mark);
    free(ids);
}

static bool is_space(char c) {
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static void put_content(writer *w, const chat_message *m, bool trimmed) {
    size_t from = 0, to = m->content_bytes;
    while (trimmed && from < to && is_space(m->content[from]))
        from++;
    while (trimmed && to > from && is_space(m->content[to - 1]))
        to--;
    text_append(&w->plain, m->content + from, to - from);
}

/* ---- the formats ---- */

static bool is_role(const chat_message *m, const char *role) {
    return !strcmp(m->role, role);
}

/* The literal system message of a chatml template: between "<|im_start|>system", a line break and "<|im_end|>", if no
 * quote ends it before. */
static gguf_string default_system(const gguf *file) {
    static const char open[] = "<|im_start|>system", close[] = "<|im_end|>";
    gguf_string found_text = {"", 0};
    bool found = false;
    if (get_template(file, &found_text, &found, NULL) || !found)
        return (gguf_string){"", 0};
    const char *end = found_text.bytes + found_text.n, *at = found_text.bytes;
    while ((at = memmem(at, (size_t)(end - at), open, sizeof(open) - 1))) {
        at += sizeof(open) - 1;
        const char *from = at;
        if (end - from >= 2 && !memcmp(from, "\\n", 2))
            from += 2;
        else if (end - from >= 1 && *from == '\n')
            from++;
        const char *to = memmem(from, (size_t)(end - from), close, sizeof(close) - 1);
        if (to && from > at && !memchr(from, '\'', (size_t)(to - from)) && !memchr(from, '"', (size_t)(to - from)))
            return (gguf_string){from, (size_t)(to - from)};
    }
    return (gguf_string){"", 0};
}

static void chatml_message(writer *w, const chat_message *m) {
    put_mark(w, "<|im_start|>");
    put(w, m->role);
    put(w, "\n");
    put_content(w, m, false);
    put_mark(w, "<|im_end|>");
    put(w, "\n");
}

static void write_chatml(writer *w, const gguf *file, const chat_message *m, int n, int first) {
    gguf_string system = default_system(file);
    if (first) {
        put_mark(w, "<|im_end|>");
        put(w, "\n");
    } else if (system.n && !is_role(&m[0], "system")) {
        chatml_message(w, &(chat_message){"system", system.bytes, system.n});
    }
    for (int i = first; i < n; i++)
        chatml_message(w, &m[i]);
    put_mark(w, "<|im_start|>");
    put(w, "assistant\n");
}

static void llama3_header(writer *w, const char *role) {
    put_mark(w, "<|start_header_id|>");
    put(w, role);
    put_mark(w, "<|end_header_id|>");
    put(w, "\n\n");
}

static void write_llama3(writer *w, const chat_message *m, int n, int first) {
    if (first)
        put_mark(w, "<|eot_id|>");
    for (int i = first; i < n; i++) {
        llama3_header(w, m[i].role);
        put_content(w, &m[i], true);
        put_mark(w, "<|eot_id|>");
    }
    llama3_header(w, "assistant");
}

static void write_gemma(writer *w, const chat_message *m, int n, int first) {
    if (first) {
        put_mark(w, "<end_of_turn>");
        put(w, "\n");
    }
    for (int i = first; i < n; i++) {
        if (is_role(&m[i], "system"))
            continue;
        put_mark(w, "<start_of_turn>");
        put(w, is_role(&m[i], "user") ? "user\n" : "model\n");
        if (i == 1 && is_role(&m[0], "system")) {
            put_content(w, &m[0], false);
            put(w, "\n\n");
        }
        put_content(w, &m[i], true);
        put_mark(w, "<end_of_turn>");
        put(w, "\n");
    }
    put_mark(w, "<start_of_turn>");
    put(w, "model\n");
}

/* llama-2 and mistral. */
static void write_inst(writer *w, bool llama2, const chat_message *m, int n, int first) {
    if (first)
        put_id(w, tokenizer_eos(w->tok));
    for (int i = first; i < n; i++) {
        if (is_role(&m[i], "system"))
            continue;
        if (is_role(&m[i], "assistant")) {
            put(w, llama2 ? " " : "");
            put_content(w, &m[i], llama2);
            put(w, llama2 ? " " : "");
            put_id(w, tokenizer_eos(w->tok));
            continue;
        }
        if (llama2 && i > 1)
            put_id(w, tokenizer_bos(w->tok));
        put_mark(w, "[INST]");
        put(w, " ");
        if (i == 1 && is_role(&m[0], "system")) {
            put(w, llama2 ? "<<SYS>>\n" : "");
            put_content(w, &m[0], false);
            put(w, llama2 ? "\n<</SYS>>\n\n" : "\n\n");
        }
        put_content(w, &m[i], llama2);
        put(w, " ");
        put_mark(w, "[/INST]");
    }
}

/* ---- the whole ---- */

static pleat_status check_order(const chat_message *m, int n, int first, pleat_error *error) {
    for (int i = 0; i < n; i++) {
        bool system = is_role(&m[i], "system"), user = is_role(&m[i], "user"), assistant = is_role(&m[i], "assistant");
        if (!system && !user && !assistant)
            return err_set(error, PLEAT_EINPUT,
                           "message %d: the role \"%.40s\" is not known; known are system, user, assistant", i,
                           m[i].role);
        if (system && i)
            return err_set(error, PLEAT_EINPUT, "message %d is a system message; it must be the first", i);
        bool expect_user = i == 0 || !is_role(&m[i - 1], "user");
        if (!system && user != expect_user)
            return err_set(error, PLEAT_EINPUT, "message %d is the %s's; user and assistant must take turns", i,
                           m[i].role);
    }
    if (n < 1 || !is_role(&m[n - 1], "user"))
        return err_set(error, PLEAT_EINPUT, "a conversation must end with a message of the user");
    if (first < 0 || first >= n || (first && !is_role(&m[first - 1], "assistant")))
        return err_set(error, PLEAT_EINPUT, "message %d does not follow an answer of the assistant", first);
    return PLEAT_OK;
}

pleat_status chat_encode(const tokenizer *tok, const gguf *file, chat_format format, const chat_message *messages,
                         int n_messages, int first, int32_t **ids, int *n_ids, pleat_error *error) {
    pleat_status status = check_order(messages, n_messages, first, error);
    if (status)
        return status;
    writer w = {.tok = tok, .error = error};
    bool always = format == CHAT_LLAMA2 || format == CHAT_LLAMA3 || format == CHAT_GEMMA || format == CHAT_MISTRAL;
    if (!first && (always || tokenizer_adds_bos(tok)))
        put_id(&w, tokenizer_bos(tok));
    if (format == CHAT_CHATML)
        write_chatml(&w, file, messages, n_messages, first);
    else if (format == CHAT_LLAMA3)
        write_llama3(&w, messages, n_messages, first);
    else if (format == CHAT_GEMMA)
        write_gemma(&w, messages, n_messages, first);
    else
        write_inst(&w, format == CHAT_LLAMA2, messages, n_messages, first);
    flush(&w);
    if (!w.status && w.list.failed)
        fail_memory(&w);
    if (w.status) {
        free(w.list.ids);
        return w.status;
    }
    *ids = w.list.ids;
    *n_ids = w.list.n;
    return PLEAT_OK;
}
