// Threads that are cancelled while they wait, in C++, where objects on the way are destroyed; and mutexes of special kinds.
#include <cerrno>
#include <cxxabi.h>
#include <new>
#include <pthread.h>
#include <semaphore.h>
#include <unistd.h>

namespace {
pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
sem_t ready, never;
int destroyed, caught;

struct Guard {
    pthread_mutex_t *mutex;
    explicit Guard(pthread_mutex_t *mutex) : mutex(mutex) { pthread_mutex_lock(mutex); }
    ~Guard() {
        destroyed++;
        pthread_mutex_unlock(mutex);
    }
};

void *waits_for_condition(void *) {
    try {
        Guard guard(&lock);
        sem_post(&ready);
        for (;;) pthread_cond_wait(&condition, &lock);
    } catch (abi::__forced_unwind &) {
        caught++;
        throw;
    }
}

void *waits_for_semaphore(void *) {
    Guard guard(&lock);
    sem_post(&ready);
    for (;;) sem_wait(&never);
}

void *sleeps(void *) {
    for (;;) pause();
}

void *joins(void *other) {
    Guard guard(&lock);
    sem_post(&ready);
    pthread_join(*static_cast<pthread_t *>(other), nullptr);
    return nullptr;
}

pthread_mutex_t special;

void *dies_with_it(void *) {
    pthread_mutex_lock(&special);
    sem_post(&ready);
    usleep(20000);
    return nullptr;
}

void *takes(void *times) {
    for (long i = 0; i < reinterpret_cast<long>(times); i++) {
        if (pthread_mutex_lock(&special)) return reinterpret_cast<void *>(1);
        if (i % 100 == 0) usleep(100);
        if (pthread_mutex_unlock(&special)) return reinterpret_cast<void *>(2);
    }
    return nullptr;
}

bool end(void *(*function)(void *), void *what) {
    pthread_t thread;
    void *result;
    if (pthread_create(&thread, nullptr, function, what)) return false;
    while (sem_wait(&ready) && errno == EINTR) {}
    usleep(20000);
    return !pthread_cancel(thread) && !pthread_join(thread, &result) && result == PTHREAD_CANCELED;
}
} // namespace

// 0, or the line that is not as it should be.
#define MUST(what) do { if (!(what)) return __LINE__; } while (0)

extern "C" int cancelled() {
    sem_init(&ready, 0, 0);
    sem_init(&never, 0, 0);
    pthread_t sleeper;
    for (int round = 1; round <= 20; round++) {
        MUST(end(waits_for_condition, nullptr));
        MUST(end(waits_for_semaphore, nullptr));
        MUST(!pthread_create(&sleeper, nullptr, sleeps, nullptr));
        MUST(end(joins, &sleeper));
        MUST(!pthread_cancel(sleeper) && !pthread_join(sleeper, nullptr));
        MUST(destroyed == 3 * round && caught == round);
        // Nobody has taken it along.
        MUST(!pthread_mutex_trylock(&lock) && !pthread_mutex_unlock(&lock));
    }
    return 0;
}

extern "C" int robust() {
    pthread_mutexattr_t attributes;
    pthread_t thread;
    pthread_mutexattr_init(&attributes);
    MUST(!pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST));
    for (int round = 0; round < 4; round++) {
        MUST(!pthread_mutex_init(&special, &attributes));
        MUST(!pthread_create(&thread, nullptr, dies_with_it, nullptr));
        while (sem_wait(&ready) && errno == EINTR) {}
        if (round % 2) pthread_join(thread, nullptr); // dead already, or while we wait
        errno = 77;
        MUST(pthread_mutex_lock(&special) == EOWNERDEAD && errno == 77);
        if (round < 2) {
            MUST(!pthread_mutex_consistent(&special) && !pthread_mutex_unlock(&special));
            MUST(!pthread_mutex_lock(&special) && !pthread_mutex_unlock(&special));
        } else {
            MUST(!pthread_mutex_unlock(&special));
            MUST(pthread_mutex_lock(&special) == ENOTRECOVERABLE);
        }
        if (round % 2 == 0) pthread_join(thread, nullptr);
        MUST(!pthread_mutex_destroy(&special));
    }
    return 0;
}

// Mutexes that are fought for, of kinds whose first word is not only 0, 1 and 2.
extern "C" int special_kinds() {
    for (int kind = 0; kind < 5; kind++) {
        pthread_mutexattr_t attributes;
        pthread_t threads[4];
        void *result;
        pthread_mutexattr_init(&attributes);
        if (kind == 1) MUST(!pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT));
        if (kind == 2) MUST(!pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST));
        if (kind == 3) MUST(!pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE));
        if (kind == 4) MUST(!pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED));
        // A sandbox may not have those that inherit.
        if (pthread_mutex_init(&special, &attributes)) continue;
        for (int i = 0; i < 4; i++) MUST(!pthread_create(&threads[i], nullptr, takes, reinterpret_cast<void *>(2000L)));
        for (int i = 0; i < 4; i++) MUST(!pthread_join(threads[i], &result) && !result);
        MUST(!pthread_mutex_destroy(&special));
    }
    return 0;
}
