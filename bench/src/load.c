/* load.c - a small HTTP/1.1 load client for JSON and SSE: one thread, epoll.
 *
 *   load -p PORT -u PATH -b BODYFILE -c CONNS -d SECONDS [-w WARMUP] [-r RAMP_MS] [-1] [-k KEY] [-f FIELD]...
 *
 * -f adds a header field, as `name: value`.
 * Closed loop: each connection sends its next request when the reply is complete.
 * With -1 each connection sends only one request, for a long paced stream.
 * It prints "MARK start" and "MARK end" at the ends of the measured window, then one JSON line.
 * An event is a line that starts with "data:". If the event contains "T=<ns>", its delay is measured from that time.
 * If the first event contains "A=<ns>", the arrival time of the request, ttft_added is the time to the first
 * event without the time of the upstream.
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

enum { HEAD, LENGTH, CSIZE, CDATA, CCRLF, TRAILER, UNTIL_CLOSE };
typedef struct {
    int fd, state, out_armed, done, line_skip, status, close_after, sse; size_t off;
    char head[16384]; size_t hl; uint64_t left; char num[20]; int nl;
    char line[600]; size_t ll; uint64_t t0, tstart; int got_first; long ev_in_read, body;
} conn;
static struct { float *v; size_t n, cap; } lat, ttft, ttft_added, delay;
static void put_(void *a, double x) { __typeof__(lat) *h = a; if (h->n == h->cap) { h->cap = h->cap ? h->cap * 2 : 65536; h->v = realloc(h->v, h->cap * sizeof(float)); } h->v[h->n++] = x; }
static int cmpf(const void *a, const void *b) { float x = *(float *)a, y = *(float *)b; return x < y ? -1 : x > y; }
static double pct(void *a, double p) { __typeof__(lat) *h = a; if (!h->n) return -1; size_t i = p * (h->n - 1) + 0.5; return h->v[i]; }
static uint64_t now_ns(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }

static char *req; static size_t req_len; static int port = 8000, once, ep; static const char *path = "/v1/chat/completions";
static uint64_t win0, win1; static int in_win;
static long reqs, errs, events, bytes, reads, total_ok, first_bad; static long active;

static int dial(conn *c) {
    struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int one = 1; c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (void *)&sa, sizeof sa)) { close(c->fd); c->fd = -1; return -1; }
    fcntl(c->fd, F_SETFL, O_NONBLOCK); setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = c }; epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e); c->out_armed = 0;
    return 0;
}
static void push(conn *c) {
    while (c->off < req_len) {
        ssize_t w = send(c->fd, req + c->off, req_len - c->off, MSG_NOSIGNAL);
        if (w < 0) {
            if (errno == EAGAIN && !c->out_armed) { struct epoll_event e = { .events = EPOLLIN | EPOLLOUT, .data.ptr = c }; epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e); c->out_armed = 1; }
            return;
        }
        c->off += w;
    }
    if (c->out_armed) { struct epoll_event e = { .events = EPOLLIN, .data.ptr = c }; epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e); c->out_armed = 0; }
}
static void start(conn *c) {
    if (c->fd < 0 && dial(c)) { errs++; c->done = 1; active--; return; }
    c->state = HEAD; c->hl = c->off = c->ll = c->nl = 0; c->line_skip = 0; c->got_first = 0; c->body = 0; c->t0 = now_ns(); push(c);
}
static void hang_up(conn *c) { close(c->fd); c->fd = -1; }
static void finish(conn *c, int ok) {
    uint64_t t = now_ns();
    if (!ok || c->status != 200) {
        if (t >= win0 && t < win1) errs++;
        if (!first_bad) { first_bad = 1; fprintf(stderr, "first bad reply: ok=%d status=%d body=%.300s\n", ok, c->status, c->ll ? c->line : ""); }
    } else {
        total_ok++;
        if (t >= win0 && t < win1) { reqs++; put_(&lat, (t - c->t0) / 1e3); }
    }
    if (!ok || c->close_after) hang_up(c);
    if (once || t >= win1) { c->done = 1; active--; if (c->fd >= 0) hang_up(c); } else start(c);
}
static void event_line(conn *c, uint64_t t) {
    if (c->ll < 5 || memcmp(c->line, "data:", 5)) return;
    char *p = memmem(c->line, c->ll, "T=", 2);
    if (!c->got_first) {
        c->got_first = 1; if (c->status == 200) put_(&ttft, (t - c->t0) / 1e3);
        char *a = p ? strstr(p, "A=") : NULL;
        if (a) put_(&ttft_added, ((double)(t - c->t0) - (double)(strtoull(p + 2, NULL, 10) - strtoull(a + 2, NULL, 10))) / 1e3);
    }
    if (!in_win) return;
    events++;
    if (p) { uint64_t x = strtoull(p + 2, NULL, 10); if (x) put_(&delay, (t > x ? t - x : 0) / 1e3); }
}
static void body(conn *c, const char *p, size_t n, uint64_t t) {
    if (in_win) bytes += n;
    c->body += n;
    if (!c->sse) { if (c->status != 200 && c->ll < 300) { size_t k = n < 300 - c->ll ? n : 300 - c->ll; memcpy(c->line + c->ll, p, k); c->ll += k; c->line[c->ll] = 0; } return; }
    while (n) {
        const char *e = memchr(p, '\n', n); size_t k = e ? (size_t)(e - p) : n;
        size_t room = sizeof c->line - 1 - c->ll, m = k < room ? k : room;
        memcpy(c->line + c->ll, p, m); c->ll += m; c->line[c->ll] = 0;
        if (!e) return;
        event_line(c, t); c->ll = 0; p = e + 1; n -= k + 1;
    }
}
static char *hdr(char *h, size_t n, const char *name) {
    size_t k = strlen(name);
    for (char *p = h, *e = h + n; p < e;) { char *nl = memchr(p, '\n', e - p); if (!nl) break;
        if ((size_t)(nl - p) > k && !strncasecmp(p, name, k)) { p += k; while (*p == ' ') p++; return p; } p = nl + 1; }
    return NULL;
}
static void feed(conn *c, char *p, size_t n, uint64_t t) {
    while (n) {
        switch (c->state) {
        case HEAD: {
            size_t k = n < sizeof c->head - 1 - c->hl ? n : sizeof c->head - 1 - c->hl, was = c->hl;
            memcpy(c->head + c->hl, p, k); c->hl += k; c->head[c->hl] = 0;
            char *e = memmem(c->head, c->hl, "\r\n\r\n", 4);
            if (!e) { p += k; n -= k; if (c->hl >= sizeof c->head - 1) { finish(c, 0); return; } break; }
            size_t hl = e - c->head + 4, used = hl - was; p += used; n -= used;
            c->status = atoi(c->head + 9);
            if (c->status == 100) { c->hl = 0; break; }
            char *v = hdr(c->head, hl, "connection:"); c->close_after = v && !strncasecmp(v, "close", 5);
            if (!strncmp(c->head, "HTTP/1.0", 8) && !(v && !strncasecmp(v, "keep-alive", 10))) c->close_after = 1;
            v = hdr(c->head, hl, "content-type:"); c->sse = v && !strncasecmp(v, "text/event-stream", 17);
            v = hdr(c->head, hl, "transfer-encoding:");
            if (v && !strncasecmp(v, "chunked", 7)) { c->state = CSIZE; c->nl = 0; break; }
            v = hdr(c->head, hl, "content-length:");
            if (v) { c->left = strtoull(v, NULL, 10); c->state = LENGTH; if (!c->left) { finish(c, 1); return; } }
            else { c->state = UNTIL_CLOSE; c->close_after = 1; }
            break; }
        case LENGTH: { size_t k = n < c->left ? n : c->left; body(c, p, k, t); p += k; n -= k; c->left -= k; if (!c->left) { finish(c, 1); return; } break; }
        case CSIZE: if (*p == '\n') { c->num[c->nl] = 0; c->left = strtoull(c->num, NULL, 16); c->nl = 0; c->state = c->left ? CDATA : TRAILER; }
            else if (c->nl < 18) c->num[c->nl++] = *p;
            p++; n--; break;
        case CDATA: { size_t k = n < c->left ? n : c->left; body(c, p, k, t); p += k; n -= k; c->left -= k; if (!c->left) c->state = CCRLF; break; }
        case CCRLF: if (*p == '\n') c->state = CSIZE; p++; n--; break;
        case TRAILER: if (*p == '\n') { if (c->nl == 0) { p++; n--; finish(c, 1); return; } c->nl = 0; } else if (*p != '\r') c->nl++; p++; n--; break;
        case UNTIL_CLOSE: body(c, p, n, t); return;
        }
    }
}
static void dist(const char *name, void *a, int last) {
    __typeof__(lat) *h = a; qsort(h->v, h->n, sizeof(float), cmpf);
    printf("\"%s_us\":{\"n\":%zu,\"min\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"max\":%.1f}%s", name, h->n, pct(h, 0), pct(h, .5), pct(h, .9), pct(h, .99), pct(h, 1), last ? "" : ",");
}
int main(int argc, char **argv) {
    int C = 1, o, ramp = 0; double d = 3, w = 0.5; const char *bf = NULL, *key = "none"; char fields[4096] = ""; size_t fl = 0;
    signal(SIGPIPE, SIG_IGN);
    struct rlimit rl; getrlimit(RLIMIT_NOFILE, &rl); rl.rlim_cur = rl.rlim_max; setrlimit(RLIMIT_NOFILE, &rl);
    while ((o = getopt(argc, argv, "p:u:b:c:d:w:r:1k:f:")) > 0) switch (o) {
        case 'p': port = atoi(optarg); break; case 'u': path = optarg; break; case 'b': bf = optarg; break; case 'c': C = atoi(optarg); break;
        case 'd': d = atof(optarg); break; case 'w': w = atof(optarg); break; case 'r': ramp = atoi(optarg); break; case '1': once = 1; break;
        case 'k': key = optarg; break;
        case 'f': if (fl + strlen(optarg) + 3 > sizeof fields) return 2; fl += sprintf(fields + fl, "%s\r\n", optarg); break; default: return 2; }
    size_t bl = 0; char *b = NULL;
    if (bf) { FILE *f = fopen(bf, "rb"); if (!f) { perror(bf); return 2; } fseek(f, 0, SEEK_END); bl = ftell(f); rewind(f); b = malloc(bl); if (fread(b, 1, bl, f) != bl) return 2; fclose(f); }
    req = malloc(bl + 8192);
    req_len = sprintf(req, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: bench-load\r\nAccept: application/json\r\nAuthorization: Bearer %s\r\n", bf ? "POST" : "GET", path, port, key);
    if (bf) req_len += sprintf(req + req_len, "Content-Type: application/json\r\nContent-Length: %zu\r\n", bl);
    req_len += sprintf(req + req_len, "%s\r\n", fields); if (bl) memcpy(req + req_len, b, bl); req_len += bl;
    ep = epoll_create1(0);
    conn *cs = calloc(C, sizeof *cs); active = C;
    uint64_t t = now_ns(), begin = t; win0 = t + (uint64_t)(w * 1e9); win1 = win0 + (uint64_t)(d * 1e9);
    for (int i = 0; i < C; i++) { cs[i].fd = -1; cs[i].tstart = begin + (uint64_t)ramp * 1000000 * i / (C > 1 ? C : 1); }
    int started = 0, ended = 0; static char buf[262144]; struct epoll_event ev[512]; struct rusage r0 = {0}, r1 = {0};
    uint64_t hard = win1 + 20000000000ull;
    while (active > 0) {
        t = now_ns();
        if (!in_win && !ended && t >= win0) { in_win = 1; getrusage(RUSAGE_SELF, &r0); puts("MARK start"); fflush(stdout); }
        if (in_win && t >= win1) { in_win = 0; ended = 1; getrusage(RUSAGE_SELF, &r1); puts("MARK end"); fflush(stdout); if (!once) break; }
        if (ended && t > hard) { fprintf(stderr, "gave up: %ld connections still busy\n", active); break; }
        while (started < C && cs[started].tstart <= t) start(&cs[started++]);
        int n = epoll_wait(ep, ev, 512, started < C ? 1 : 20);
        t = now_ns();
        for (int i = 0; i < n; i++) {
            conn *c = ev[i].data.ptr; if (c->fd < 0 || c->done) continue;
            if (ev[i].events & EPOLLOUT) push(c);
            if (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                ssize_t r = recv(c->fd, buf, sizeof buf, 0);
                if (r > 0) { if (in_win) reads++; feed(c, buf, r, t); }
                else if (r == 0 || errno != EAGAIN) { if (c->state == UNTIL_CLOSE) finish(c, 1); else { c->close_after = 1; if (c->state == HEAD) c->status = 0; finish(c, 0); } }
            }
        }
    }
    if (!ended) { getrusage(RUSAGE_SELF, &r1); puts("MARK end"); }
    double cpu = r1.ru_utime.tv_sec - r0.ru_utime.tv_sec + r1.ru_stime.tv_sec - r0.ru_stime.tv_sec + (r1.ru_utime.tv_usec - r0.ru_utime.tv_usec + r1.ru_stime.tv_usec - r0.ru_stime.tv_usec) / 1e6;
    printf("{\"seconds\":%.3f,\"requests\":%ld,\"errors\":%ld,\"unfinished\":%ld,\"events\":%ld,\"bytes\":%ld,\"reads\":%ld,\"client_cpu_s\":%.3f,", d, reqs, errs, once ? active : 0, events, bytes, reads, cpu);
    dist("latency", &lat, 0); dist("ttft", &ttft, 0); dist("ttft_added", &ttft_added, 0); dist("delay", &delay, 1); printf("}\n");
    return 0;
}
