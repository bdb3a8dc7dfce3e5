/* serve.c - a server's life, its routes, keys and refusals. */
#include "serve/inside.h"
#include "base/clock.h"
#include "base/status.h"
#include "kv/method.h"
#include "model/model.h"
#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>

/* ---- refusals ---- */

/* Said also when there is no memory to say something else. */
static const char no_memory[] = "{\"error\":{\"message\":\"there is no memory for the request\","
                                "\"type\":\"unavailable_error\",\"param\":null,\"code\":null}}";

void serve_refuse(http_exchange *x, const refusal *r) {
    char seconds[16];
    json_t *error = refusal_object(r);
    char *body = error ? json_dumps(error, JSON_COMPACT) : NULL;
    int retry_seconds = body ? r->retry_seconds : 1, status = body ? r->status : 503;
    if (retry_seconds) {
        snprintf(seconds, sizeof(seconds), "%d", retry_seconds);
        http_set(x, "Retry-After", seconds);
    } else if (status >= 500) {
        http_set(x, "x-should-retry", "false");
    }
    http_answer(x, status, "application/json", body ? body : no_memory, strlen(body ? body : no_memory));
    free(body);
    json_decref(error);
}

static void refuse_with(http_exchange *x, int status, const char *code, const char *sentence) {
    refusal r = {.status = status, .code = code};
    snprintf(r.text, sizeof(r.text), "%s", sentence);
    serve_refuse(x, &r);
}

/* ---- keys ---- */

static void digest(const char *bytes, size_t n, uint8_t out[KEY_BYTES]) {
    struct sha256_ctx context;
    sha256_init(&context);
    sha256_update(&context, n, (const uint8_t *)bytes);
    sha256_digest(&context, KEY_BYTES, out);
}

/* The number of the request's key from 1 on, 0 where there are no keys, -1: a wrong one or none. Every key is compared,
 * by digests of one length, in a time that does not depend on where they differ. */
static int find_key(const server *s, const http_exchange *x) {
    const char *given = http_header(x, "Authorization");
    uint8_t sum[KEY_BYTES];
    int found = -1;
    if (!s->options.n_keys)
        return 0;
    if (!given || strncasecmp(given, "Bearer ", 7))
        return -1;
    given += 7 + strspn(given + 7, " ");
    digest(given, strlen(given), sum);
    for (int i = 0; i < s->options.n_keys; i++) {
        int same = nettle_memeql_sec(sum, s->key[i], KEY_BYTES);
        found = same ? i + 1 : found;
    }
    return found;
}

/* ---- completions ---- */

/* Whose share of the queue, the batch and the memory a request takes, and whose prompts it may meet: its key's, or its
 * address's. */
static void tenant_of(const http_exchange *x, int key, char *out, size_t cap) {
    if (key)
        snprintf(out, cap, "key %d", key);
    else
        http_peer(x, out, cap);
}

static void start(server *s, http_exchange *x, bool chat, int key) {
    refusal r = {0};
    char tenant[TENANT_BYTES];
    size_t n;
    const char *bytes = http_body(x, &n);
    tenant_of(x, key, tenant, sizeof(tenant));
    if (atomic_load(&s->draining)) {
        refuse_draining(&r);
        serve_refuse(x, &r);
        return;
    }
    if (scheduler_full(s->scheduler, tenant, 1)) {
        r = (refusal){.status = 429, .retry_seconds = 1};
        snprintf(r.text, sizeof(r.text), "the queue is full: %d requests are waiting",
                 s->options.scheduler.max_waiting);
        serve_refuse(x, &r);
        return;
    }
    json_t *body = fields_parse(bytes, n, &r);
    ask *a = body ? ask_read(&s->world, body, chat, http_header(x, "x-kv-method"), &r) : NULL;
    json_decref(body);
    if (a)
        job_start(s, x, a, tenant);
    else
        serve_refuse(x, &r);
}

/* ---- routes ---- */

typedef enum route_kind { ROUTE_TELL, ROUTE_CHAT, ROUTE_TEXT } route_kind;

static const struct {
    const char *path, *method;
    bool open; /* without a key */
    route_kind kind;
    void (*tell)(server *s, http_exchange *x);
} routes[] = {
    {"/v1/chat/completions", "POST", false, ROUTE_CHAT, NULL},
    {"/chat/completions", "POST", false, ROUTE_CHAT, NULL},
    {"/v1/completions", "POST", false, ROUTE_TEXT, NULL},
    {"/completions", "POST", false, ROUTE_TEXT, NULL},
    {"/v1/models", "GET", false, ROUTE_TELL, tell_models},
    {"/models", "GET", false, ROUTE_TELL, tell_models},
    {"/v1/methods", "GET", false, ROUTE_TELL, tell_methods},
    {"/tokenize", "POST", false, ROUTE_TELL, tell_tokens},
    {"/detokenize", "POST", false, ROUTE_TELL, tell_text},
    {"/tokenizer_info", "GET", false, ROUTE_TELL, tell_tokenizer},
    {"/health", "GET", true, ROUTE_TELL, tell_ready},
    {"/readyz", "GET", true, ROUTE_TELL, tell_ready},
    {"/livez", "GET", true, ROUTE_TELL, tell_live},
    {"/metrics", "GET", true, ROUTE_TELL, tell_metrics},
    {"/version", "GET", true, ROUTE_TELL, tell_version},
    {"/", "GET", true, ROUTE_TELL, tell_page},
};
enum { N_ROUTES = sizeof(routes) / sizeof(*routes) };

static int find_route(const char *path) {
    for (int i = 0; i < N_ROUTES; i++)
        if (!strcmp(path, routes[i].path))
            return i;
    return !strncmp(path, "/v1/models/", 11) ? find_route("/v1/models") : -1;
}

/* Whether a browser's page of this origin may read the answer. */
static void allow_origin(const server *s, http_exchange *x) {
    const char *origin = http_header(x, "Origin"), *allowed = s->options.cors;
    if (!allowed || !origin || (strcmp(allowed, "*") && strcmp(allowed, origin)))
        return;
    http_set(x, "Access-Control-Allow-Origin", allowed);
    http_set(x, "Vary", "Origin");
    if (strcmp(http_method(x), "OPTIONS"))
        return;
    http_set(x, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    http_set(x, "Access-Control-Allow-Headers", "authorization, content-type, x-kv-method, x-request-id");
    http_set(x, "Access-Control-Max-Age", "600");
}

static bool is_json(const http_exchange *x) {
    static const char *const types[] = {"application/json", "text/plain",
                                        "application/x-www-form-urlencoded"}; /* curl -d without a header */
    const char *type = http_header(x, "Content-Type");
    size_t n = type ? strcspn(type, "; \t") : 0;
    for (size_t i = 0; type && i < sizeof(types) / sizeof(*types); i++)
        if (strlen(types[i]) == n && !strncasecmp(type, types[i], n))
            return true;
    return !type;
}

/* What a request's head alone says of it. */
typedef struct request_head {
    int route, key; /* route: -1: none; key: as of find_key */
    int status;     /* that answers, whatever the body says; 0: the body is looked at */
    const char *code, *sentence;
} request_head;

static bool reads(int route) {
    return !strcmp(routes[route].method, "GET");
}

static request_head read_head(const server *s, const http_exchange *x) {
    request_head h = {.route = find_route(http_path(x))};
    const char *method = http_method(x);
    if (h.route < 0) {
        h.status = 404;
        h.sentence = "there is nothing at this path";
        return h;
    }
    bool get = reads(h.route);
    h.key = routes[h.route].open ? 0 : find_key(s, x);
    if (!strcmp(method, "OPTIONS")) {
        h.status = 204;
    } else if (strcmp(method, routes[h.route].method) && !(get && !strcmp(method, "HEAD"))) {
        h.status = 405;
        h.sentence = get ? "this path is read with GET" : "this path is asked with POST";
    } else if (h.key < 0) {
        h.status = 401;
        h.code = "invalid_api_key";
        h.sentence = "the API key is missing or wrong (Authorization: Bearer KEY)";
    } else if (!get && !is_json(x)) {
        h.status = 415;
        h.sentence = "the body must be application/json";
    }
    return h;
}

/* So that nobody without a key fills the memory for requests. */
static bool wants_body(void *context, const http_exchange *x) {
    request_head h = read_head(context, x);
    return !h.status && !reads(h.route);
}

static void answer_head(http_exchange *x, const request_head *h) {
    if (h->status == 204 || h->status == 405)
        http_set(x, "Allow", reads(h->route) ? "GET, HEAD, OPTIONS" : "POST, OPTIONS");
    if (h->status == 401)
        http_set(x, "WWW-Authenticate", "Bearer");
    if (h->status == 204)
        http_answer(x, 204, NULL, "", 0);
    else
        refuse_with(x, h->status, h->code, h->sentence);
}

static void on_exchange(void *context, http_exchange *x) {
    server *s = context;
    const char *id = http_header(x, "x-request-id");
    request_head h = read_head(s, x);
    allow_origin(s, x);
    if (id && strlen(id) <= 200)
        http_set(x, "x-request-id", id);
    if (h.status) {
        answer_head(x, &h);
    } else if (routes[h.route].kind == ROUTE_TELL) {
        json_begin();
        routes[h.route].tell(s, x);
    } else {
        start(s, x, routes[h.route].kind == ROUTE_CHAT, h.key);
    }
}

/* ---- memory for requests ---- */

static void holder(void *context, const http_exchange *x, char *out, size_t cap) {
    tenant_of(x, find_key(context, x), out, cap);
}

bool serve_take(server *s, const http_exchange *x, holding *h, size_t bytes, refusal *r) {
    char needed[16], most[16], name[TENANT_BYTES];
    if (!h->share) {
        holder(s, x, name, sizeof(name));
        h->share = shares_hold(&s->requests, name);
    }
    if (!h->share)
        return refuse_no_memory(r);
    if (shares_take(&s->requests, h->share, bytes)) {
        h->bytes += bytes;
        return true;
    }
    size_t n_body;
    http_body(x, &n_body); /* is held meanwhile */
    text_bytes(bytes, needed);
    text_bytes(shares_most_of_one(&s->requests), most);
    if (n_body + h->bytes + bytes > shares_most_of_one(&s->requests))
        return refuse(r, "", "what is asked for can take %s of memory; the requests of one client have %s", needed,
                      most);
    *r = (refusal){.status = 503, .retry_seconds = 1};
    snprintf(r->text, sizeof(r->text),
             "no memory for a request: it can take %s; one client can have %s when others have nothing", needed, most);
    return false;
}

void serve_give(server *s, holding *h) {
    if (h->share)
        shares_give(&s->requests, h->share, h->bytes);
    shares_drop(h->share);
    *h = (holding){0};
}

static void on_refused(http_exchange *x, int status, const char *sentence) {
    refusal r;
    refuse(&r, "", "%s", sentence);
    r.status = status;
    r.retry_seconds = status == 503;
    serve_refuse(x, &r);
}

static void on_answer(void *context, int status) {
    const server *s = context;
    metrics_answer(s->metrics, status);
}

/* ---- life ---- */

static pleat_status copy(const char **string, pleat_error *error) {
    if (*string && !(*string = strdup(*string)))
        return err_set(error, PLEAT_EMEMORY, "no memory for a server");
    return PLEAT_OK;
}

static pleat_status copy_options(server *s, const serve_options *o, pleat_error *error) {
    s->options = *o;
    s->options.method = o->method ? o->method : SERVE_METHOD;
    s->options.keys = NULL;
    s->options.http.host = s->options.http.path = NULL; /* read while opening */
    const char **texts[] = {&s->options.name, &s->options.method, &s->options.chat, &s->options.cors};
    pleat_status status = PLEAT_OK;
    for (int i = 0; i < 4; i++) { /* after a failure nothing may stay that is not owned */
        if (status)
            *texts[i] = NULL;
        else
            status = copy(texts[i], error);
    }
    s->key = calloc((size_t)o->n_keys + 1, sizeof(*s->key));
    if (!s->key)
        return err_set(error, PLEAT_EMEMORY, "no memory for a server");
    for (int i = 0; i < o->n_keys; i++)
        digest(o->keys[i], strlen(o->keys[i]), s->key[i]);
    if (!s->options.scheduler.max_waiting)
        s->options.scheduler.max_waiting = SCHEDULER_WAITING;
    return status;
}

static pleat_status read_world(server *s, pleat_error *error) {
    const serve_options *o = &s->options;
    const pleat_model *model = engine_model(s->engine);
    pleat_method *method;
    pleat_error no_chat = {""};
    int context = model->context_tokens;
    if (o->context_tokens > context)
        return err_set(error, PLEAT_EINPUT, "a context of %d tokens; the model has %d", o->context_tokens, context);
    s->world = (ask_world){.model = model,
                           .name = o->name,
                           .method = o->method,
                           .context_tokens = o->context_tokens ? o->context_tokens : context,
                           .context_said = o->context_tokens > 0,
                           .pool_bytes = kv_pool_budget_bytes(engine_pool(s->engine)),
                           .most_answers = o->scheduler.max_waiting < 128 ? o->scheduler.max_waiting : 128,
                           .no_chat = s->no_chat};
    pleat_status status = serve_method(o->method, model, &method, error);
    if (status)
        return status;
    pleat_method_free(method);
    if (o->chat) {
        status = chat_format_parse(o->chat, &s->world.format, error);
        s->world.has_chat = !status;
        return status;
    }
    s->world.has_chat = !chat_format_detect(model->file, &s->world.format, &no_chat);
    snprintf(s->no_chat, sizeof(s->no_chat), "%s", no_chat.text);
    return PLEAT_OK;
}

pleat_status serve_open(pleat_engine *engine, const serve_options *options, server **out, pleat_error *error) {
    server *s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(error, PLEAT_EMEMORY, "no memory for a server");
    json_watch();
    pthread_mutex_init(&s->lock, NULL);
    s->engine = engine;
    s->created = time(NULL);
    (void)!getrandom(&s->id_salt, sizeof(s->id_salt), 0);
    pleat_status status = copy_options(s, options, error);
    status = status ? status : read_world(s, error);
    shares_open(&s->requests, options->request_bytes);
    s->metrics = metrics_open(&s->requests);
    if (!status && !s->metrics)
        status = err_set(error, PLEAT_EMEMORY, "no memory for a server");
    status = status ? status : scheduler_open(engine, &s->options.scheduler, &s->scheduler, error);
    status = status ? status : scheduler_start(s->scheduler, error);
    http_options http = options->http;
    http.answered = on_answer;
    http.memory = &s->requests;
    http.holder = holder;
    http.wants_body = wants_body;
    http.refuse = on_refused;
    status = status ? status : http_open(&http, on_exchange, s, &s->http, error);
    if (status)
        serve_close(s);
    else
        *out = s;
    return status;
}

int serve_port(const server *s) {
    return http_port(s->http);
}

void serve_drain(server *s) {
    atomic_store(&s->draining, true);
    scheduler_drain(s->scheduler, 0);
}

bool serve_drained(server *s, double seconds) {
    double end = clock_seconds() + seconds;
    while (atomic_load(&s->n_jobs)) {
        if (clock_seconds() >= end)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
    return true;
}

void serve_close(server *s) {
    if (!s)
        return;
    atomic_store(&s->draining, true);
    if (s->scheduler)
        scheduler_stop(s->scheduler); /* every request has had its END */
    serve_drained(s, 0.5);            /* those cut off are told */
    http_close(s->http);
    scheduler_close(s->scheduler);
    metrics_close(s->metrics);
    shares_close(&s->requests);
    pthread_mutex_destroy(&s->lock);
    free((char *)s->options.name);
    free((char *)s->options.method);
    free((char *)s->options.chat);
    free((char *)s->options.cors);
    free(s->key);
    free(s);
}
