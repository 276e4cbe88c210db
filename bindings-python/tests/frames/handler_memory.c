/* Preloaded: ends the program where memory is asked for or given back in a handler of SIGPROF, which the kernel blocks there. */
#define _GNU_SOURCE
#include <execinfo.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void __libc_free(void *);

static void check(void) {
    sigset_t blocked;
    if (pthread_sigmask(SIG_BLOCK, NULL, &blocked) || !sigismember(&blocked, SIGPROF)) return;
    /* Everprof's own threads block it, and so does the C library for a moment, with all other signals. */
    char name[16] = "";
    prctl(PR_GET_NAME, name);
    if (!strncmp(name, "everprof", 8) || sigismember(&blocked, SIGSEGV)) return;
    static volatile int is_told;
    if (is_told++) return;
    static const char message[] = "memory is asked for in a handler\n";
    (void)!write(2, message, sizeof message - 1);
    void *frames[40];
    backtrace_symbols_fd(frames, backtrace(frames, 40), 2);
    _exit(97);
}

/* Its first use loads a library. */
__attribute__((constructor)) static void load(void) { void *frames[1]; backtrace(frames, 1); }

void *malloc(size_t size) { check(); return __libc_malloc(size); }
void *calloc(size_t count, size_t size) { check(); return __libc_calloc(count, size); }
void *realloc(void *at, size_t size) { check(); return __libc_realloc(at, size); }
void free(void *at) { check(); __libc_free(at); }
