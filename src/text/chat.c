/* chat.c - conversations to ids, without a template interpreter.
 *
 * A conversation is a row of marks and plain text. A mark ("<|im_start|>") becomes its token when the vocabulary has it
 * as a special one, and text otherwise ("[INST]" of llama-2); text between two tokens is joined before it is tokenised,
 * as it would be in a rendered template, but is never parsed for special tokens.
 *
 *   chatml    <|im_start|>ROLE\nTEXT<|im_end|>\n
 *   llama-3   <|start_header_id|>ROLE<|end_header_id|>\n\nTEXT<|eot_id|>                  text trimmed
 *   gemma     <start_of_turn>user|model\nTEXT<end_of_turn>\n                              text trimmed; the system's
 *             stands in front of the first user's
 *   llama-2   BOS [INST] <<SYS>>\nSYSTEM\n<</SYS>>\n\nTEXT [/INST] TEXT EOS               text trimmed; BOS before
 *             every user turn
 *   mistral   BOS [INST] TEXT [/INST]TEXT EOS                                             spaces as the file's template
 *             has them; the system's stands in front of the first or, in v0.3 and later, the last user's. In a
 *             conversation that is already in the cache it cannot move on: there it stays where it was.
 *
 * Where a message begins or ends inside of plain text, its edge is kept as a byte of that text and becomes a token's
 * index when the text is tokenised. */
#include "text/chat.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/text.h"
#include "text/chat_style.h"
#include "text/vocab.h"
#include <stdlib.h>
#include <string.h>

static const char *const names[CHAT_COUNT] = {"chatml", "llama-2", "llama-3", "gemma", "mistral"};

const char *chat_format_name(chat_format format) {
    return names[format];
}

pleat_status chat_format_parse(const char *name, chat_format *format, pleat_error *error) {
    for (int i = 0; i < CHAT_COUNT; i++)
        if (!strcmp(name, names[i])) {
            *format = (chat_format)i;
            return PLEAT_OK;
        }
    return err_set(error, PLEAT_EINPUT, "the chat format \"%.40s\" is not known; known are " CHAT_NAMES, name);
}

/* ---- writing ---- */

/* Where a message begins or ends. */
typedef struct edge {
    int *to;
    size_t at; /* byte of the plain text */
    bool ends;
} edge;

typedef struct writer {
    const tokenizer *tok;
    pleat_error *error;
    pleat_status status; /* the first failure; nothing is written after it */
    text plain;          /* text since the last token */
    id_list list;
    token_span *span; /* of the messages; NULL: not wanted */
    edge *edge;       /* [n_edges] in the plain text, in rising order */
    int n_edges, cap_edges;
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

static size_t bytes_of(const writer *w, int i) {
    size_t n = 0;
    tokenizer_bytes(w->tok, w->list.ids[i], true, &n);
    return n;
}

/* The plain text has become the tokens from `base` on: puts the edges in it at tokens. */
static void place_edges(writer *w, int base) {
    size_t total = 0, from = 0, to = 0; /* bytes of token i */
    for (int i = base; i < w->list.n; i++)
        total += bytes_of(w, i);
    size_t extra = total - w->plain.n; /* SPM may put a space in front */
    bool spelt = extra <= 1;
    int i = base;
    for (int k = 0; k < w->n_edges; k++) {
        const edge *e = &w->edge[k];
        size_t at = e->at ? e->at + extra : 0;
        if (!spelt) {
            *e->to = e->ends && e->at ? w->list.n : base;
            continue;
        }
        while (i < w->list.n && (to = from + bytes_of(w, i)) <= at) {
            from = to;
            i++;
        }
        *e->to = i + (e->ends && i < w->list.n && from < at);
    }
    w->n_edges = 0;
}

static void flush(writer *w) {
    int base = w->list.n;
    if (w->plain.failed)
        fail_memory(w);
    if (w->plain.n)
        push_ids(w, w->plain.bytes, w->plain.n, TOKENIZER_PLAIN);
    if (!w->status && w->n_edges)
        place_edges(w, base);
    text_free(&w->plain);
    w->plain = (text){0};
}

/* Message i begins (or ends) here. */
static void put_edge(writer *w, int i, bool ends) {
    if (!w->span)
        return;
    if (!mem_grow(&w->edge, &w->cap_edges, w->n_edges + 1, sizeof(*w->edge))) {
        fail_memory(w);
        return;
    }
    w->edge[w->n_edges++] = (edge){ends ? &w->span[i].end : &w->span[i].first, w->plain.n, ends};
}

static void begin_message(writer *w, int i) {
    put_edge(w, i, false);
}

static void end_message(writer *w, int i) {
    put_edge(w, i, true);
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

/* White space as templates trim it (Python's): Unicode's, and the separators of ASCII. */
static const char *const spaces[] = {
    " ",
    "\t",
    "\n",
    "\v",
    "\f",
    "\r",
    "\x1c",
    "\x1d",
    "\x1e",
    "\x1f",
    "\xC2\x85",
    "\xC2\xA0",
    "\xE1\x9A\x80",
    "\xE2\x80\x80",
    "\xE2\x80\x81",
    "\xE2\x80\x82",
    "\xE2\x80\x83",
    "\xE2\x80\x84",
    "\xE2\x80\x85",
    "\xE2\x80\x86",
    "\xE2\x80\x87",
    "\xE2\x80\x88",
    "\xE2\x80\x89",
    "\xE2\x80\x8A",
    "\xE2\x80\xA8",
    "\xE2\x80\xA9",
    "\xE2\x80\xAF",
    "\xE2\x81\x9F",
    "\xE3\x80\x80",
};

/* Bytes of the white space at the beginning (or end) of n bytes; 0: none. */
static size_t space_at(const char *bytes, size_t n, bool end) {
    for (size_t i = 0; i < sizeof(spaces) / sizeof(*spaces); i++) {
        size_t m = strlen(spaces[i]);
        if (m <= n && !memcmp(end ? bytes + n - m : bytes, spaces[i], m))
            return m;
    }
    return 0;
}

static void put_bytes(writer *w, const char *bytes, size_t n, bool trim_front, bool trim_end) {
    size_t m;
    while (trim_front && (m = space_at(bytes, n, false))) {
        bytes += m;
        n -= m;
    }
    while (trim_end && (m = space_at(bytes, n, true)))
        n -= m;
    text_append(&w->plain, bytes, n);
}

static void put_content(writer *w, const chat_message *m, bool trimmed) {
    put_bytes(w, m->content, m->content_bytes, trimmed, trimmed);
}

/* ---- the formats ---- */

static bool is_role(const chat_message *m, const char *role) {
    return !strcmp(m->role, role);
}

static void chatml_message(writer *w, const chat_message *m) {
    put_mark(w, "<|im_start|>");
    put(w, m->role);
    put(w, "\n");
    put_content(w, m, false);
    put_mark(w, "<|im_end|>");
    put(w, "\n");
}

static void write_chatml(writer *w, const chat_style *style, const chat_message *m, int n, int first) {
    if (first) {
        put_mark(w, "<|im_end|>");
        put(w, "\n");
    } else if (style->system.n && !is_role(&m[0], "system")) {
        chatml_message(w, &(chat_message){"system", style->system.bytes, style->system.n});
    }
    for (int i = first; i < n; i++) {
        begin_message(w, i);
        chatml_message(w, &m[i]);
        end_message(w, i);
    }
    put_mark(w, "<|im_start|>");
    put(w, "assistant\n");
}

static void llama3_header(writer *w, const char *role) {
    put_mark(w, "<|start_header_id|>");
    put(w, role);
    put_mark(w, "<|end_header_id|>");
    put(w, "\n\n");
}

static void llama3_message(writer *w, const char *role, const char *before, const chat_message *m) {
    llama3_header(w, role);
    put(w, before);
    if (m)
        put_content(w, m, true);
    put_mark(w, "<|eot_id|>");
}

static void write_llama3(writer *w, const chat_style *style, const chat_message *m, int n, int first) {
    static const char dates[] = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";
    bool system = is_role(&m[0], "system");
    if (first)
        put_mark(w, "<|eot_id|>");
    else if (style->dated && !system)
        llama3_message(w, "system", dates, NULL);
    for (int i = first; i < n; i++) {
        begin_message(w, i);
        llama3_message(w, m[i].role, style->dated && system && i == 0 ? dates : "", &m[i]);
        end_message(w, i);
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
        bool with_system = i == 1 && is_role(&m[0], "system");
        begin_message(w, i);
        if (with_system)
            begin_message(w, 0);
        put_mark(w, "<start_of_turn>");
        put(w, is_role(&m[i], "user") ? "user\n" : "model\n");
        if (with_system) {
            put_content(w, &m[0], false);
            put(w, "\n\n");
            end_message(w, 0);
        }
        put_content(w, &m[i], true);
        put_mark(w, "<end_of_turn>");
        put(w, "\n");
        end_message(w, i);
    }
    put_mark(w, "<start_of_turn>");
    put(w, "model\n");
}

/* One user turn; system NULL: none goes in front (it is message 0). */
static void llama2_user(writer *w, const chat_message *system, const chat_message *m) {
    if (system)
        begin_message(w, 0);
    put_mark(w, "[INST]");
    put(w, " ");
    if (system) {
        put(w, "<<SYS>>\n");
        put_content(w, system, false);
        put(w, "\n<</SYS>>\n\n");
        end_message(w, 0);
    }
    put_bytes(w, m->content, m->content_bytes, !system, true); /* it is the two together that are trimmed */
    put(w, " ");
    put_mark(w, "[/INST]");
}

static void write_llama2(writer *w, const chat_message *m, int n, int first) {
    bool system = is_role(&m[0], "system");
    if (first)
        put(w, " ");
    if (first)
        put_id(w, tokenizer_eos(w->tok));
    for (int i = first; i < n; i++) {
        if (is_role(&m[i], "system"))
            continue;
        begin_message(w, i);
        if (is_role(&m[i], "assistant")) {
            put(w, " ");
            put_content(w, &m[i], true);
            put(w, " ");
            put_id(w, tokenizer_eos(w->tok));
        } else {
            if (i > 1)
                put_id(w, tokenizer_bos(w->tok));
            llama2_user(w, system && i == 1 ? &m[0] : NULL, &m[i]);
        }
        end_message(w, i);
    }
}

/* As llama2_user. */
static void mistral_user(writer *w, const chat_style *style, const chat_message *system, const chat_message *m) {
    if (system)
        begin_message(w, 0);
    put(w, style->space_before ? " " : "");
    put_mark(w, "[INST]");
    put(w, style->space_after ? " " : "");
    if (system) {
        put_content(w, system, false);
        put(w, "\n\n");
        end_message(w, 0);
    }
    put_content(w, m, false);
    put(w, style->space_close ? " " : "");
    put_mark(w, "[/INST]");
}

static void write_mistral(writer *w, const chat_style *style, const chat_message *m, int n, int first) {
    int with_system = first || !is_role(&m[0], "system") ? -1 : style->system_last ? n - 1 : 1;
    if (first)
        put_id(w, tokenizer_eos(w->tok));
    for (int i = first; i < n; i++) {
        if (is_role(&m[i], "system"))
            continue;
        begin_message(w, i);
        if (is_role(&m[i], "assistant")) {
            put(w, style->space_answer ? " " : "");
            put_content(w, &m[i], style->trim_answer);
            put_id(w, tokenizer_eos(w->tok));
        } else {
            mistral_user(w, style, i == with_system ? &m[0] : NULL, &m[i]);
        }
        end_message(w, i);
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

/* BOS is nobody's; it goes with the message that follows. */
static void take_bos(token_span *spans, int n, bool with_bos) {
    for (int i = 0; i < n && with_bos; i++)
        if (spans[i].first == 1)
            spans[i].first = 0;
}

token_span chat_system_span(const chat_message *messages, const token_span *spans) {
    return is_role(&messages[0], "system") ? spans[0] : (token_span){0, spans[0].first};
}

/* The text of message i, the assistant's, behind the opening of its turn. */
static void write_begun(writer *w, chat_format format, const chat_style *style, const chat_message *m, int i) {
    bool spaced = format == CHAT_LLAMA2 || (format == CHAT_MISTRAL && style->space_answer);
    begin_message(w, i);
    put(w, spaced ? " " : "");
    put_content(w, m, format == CHAT_MISTRAL ? style->trim_answer : format != CHAT_CHATML);
    end_message(w, i);
}

/* Messages with the opening of the answer; begun: what the answer already has, or NULL. spans [n_messages + 1 with
 * begun]. */
static pleat_status encode(const tokenizer *tok, const gguf *file, chat_format format, const chat_message *messages,
                           int n_messages, int first, const chat_message *begun, token_span *spans, int32_t **ids,
                           int *n_ids, pleat_error *error) {
    pleat_status status = check_order(messages, n_messages, first, error);
    if (status)
        return status;
    int n_spans = n_messages + (begun != NULL);
    writer w = {.tok = tok, .error = error, .span = spans};
    if (spans)
        memset(spans, 0, (size_t)n_spans * sizeof(*spans));
    const chat_style style = chat_style_read(file, format);
    if (!first && (format != CHAT_CHATML || tokenizer_adds_bos(tok)))
        put_id(&w, tokenizer_bos(tok));
    bool with_bos = w.list.n == 1;
    switch (format) {
    case CHAT_CHATML:
        write_chatml(&w, &style, messages, n_messages, first);
        break;
    case CHAT_LLAMA3:
        write_llama3(&w, &style, messages, n_messages, first);
        break;
    case CHAT_GEMMA:
        write_gemma(&w, messages, n_messages, first);
        break;
    case CHAT_LLAMA2:
        write_llama2(&w, messages, n_messages, first);
        break;
    case CHAT_MISTRAL:
        write_mistral(&w, &style, messages, n_messages, first);
        break;
    case CHAT_COUNT:
        break;
    }
    if (begun)
        write_begun(&w, format, &style, begun, n_messages);
    flush(&w);
    if (!w.status && w.list.failed)
        fail_memory(&w);
    free(w.edge);
    if (w.status) {
        free(w.list.ids);
        return w.status;
    }
    if (spans)
        take_bos(spans, n_spans, with_bos);
    *ids = w.list.ids;
    *n_ids = w.list.n;
    return PLEAT_OK;
}

pleat_status chat_encode_spans(const tokenizer *tok, const gguf *file, chat_format format, const chat_message *messages,
                               int n_messages, int first, token_span *spans, int32_t **ids, int *n_ids,
                               pleat_error *error) {
    return encode(tok, file, format, messages, n_messages, first, NULL, spans, ids, n_ids, error);
}

pleat_status chat_encode_begun(const tokenizer *tok, const gguf *file, chat_format format, const chat_message *messages,
                               int n_messages, token_span *spans, int32_t **ids, int *n_ids, pleat_error *error) {
    if (n_messages < 2 || !is_role(&messages[n_messages - 1], "assistant"))
        return err_set(error, PLEAT_EINPUT, "a message that goes on must be the assistant's, behind one of the user");
    return encode(tok, file, format, messages, n_messages - 1, 0, &messages[n_messages - 1], spans, ids, n_ids, error);
}

pleat_status chat_encode(const tokenizer *tok, const gguf *file, chat_format format, const chat_message *messages,
                         int n_messages, int first, int32_t **ids, int *n_ids, pleat_error *error) {
    return chat_encode_spans(tok, file, format, messages, n_messages, first, NULL, ids, n_ids, error);
}
