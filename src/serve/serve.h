/* serve.h - an OpenAI-compatible server over a scheduler.
 *
 * Which file does what: serve.c opens, closes, drains, routes and checks keys; ask.c and ask_prompt.c read a completion
 * request (fields.c its fields and refusals, json.c what jansson lacked); job.c carries a request's tokens from the
 * engine's thread to its connection; answer.c writes answers and events; stop.c stop strings and text; metrics.c
 * figures; tell.c what the server says of itself; page.c the page at "/". docs/server.md is the manual. */
#ifndef SERVE_SERVE_H
#define SERVE_SERVE_H
#include "engine/scheduler.h"
#include "net/http.h"
#include "text/chat.h"

typedef struct server server;

#define SERVE_METHOD "f16"

typedef struct serve_options {
    http_options http;
    scheduler_options scheduler;
    const char *name;        /* of the model in the API */
    const char *method;      /* default spec of a request; NULL: SERVE_METHOD */
    const char *chat;        /* chat format by name; NULL: the file's */
    const char *const *keys; /* [n_keys] API keys; none: anyone may ask */
    int n_keys;
    const char *cors;     /* an origin that browsers may ask from, "*": any; NULL: none */
    int context_tokens;   /* of prompt and answer, under every method; 0: the model's */
    size_t request_bytes; /* of bodies, and of requests from their start until their answer is read; 0: no bound */
} serve_options;

/* Most bytes of that for one request without log probabilities, once its body has been read. */
size_t serve_request_bytes(int prompt_tokens, int new_tokens);

/* A method as a request that names it is served: one that loses something compresses prompts as they come in, unless
 * its spec says otherwise. As pleat_method_parse; ask.c. */
pleat_status serve_method(const char *spec, const pleat_model *model, pleat_method **out, pleat_error *error);

/* Starts the scheduler's thread, then the HTTP threads. The engine is the server's until it is closed; everything in
 * options is copied. PLEAT_EINPUT (method, chat format, limits), PLEAT_EIO (address), PLEAT_EMEMORY. */
pleat_status serve_open(pleat_engine *engine, const serve_options *options, server **out, pleat_error *error);
int serve_port(const server *s); /* 0 on a Unix socket */
/* From now on new requests are refused with 503, and /readyz says so. */
void serve_drain(server *s);
/* Waits up to so many seconds: true when every answer has been sent. */
bool serve_drained(server *s, double seconds);
/* What still runs is cut off. */
void serve_close(server *s);
#endif
