/* mock.c - a cheap OpenAI-shaped upstream: one thread, epoll, HTTP/1.1 keep-alive.
 *
 *   mock PORT
 *
 * The path and the "model" member of the body select the reply:
 *   POST .../embeddings            380 KB JSON (16 x 1536 floats), Content-Length
 *   POST .../chat/completions:
 *        model "...burst-N..."     N SSE events without a pause, one write() for each
 *        model "...mixed-N..."     the same with an `id:` line in each event and comment-only blocks between
 *                                  them; openai-python fails on these, so gatepass rewrites the stream
 *        model "...tools-N..."     N SSE events without a pause: alternately deltas of a tool call's arguments
 *                                  and text with escapes
 *        model "...pace-N-MS..."   N SSE events, one every MS milliseconds
 *        model "...wide..."        JSON with 100 tool calls, Content-Length; a synthesized stream of it has
 *                                  about 200 events
 *        any other model           1 KB JSON, Content-Length
 *   GET  /__stats                  counters, and the authorization and model of the last request
 *   GET  other                     {"object":"list","data":[]}
 * Every event contains "T=<CLOCK_MONOTONIC ns>", so that a client on the same machine can measure its delay.
 * The first event also contains "A=<ns>", the arrival time of its request.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READ, REPLY, BURST, PACE };
typedef struct conn {
    int fd, state, armed_out, i, n, every, mixed, tools;
    char *in; size_t len, cap, head, need; int chunked;
    const char *sp; size_t slen;           /* static reply still to write */
    char tmp[1024]; size_t tlen, toff;     /* event not fully written */
    struct conn *prev, *next; int slot;    /* timer wheel */
    uint64_t due, arrived;
} conn;

#define WHEEL 8192
static conn *wheel[WHEEL];
static long n_paced;
static int ep;
static char chat[4096], wide[65536], emb[1 << 20], listing[512];
static size_t chat_len, wide_len, emb_len, listing_len;
static struct { long req, burst, pace, emb, chat, img_ok, img_bad, abort, conns, open, bad; char auth[1024], model[128]; } st;

static uint64_t now_ns(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }

static void wheel_del(conn *c) {
    if (c->slot < 0) return;
    if (c->prev) c->prev->next = c->next; else wheel[c->slot] = c->next;
    if (c->next) c->next->prev = c->prev;
    c->slot = -1; c->prev = c->next = NULL; n_paced--;
}
static void wheel_add(conn *c) {
    int s = (int)((c->due / 1000000) % WHEEL);
    c->slot = s; c->prev = NULL; c->next = wheel[s];
    if (c->next) c->next->prev = c;
    wheel[s] = c; n_paced++;
}
static void drop(conn *c) {
    if (c->state == BURST || c->state == PACE) st.abort++;
    wheel_del(c); close(c->fd); free(c->in); free(c); st.open--;
}
static void arm(conn *c, int out) {
    if (c->armed_out == out) return;
    struct epoll_event e = { .events = EPOLLIN | EPOLLRDHUP | (out ? EPOLLOUT : 0), .data.ptr = c };
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e); c->armed_out = out;
}
static const char SSE_HEAD[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n"
    "Connection: keep-alive\r\nCache-Control: no-cache\r\nx-request-id: req-0123456789abcdef\r\n"
    "openai-processing-ms: 12\r\nopenai-version: 2020-10-01\r\n\r\n";

/* event i of n into c->tmp, wrapped as one HTTP chunk */
static void make_event(conn *c) {
    char b[900], id[64] = "", arrived[40] = ""; int k;
    if (c->i < 0) { memcpy(c->tmp, SSE_HEAD, sizeof SSE_HEAD - 1); c->tlen = sizeof SSE_HEAD - 1; c->toff = 0; c->i++; return; }
    if (c->mixed) sprintf(id, "%sid: %d\n", c->i % 4 == 1 ? ": still here\n\n" : "", c->i);
    if (!c->i) sprintf(arrived, "A=%llu ", (unsigned long long)c->arrived);
    if (c->tools && c->i && c->i < c->n - 1) {
        static const char *deltas[4] = {
            "\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"\\\"T=%llu\\\":\\\"a \\\\u00fc\\\\n\\\",\"}}]",
            "\"content\":\"T=%llu a \\\"word\\\"\\n\\tof gr\\u00fc\\u00dfe \\\\ \\ud83d\\ude00\"",
            "\"tool_calls\":[{\"index\":0,\"id\":\"call_%llu\",\"type\":\"function\",\"function\":{\"name\":\"look_up\",\"arguments\":\"{\"}}]",
            "\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"\\\"T=%llu\\\":\\\"a\\\"}\"}}]" };
        char delta[300]; sprintf(delta, deltas[c->i == 2 ? 2 : c->i % 2 ? 1 : c->i + 3 >= c->n ? 3 : 0], (unsigned long long)now_ns());
        k = sprintf(b, "data: {\"id\":\"chatcmpl-bench0000\",\"object\":\"chat.completion.chunk\",\"created\":1740062666,\"model\":\"bench\","
            "\"choices\":[{\"index\":0,\"delta\":{%s},\"finish_reason\":null}]}\n\n", delta);
    } else if (c->i < c->n - 1)
        k = sprintf(b, "%sdata: {\"id\":\"chatcmpl-bench0000\",\"object\":\"chat.completion.chunk\",\"created\":1740062666,\"model\":\"bench\","
            "\"choices\":[{\"index\":0,\"delta\":{%s\"content\":\"T=%llu %s\"},\"finish_reason\":null}]}\n\n",
            id, c->i ? "" : "\"role\":\"assistant\",", (unsigned long long)now_ns(), arrived);
    else if (c->i == c->n - 1)
        k = sprintf(b, "data: {\"id\":\"chatcmpl-bench0000\",\"object\":\"chat.completion.chunk\",\"created\":1740062666,\"model\":\"bench\","
            "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"%s\"}]}\n\n", c->tools ? "tool_calls" : "stop");
    else k = sprintf(b, "data: [DONE]\n\n");
    c->tlen = sprintf(c->tmp, "%x\r\n%s\r\n%s", k, b, c->i == c->n ? "0\r\n\r\n" : "");
    c->toff = 0; c->i++;
}
/* 1 done, 0 would block, -1 broken */
static int flush_tmp(conn *c) {
    while (c->toff < c->tlen) {
        ssize_t w = send(c->fd, c->tmp + c->toff, c->tlen - c->toff, MSG_NOSIGNAL);
        if (w < 0) { if (errno == EAGAIN) { arm(c, 1); return 0; } return -1; }
        c->toff += w;
    }
    return 1;
}
static int next_request(conn *c);

static int pump(conn *c) { /* returns -1 when c is gone */
    for (;;) {
        if (c->state == REPLY) {
            while (c->slen) {
                ssize_t w = send(c->fd, c->sp, c->slen, MSG_NOSIGNAL);
                if (w < 0) { if (errno == EAGAIN) { arm(c, 1); return 0; } drop(c); return -1; }
                c->sp += w; c->slen -= w;
            }
            c->state = READ;
        } else if (c->state == BURST) {
            int r = flush_tmp(c);
            if (r < 0) { drop(c); return -1; }
            if (r == 0) return 0;
            if (c->i <= c->n) { make_event(c); continue; }
            c->state = READ;
        } else if (c->state == PACE) {
            int r = flush_tmp(c);
            if (r < 0) { drop(c); return -1; }
            if (r == 0) return 0;
            if (c->i <= c->n) {
                if (c->i == 0 || c->i == c->n) { make_event(c); continue; } /* first event with the head, [DONE] with the last */
                uint64_t t = now_ns();
                c->due += (uint64_t)c->every * 1000000; if (c->due < t) c->due = t + 1000000;
                arm(c, 0); wheel_add(c); return 0;
            }
            c->state = READ;
        }
        arm(c, 0);
        int r = next_request(c);
        if (r <= 0) return r;
    }
}
static void reply(conn *c, const char *p, size_t n) { c->sp = p; c->slen = n; c->state = REPLY; }

static char *hdr(char *h, size_t n, const char *name) {
    size_t k = strlen(name);
    for (char *p = h, *e = h + n; p < e;) {
        char *nl = memchr(p, '\n', e - p); if (!nl) break;
        if ((size_t)(nl - p) > k && !strncasecmp(p, name, k)) { p += k; while (*p == ' ') p++; return p; }
        p = nl + 1;
    }
    return NULL;
}
/* the text of the first "model" member, wherever it stands; the rig's bodies hold one */
static void note_model(const char *body, size_t n) {
    char *p = memmem(body, n, "\"model\"", 7); const char *e = body + n; size_t k = 0;
    if (p) { p += 7; while (p < e && *p != '"') p++; p++; while (p < e && *p != '"' && k < sizeof st.model - 1) st.model[k++] = *p++; }
    st.model[k] = 0;
}
/* 1 a reply was started, 0 need more bytes, -1 gone */
static int next_request(conn *c) {
    static char stats[2048];
    if (!c->head) {
        char *e = c->len >= 4 ? memmem(c->in, c->len, "\r\n\r\n", 4) : NULL;
        if (!e) return 0;
        c->head = e - c->in + 4; c->need = 0; c->chunked = 0;
        char *v = hdr(c->in, c->head, "content-length:");
        if (v) c->need = strtoul(v, NULL, 10);
        v = hdr(c->in, c->head, "transfer-encoding:");
        if (v && !strncasecmp(v, "chunked", 7)) c->chunked = 1;
        v = hdr(c->in, c->head, "expect:");
        if (v && !strncasecmp(v, "100", 3)) if (write(c->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25) < 0) {}
    }
    char *body = c->in + c->head; size_t have = c->len - c->head, total;
    if (c->chunked) { /* decode in place once complete */
        size_t r = 0; int done = 0;
        for (;;) {
            char *nl = memchr(body + r, '\n', have - r); if (!nl) return 0;
            size_t sz = strtoul(body + r, NULL, 16), at = nl - body + 1;
            if (have < at + sz + 2) return 0;
            r = at + sz + 2;
            if (!sz) { done = 1; break; }
        }
        if (!done) return 0;
        total = r; size_t w = 0; r = 0;
        for (;;) {
            char *nl = memchr(body + r, '\n', total - r); size_t sz = strtoul(body + r, NULL, 16), at = nl - body + 1;
            if (!sz) break;
            memmove(body + w, body + at, sz); w += sz; r = at + sz + 2;
        }
        c->need = w;
    } else { if (have < c->need) return 0; total = c->need; }
    st.req++; c->arrived = now_ns();
    char *line_end = memchr(c->in, '\r', c->head); size_t ll = line_end - c->in;
    char *a = hdr(c->in, c->head, "authorization:");
    if (a) { size_t k = strcspn(a, "\r\n"); if (k > 1023) k = 1023; memcpy(st.auth, a, k); st.auth[k] = 0; }
    if (!strncmp(c->in, "GET /__stats", 12)) {
        char b[1600]; struct rusage ru; getrusage(RUSAGE_SELF, &ru);
        int k = sprintf(b, "{\"requests\":%ld,\"chat\":%ld,\"burst\":%ld,\"pace\":%ld,\"embeddings\":%ld,\"images_moved\":%ld,\"images_left\":%ld,"
            "\"aborted\":%ld,\"connections\":%ld,\"open\":%ld,\"authorization\":\"%s\",\"model\":\"%s\",\"cpu_s\":%.3f}", st.req, st.chat, st.burst, st.pace, st.emb,
            st.img_ok, st.img_bad, st.abort, st.conns, st.open, st.auth, st.model, ru.ru_utime.tv_sec + ru.ru_stime.tv_sec + (ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6);
        int m = sprintf(stats, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", k, b);
        reply(c, stats, m);
    } else if (!strncmp(c->in, "GET ", 4)) reply(c, listing, listing_len);
    else if (note_model(body, c->need), memmem(c->in, ll, "/embeddings", 11)) { st.emb++; reply(c, emb, emb_len); }
    else {
        char *m = NULL;
        if (c->need > 1 << 20) { /* images: were they moved into the message? */
            if (memmem(body, c->need, "\"image_url\"", 11)) st.img_ok++; else st.img_bad++;
        } else if (!(m = strstr(st.model, "burst-")) && !(m = strstr(st.model, "mixed-")) && !(m = strstr(st.model, "tools-"))) m = strstr(st.model, "pace-");
        c->mixed = m && *m == 'm'; c->tools = m && *m == 't';
        if (m && *m != 'p') { st.burst++; c->n = atoi(m + 6); c->i = -1; c->tlen = c->toff = 0; c->state = BURST; }
        else if (m) { char *q; st.pace++; c->n = strtol(m + 5, &q, 10); c->every = strtol(q + 1, NULL, 10); c->i = -1; c->tlen = c->toff = 0;
                      c->due = now_ns(); c->state = PACE; }
        else if (strstr(st.model, "wide")) { st.chat++; reply(c, wide, wide_len); }
        else { st.chat++; reply(c, chat, chat_len); }
    }
    size_t used = c->head + total;
    memmove(c->in, c->in + used, c->len - used); c->len -= used; c->head = 0;
    return 1;
}
static void readable(conn *c) {
    for (;;) {
        if (c->cap - c->len < 65536) { c->cap = c->cap ? c->cap * 2 : 131072; c->in = realloc(c->in, c->cap); }
        ssize_t r = recv(c->fd, c->in + c->len, c->cap - c->len, 0);
        if (r == 0) { drop(c); return; }
        if (r < 0) { if (errno == EAGAIN) break; drop(c); return; }
        c->len += r;
        if ((size_t)r < 65536) break;
    }
    if (c->state == READ) { int r = next_request(c); if (r > 0) pump(c); }
}
int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    struct rlimit rl; getrlimit(RLIMIT_NOFILE, &rl); rl.rlim_cur = rl.rlim_max; setrlimit(RLIMIT_NOFILE, &rl);
    static char b[1 << 20]; int k; char pad[701]; memset(pad, 'x', 700); pad[700] = 0;
    for (int i = 6; i < 700; i += 7) pad[i] = ' ';
    k = sprintf(b, "{\"id\":\"chatcmpl-bench0000\",\"object\":\"chat.completion\",\"created\":1740062666,\"model\":\"bench\",\"choices\":[{\"index\":0,"
        "\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":18,\"completion_tokens\":246,\"total_tokens\":264},\"system_fingerprint\":\"fp_bench\"}", pad);
    static const char H[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: keep-alive\r\n"
        "x-request-id: req-0123456789abcdef\r\nopenai-processing-ms: 12\r\nopenai-version: 2020-10-01\r\n\r\n";
    chat_len = sprintf(chat, H, k); memcpy(chat + chat_len, b, k); chat_len += k;
    k = sprintf(b, "{\"id\":\"chatcmpl-bench0000\",\"object\":\"chat.completion\",\"created\":1740062666,\"model\":\"bench\",\"choices\":[{\"index\":0,"
        "\"message\":{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[");
    for (int i = 0; i < 100; i++)
        k += sprintf(b + k, "%s{\"id\":\"call_%024d\",\"type\":\"function\",\"function\":{\"name\":\"look_up\",\"arguments\":\"{\\\"city\\\":\\\"number %d\\\"}\"}}", i ? "," : "", i, i);
    k += sprintf(b + k, "]},\"logprobs\":null,\"finish_reason\":\"tool_calls\"}],\"usage\":{\"prompt_tokens\":18,\"completion_tokens\":246,\"total_tokens\":264}}");
    wide_len = sprintf(wide, H, k); memcpy(wide + wide_len, b, k); wide_len += k;
    unsigned s = 12345; k = sprintf(b, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < 16; i++) {
        k += sprintf(b + k, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":[", i ? "," : "", i);
        for (int j = 0; j < 1536; j++) { s = s * 1103515245u + 12345u; k += sprintf(b + k, "%s%.12f", j ? "," : "", ((int)(s >> 8) - (1 << 23)) / 1e8); }
        k += sprintf(b + k, "]}");
    }
    k += sprintf(b + k, "],\"model\":\"bench-emb\",\"usage\":{\"prompt_tokens\":8,\"total_tokens\":8}}");
    emb_len = sprintf(emb, H, k); memcpy(emb + emb_len, b, k); emb_len += k;
    k = sprintf(b, "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\",\"created\":0,\"owned_by\":\"mock\"}]}");
    listing_len = sprintf(listing, H, k); memcpy(listing + listing_len, b, k); listing_len += k;

    int one = 1, l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 9000), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    if (bind(l, (void *)&sa, sizeof sa) || listen(l, 4096)) { perror("bind"); return 1; }
    ep = epoll_create1(0);
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = NULL }, ev[512];
    epoll_ctl(ep, EPOLL_CTL_ADD, l, &e);
    uint64_t tick = now_ns() / 1000000;
    for (;;) {
        int n = epoll_wait(ep, ev, 512, n_paced ? 1 : -1);
        for (int i = 0; i < n; i++) {
            conn *c = ev[i].data.ptr;
            if (!c) {
                for (int fd; (fd = accept4(l, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    c = calloc(1, sizeof *c); c->fd = fd; c->slot = -1; st.conns++; st.open++;
                    struct epoll_event x = { .events = EPOLLIN | EPOLLRDHUP, .data.ptr = c };
                    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &x);
                }
                continue;
            }
            if (ev[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) { readable(c); continue; } /* a dropped c must not be used again */
            if (ev[i].events & EPOLLOUT) pump(c);
        }
        uint64_t t = now_ns() / 1000000;
        if (!n_paced) { tick = t; continue; }
        for (; tick <= t; tick++)
            for (conn *c = wheel[tick % WHEEL], *nx; c; c = nx) {
                nx = c->next;
                if (c->due / 1000000 > tick) continue;
                wheel_del(c); make_event(c); pump(c);
            }
    }
}
