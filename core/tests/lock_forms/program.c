/* Waits of C code: profiled by everprof in the same program, linked in any form. Compiled by main.rs. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

int forms_start(void);
void forms_stop(void);
void forms_wait(void);

#define MUST(condition) do { if (!(condition)) { printf("failed: %s\n", #condition); _exit(3); } } while (0)

static struct timespec after(clockid_t clock, int millis) {
    struct timespec time;
    clock_gettime(clock, &time);
    time.tv_nsec += millis * 1000000L;
    time.tv_sec += time.tv_nsec / 1000000000;
    time.tv_nsec %= 1000000000;
    return time;
}

/* Every slot of every object, by its address: which hold something else than before? */
struct slot { ElfW(Addr) *word, value, low, high; };
static struct slot slots[20000];
static int count;
static int each(struct dl_phdr_info *info, size_t size, void *data) {
    const ElfW(Dyn) *dynamic = 0;
    ElfW(Addr) tables[2] = {0, 0}, sizes[2] = {0, 0}, low = 0, high = 0;
    (void)size; (void)data;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        if (header->p_type == PT_DYNAMIC) dynamic = (void *)(info->dlpi_addr + header->p_vaddr);
        if (header->p_type == PT_LOAD && header->p_flags & PF_X) {
            low = info->dlpi_addr + header->p_vaddr;
            high = low + header->p_memsz;
        }
    }
    if (strstr(info->dlpi_name, "vdso")) return 0;
    for (; dynamic && dynamic->d_tag; dynamic++) {
        if (dynamic->d_tag == DT_RELA) tables[0] = dynamic->d_un.d_ptr;
        if (dynamic->d_tag == DT_RELASZ) sizes[0] = dynamic->d_un.d_val;
        if (dynamic->d_tag == DT_JMPREL) tables[1] = dynamic->d_un.d_ptr;
        if (dynamic->d_tag == DT_PLTRELSZ) sizes[1] = dynamic->d_un.d_val;
    }
    for (int t = 0; t < 2; t++)
        for (const ElfW(Rela) *r = (void *)tables[t]; r < (const ElfW(Rela) *)(tables[t] + sizes[t]); r++) {
            unsigned type = ELF64_R_TYPE(r->r_info);
            if (type != 6 && type != 7 && type != 1025 && type != 1026) continue;
            ElfW(Addr) *word = (void *)(info->dlpi_addr + r->r_offset);
            MUST(count < 20000);
            slots[count++] = (struct slot){word, *word, low, high};
        }
    return 0;
}
/* Of those that held the stub of their own object before, any function will do. */
static int changed(void) {
    int changed = 0;
    for (int i = 0; i < count; i++) {
        struct slot *slot = &slots[i];
        changed += *slot->word != slot->value && !(slot->value >= slot->low && slot->value < slot->high);
    }
    return changed;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static mtx_t mtx;
static sem_t ready, never;

static void *hold(void *what) {
    switch (*(const char *)what) {
    case 'm': pthread_mutex_lock(&lock); break;
    case 'r': case 't': pthread_rwlock_wrlock(&rwlock); break;
    case 'c': mtx_lock(&mtx); break;
    }
    sem_post(&ready);
    usleep(50000);
    switch (*(const char *)what) {
    case 'm': pthread_mutex_unlock(&lock); break;
    case 'r': case 't': pthread_rwlock_unlock(&rwlock); break;
    case 'c': mtx_unlock(&mtx); break;
    }
    return 0;
}
static pthread_t held(const char *what) {
    pthread_t thread;
    MUST(pthread_create(&thread, 0, hold, (void *)what) == 0);
    while (sem_wait(&ready)) MUST(errno == EINTR);
    return thread;
}

__attribute__((noinline)) void wait_for_mutex(void) {
    pthread_t thread = held("m");
    errno = 77;
    MUST(pthread_mutex_lock(&lock) == 0 && errno == 77);
    MUST(pthread_mutex_unlock(&lock) == 0 && errno == 77);
    pthread_join(thread, 0);
}
__attribute__((noinline)) void wait_for_rwlock(void) {
    pthread_t thread = held("r");
    MUST(pthread_rwlock_rdlock(&rwlock) == 0);
    pthread_rwlock_unlock(&rwlock);
    pthread_join(thread, 0);
}
__attribute__((noinline)) void wait_for_timed(void) {
    pthread_t thread = held("t");
    struct timespec until = after(CLOCK_REALTIME, 10), bad = {0, -1};
    MUST(pthread_rwlock_timedwrlock(&rwlock, &until) == ETIMEDOUT);
    until = after(CLOCK_REALTIME, 5000);
    MUST(pthread_rwlock_timedwrlock(&rwlock, &until) == 0);
    pthread_rwlock_unlock(&rwlock);
    /* What was refused before is refused now, of locks that are free as well. */
    MUST(pthread_rwlock_timedwrlock(&rwlock, &bad) == EINVAL);
    until = after(CLOCK_MONOTONIC, 10);
    MUST(pthread_mutex_clocklock(&lock, CLOCK_MONOTONIC, &until) == 0);
    MUST(pthread_mutex_clocklock(&lock, CLOCK_MONOTONIC, &until) == ETIMEDOUT);
    pthread_mutex_unlock(&lock);
    MUST(pthread_mutex_clocklock(&lock, CLOCK_PROCESS_CPUTIME_ID, &until) == EINVAL);
    pthread_join(thread, 0);
}
__attribute__((noinline)) void wait_for_mtx(void) {
    pthread_t thread = held("c");
    MUST(mtx_lock(&mtx) == thrd_success);
    mtx_unlock(&mtx);
    pthread_join(thread, 0);
}
__attribute__((noinline)) void wait_for_nothing(void) {
    struct timespec until = after(CLOCK_REALTIME, 50);
    pthread_mutex_lock(&lock);
    MUST(pthread_cond_timedwait(&condition, &lock, &until) == ETIMEDOUT);
    until = after(CLOCK_MONOTONIC, 50);
    MUST(pthread_cond_clockwait(&condition, &lock, CLOCK_MONOTONIC, &until) == ETIMEDOUT);
    pthread_mutex_unlock(&lock);
    until = after(CLOCK_REALTIME, 50);
    errno = 0;
    MUST(sem_timedwait(&never, &until) == -1 && errno == ETIMEDOUT);
}
/* Types of mutexes that refuse their owner, or do not, or are told that one died. */
static void types(void) {
    static const int kinds[] = {PTHREAD_MUTEX_ERRORCHECK, PTHREAD_MUTEX_RECURSIVE};
    for (int i = 0; i < 2; i++) {
        pthread_mutexattr_t attributes;
        pthread_mutex_t mutex;
        pthread_mutexattr_init(&attributes);
        pthread_mutexattr_settype(&attributes, kinds[i]);
        pthread_mutex_init(&mutex, &attributes);
        MUST(pthread_mutex_lock(&mutex) == 0);
        MUST(pthread_mutex_lock(&mutex) == (i == 0 ? EDEADLK : 0));
        for (int j = 0; j <= i; j++) MUST(pthread_mutex_unlock(&mutex) == 0);
        MUST(pthread_mutex_unlock(&mutex) == EPERM);
    }
}

/* Threads that are cancelled in a wait, and one that jumps out of it. */
static int cleaned;
static void clean(void *what) { __atomic_add_fetch(&cleaned, 1, __ATOMIC_SEQ_CST); if (what) pthread_mutex_unlock(what); }
static void *cancelled(void *what) {
    switch (*(const char *)what) {
    case 'c':
        pthread_mutex_lock(&lock);
        pthread_cleanup_push(clean, &lock);
        sem_post(&ready);
        for (;;) pthread_cond_wait(&condition, &lock);
        pthread_cleanup_pop(1);
        break;
    default:
        pthread_cleanup_push(clean, 0);
        sem_post(&ready);
        for (;;) sem_wait(&never);
        pthread_cleanup_pop(1);
    }
    return 0;
}
static sigjmp_buf away;
static void jump(int signal) { siglongjmp(away, signal); }
static void *jumps(void *unused) {
    if (sigsetjmp(away, 1) == 0) { sem_post(&ready); for (;;) sem_wait(&never); }
    return unused;
}
static void *start_of(void *(*function)(void *), const char *what, int end) {
    pthread_t thread;
    void *result;
    MUST(pthread_create(&thread, 0, function, (void *)what) == 0);
    while (sem_wait(&ready)) MUST(errno == EINTR);
    usleep(20000);
    MUST((end ? pthread_kill(thread, end) : pthread_cancel(thread)) == 0);
    MUST(pthread_join(thread, &result) == 0);
    return result;
}
static void abrupt_ends(void) {
    struct sigaction action = {.sa_handler = jump};
    sigaction(SIGUSR2, &action, 0);
    MUST(start_of(cancelled, "c", 0) == PTHREAD_CANCELED);
    MUST(start_of(cancelled, "s", 0) == PTHREAD_CANCELED);
    MUST(cleaned == 2);
    MUST(start_of(jumps, "j", SIGUSR2) != PTHREAD_CANCELED);
}

#ifdef OLD_VERSION
/* A condition as programs of 2002 have it: its functions take another structure. */
__asm__(".symver old_wait, pthread_cond_wait@GLIBC_2.2.5");
__asm__(".symver old_signal, pthread_cond_signal@GLIBC_2.2.5");
int old_wait(pthread_cond_t *, pthread_mutex_t *);
int old_signal(pthread_cond_t *);
static pthread_cond_t old = {{0}};
static int told;
static void *tell(void *unused) {
    usleep(20000);
    pthread_mutex_lock(&lock);
    told = 1;
    MUST(old_signal(&old) == 0);
    pthread_mutex_unlock(&lock);
    return unused;
}
static void old_versions(void) {
    pthread_t thread;
    alarm(20);
    pthread_mutex_lock(&lock);
    MUST(pthread_create(&thread, 0, tell, 0) == 0);
    while (!told) MUST(old_wait(&old, &lock) == 0);
    pthread_mutex_unlock(&lock);
    pthread_join(thread, 0);
    alarm(0);
}
#else
static void old_versions(void) {}
#endif

int main(void) {
    sem_init(&ready, 0, 0);
    sem_init(&never, 0, 0);
    mtx_init(&mtx, mtx_plain);
    dl_iterate_phdr(each, 0);
    for (int round = 0; round < 2; round++) {
        MUST(forms_start() == 0);
        if (round == 0) {
            wait_for_mutex();
            wait_for_rwlock();
            wait_for_timed();
            wait_for_mtx();
            wait_for_nothing();
            types();
            abrupt_ends();
            old_versions();
            forms_wait();
        }
        printf("hooked: %d\n", changed());
        forms_stop();
        printf("left: %d\n", changed());
    }
    puts("done");
    return 0;
}
