/* chat.h - chat formats: chatml, llama-2, llama-3, gemma, mistral. Recognised from the file's template by its marks
 * (there is no template interpreter) or named by hand. What a user writes can never become a control token: only the
 * format's own pieces are parsed for special tokens. */
#ifndef TEXT_CHAT_H
#define TEXT_CHAT_H
#include "text/tokenizer.h"

typedef enum chat_format { CHAT_CHATML, CHAT_LLAMA2, CHAT_LLAMA3, CHAT_GEMMA, CHAT_MISTRAL, CHAT_COUNT } chat_format;
#define CHAT_NAMES "chatml, llama-2, llama-3, gemma, mistral"
const char *chat_format_name(chat_format format);
/* By name. PLEAT_EINPUT names the list. */
pleat_status chat_format_parse(const char *name, chat_format *format, pleat_error *error);
/* From tokenizer.chat_template. PLEAT_EINPUT when the file has none or an unknown one (with the list of names). */
pleat_status chat_format_detect(const gguf *file, chat_format *format, pleat_error *error);

typedef struct chat_message {
    const char *role; /* "system", "user", "assistant" */
    const char *content;
    size_t content_bytes;
} chat_message;
/* Ids of the messages from `first` on, then the opening of the assistant's turn. With first > 0 the messages before it
 * are already in the cache, up to the last token of an assistant's answer (message first - 1): its turn is closed
 * first. With first = 0 BOS and a system message that the file's template adds by itself (SmolLM2, Qwen2.5, Llama 3.1)
 * stand in front. PLEAT_EINPUT: an unknown role, or an order that the format cannot say (a system message comes first,
 * user and assistant take turns, the last one is the user's). *ids malloc'ed. */
pleat_status chat_encode(const tokenizer *tok, const gguf *file, chat_format format, const chat_message *messages,
                         int n_messages, int first, int32_t **ids, int *n_ids, pleat_error *error);
/* The same, and where each message stands: spans [n_messages], those before `first` empty. A span has the message's
 * whole turn with its marks, and BOS where that is right in front. A system message that has no turn of its own (gemma,
 * llama-2, mistral) stands in a user's: its span goes from that turn's opening to the user's own text, the user's over
 * all of the turn. A token that two messages share is in both spans; text whose tokens do not spell it byte by byte is
 * taken as a whole. */
pleat_status chat_encode_spans(const tokenizer *tok, const gguf *file, chat_format format, const chat_message *messages,
                               int n_messages, int first, token_span *spans, int32_t **ids, int *n_ids,
                               pleat_error *error);
/* The same with first = 0 of a conversation whose last message is the assistant's and goes on: its turn stays open
 * right behind its text. Its span has that text alone. PLEAT_EINPUT: the last message is not the assistant's. */
pleat_status chat_encode_begun(const tokenizer *tok, const gguf *file, chat_format format, const chat_message *messages,
                               int n_messages, token_span *spans, int32_t **ids, int *n_ids, pleat_error *error);
/* Of such spans with first = 0, the system message's: the caller's, or the one that the template puts in front. May be
 * empty. */
token_span chat_system_span(const chat_message *messages, const token_span *spans);
#endif
